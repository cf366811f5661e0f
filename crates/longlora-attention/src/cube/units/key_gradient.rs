//! `dk` and `dv`: a cube takes a tile of keys and walks over the queries that see them.
//!
//! All query heads of a key head are gone through in order, so nothing is added by two cubes and the result is the same
//! each time.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::products::{add_weighted, rows_of, rows_with_columns, share, write_rows, zeros};
use super::tiles::{SIDE, UnitTiles};

/// `dk`, and from `second` on `dv`, of one tile of keys of one head; see [`super::backward`].
#[cube(launch, address_type = "dynamic")]
pub(super) fn key_gradient_kernel<E: Float>(
    q: &Tensor<E>,
    k: &Tensor<E>,
    v: &Tensor<E>,
    d_out: &Tensor<E>,
    statistics: &Tensor<f32>,
    last_seen_by: &Tensor<u32>,
    gradients: &mut Tensor<E>,
    second: u32,
    softmax_scale: f32,
    #[comptime] tiles: UnitTiles,
    #[define(E)] _dtype: ElemType,
) {
    let (block, side, entries) = comptime!((tiles.block, tiles.side(), tiles.entries()));
    let mut stage = Shared::<[f32]>::new_slice(comptime!(tiles.stage()));
    let mut weights = Shared::<[f32]>::new_slice(comptime!(side * tiles.weight_stride()));

    let (batch_row, kv_head) = (CUBE_POS_Z as usize, CUBE_POS_Y as usize);
    let (heads, positions, kv_heads) = (q.shape(1), q.shape(2), k.shape(1));
    let shared_by = heads / kv_heads;
    let begin = CUBE_POS_X as usize * side;
    let last = min(begin + side, positions) - 1;
    let k_rows = rows_of::<E>(k, batch_row, kv_head, begin);
    let v_rows = rows_of::<E>(v, batch_row, kv_head, begin);

    let mut dk = zeros(comptime!(block * entries));
    let mut dv = zeros(comptime!(block * entries));
    for member in 0..shared_by {
        let head = kv_head * shared_by + member;
        let half = select(head < heads / 2, 0usize, 1usize);
        let list = (batch_row * 2 + half) * positions;
        let of_head = (batch_row * heads + head) * positions;
        let steps = (last_seen_by[list + last] as usize + 1 - begin).div_ceil(side);
        for step in 0..steps {
            let query = begin + step * side;
            let tile = Tile { list, of_head, key: begin, last, query, queries: positions };
            let q_rows = rows_of::<E>(q, batch_row, head, query);
            let o_rows = rows_of::<E>(d_out, batch_row, head, query);
            let mut scores = rows_with_columns::<E>(k, &k_rows, q, &q_rows, &mut stage, tiles);
            to_weights(&mut scores, last_seen_by, statistics, &tile, softmax_scale, tiles);
            share(&scores, &mut weights, tiles);
            add_weighted::<E>(&mut dv, &weights, d_out, &o_rows, &mut stage, tiles);
            let mut slopes = rows_with_columns::<E>(v, &v_rows, d_out, &o_rows, &mut stage, tiles);
            to_slopes(&mut slopes, &scores, statistics, &tile, tiles);
            share(&slopes, &mut weights, tiles);
            add_weighted::<E>(&mut dk, &weights, q, &q_rows, &mut stage, tiles);
        }
    }
    let head_dim = comptime!(tiles.head_dim).runtime();
    let dk_at = (batch_row * kv_heads + kv_head) * positions * head_dim;
    let dv_at = second as usize + dk_at;
    let one = 1.0f32.runtime();
    write_rows::<E>(gradients, dk_at, head_dim, begin, positions, &dk, softmax_scale, tiles);
    write_rows::<E>(gradients, dv_at, head_dim, begin, positions, &dv, one, tiles);
}

/// The keys of a cube by the queries of a step.
#[derive(CubeType, Clone, Copy)]
struct Tile {
    /// Where the list of the half of the heads begins.
    list: usize,
    /// Where the statistics of the head begin, in queries.
    of_head: usize,
    /// The first key, and the last one.
    key: usize,
    last: usize,
    /// The first query, and how many the head has.
    query: usize,
    queries: usize,
}

/// `pᵀ` in place of the scores of this unit.
#[cube]
fn to_weights(
    scores: &mut Array<f32>,
    last_seen_by: &Tensor<u32>,
    statistics: &Tensor<f32>,
    tile: &Tile,
    softmax_scale: f32,
    #[comptime] tiles: UnitTiles,
) {
    let block = comptime!(tiles.block);
    #[unroll]
    for i in 0..block {
        let key = tile.key + UNIT_POS_Y as usize * block + i;
        let seen_to = last_seen_by[tile.list + min(key, tile.last)] as usize;
        #[unroll]
        for j in 0..block {
            let query = tile.query + UNIT_POS_X as usize + comptime!(j * SIDE);
            let visible = query >= key && query <= seen_to;
            let origin = statistics[(tile.of_head + min(query, tile.queries - 1)) * 2];
            let weight = (scores[comptime!(i * block + j)] * softmax_scale - origin).exp();
            scores[comptime!(i * block + j)] = select(visible, weight, 0.0f32);
        }
    }
}

/// `dsᵀ` in place of the `v·d_outᵀ` of this unit.
#[cube]
fn to_slopes(
    products: &mut Array<f32>,
    weights: &Array<f32>,
    statistics: &Tensor<f32>,
    tile: &Tile,
    #[comptime] tiles: UnitTiles,
) {
    let block = comptime!(tiles.block);
    #[unroll]
    for i in 0..block {
        #[unroll]
        for j in 0..block {
            let query = tile.query + UNIT_POS_X as usize + comptime!(j * SIDE);
            let mean = statistics[(tile.of_head + min(query, tile.queries - 1)) * 2 + 1];
            let at = comptime!(i * block + j);
            products[at] = weights[at] * (products[at] - mean);
        }
    }
}
