//! Whether a kernel takes what an operation was given, or the plain path has to.

use burn::tensor::{DType, Device};

/// Whether this build has kernels for a device: for the processor, and for GPUs with the features `cuda` and `wgpu`. On any
/// other of burn's devices, operations take their plain path.
pub fn has_kernels(device: &Device) -> bool {
    let device = device.clone().without_autodiff();
    device == Device::flex() || is_gpu(&device)
}

#[cfg(feature = "gpu")]
fn is_gpu(device: &Device) -> bool {
    matches!(device.as_dispatch(), burn::backend::DispatchDevice::Cube(_))
}

#[cfg(not(feature = "gpu"))]
fn is_gpu(_device: &Device) -> bool {
    false
}

/// The CPU's kernels compute in f32, with matrices in f32 or bf16. Those of GPUs take activations of less, too.
pub(crate) fn takes(device: &Device, activations: DType) -> bool {
    if *device == Device::flex() {
        return activations == DType::F32;
    }
    has_kernels(device) && matches!(activations, DType::F32 | DType::F16 | DType::BF16)
}

/// Whether the parameters beside the activations are of a type that the device's kernels read.
pub(crate) fn takes_beside(device: &Device, parameters: &[DType]) -> bool {
    if *device == Device::flex() {
        return parameters.iter().all(|dtype| *dtype == DType::F32);
    }
    parameters.iter().all(|dtype| matches!(dtype, DType::F32 | DType::F16 | DType::BF16))
}
