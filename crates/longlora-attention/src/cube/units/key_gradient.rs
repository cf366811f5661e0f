//! `dk` and `dv`: a cube takes a tile of keys and walks over the queries that see them.
//!
//! All query heads of a key head are gone through in order, so nothing is added by two cubes and the result is the same
//! each time.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::products::{add_weighted, rows_of, rows_with_columns, write_rows};
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
    let weight_stride = comptime!(tiles.weight_stride());
    let mut stage = Shared::<[f32]>::new_slice(comptime!(tiles.stage()));
    let mut weights = Shared::<[f32]>::new_slice(comptime!(side * weight_stride));

    let (batch_row, kv_head) = (CUBE_POS_Z as usize, CUBE_POS_Y as usize);
    let (heads, positions, kv_heads) = (q.shape(1), q.shape(2), k.shape(1));
    let shared_by = heads / kv_heads;
    let begin = CUBE_POS_X as usize * side;
    let last = min(begin + side, positions) - 1;
    let k_rows = rows_of::<E>(k, batch_row, kv_head, begin);
    let v_rows = rows_of::<E>(v, batch_row, kv_head, begin);

    let (x, y) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let mut dk = Array::<f32>::new(comptime!(block * entries));
    let mut dv = Array::<f32>::new(comptime!(block * entries));
    #[unroll]
    for i in 0..comptime!(block * entries) {
        dk[i] = 0.0;
        dv[i] = 0.0;
    }
    for member in 0..shared_by {
        let head = kv_head * shared_by + member;
        let half = select(head < heads / 2, 0usize, 1usize);
        let list = (batch_row * 2 + half) * positions;
        let of_head = (batch_row * heads + head) * positions;
        let steps = (last_seen_by[list + last] as usize + 1 - begin).div_ceil(side);
        for step in 0..steps {
            let query = begin + step * side;
            let q_rows = rows_of::<E>(q, batch_row, head, query);
            let o_rows = rows_of::<E>(d_out, batch_row, head, query);
            let mut scores = rows_with_columns::<E>(k, &k_rows, q, &q_rows, &mut stage, tiles);
            #[unroll]
            for i in 0..block {
                let key = begin + y * block + i;
                let seen_to = last_seen_by[list + min(key, last)] as usize;
                #[unroll]
                for j in 0..block {
                    let column = x + comptime!(j * SIDE);
                    let at = query + column;
                    let visible = at >= key && at <= seen_to;
                    let origin = statistics[(of_head + min(at, positions - 1)) * 2];
                    let weight = (scores[comptime!(i * block + j)] * softmax_scale - origin).exp();
                    scores[comptime!(i * block + j)] = select(visible, weight, 0.0f32);
                    weights[(y * block + i) * weight_stride + column] =
                        scores[comptime!(i * block + j)];
                }
            }
            add_weighted::<E>(&mut dv, &weights, d_out, &o_rows, &mut stage, tiles);
            let products = rows_with_columns::<E>(v, &v_rows, d_out, &o_rows, &mut stage, tiles);
            #[unroll]
            for i in 0..block {
                #[unroll]
                for j in 0..block {
                    let column = x + comptime!(j * SIDE);
                    let mean = statistics[(of_head + min(query + column, positions - 1)) * 2 + 1];
                    let slope = scores[comptime!(i * block + j)]
                        * (products[comptime!(i * block + j)] - mean);
                    weights[(y * block + i) * weight_stride + column] = slope;
                }
            }
            add_weighted::<E>(&mut dk, &weights, q, &q_rows, &mut stage, tiles);
        }
    }
    let head_dim = comptime!(tiles.head_dim);
    let head_at = (batch_row * kv_heads + kv_head) * positions * head_dim;
    write_rows::<E>(
        gradients,
        head_at,
        head_dim.runtime(),
        begin,
        positions,
        &dk,
        softmax_scale,
        tiles,
    );
    write_rows::<E>(
        gradients,
        second as usize + head_at,
        head_dim.runtime(),
        begin,
        positions,
        &dv,
        1.0f32.runtime(),
        tiles,
    );
}
