//! `dq`: a plane holds the gradient of 16 or 32 queries and walks over the keys that they see.
//!
//! With `p = exp(s - lse)` and `ds = p ⊙ (d_out·vᵀ - delta)`: `dq = softmax_scale · ds·k` (arXiv:2307.08691, alg. 2).

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::fragment::{COLUMNS, Pair, ROWS, zeros};
use super::products::{add_weighted, rows_with_columns};
use super::stage::{commit, copy_rows, exp2, rows_of, wait_for_all_but};
use super::tiles::{MatrixTiles, stride};

/// `dq` of one tile of queries of one head; see [`super::backward`].
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn query_gradient_kernel<E: Float, N: Size, P: Size>(
    q: &Tensor<Vector<E, N>>,
    k: &Tensor<Vector<E, N>>,
    v: &Tensor<Vector<E, N>>,
    d_out: &Tensor<Vector<E, N>>,
    statistics: &Tensor<f32>,
    first: &Tensor<u32>,
    dq: &mut Tensor<Vector<E, P>>,
    softmax_scale: f32,
    #[comptime] tiles: MatrixTiles,
    #[define(E)] _dtype: ElemType,
) {
    let head_dim = comptime!(tiles.head_dim);
    let (rows, keys) = comptime!((tiles.rows(), tiles.columns));
    let blocks = comptime!(tiles.blocks);
    let row_len = comptime!(stride(head_dim));
    let mut q_stage =
        Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(rows * row_len), 16usize);
    let mut o_stage =
        Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(rows * row_len), 16usize);
    let mut k_stage =
        Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(keys * row_len), 16usize);
    let mut v_stage =
        Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(keys * row_len), 16usize);

    let (row_of_batch, head) = (CUBE_POS_Z as usize, CUBE_POS_Y as usize);
    let (heads, queries) = (q.shape(1), q.shape(2));
    let kv_head = head / (heads / k.shape(1));

    let begin = (queries.div_ceil(rows) - 1 - CUBE_POS_X as usize) * rows;
    let last = min(begin + rows, queries) - 1;
    let half = select(head < heads / 2, 0usize, 1usize);
    let list = (row_of_batch * 2 + half) * queries;
    let key_begin = first[list + begin] as usize;
    let key_seen_by_all = first[list + last] as usize;

    let q_rows = rows_of::<E, N>(q, row_of_batch, head);
    let k_rows = rows_of::<E, N>(k, row_of_batch, kv_head);
    let v_rows = rows_of::<E, N>(v, row_of_batch, kv_head);
    let o_rows = rows_of::<E, N>(d_out, row_of_batch, head);

    let plane_row = UNIT_POS_Y as usize * comptime!(blocks * ROWS);
    let lane = UNIT_POS_PLANE as usize;
    let (lane_row, lane_column) = (lane / 4, lane % 4 * 2);
    let scale = softmax_scale * comptime!(std::f32::consts::LOG2_E);

    let mut origin = Array::<f32>::new(comptime!(2 * blocks));
    let mut mean = Array::<f32>::new(comptime!(2 * blocks));
    let mut first_seen = Array::<u32>::new(comptime!(2 * blocks));
    #[unroll]
    for i in 0..comptime!(2 * blocks) {
        let query = min(begin + plane_row + lane_row + comptime!(i * 8), last);
        let at = (row_of_batch * heads + head) * queries + query;
        origin[i] = statistics[at * 2] * comptime!(std::f32::consts::LOG2_E);
        mean[i] = statistics[at * 2 + 1];
        first_seen[i] = first[list + query];
    }

    let d_tiles = comptime!(head_dim / COLUMNS);
    let s_tiles = comptime!(keys / COLUMNS);
    let mut acc = zeros(comptime!(blocks * d_tiles));

    copy_rows::<E, N>(q, &q_rows, begin, &mut q_stage, rows, tiles);
    copy_rows::<E, N>(d_out, &o_rows, begin, &mut o_stage, rows, tiles);
    copy_rows::<E, N>(k, &k_rows, key_begin, &mut k_stage, keys, tiles);
    commit();

    let steps = (last + 1 - key_begin).div_ceil(keys);
    for step in 0..steps {
        let key = key_begin + step * keys;
        copy_rows::<E, N>(v, &v_rows, key, &mut v_stage, keys, tiles);
        commit();
        wait_for_all_but(1usize);
        sync_cube();

        let mut scores = rows_with_columns::<E, N>(&q_stage, plane_row, &k_stage, tiles);

        wait_for_all_but(0usize);
        sync_cube();
        let slopes = rows_with_columns::<E, N>(&o_stage, plane_row, &v_stage, tiles);

        let whole = key + keys <= begin + 1 && key >= key_seen_by_all;
        #[unroll]
        for block in 0..blocks {
            #[unroll]
            for n in 0..s_tiles {
                let tile = comptime!(block * s_tiles + n);
                #[unroll]
                for half in 0..2usize {
                    let at = comptime!(block * 2 + half);
                    let query = begin + plane_row + lane_row + comptime!(block * ROWS + half * 8);
                    let seen_from = first_seen[at] as usize;
                    let scored = scores.index(tile)[half];
                    let mut pair = slopes.index(tile)[half];
                    #[unroll]
                    for side in 0..2usize {
                        let mut weight = exp2(scored.extract(side) * scale - origin[at]);
                        if !whole {
                            let column = key + lane_column + comptime!(n * COLUMNS + side);
                            weight = select(column <= query && column >= seen_from, weight, 0.0f32);
                        }
                        pair.insert(side, weight * (pair.extract(side) - mean[at]));
                    }
                    scores.index_mut(tile)[half] = pair;
                }
            }
        }

        add_weighted::<E, N>(&mut acc, &scores, &k_stage, tiles);
        sync_cube();
        if step + 1 < steps {
            copy_rows::<E, N>(k, &k_rows, key + keys, &mut k_stage, keys, tiles);
            commit();
        }
    }

    #[unroll]
    for block in 0..blocks {
        #[unroll]
        for half in 0..2usize {
            let query = begin + plane_row + lane_row + comptime!(block * ROWS + half * 8);
            if query <= last {
                let row = row_of_batch * dq.stride(0) + head * dq.stride(1) + query * dq.stride(2);
                #[unroll]
                for d in 0..d_tiles {
                    let pair = acc.index(comptime!(block * d_tiles + d))[half]
                        * Pair::<f32>::new(softmax_scale);
                    dq[(row + lane_column + comptime!(d * COLUMNS)) / 2] =
                        Vector::<E, P>::cast_from(pair);
                }
            }
        }
    }
}
