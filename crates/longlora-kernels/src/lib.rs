//! What a transformer does beside attention, each as one operation with its own backward.
//!
//! | operation | computes | keeps for the backward |
//! | --- | --- | --- |
//! | [`rms_norm`] | `x / √(mean(x²) + ε) · γ` | `x`, `γ` |
//! | [`rotate`] | half-split pairs turned by an angle per position and frequency | `x` if the angles are trained, and the angles |
//! | [`swiglu`] | `silu(gate) · up` | `gate`, `up` |
//! | [`linear()`] | `x·W`, `W` in f32, bf16 or [NF4](nf4) | `x` if `W` is trained, and `W` as it is kept |
//! | [`linear_with_update`] | `x·W + scale·(x·A)·B` | `x`, `x·A`, and the matrices as they are kept |
//! | [`nll`], [`loss_and_gradient`] | head and cross-entropy, a chunk of logits at a time | nothing: the gradient comes at once |
//!
//! Spelled out in tensor operations, as in [`mod@reference`], each is half a dozen passes over memory, and on a CPU they run
//! on one core. Here it is one pass, on all cores, with SIMD chosen at run time; on GPUs one kernel. Types that a device's
//! kernels do not take go the plain way; parameters may have another type than what they are applied to.

mod allocation;
mod backend;
mod cross_entropy;
mod device_memory;
mod updated;
mod linear;
mod linear_nf4;
pub mod nf4;
mod weight;
mod flex;
#[cfg(feature = "gpu")]
mod cube;
mod fused;
mod pull_back;
mod rehearsed;
mod rms_norm;
mod rotate;
mod swiglu;
pub mod chunks;
pub mod reference;
pub mod rows;
#[cfg(test)]
mod tests;

pub use allocation::keep_freed_memory;
pub use cross_entropy::{LossAndGradient, logits_at_once, loss_and_gradient, nll};
#[cfg(feature = "gpu")]
pub use cube::room;
pub use device_memory::{device_buffer, device_memory};
pub use fused::has_kernels;
pub use linear::{linear, linear_with_update};
pub use pull_back::pull_back;
pub use rehearsed::rehearsed;
pub use rms_norm::rms_norm;
pub use rotate::rotate;
pub use swiglu::swiglu;
pub use weight::Weight;
