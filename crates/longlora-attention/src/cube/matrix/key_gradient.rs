//! `dk` and `dv`: a plane holds the gradients of 16 or 32 keys and walks over the queries that see them.
//!
//! Everything is transposed, `sᵀ = k·qᵀ`, so that weights are left operands as they lie: `dv = pᵀ·d_out`,
//! `dk = softmax_scale · dsᵀ·q`. All query heads of a key head are gone through in order, so nothing is added by two cubes
//! and the result is the same each time.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::fragment::{COLUMNS, Pair, ROWS, zeros};
use super::products::{add_weighted, rows_with_columns};
use super::stage::{commit, copy_rows, exp2, rows_of, wait_for_all_but};
use super::tiles::{MatrixTiles, stride};

/// `dk` and `dv` of one tile of keys of one head; see [`super::backward`].
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn key_gradient_kernel<E: Float, N: Size, P: Size>(
    q: &Tensor<Vector<E, N>>,
    k: &Tensor<Vector<E, N>>,
    v: &Tensor<Vector<E, N>>,
    d_out: &Tensor<Vector<E, N>>,
    statistics: &Tensor<f32>,
    last_seen_by: &Tensor<u32>,
    dk: &mut Tensor<Vector<E, P>>,
    dv: &mut Tensor<Vector<E, P>>,
    softmax_scale: f32,
    #[comptime] tiles: MatrixTiles,
    #[define(E)] _dtype: ElemType,
) {
    let head_dim = comptime!(tiles.head_dim);
    let (rows, columns) = comptime!((tiles.rows(), tiles.columns));
    let blocks = comptime!(tiles.blocks);
    let row_len = comptime!(stride(head_dim));
    let mut k_stage =
        Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(rows * row_len), 16usize);
    let mut v_stage =
        Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(rows * row_len), 16usize);
    let mut q_stage =
        Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(columns * row_len), 16usize);
    let mut o_stage =
        Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(columns * row_len), 16usize);

    let (row_of_batch, kv_head) = (CUBE_POS_Z as usize, CUBE_POS_Y as usize);
    let (heads, positions) = (q.shape(1), q.shape(2));
    let kv_heads = k.shape(1);
    let shared_by = heads / kv_heads;

    // The first keys are seen by the most queries: they come first.
    let begin = CUBE_POS_X as usize * rows;
    let last = min(begin + rows, positions) - 1;

    let k_rows = rows_of::<E, N>(k, row_of_batch, kv_head);
    let v_rows = rows_of::<E, N>(v, row_of_batch, kv_head);

    let plane_row = UNIT_POS_Y as usize * comptime!(blocks * ROWS);
    let lane = UNIT_POS_PLANE as usize;
    let (lane_row, lane_column) = (lane / 4, lane % 4 * 2);
    let scale = softmax_scale * comptime!(std::f32::consts::LOG2_E);

    let d_tiles = comptime!(head_dim / COLUMNS);
    let s_tiles = comptime!(columns / COLUMNS);
    let mut dk_acc = zeros(comptime!(blocks * d_tiles));
    let mut dv_acc = zeros(comptime!(blocks * d_tiles));

    copy_rows::<E, N>(k, &k_rows, begin, &mut k_stage, rows, tiles);
    copy_rows::<E, N>(v, &v_rows, begin, &mut v_stage, rows, tiles);
    commit();

    for member in 0..shared_by {
        let head = kv_head * shared_by + member;
        let half = select(head < heads / 2, 0usize, 1usize);
        let list = (row_of_batch * 2 + half) * positions;
        // Above this query, not all keys of the tile are seen by it that the last one is seen by.
        let query_end = last_seen_by[list + last] as usize + 1;
        let sees_all = last_seen_by[list + begin] as usize + 1;
        let mut last_seen = Array::<u32>::new(comptime!(2 * blocks));
        #[unroll]
        for i in 0..comptime!(2 * blocks) {
            let key = min(begin + plane_row + lane_row + comptime!(i * 8), last);
            last_seen[i] = last_seen_by[list + key];
        }
        let q_rows = rows_of::<E, N>(q, row_of_batch, head);
        let o_rows = rows_of::<E, N>(d_out, row_of_batch, head);
        let of_head = (row_of_batch * heads + head) * positions;

        let steps = (query_end - begin).div_ceil(columns);
        sync_cube();
        copy_rows::<E, N>(q, &q_rows, begin, &mut q_stage, columns, tiles);
        commit();
        for step in 0..steps {
            let query = begin + step * columns;
            copy_rows::<E, N>(d_out, &o_rows, query, &mut o_stage, columns, tiles);
            commit();
            let mut origin = Sequence::<f32>::new();
            let mut mean = Sequence::<f32>::new();
            #[unroll]
            for n in 0..s_tiles {
                #[unroll]
                for side in 0..2usize {
                    let at =
                        min(query + lane_column + comptime!(n * COLUMNS + side), positions - 1);
                    origin
                        .push(statistics[(of_head + at) * 2] * comptime!(std::f32::consts::LOG2_E));
                    mean.push(statistics[(of_head + at) * 2 + 1]);
                }
            }
            wait_for_all_but(1usize);
            sync_cube();

            let mut scores = rows_with_columns::<E, N>(&k_stage, plane_row, &q_stage, tiles);
            let whole = query >= last && query + columns <= sees_all;
            #[unroll]
            for block in 0..blocks {
                #[unroll]
                for n in 0..s_tiles {
                    let tile = comptime!(block * s_tiles + n);
                    #[unroll]
                    for half in 0..2usize {
                        let key = begin + plane_row + lane_row + comptime!(block * ROWS + half * 8);
                        let seen_to = last_seen[comptime!(block * 2 + half)] as usize;
                        let mut pair = scores.index(tile)[half];
                        #[unroll]
                        for side in 0..2usize {
                            let mut weight = exp2(
                                pair.extract(side) * scale - *origin.index(comptime!(2 * n + side)),
                            );
                            if !whole {
                                let at = query + lane_column + comptime!(n * COLUMNS + side);
                                weight = select(at >= key && at <= seen_to, weight, 0.0f32);
                            }
                            pair.insert(side, weight);
                        }
                        scores.index_mut(tile)[half] = pair;
                    }
                }
            }

            wait_for_all_but(0usize);
            sync_cube();
            add_weighted::<E, N>(&mut dv_acc, &scores, &o_stage, tiles);

            let mut slopes = rows_with_columns::<E, N>(&v_stage, plane_row, &o_stage, tiles);
            #[unroll]
            for block in 0..blocks {
                #[unroll]
                for n in 0..s_tiles {
                    let tile = comptime!(block * s_tiles + n);
                    #[unroll]
                    for half in 0..2usize {
                        let weights = scores.index(tile)[half];
                        let mut pair = slopes.index(tile)[half];
                        #[unroll]
                        for side in 0..2usize {
                            let slope = pair.extract(side) - *mean.index(comptime!(2 * n + side));
                            pair.insert(side, weights.extract(side) * slope);
                        }
                        slopes.index_mut(tile)[half] = pair;
                    }
                }
            }

            add_weighted::<E, N>(&mut dk_acc, &slopes, &q_stage, tiles);
            sync_cube();
            if step + 1 < steps {
                copy_rows::<E, N>(q, &q_rows, query + columns, &mut q_stage, columns, tiles);
                commit();
            }
        }
    }

    #[unroll]
    for block in 0..blocks {
        #[unroll]
        for half in 0..2usize {
            let key = begin + plane_row + lane_row + comptime!(block * ROWS + half * 8);
            if key <= last {
                let row = ((row_of_batch * kv_heads + kv_head) * positions + key) * head_dim
                    + lane_column;
                #[unroll]
                for d in 0..d_tiles {
                    let tile = comptime!(block * d_tiles + d);
                    let at = (row + comptime!(d * COLUMNS)) / 2;
                    let pair = dk_acc.index(tile)[half] * Pair::<f32>::new(softmax_scale);
                    dk[at] = Vector::<E, P>::cast_from(pair);
                    dv[at] = Vector::<E, P>::cast_from(dv_acc.index(tile)[half]);
                }
            }
        }
    }
}
