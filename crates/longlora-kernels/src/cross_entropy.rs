//! Head and cross-entropy together, so that logits are never held whole.
//!
//! At 32,768 tokens and a vocabulary of 32,000, logits are 3.9 GiB in f32, and their gradient as much again.

use burn::backend::Dispatch;
use burn::tensor::{DType, Device, Tensor, assert_shape};

use crate::backend::HeadBackend;
use crate::fused::takes;
use crate::reference;

/// Largest number of logits held at once on a GPU, 128 MiB in f32; a core of the CPU holds half of it.
pub(crate) const LOGITS_AT_ONCE: usize = 1 << 25;
/// Most cores of the CPU that hold logits at the same time.
pub(crate) const MOST_CORES: usize = 8;

/// Largest number of logits that the head holds at once, on all cores of a device together.
pub fn logits_at_once(device: &Device) -> usize {
    if device.clone().without_autodiff() == Device::flex() {
        LOGITS_AT_ONCE / 2 * rayon::current_num_threads().clamp(2, MOST_CORES)
    } else {
        LOGITS_AT_ONCE
    }
}

/// A loss and where it pulls.
#[derive(Debug, Clone)]
pub struct LossAndGradient {
    /// Sum of the negative log-likelihoods of all targets, in nats, unscaled.
    pub nll_sum: f64,
    /// Gradient of `scale · nll_sum` by the hidden states: `[tokens, hidden_size]`
    pub d_hidden: Tensor<2>,
    /// Gradient of `scale · nll_sum` by the head's matrix: `[hidden_size, vocab_size]`, if asked for.
    pub d_head: Option<Tensor<2>>,
}

/// Loss and gradient of the head in one pass over chunks of tokens; no graph is built.
///
/// With `p = softmax(h·W)`, the gradient by the logits is `scale · (p - onehot(target))`. Tokens without a target
/// (negative, as Hugging Face's -100) are left out before the product.
///
/// # Shapes
/// - `hidden`: `[tokens, hidden_size]`; `head`: `[hidden_size, vocab_size]`; `targets`: `tokens` entries
///
/// # Panics
/// If a shape does not fit the others, a target is not of the vocabulary, or gradients are tracked.
pub fn loss_and_gradient(
    hidden: Tensor<2>,
    head: Tensor<2>,
    targets: &[i64],
    scale: f64,
    head_is_trained: bool,
) -> LossAndGradient {
    check(&hidden, &head, targets);
    if !fits(&hidden, &head) {
        return reference::loss_and_gradient(hidden, head, targets, scale, head_is_trained);
    }
    let (hidden, head, targets) = (hidden.into_dispatch(), head.into_dispatch(), targets.to_vec());
    let (nll, d_hidden, d_head) = if head_is_trained {
        let (nll, d_hidden, d_head) =
            Dispatch::nll_gradient_with_head(hidden, head, targets, scale);
        (nll, d_hidden, Some(Tensor::from_dispatch(d_head)))
    } else {
        let (nll, d_hidden) = Dispatch::nll_gradient(hidden, head, targets, scale);
        (nll, d_hidden, None)
    };
    let nll: Tensor<1> = Tensor::from_dispatch(nll);
    LossAndGradient { nll_sum: sum(nll), d_hidden: Tensor::from_dispatch(d_hidden), d_head }
}

/// Negative log-likelihood of each target, in nats, zero where there is none; no graph, no whole logits.
///
/// # Shapes
/// - as those of [`loss_and_gradient`]; result: `tokens` entries
///
/// # Panics
/// If a shape does not fit the others, a target is not of the vocabulary, or gradients are tracked.
pub fn nll(hidden: Tensor<2>, head: Tensor<2>, targets: &[i64]) -> Vec<f32> {
    check(&hidden, &head, targets);
    if !fits(&hidden, &head) {
        return reference::nll(hidden, head, targets);
    }
    let nll = Dispatch::nll(hidden.into_dispatch(), head.into_dispatch(), targets.to_vec());
    let nll: Tensor<1> = Tensor::from_dispatch(nll);
    nll.into_data().iter().collect()
}

fn check(hidden: &Tensor<2>, head: &Tensor<2>, targets: &[i64]) {
    let [hidden_size, vocab] = head.dims();
    assert_shape!(hidden, [_, hidden_size]);
    assert_eq!(hidden.dims()[0], targets.len(), "needs one target, or none, per token");
    let strange =
        targets.iter().find(|target| usize::try_from(**target).is_ok_and(|id| id >= vocab));
    assert!(strange.is_none(), "target {strange:?} is not of a vocabulary of {vocab}");
    assert!(!hidden.is_tracked() && !head.is_tracked(), "the gradient is part of the result");
}

fn fits(hidden: &Tensor<2>, head: &Tensor<2>) -> bool {
    // In f16, the gradients of most logits would be too small to be told from zero.
    takes(&hidden.device(), hidden.dtype())
        && hidden.dtype() != DType::F16
        && matches!(head.dtype(), DType::F32 | DType::BF16)
}

/// In f64: a sum of thousands of f32 loses digits that a comparison of losses needs.
pub(crate) fn sum(values: Tensor<1>) -> f64 {
    values.into_data().iter::<f64>().sum()
}
