//! Kernels for matrix units: products of 16-bit numbers summed in f32, operands in registers from one product to the next.
//!
//! FlashAttention-2 (arXiv:2307.08691). Rows that wait are copied into shared memory while the units multiply. The types
//! are f16 and bf16; heads have a multiple of 16 entries.

mod fragment;
mod stage;
mod tiles;
mod products;
mod softmax;
mod output;
mod forward;
mod query_gradient;
mod key_gradient;
#[cfg(test)]
mod tests;
#[cfg(all(test, feature = "emulated"))]
pub(crate) mod emulated;

use std::f32::consts::LOG2_E;

use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use cubecl::prelude::*;
use longlora_kernels::room::empty;

use crate::qkv::Qkv;

use super::problem::Problem;
use fragment::VECTOR;
pub(super) use tiles::{GradientTiles, MatrixTiles};

/// `(out, lse)`; `out` is a view of `[batch, queries, heads, head_dim]`.
pub(super) fn forward(
    problem: &Problem,
    tiles: MatrixTiles,
    qkv: &Qkv<CubeBackend>,
    first: CubeTensor,
) -> (CubeTensor, CubeTensor) {
    let Problem { batch, heads, queries, head_dim, dtype, .. } = *problem;
    let [q, k, v] = [&qkv.q, &qkv.k, &qkv.v].map(in_vectors);
    let mut out = empty(&q, Shape::new([batch, queries, heads, head_dim]), dtype);
    out.meta.swap(1, 2);
    let lse = empty(&q, Shape::new([batch, heads, queries, 1]), DType::F32);
    let count = queries.div_ceil(tiles.rows());
    let address = [&q, &k, &v, &out].map(CubeTensor::required_address_type);
    let client = q.client.clone();
    #[expect(
        unsafe_code,
        reason = "rows are clamped to those that are there, and stores are guarded by the last query"
    )]
    unsafe {
        forward::forward_kernel::launch_unchecked(
            &client,
            CubeCount::Static(count as u32, heads as u32, batch as u32),
            CubeDim::new_2d(32, tiles.planes as u32),
            address.into_iter().max().expect("there are four"),
            VECTOR,
            2,
            q.into_tensor_arg(),
            k.into_tensor_arg(),
            v.into_tensor_arg(),
            first.into_tensor_arg(),
            out.clone().into_tensor_arg(),
            lse.clone().into_tensor_arg(),
            problem.softmax_scale * LOG2_E,
            tiles,
            dtype_to_storage_type(dtype),
        );
    }
    (out, lse)
}

/// `dq`, `dk` and `dv`; see [`super::statistics`].
pub(super) fn backward(
    problem: &Problem,
    tiles: &GradientTiles,
    qkv: &Qkv<CubeBackend>,
    [d_out, statistics]: [CubeTensor; 2],
    [first, last]: [CubeTensor; 2],
) -> Qkv<CubeBackend> {
    let [q, k, v, d_out] = [&qkv.q, &qkv.k, &qkv.v, &d_out].map(in_vectors);
    let inputs = Inputs { q, k, v, d_out, statistics };
    let dq = inputs.query_gradient(problem, tiles.queries, first);
    let [dk, dv] = inputs.key_gradient(problem, tiles.keys, last);
    Qkv { q: dq, k: dk, v: dv }
}

/// What both halves of the backward read.
struct Inputs {
    q: CubeTensor,
    k: CubeTensor,
    v: CubeTensor,
    d_out: CubeTensor,
    statistics: CubeTensor,
}

impl Inputs {
    fn query_gradient(
        &self,
        problem: &Problem,
        tiles: MatrixTiles,
        first: CubeTensor,
    ) -> CubeTensor {
        let Problem { batch, heads, queries, head_dim, dtype, .. } = *problem;
        let dq = empty(&self.q, Shape::new([batch, heads, queries, head_dim]), dtype);
        let count = queries.div_ceil(tiles.rows());
        let client = self.q.client.clone();
        #[expect(
            unsafe_code,
            reason = "rows are clamped to those that are there, and stores are guarded by the last query"
        )]
        unsafe {
            query_gradient::query_gradient_kernel::launch_unchecked(
                &client,
                CubeCount::Static(count as u32, heads as u32, batch as u32),
                CubeDim::new_2d(32, tiles.planes as u32),
                self.address(),
                VECTOR,
                2,
                self.q.clone().into_tensor_arg(),
                self.k.clone().into_tensor_arg(),
                self.v.clone().into_tensor_arg(),
                self.d_out.clone().into_tensor_arg(),
                self.statistics.clone().into_tensor_arg(),
                first.into_tensor_arg(),
                dq.clone().into_tensor_arg(),
                problem.softmax_scale,
                tiles,
                dtype_to_storage_type(dtype),
            );
        }
        dq
    }

    fn key_gradient(
        &self,
        problem: &Problem,
        tiles: MatrixTiles,
        last: CubeTensor,
    ) -> [CubeTensor; 2] {
        let Problem { batch, kv_heads, keys, head_dim, dtype, .. } = *problem;
        let shape = Shape::new([batch, kv_heads, keys, head_dim]);
        let [dk, dv] = [(); 2].map(|()| empty(&self.q, shape.clone(), dtype));
        let count = keys.div_ceil(tiles.rows());
        let client = self.q.client.clone();
        #[expect(
            unsafe_code,
            reason = "rows are clamped to those that are there, and stores are guarded by the last key"
        )]
        unsafe {
            key_gradient::key_gradient_kernel::launch_unchecked(
                &client,
                CubeCount::Static(count as u32, kv_heads as u32, batch as u32),
                CubeDim::new_2d(32, tiles.planes as u32),
                self.address(),
                VECTOR,
                2,
                self.q.clone().into_tensor_arg(),
                self.k.clone().into_tensor_arg(),
                self.v.clone().into_tensor_arg(),
                self.d_out.clone().into_tensor_arg(),
                self.statistics.clone().into_tensor_arg(),
                last.into_tensor_arg(),
                dk.clone().into_tensor_arg(),
                dv.clone().into_tensor_arg(),
                problem.softmax_scale,
                tiles,
                dtype_to_storage_type(dtype),
            );
        }
        [dk, dv]
    }

    fn address(&self) -> AddressType {
        let inputs = [&self.q, &self.k, &self.v, &self.d_out];
        inputs.map(CubeTensor::required_address_type).into_iter().max().expect("there are four")
    }
}

/// The same, copied only if its rows cannot be read 16 bytes at a time.
fn in_vectors(x: &CubeTensor) -> CubeTensor {
    let strides = x.meta.strides();
    let aligned = strides[..3].iter().all(|stride| stride.is_multiple_of(VECTOR));
    let starts = x.handle.offset_start.unwrap_or(0).is_multiple_of(16);
    if strides[3] == 1 && aligned && starts { x.clone() } else { into_contiguous(x.clone()) }
}
