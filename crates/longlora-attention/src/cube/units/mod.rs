//! Kernels for every GPU: tiles in shared memory, sums in registers, no instruction that only some devices have.
//!
//! FlashAttention-2 (arXiv:2307.08691), in f32 whatever the type of the tensors. At most seven tensors per kernel: WebGPU
//! promises eight buffers, one of which holds the sizes.

mod tiles;
mod products;
mod softmax;
mod forward;
mod query_gradient;
mod key_gradient;
#[cfg(test)]
mod tests;

use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::{DType, Shape};
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use cubecl::prelude::*;
use longlora_kernels::room::{Pair, empty};

use crate::qkv::Qkv;

use super::problem::Problem;
use super::statistics::with_entries_side_by_side;
use tiles::SIDE;
pub(super) use tiles::UnitTiles;

/// `(out, lse)`; `out` is a view of `[batch, queries, heads, head_dim]`.
pub(super) fn forward(
    problem: &Problem,
    tiles: UnitTiles,
    qkv: &Qkv<CubeBackend>,
    first: CubeTensor,
) -> (CubeTensor, CubeTensor) {
    let Problem { batch, heads, queries, head_dim, dtype, .. } = *problem;
    let [q, k, v] = [&qkv.q, &qkv.k, &qkv.v].map(|x| with_entries_side_by_side(x.clone()));
    let mut out = empty(&q, Shape::new([batch, queries, heads, head_dim]), dtype);
    out.meta.swap(1, 2);
    let lse = empty(&q, Shape::new([batch, heads, queries, 1]), DType::F32);
    let client = q.client.clone();
    forward::forward_kernel::launch(
        &client,
        count(queries, tiles, heads, batch),
        CubeDim::new_2d(SIDE as u32, SIDE as u32),
        address([&q, &k, &v, &out]),
        q.into_tensor_arg(),
        k.into_tensor_arg(),
        v.into_tensor_arg(),
        first.into_tensor_arg(),
        out.clone().into_tensor_arg(),
        lse.clone().into_tensor_arg(),
        problem.softmax_scale,
        tiles,
        dtype_to_storage_type(dtype),
    );
    (out, lse)
}

/// `dq`, `dk` and `dv`; see [`super::statistics`].
pub(super) fn backward(
    problem: &Problem,
    tiles: UnitTiles,
    qkv: &Qkv<CubeBackend>,
    [d_out, statistics]: [CubeTensor; 2],
    [first, last]: [CubeTensor; 2],
) -> Qkv<CubeBackend> {
    let Problem { batch, heads, kv_heads, queries, keys, head_dim, dtype, .. } = *problem;
    let inputs = [&qkv.q, &qkv.k, &qkv.v, &d_out];
    let inputs = inputs.map(|x| with_entries_side_by_side(x.clone()));
    let dq = empty(&inputs[0], Shape::new([batch, heads, queries, head_dim]), dtype);
    let keys_shape = Shape::new([batch, kv_heads, keys, head_dim]);
    let both = Pair::empty(&inputs[0], keys_shape, dtype);
    let client = dq.client.clone();
    let [q, k, v, d_out] = inputs.clone().map(CubeTensor::into_tensor_arg);
    query_gradient::query_gradient_kernel::launch(
        &client,
        count(queries, tiles, heads, batch),
        CubeDim::new_2d(SIDE as u32, SIDE as u32),
        address(inputs.each_ref()),
        q,
        k,
        v,
        d_out,
        statistics.clone().into_tensor_arg(),
        first.into_tensor_arg(),
        dq.clone().into_tensor_arg(),
        problem.softmax_scale,
        tiles,
        dtype_to_storage_type(dtype),
    );
    let address = address(inputs.each_ref()).max(both.all.required_address_type());
    let [q, k, v, d_out] = inputs.map(CubeTensor::into_tensor_arg);
    key_gradient::key_gradient_kernel::launch(
        &client,
        count(keys, tiles, kv_heads, batch),
        CubeDim::new_2d(SIDE as u32, SIDE as u32),
        address,
        q,
        k,
        v,
        d_out,
        statistics.into_tensor_arg(),
        last.into_tensor_arg(),
        both.all.clone().into_tensor_arg(),
        both.second as u32,
        problem.softmax_scale,
        tiles,
        dtype_to_storage_type(dtype),
    );
    let [dk, dv] = both.split();
    Qkv { q: dq, k: dk, v: dv }
}

fn count(rows: usize, tiles: UnitTiles, heads: usize, batch: usize) -> CubeCount {
    CubeCount::Static(rows.div_ceil(tiles.side()) as u32, heads as u32, batch as u32)
}

fn address(tensors: [&CubeTensor; 4]) -> AddressType {
    tensors.map(CubeTensor::required_address_type).into_iter().max().expect("there are four")
}
