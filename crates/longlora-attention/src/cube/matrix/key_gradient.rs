//! `dk` and `dv`: a plane holds the gradients of 16 or 32 keys and walks over the queries that see them.
//!
//! Everything is transposed, `sᵀ = k·qᵀ`, so that weights are left operands as they lie: `dv = pᵀ·d_out`,
//! `dk = softmax_scale · dsᵀ·q`. All query heads of a key head are gone through in order, so nothing is added by two cubes
//! and the result is the same each time.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::fragment::{COLUMNS, ROWS, Sums, lane, zeros};
use super::output::{Place, equal, write_rows};
use super::products::{add_weighted, rows_with_columns};
use super::stage::{commit, copy_rows, exp2, rows_of, stage, wait_for_all_but};
use super::tiles::MatrixTiles;

/// `dk` and `dv` of one tile of keys of one head; see [`super::backward`].
#[cube(launch_unchecked, create_dummy_kernel, address_type = "dynamic")]
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
    let (rows, columns, blocks) = comptime!((tiles.rows(), tiles.columns, tiles.blocks));
    let mut k_stage = stage::<E, N>(rows, tiles);
    let mut v_stage = stage::<E, N>(rows, tiles);
    let mut q_stage = stage::<E, N>(columns, tiles);
    let mut o_stage = stage::<E, N>(columns, tiles);

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
    let lane = lane();
    let row = begin + plane_row + lane.row;
    let scale = softmax_scale * comptime!(std::f32::consts::LOG2_E);
    let mut dk_acc = zeros(comptime!(blocks * tiles.head_dim / COLUMNS));
    let mut dv_acc = zeros(comptime!(blocks * tiles.head_dim / COLUMNS));

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
            last_seen[i] = last_seen_by[list + min(row + comptime!(i * 8), last)];
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
            let seeing = of_columns(statistics, of_head, query + lane.column, positions - 1, tiles);
            wait_for_all_but(1usize);
            sync_cube();

            let mut scores = rows_with_columns::<E, N>(&k_stage, plane_row, &q_stage, tiles);
            let whole = query >= last && query + columns <= sees_all;
            let column = query + lane.column;
            to_weights(&mut scores, &seeing, &last_seen, row, column, whole, scale, tiles);

            wait_for_all_but(0usize);
            sync_cube();
            add_weighted::<E, N>(&mut dv_acc, &scores, &o_stage, tiles);

            let mut slopes = rows_with_columns::<E, N>(&v_stage, plane_row, &o_stage, tiles);
            to_slopes(&mut slopes, &scores, &seeing, tiles);

            add_weighted::<E, N>(&mut dk_acc, &slopes, &q_stage, tiles);
            sync_cube();
            if step + 1 < steps {
                copy_rows::<E, N>(q, &q_rows, query + columns, &mut q_stage, columns, tiles);
                commit();
            }
        }
    }

    let head_dim = comptime!(tiles.head_dim).runtime();
    let head = (row_of_batch * kv_heads + kv_head) * positions * head_dim + lane.column;
    let place = Place { head, stride: head_dim, row, last };
    write_rows::<E, P>(&dk_acc, &equal(softmax_scale, tiles), dk, &place, tiles);
    write_rows::<E, P>(&dv_acc, &equal(1.0f32.runtime(), tiles), dv, &place, tiles);
}

/// What belongs to the columns of this lane, which are queries: two in each tile of 8.
#[derive(CubeType)]
struct OfColumns {
    /// `lse`, times log₂ e.
    origin: Sequence<f32>,
    /// `delta`
    mean: Sequence<f32>,
}

#[cube]
fn of_columns(
    statistics: &Tensor<f32>,
    of_head: usize,
    column: usize,
    last_query: usize,
    #[comptime] tiles: MatrixTiles,
) -> OfColumns {
    let mut origin = Sequence::<f32>::new();
    let mut mean = Sequence::<f32>::new();
    #[unroll]
    for n in 0..comptime!(tiles.columns / COLUMNS) {
        #[unroll]
        for side in 0..2usize {
            let at = of_head + min(column + comptime!(n * COLUMNS + side), last_query);
            origin.push(statistics[at * 2] * comptime!(std::f32::consts::LOG2_E));
            mean.push(statistics[at * 2 + 1]);
        }
    }
    OfColumns { origin, mean }
}

/// `pᵀ` in place of the scores. This lane's first row is of the key at `row`, its first column of the query at `column`; with
/// `whole`, every query sees every key.
#[cube]
fn to_weights(
    scores: &mut Sequence<Sums>,
    seeing: &OfColumns,
    last_seen: &Array<u32>,
    row: usize,
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
                let key = row + comptime!(block * ROWS + half * 8);
                let seen_to = last_seen[comptime!(block * 2 + half)] as usize;
                let mut pair = scores.index(tile)[half];
                #[unroll]
                for side in 0..2usize {
                    let origin = *seeing.origin.index(comptime!(2 * n + side));
                    let mut weight = exp2(pair.extract(side) * scale - origin);
                    if !whole {
                        let query = column + comptime!(n * COLUMNS + side);
                        weight = select(query >= key && query <= seen_to, weight, 0.0f32);
                    }
                    pair.insert(side, weight);
                }
                scores.index_mut(tile)[half] = pair;
            }
        }
    }
}

/// `dsᵀ` in place of `v·d_outᵀ`.
#[cube]
fn to_slopes(
    products: &mut Sequence<Sums>,
    weights: &Sequence<Sums>,
    seeing: &OfColumns,
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
                let weights = weights.index(tile)[half];
                let mut pair = products.index(tile)[half];
                #[unroll]
                for side in 0..2usize {
                    let mean = *seeing.mean.index(comptime!(2 * n + side));
                    pair.insert(side, weights.extract(side) * (pair.extract(side) - mean));
                }
                products.index_mut(tile)[half] = pair;
            }
        }
    }
}
