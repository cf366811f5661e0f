//! The forward: a plane holds 16 or 32 queries in its registers and walks over the keys that they see.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::fragment::{COLUMNS, Lane, ROWS, lane, zeros};
use super::output::{Place, write_rows};
use super::products::{add_weighted, rows_with_columns};
use super::softmax::{LOW, hide, weigh};
use super::stage::{commit, copy_rows, rows_of, stage, wait_for_all_but};
use super::tiles::MatrixTiles;

/// `(out, lse)` of one tile of queries of one head; see [`super::forward`].
///
/// `scale` is the softmax's, times log₂ e: exponentials are powers of two.
#[cube(launch_unchecked, create_dummy_kernel, address_type = "dynamic")]
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
    let (rows, keys, blocks) = comptime!((tiles.rows(), tiles.columns, tiles.blocks));
    let mut q_stage = stage::<E, N>(rows, tiles);
    let mut k_stage = stage::<E, N>(keys, tiles);
    let mut v_stage = stage::<E, N>(keys, tiles);

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
    let lane = lane();
    let row = begin + plane_row + lane.row;

    // What belongs to the rows of this lane: two in each block of 16.
    let mut maximum = Array::<f32>::new(comptime!(2 * blocks));
    let mut sum = Array::<f32>::new(comptime!(2 * blocks));
    let mut first_seen = Array::<u32>::new(comptime!(2 * blocks));
    #[unroll]
    for i in 0..comptime!(2 * blocks) {
        maximum[i] = LOW;
        sum[i] = 0.0;
        first_seen[i] = first[list + min(row + comptime!(i * 8), last)];
    }
    let mut acc = zeros(comptime!(blocks * tiles.head_dim / COLUMNS));

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
            hide(&mut scores, past + row, key + lane.column, &first_seen, tiles);
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

    let of_head = (row_of_batch * heads + head) * queries;
    finish(lse, of_head, &maximum, &mut sum, scale, row, last, &lane, tiles);
    let head = row_of_batch * out.stride(0) + head * out.stride(1) + lane.column;
    let place = Place { head, stride: out.stride(2), row, last };
    write_rows::<E, P>(&acc, &sum, out, &place, tiles);
}

/// Writes `lse` of this lane's rows, those from `row` on, and turns the sums of their weights into what outputs are
/// multiplied by.
#[cube]
fn finish(
    lse: &mut Tensor<f32>,
    of_head: usize,
    maximum: &Array<f32>,
    sum: &mut Array<f32>,
    scale: f32,
    row: usize,
    last: usize,
    lane: &Lane,
    #[comptime] tiles: MatrixTiles,
) {
    #[unroll]
    for i in 0..comptime!(2 * tiles.blocks) {
        let mut total = sum[i];
        total += plane_shuffle_xor(total, 1u32);
        total += plane_shuffle_xor(total, 2u32);
        let query = row + comptime!(i * 8);
        if query <= last && lane.column == 0 {
            lse[of_head + query] =
                maximum[i] * scale * comptime!(std::f32::consts::LN_2) + total.ln();
        }
        sum[i] = 1.0 / total;
    }
}
