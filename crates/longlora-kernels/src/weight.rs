//! The matrix of a linear layer, however it is kept.

use burn::tensor::{DType, Tensor};

use crate::nf4::Nf4;

/// A matrix `[d_input, d_output]` that rows are multiplied by.
#[derive(Debug, Clone)]
pub enum Weight {
    /// A tensor; frozen, it may be in bf16.
    Dense(Tensor<2>),
    /// Four bits per number, frozen.
    Nf4(Nf4),
}

impl Weight {
    /// `[d_input, d_output]`
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Dense(weight) => weight.dims(),
            Self::Nf4(weight) => weight.dims(),
        }
    }

    /// As a tensor of type `dtype`.
    pub fn dense(self, dtype: DType) -> Tensor<2> {
        match self {
            Self::Dense(weight) if weight.dtype() == dtype => weight,
            Self::Dense(weight) => weight.cast(dtype),
            Self::Nf4(weight) => weight.dequantize(dtype),
        }
    }

    pub(crate) fn is_tracked(&self) -> bool {
        match self {
            Self::Dense(weight) => weight.is_tracked(),
            Self::Nf4(_) => false,
        }
    }
}

impl From<Tensor<2>> for Weight {
    fn from(weight: Tensor<2>) -> Self {
        Self::Dense(weight)
    }
}

impl From<Nf4> for Weight {
    fn from(weight: Nf4) -> Self {
        Self::Nf4(weight)
    }
}
