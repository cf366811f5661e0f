//! In which type a model computes.

use burn::tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

/// The type of the activations: of everything that passes from layer to layer. Sums inside an operation, losses, gradients of
/// what is trained, and the optimizer are f32 in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComputeType {
    /// The default on the CPU, whose kernels compute in it.
    #[default]
    F32,
    /// For GPUs with matrix units, as LongLoRA's own training: half the memory, and several times the speed.
    Bf16,
    /// Slow, by plain operations: for checks of the others.
    F64,
}

impl ComputeType {
    /// As burn names it.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::F64 => DType::F64,
        }
    }

    /// The type of losses and long sums.
    pub fn of_sums(self) -> DType {
        if self == Self::F64 { DType::F64 } else { DType::F32 }
    }
}

/// `x` in another type, or as it is, without an operation of its own.
pub(crate) fn in_type<const D: usize>(x: Tensor<D>, dtype: DType) -> Tensor<D> {
    if x.dtype() == dtype { x } else { x.cast(dtype) }
}
