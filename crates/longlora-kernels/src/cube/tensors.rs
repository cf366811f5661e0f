//! What all kernels need of tensors.

use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use cubecl::prelude::AddressType;

/// Zeros beside another tensor.
pub(super) fn zeros(beside: &CubeTensor, shape: Shape, dtype: DType) -> CubeTensor {
    CubeBackend::float_zeros(shape, &beside.device, dtype.into())
}

/// The same numbers in another type, without a copy where they have it.
pub(super) fn in_type(x: CubeTensor, dtype: DType) -> CubeTensor {
    if x.dtype == dtype { x } else { CubeBackend::float_cast(x, dtype.into()) }
}

/// The same numbers in f32, one after the other.
pub(super) fn plain(x: CubeTensor) -> CubeTensor {
    in_type(into_contiguous(x), DType::F32)
}

/// The type of index that reaches all of them.
pub(super) fn address<const N: usize>(tensors: [&CubeTensor; N]) -> AddressType {
    let types = tensors.map(CubeTensor::required_address_type);
    types.into_iter().max().expect("a kernel has tensors")
}
