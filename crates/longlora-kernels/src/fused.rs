//! Whether a kernel takes what an operation was given, or the plain path has to.

use burn::tensor::{DType, Device};

/// The CPU's kernels compute in f32, with matrices in f32 or bf16. Those of GPUs take activations of less, too.
pub(crate) fn takes(device: &Device, activations: DType) -> bool {
    if *device == Device::flex() {
        return activations == DType::F32;
    }
    matches!(activations, DType::F32 | DType::F16 | DType::BF16)
}

/// Whether the parameters beside the activations are of a type that the device's kernels read.
pub(crate) fn takes_beside(device: &Device, parameters: &[DType]) -> bool {
    if *device == Device::flex() {
        return parameters.iter().all(|dtype| *dtype == DType::F32);
    }
    parameters.iter().all(|dtype| matches!(dtype, DType::F32 | DType::F16 | DType::BF16))
}
