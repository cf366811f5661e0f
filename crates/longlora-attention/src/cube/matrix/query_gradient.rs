//! `dq`: a plane holds the gradient of 16 or 32 queries and walks over the keys that they see.
//!
//! With `p = exp(s - lse)` and `ds = p ⊙ (d_out·vᵀ - delta)`: `dq = softmax_scale · ds·k` (arXiv:2307.08691, alg. 2).

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::fragment::{COLUMNS, ROWS, Sums, lane, zeros};
use super::output::{Place, equal, write_rows};
use super::products::{add_weighted, rows_with_columns};
use super::stage::{commit, copy_rows, exp2, rows_of, stage, wait_for_all_but};
use super::tiles::MatrixTiles;

/// `dq` of one tile of queries of one head; see [`super::backward`].
#[cube(launch_unchecked, create_dummy_kernel, address_type = "dynamic")]
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
    let (rows, keys, blocks) = comptime!((tiles.rows(), tiles.columns, tiles.blocks));
    let mut q_stage = stage::<E, N>(rows, tiles);
    let mut o_stage = stage::<E, N>(rows, tiles);
    let mut k_stage = stage::<E, N>(keys, tiles);
    let mut v_stage = stage::<E, N>(keys, tiles);

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
    let lane = lane();
    let row = begin + plane_row + lane.row;
    let of_head = (row_of_batch * heads + head) * queries;
    let own = of_rows(statistics, of_head, first, list, row, last, tiles);
    let scale = softmax_scale * comptime!(std::f32::consts::LOG2_E);
    let mut acc = zeros(comptime!(blocks * tiles.head_dim / COLUMNS));

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
        let column = key + lane.column;
        to_slopes(&mut scores, &slopes, &own, column, whole, scale, tiles);

        add_weighted::<E, N>(&mut acc, &scores, &k_stage, tiles);
        sync_cube();
        if step + 1 < steps {
            copy_rows::<E, N>(k, &k_rows, key + keys, &mut k_stage, keys, tiles);
            commit();
        }
    }

    let head = row_of_batch * dq.stride(0) + head * dq.stride(1) + lane.column;
    let place = Place { head, stride: dq.stride(2), row, last };
    write_rows::<E, P>(&acc, &equal(softmax_scale, tiles), dq, &place, tiles);
}

/// What belongs to the queries of this lane, two in each block of 16.
#[derive(CubeType)]
struct OfRows {
    /// `lse`, times log₂ e.
    origin: Array<f32>,
    /// `delta`
    mean: Array<f32>,
    first_seen: Array<u32>,
    /// The first one.
    row: usize,
}

#[cube]
fn of_rows(
    statistics: &Tensor<f32>,
    of_head: usize,
    first: &Tensor<u32>,
    list: usize,
    row: usize,
    last: usize,
    #[comptime] tiles: MatrixTiles,
) -> OfRows {
    let mut origin = Array::<f32>::new(comptime!(2 * tiles.blocks));
    let mut mean = Array::<f32>::new(comptime!(2 * tiles.blocks));
    let mut first_seen = Array::<u32>::new(comptime!(2 * tiles.blocks));
    #[unroll]
    for i in 0..comptime!(2 * tiles.blocks) {
        let query = min(row + comptime!(i * 8), last);
        let at = of_head + query;
        origin[i] = statistics[at * 2] * comptime!(std::f32::consts::LOG2_E);
        mean[i] = statistics[at * 2 + 1];
        first_seen[i] = first[list + query];
    }
    OfRows { origin, mean, first_seen, row }
}

/// `ds` in place of the scores, from those and `d_out·vᵀ`. `column` is the key of this lane's first column; with `whole`, every
/// query sees every key.
#[cube]
fn to_slopes(
    scores: &mut Sequence<Sums>,
    products: &Sequence<Sums>,
    own: &OfRows,
    column: usize,
    whole: bool,
    scale: f32,
    #[comptime] tiles: MatrixTiles,
) {
    let across = comptime!(tiles.columns / COLUMNS);
    #[unroll]
    for block in 0..comptime!(tiles.blocks) {
        #[unroll]
        for n in 0..across {
            let tile = comptime!(block * across + n);
            #[unroll]
            for half in 0..2usize {
                let at = comptime!(block * 2 + half);
                let query = own.row + comptime!(block * ROWS + half * 8);
                let seen_from = own.first_seen[at] as usize;
                let scored = scores.index(tile)[half];
                let mut pair = products.index(tile)[half];
                #[unroll]
                for side in 0..2usize {
                    let mut weight = exp2(scored.extract(side) * scale - own.origin[at]);
                    if !whole {
                        let key = column + comptime!(n * COLUMNS + side);
                        weight = select(key <= query && key >= seen_from, weight, 0.0f32);
                    }
                    pair.insert(side, weight * (pair.extract(side) - own.mean[at]));
                }
                scores.index_mut(tile)[half] = pair;
            }
        }
    }
}
