//! The forward: a cube takes a tile of queries and walks over the keys that they see.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::products::{add_weighted, rows_of, rows_with_columns};
use super::tiles::{SIDE, UnitTiles};

/// Lower than any score, and finite: a row that has seen nothing yet is scaled by one.
const LOW: f32 = -1e30;

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
    let (parts, weight_stride) = comptime!((tiles.parts(), tiles.weight_stride()));
    let mut stage = Shared::<[f32]>::new_slice(comptime!(tiles.stage()));
    let mut weights = Shared::<[f32]>::new_slice(comptime!(side * weight_stride));
    let mut maximum = Shared::<[f32]>::new_slice(side);
    let mut sum = Shared::<[f32]>::new_slice(side);
    let mut shrunk = Shared::<[f32]>::new_slice(side);
    let mut of_parts = Shared::<[f32]>::new_slice(comptime!(tiles.units()));

    let (batch_row, head) = (CUBE_POS_Z as usize, CUBE_POS_Y as usize);
    let (heads, queries) = (q.shape(1), q.shape(2));
    let kv_head = head / (heads / k.shape(1));
    let past = k.shape(2) - queries;

    // The longest tiles first: the last ones fill the gaps at the end.
    let begin = (queries.div_ceil(side) - 1 - CUBE_POS_X as usize) * side;
    let last = min(begin + side, queries) - 1;
    let half = select(head < heads / 2, 0usize, 1usize);
    let list = (batch_row * 2 + half) * queries;
    let key_begin = first[list + begin] as usize;
    let steps = (past + last + 1 - key_begin).div_ceil(side);
    let q_rows = rows_of::<E>(q, batch_row, head, begin);

    let (x, y) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    // Of the row whose statistics this unit shares with others.
    let (row, part) = (UNIT_POS as usize / parts, UNIT_POS as usize % parts);
    if part == 0 {
        maximum[row] = LOW;
        sum[row] = 0.0;
    }
    let mut acc = Array::<f32>::new(comptime!(block * entries));
    #[unroll]
    for i in 0..comptime!(block * entries) {
        acc[i] = 0.0;
    }

    for step in 0..steps {
        let key = key_begin + step * side;
        let k_rows = rows_of::<E>(k, batch_row, kv_head, key);
        let scores = rows_with_columns::<E>(q, &q_rows, k, &k_rows, &mut stage, tiles);
        #[unroll]
        for i in 0..block {
            let query = begin + y * block + i;
            let seen_from = first[list + min(query, last)] as usize;
            #[unroll]
            for j in 0..block {
                let column = x + comptime!(j * SIDE);
                let visible = key + column <= past + query && key + column >= seen_from;
                let score = scores[comptime!(i * block + j)] * softmax_scale;
                weights[(y * block + i) * weight_stride + column] = select(visible, score, LOW);
            }
        }
        sync_cube();

        let mut highest = f32::new(LOW);
        for column in 0..comptime!(side / parts) {
            highest = max(highest, weights[row * weight_stride + column * parts + part]);
        }
        of_parts[row * parts + part] = highest;
        sync_cube();
        let before = maximum[row];
        highest = before;
        for other in 0..parts {
            highest = max(highest, of_parts[row * parts + other]);
        }
        sync_cube();
        let mut total = 0.0f32;
        for column in 0..comptime!(side / parts) {
            let at = row * weight_stride + column * parts + part;
            // Hidden scores stay hidden where a row has seen none: its maximum is as low as they are.
            let weight = select(weights[at] > LOW, (weights[at] - highest).exp(), 0.0f32);
            weights[at] = weight;
            total += weight;
        }
        of_parts[row * parts + part] = total;
        sync_cube();
        if part == 0 {
            let factor = (before - highest).exp();
            let mut all = sum[row] * factor;
            for other in 0..parts {
                all += of_parts[row * parts + other];
            }
            sum[row] = all;
            maximum[row] = highest;
            shrunk[row] = factor;
        }
        sync_cube();
        #[unroll]
        for i in 0..block {
            let factor = shrunk[y * block + i];
            #[unroll]
            for e in 0..entries {
                acc[comptime!(i * entries + e)] *= factor;
            }
        }
        let v_rows = rows_of::<E>(v, batch_row, kv_head, key);
        add_weighted::<E>(&mut acc, &weights, v, &v_rows, &mut stage, tiles);
    }

    let (head_at, stride) = (batch_row * out.stride(0) + head * out.stride(1), out.stride(2));
    #[unroll]
    for i in 0..block {
        let query = begin + y * block + i;
        if query <= last {
            let total = sum[y * block + i];
            #[unroll]
            for e in 0..entries {
                let entry = x + comptime!(e * SIDE);
                if entry < comptime!(tiles.head_dim) {
                    out[head_at + query * stride + entry] =
                        E::cast_from(acc[comptime!(i * entries + e)] / total);
                }
            }
            if x == 0 {
                lse[(batch_row * heads + head) * queries + query] =
                    maximum[y * block + i] + total.ln();
            }
        }
    }
}
