//! What the backward needs of each query.

use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::ir::ElemType;
use cubecl::prelude::*;
use longlora_kernels::room::empty;

/// `(lse, delta)` of each query, `delta = rowsum(d_out ⊙ out)`: the softmax's gradient subtracts it
/// (FlashAttention-2, arXiv:2307.08691, alg. 2). Both in f32: `[batch, heads, queries, 2]`.
pub(super) fn statistics(out: CubeTensor, d_out: CubeTensor, lse: CubeTensor) -> CubeTensor {
    let [batch, heads, queries, head_dim] = out.meta.shape().dims();
    let [out, d_out] = [out, d_out].map(with_entries_side_by_side);
    let client = out.client.clone();
    let statistics = empty(&out, Shape::new([batch, heads, queries, 2]), DType::F32);
    let rows = batch * heads * queries;
    let cube_dim = CubeDim::new(&client, rows);
    let address = out.required_address_type().max(d_out.required_address_type());
    let dtype = dtype_to_storage_type(out.dtype);
    statistics_kernel::launch(
        &client,
        calculate_cube_count_elemwise(&client, rows, cube_dim),
        cube_dim,
        address,
        out.into_tensor_arg(),
        d_out.into_tensor_arg(),
        into_contiguous(lse).into_tensor_arg(),
        statistics.clone().into_tensor_arg(),
        head_dim,
        dtype,
    );
    statistics
}

/// The same, copied only if the entries of a head lie apart.
pub(super) fn with_entries_side_by_side(x: CubeTensor) -> CubeTensor {
    if x.meta.strides()[3] == 1 { x } else { into_contiguous(x) }
}

/// One query per unit.
#[cube(launch, address_type = "dynamic")]
fn statistics_kernel<E: Float>(
    out: &Tensor<E>,
    d_out: &Tensor<E>,
    lse: &Tensor<f32>,
    statistics: &mut Tensor<f32>,
    #[comptime] head_dim: usize,
    #[define(E)] _dtype: ElemType,
) {
    let row = ABSOLUTE_POS;
    let (heads, queries) = (out.shape(1), out.shape(2));
    if row >= lse.len() {
        terminate!();
    }
    let (batch_row, head, query) = (row / queries / heads, row / queries % heads, row % queries);
    let at = batch_row * out.stride(0) + head * out.stride(1) + query * out.stride(2);
    let d_at = batch_row * d_out.stride(0) + head * d_out.stride(1) + query * d_out.stride(2);
    let mut delta = 0.0f32;
    for entry in 0..head_dim {
        delta += f32::cast_from(out[at + entry]) * f32::cast_from(d_out[d_at + entry]);
    }
    statistics[row * 2] = lse[row];
    statistics[row * 2 + 1] = delta;
}
