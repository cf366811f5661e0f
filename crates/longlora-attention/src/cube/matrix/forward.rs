//! The forward: a plane holds 16 or 32 queries in its registers and walks over the keys that they see.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::fragment::{COLUMNS, Pair, ROWS, zeros};
use super::products::{add_weighted, rows_with_columns};
use super::softmax::{LOW, hide, weigh};
use super::stage::{commit, copy_rows, rows_of, wait_for_all_but};
use super::tiles::{MatrixTiles, stride};

/// `(out, lse)` of one tile of queries of one head; see [`super::forward`].
///
/// `scale` is the softmax's, times log₂ e: exponentials are powers of two.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn forward_kernel<E: Float, N: Size, P: Size>(
    q: &Tensor<Vector<E, N>>,
    k: &Tensor<Vector<E, N>>,
    v: &Tensor<Vector<E, N>>,
    first: &Tensor<u32>,
    out: &mut Tensor<Vector<E, P>>,
    lse: &mut Tensor<f32>,
    scale: f32,
    #[comptime] tiles: MatrixTiles,
    #[define(E)] _dtype: ElemType,
) {
    let head_dim = comptime!(tiles.head_dim);
    let (rows, keys) = comptime!((tiles.rows(), tiles.columns));
    let blocks = comptime!(tiles.blocks);
    let row_len = comptime!(stride(head_dim));
    let mut q_stage =
        Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(rows * row_len), 16usize);
    let mut k_stage =
        Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(keys * row_len), 16usize);
    let mut v_stage =
        Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(keys * row_len), 16usize);

    let (row_of_batch, head) = (CUBE_POS_Z as usize, CUBE_POS_Y as usize);
    let (heads, queries) = (q.shape(1), q.shape(2));
    let (kv_heads, positions) = (k.shape(1), k.shape(2));
    let kv_head = head / (heads / kv_heads);
    let past = positions - queries;

    // The longest tiles first: the last ones fill the gaps at the end.
    let begin = (queries.div_ceil(rows) - 1 - CUBE_POS_X as usize) * rows;
    let last = min(begin + rows, queries) - 1;
    let half = select(head < heads / 2, 0usize, 1usize);
    let list = (row_of_batch * 2 + half) * queries;
    let key_begin = first[list + begin] as usize;
    let key_end = past + last + 1;
    // Below this key, not all queries of the tile see what the first one sees.
    let key_seen_by_all = first[list + last] as usize;

    let q_rows = rows_of::<E, N>(q, row_of_batch, head);
    let k_rows = rows_of::<E, N>(k, row_of_batch, kv_head);
    let v_rows = rows_of::<E, N>(v, row_of_batch, kv_head);

    let plane_row = UNIT_POS_Y as usize * comptime!(blocks * ROWS);
    let lane = UNIT_POS_PLANE as usize;
    let (lane_row, lane_column) = (lane / 4, lane % 4 * 2);

    // What belongs to the rows of this lane: two in each block of 16.
    let mut maximum = Array::<f32>::new(comptime!(2 * blocks));
    let mut sum = Array::<f32>::new(comptime!(2 * blocks));
    let mut first_seen = Array::<u32>::new(comptime!(2 * blocks));
    #[unroll]
    for i in 0..comptime!(2 * blocks) {
        maximum[i] = LOW;
        sum[i] = 0.0;
        let query = begin + plane_row + lane_row + comptime!(i * 8);
        first_seen[i] = first[list + min(query, last)];
    }

    let d_tiles = comptime!(head_dim / COLUMNS);
    let mut acc = zeros(comptime!(blocks * d_tiles));

    copy_rows::<E, N>(q, &q_rows, begin, &mut q_stage, rows, tiles);
    copy_rows::<E, N>(k, &k_rows, key_begin, &mut k_stage, keys, tiles);
    commit();

    let steps = (key_end - key_begin).div_ceil(keys);
    for step in 0..steps {
        let key = key_begin + step * keys;
        wait_for_all_but(0usize);
        sync_cube();
        copy_rows::<E, N>(v, &v_rows, key, &mut v_stage, keys, tiles);
        commit();

        let mut scores = rows_with_columns::<E, N>(&q_stage, plane_row, &k_stage, tiles);

        let whole = key + keys <= past + begin + 1 && key >= key_seen_by_all;
        if !whole {
            let query = past + begin + plane_row + lane_row;
            hide(&mut scores, query, key + lane_column, &first_seen, tiles);
        }
        weigh(&mut scores, &mut maximum, &mut sum, &mut acc, scale, tiles);

        wait_for_all_but(0usize);
        sync_cube();
        if step + 1 < steps {
            copy_rows::<E, N>(k, &k_rows, key + keys, &mut k_stage, keys, tiles);
        }
        commit();

        add_weighted::<E, N>(&mut acc, &scores, &v_stage, tiles);
    }

    #[unroll]
    for block in 0..blocks {
        #[unroll]
        for half in 0..2usize {
            let at = comptime!(block * 2 + half);
            let mut total = sum[at];
            total += plane_shuffle_xor(total, 1u32);
            total += plane_shuffle_xor(total, 2u32);
            let query = begin + plane_row + lane_row + comptime!(block * ROWS + half * 8);
            if query <= last {
                let row =
                    row_of_batch * out.stride(0) + head * out.stride(1) + query * out.stride(2);
                let inverse = Pair::<f32>::new(1.0 / total);
                #[unroll]
                for d in 0..d_tiles {
                    let pair = acc.index(comptime!(block * d_tiles + d))[half] * inverse;
                    out[(row + lane_column + comptime!(d * COLUMNS)) / 2] =
                        Vector::<E, P>::cast_from(pair);
                }
                if lane_column == 0 {
                    lse[(row_of_batch * heads + head) * queries + query] =
                        maximum[at] * scale * comptime!(std::f32::consts::LN_2) + total.ln();
                }
            }
        }
    }
}
