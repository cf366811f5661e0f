//! Linear layers, by burn's products of matrices. A matrix of another type than the input's is brought to it.

use burn::backend::ops::FloatTensorOps;
use burn::tensor::DType;
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use burn_cubecl::{CubeBackend, tensor::CubeTensor};

use crate::updated::Updated;

use super::tensors::in_type;

pub(super) fn forward(x: CubeTensor, weight: CubeTensor) -> CubeTensor {
    let dtype = x.dtype;
    product(x, weight, dtype)
}

/// `(x·W + low·B, low)` with `low = scale · x·A`.
pub(super) fn forward_with_update(
    x: CubeTensor,
    weight: CubeTensor,
    a: CubeTensor,
    b: CubeTensor,
    scale: f64,
) -> (CubeTensor, CubeTensor) {
    let dtype = x.dtype;
    let low = product(x.clone(), a, dtype);
    let low = CubeBackend::float_mul_scalar(low, scale.into());
    let update = product(low.clone(), b, dtype);
    (CubeBackend::float_add(product(x, weight, dtype), update), low)
}

/// `d_out·Wᵀ`
pub(super) fn d_input(d_out: CubeTensor, weight: CubeTensor) -> CubeTensor {
    let dtype = d_out.dtype;
    product(d_out, CubeBackend::float_transpose(weight), dtype)
}

/// `xᵀ·d_out`, in f32: it is summed over all rows.
pub(super) fn d_weight(x: CubeTensor, d_out: CubeTensor) -> CubeTensor {
    product(CubeBackend::float_transpose(x), d_out, DType::F32)
}

/// The gradients by `x`, `a` and `b`.
pub(super) fn backward_with_update(
    updated: Updated<CubeBackend>,
    d_out: CubeTensor,
) -> [CubeTensor; 3] {
    let Updated { x, weight, a, b, scale, low } = updated;
    let (dtype, of_a, of_b) = (x.dtype, a.dtype, b.dtype);
    let d_low = product(d_out.clone(), CubeBackend::float_transpose(b), dtype);
    let d_low = CubeBackend::float_mul_scalar(d_low, scale.into());
    let da = d_weight(x, d_low.clone());
    let db = d_weight(low, d_out.clone());
    let through_update = product(d_low, CubeBackend::float_transpose(a), dtype);
    let dx = CubeBackend::float_add(d_input(d_out, weight), through_update);
    [dx, in_type(da, of_a), in_type(db, of_b)]
}

/// `a·b` in type `dtype`, computed in `a`'s.
pub(super) fn product(a: CubeTensor, b: CubeTensor, dtype: DType) -> CubeTensor {
    let b = in_type(b, a.dtype);
    matmul(a, b, None, MatmulStrategy::default(), dtype).expect("two matrices can be multiplied")
}
