//! `dq`: a cube takes a tile of queries and walks over the keys that they see.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::products::{add_weighted, rows_of, rows_with_columns, write_rows, zeros};
use super::tiles::{SIDE, UnitTiles};

/// `dq` of one tile of queries of one head; see [`super::backward`].
#[cube(launch, address_type = "dynamic")]
pub(super) fn query_gradient_kernel<E: Float>(
    q: &Tensor<E>,
    k: &Tensor<E>,
    v: &Tensor<E>,
    d_out: &Tensor<E>,
    statistics: &Tensor<f32>,
    first: &Tensor<u32>,
    dq: &mut Tensor<E>,
    softmax_scale: f32,
    #[comptime] tiles: UnitTiles,
    #[define(E)] _dtype: ElemType,
) {
    let (block, side, entries) = comptime!((tiles.block, tiles.side(), tiles.entries()));
    let weight_stride = comptime!(tiles.weight_stride());
    let mut stage = Shared::<[f32]>::new_slice(comptime!(tiles.stage()));
    let mut slopes = Shared::<[f32]>::new_slice(comptime!(side * weight_stride));

    let (batch_row, head) = (CUBE_POS_Z as usize, CUBE_POS_Y as usize);
    let (heads, queries) = (q.shape(1), q.shape(2));
    let kv_head = head / (heads / k.shape(1));
    let begin = (queries.div_ceil(side) - 1 - CUBE_POS_X as usize) * side;
    let last = min(begin + side, queries) - 1;
    let half = select(head < heads / 2, 0usize, 1usize);
    let list = (batch_row * 2 + half) * queries;
    let of_head = (batch_row * heads + head) * queries;
    let key_begin = first[list + begin] as usize;
    let steps = (last + 1 - key_begin).div_ceil(side);
    let q_rows = rows_of::<E>(q, batch_row, head, begin);
    let o_rows = rows_of::<E>(d_out, batch_row, head, begin);

    let (x, y) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let mut acc = zeros(comptime!(block * entries));
    for step in 0..steps {
        let key = key_begin + step * side;
        let k_rows = rows_of::<E>(k, batch_row, kv_head, key);
        let v_rows = rows_of::<E>(v, batch_row, kv_head, key);
        let scores = rows_with_columns::<E>(q, &q_rows, k, &k_rows, &mut stage, tiles);
        let products = rows_with_columns::<E>(d_out, &o_rows, v, &v_rows, &mut stage, tiles);
        #[unroll]
        for i in 0..block {
            let query = begin + y * block + i;
            let at = min(query, last);
            let seen_from = first[list + at] as usize;
            let (origin, mean) =
                (statistics[(of_head + at) * 2], statistics[(of_head + at) * 2 + 1]);
            #[unroll]
            for j in 0..block {
                let column = x + comptime!(j * SIDE);
                let visible = key + column <= query && key + column >= seen_from;
                let weight = (scores[comptime!(i * block + j)] * softmax_scale - origin).exp();
                let slope = weight * (products[comptime!(i * block + j)] - mean);
                slopes[(y * block + i) * weight_stride + column] = select(visible, slope, 0.0f32);
            }
        }
        add_weighted::<E>(&mut acc, &slopes, k, &k_rows, &mut stage, tiles);
    }
    let head_at = batch_row * dq.stride(0) + head * dq.stride(1);
    let stride = dq.stride(2);
    write_rows::<E>(dq, head_at, stride, begin, queries, &acc, softmax_scale, tiles);
}
