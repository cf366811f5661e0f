//! The forward: a cube takes a tile of queries and walks over the keys that they see.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::products::{add_weighted, rows_of, rows_with_columns, zeros};
use super::softmax::{LOW, reset, shrink, weigh};
use super::tiles::{SIDE, UnitTiles};

/// `(out, lse)` of one tile of queries of one head; see [`super::forward`].
#[cube(launch, address_type = "dynamic")]
pub(super) fn forward_kernel<E: Float>(
    q: &Tensor<E>,
    k: &Tensor<E>,
    v: &Tensor<E>,
    first: &Tensor<u32>,
    out: &mut Tensor<E>,
    lse: &mut Tensor<f32>,
    softmax_scale: f32,
    #[comptime] tiles: UnitTiles,
    #[define(E)] _dtype: ElemType,
) {
    let (block, side, entries) = comptime!((tiles.block, tiles.side(), tiles.entries()));
    let mut stage = Shared::<[f32]>::new_slice(comptime!(tiles.stage()));
    let mut weights = Shared::<[f32]>::new_slice(comptime!(side * tiles.weight_stride()));
    let mut statistics = Shared::<[f32]>::new_slice(comptime!(3 * side + tiles.units()));

    let (batch_row, head) = (CUBE_POS_Z as usize, CUBE_POS_Y as usize);
    let (heads, queries) = (q.shape(1), q.shape(2));
    let kv_head = head / (heads / k.shape(1));
    let past = k.shape(2) - queries;

    // The longest tiles first: the last ones fill the gaps at the end.
    let query = (queries.div_ceil(side) - 1 - CUBE_POS_X as usize) * side;
    let last = min(query + side, queries) - 1;
    let half = select(head < heads / 2, 0usize, 1usize);
    let list = (batch_row * 2 + half) * queries;
    let key_begin = first[list + query] as usize;
    let steps = (past + last + 1 - key_begin).div_ceil(side);
    let q_rows = rows_of::<E>(q, batch_row, head, query);

    reset(&mut statistics, tiles);
    let mut acc = zeros(comptime!(block * entries));
    for step in 0..steps {
        let key = key_begin + step * side;
        let k_rows = rows_of::<E>(k, batch_row, kv_head, key);
        let v_rows = rows_of::<E>(v, batch_row, kv_head, key);
        let scores = rows_with_columns::<E>(q, &q_rows, k, &k_rows, &mut stage, tiles);
        #[unroll]
        for i in 0..block {
            let row = UNIT_POS_Y as usize * block + i;
            let seen_from = first[list + min(query + row, last)] as usize;
            #[unroll]
            for j in 0..block {
                let column = UNIT_POS_X as usize + comptime!(j * SIDE);
                let visible = key + column <= past + query + row && key + column >= seen_from;
                let score = scores[comptime!(i * block + j)] * softmax_scale;
                weights[row * comptime!(tiles.weight_stride()) + column] =
                    select(visible, score, LOW);
            }
        }
        sync_cube();
        weigh(&mut weights, &mut statistics, tiles);
        shrink(&mut acc, &statistics, tiles);
        add_weighted::<E>(&mut acc, &weights, v, &v_rows, &mut stage, tiles);
    }
    let head_at = batch_row * out.stride(0) + head * out.stride(1);
    write_normed::<E>(out, head_at, query, last, &acc, &statistics, tiles);
    write_lse(lse, (batch_row * heads + head) * queries, query, last, &statistics, tiles);
}

/// The sums of this unit's rows, those up to `last`, over the sums of their weights.
#[cube]
fn write_normed<E: Float>(
    out: &mut Tensor<E>,
    head_at: usize,
    query: usize,
    last: usize,
    acc: &Array<f32>,
    statistics: &[f32],
    #[comptime] tiles: UnitTiles,
) {
    let (block, side, entries) = comptime!((tiles.block, tiles.side(), tiles.entries()));
    let stride = out.stride(2);
    #[unroll]
    for i in 0..block {
        let row = UNIT_POS_Y as usize * block + i;
        if query + row <= last {
            let total = statistics[side + row];
            #[unroll]
            for e in 0..entries {
                let entry = UNIT_POS_X as usize + comptime!(e * SIDE);
                if entry < comptime!(tiles.head_dim) {
                    out[head_at + (query + row) * stride + entry] =
                        E::cast_from(acc[comptime!(i * entries + e)] / total);
                }
            }
        }
    }
}

/// Log-sum-exps of the scores of the rows up to `last`.
#[cube]
fn write_lse(
    lse: &mut Tensor<f32>,
    head_at: usize,
    query: usize,
    last: usize,
    statistics: &[f32],
    #[comptime] tiles: UnitTiles,
) {
    let side = comptime!(tiles.side());
    let row = UNIT_POS as usize;
    if row < side && query + row <= last {
        lse[head_at + query + row] = statistics[row] + statistics[side + row].ln();
    }
}
