//! The two products of a step, through a stage in shared memory, whatever the type of the tensors in f32.

use cubecl::prelude::*;

use super::tiles::{DEPTH, SIDE, UnitTiles};

/// Some rows of one head, and where they lie in a tensor whose entries lie side by side.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Rows {
    /// Where the head begins.
    pub(super) head: usize,
    /// From one row to the next.
    pub(super) stride: usize,
    /// The first one.
    pub(super) from: usize,
    /// Rows of the head; of those from here on, the last one is read again.
    pub(super) limit: usize,
}

/// The rows of head `head` of row `row` of the batch, from `from` on.
#[cube]
pub(super) fn rows_of<E: Float>(x: &Tensor<E>, row: usize, head: usize, from: usize) -> Rows {
    Rows {
        head: row * x.stride(0) + head * x.stride(1),
        stride: x.stride(2),
        from,
        limit: x.shape(2),
    }
}

#[cube]
fn read<E: Float>(x: &Tensor<E>, rows: &Rows, row: usize, entry: usize) -> f32 {
    let row = min(rows.from + row, rows.limit - 1);
    f32::cast_from(x[rows.head + row * rows.stride + entry])
}

/// `number` zeros.
#[cube]
pub(super) fn zeros(#[comptime] number: usize) -> Array<f32> {
    let mut zeros = Array::<f32>::new(number);
    #[unroll]
    for i in 0..number {
        zeros[i] = 0.0;
    }
    zeros
}

/// Scores of all rows of `left` with all rows of `right`: the `block × block` of this unit, rows `unit y · block + i`, columns
/// `unit x + SIDE · j`.
#[cube]
pub(super) fn rows_with_columns<E: Float>(
    left: &Tensor<E>,
    left_rows: &Rows,
    right: &Tensor<E>,
    right_rows: &Rows,
    stage: &mut [f32],
    #[comptime] tiles: UnitTiles,
) -> Array<f32> {
    let (block, side) = comptime!((tiles.block, tiles.side()));
    let row_len = comptime!(DEPTH + 1);
    let second = comptime!(side * row_len);
    let (x, y) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let mut sums = zeros(comptime!(block * block));
    for chunk in 0..comptime!(tiles.head_dim.div_ceil(DEPTH)) {
        sync_cube();
        #[unroll]
        for step in 0..block {
            let row = y + comptime!(step * SIDE);
            let entry = chunk * DEPTH + x;
            let mut a = 0.0f32;
            let mut b = 0.0f32;
            if entry < comptime!(tiles.head_dim) {
                a = read::<E>(left, left_rows, row, entry);
                b = read::<E>(right, right_rows, row, entry);
            }
            stage[row * row_len + x] = a;
            stage[second + row * row_len + x] = b;
        }
        sync_cube();
        #[unroll]
        for p in 0..DEPTH {
            #[unroll]
            for i in 0..block {
                let a = stage[(y * block + i) * row_len + p];
                #[unroll]
                for j in 0..block {
                    let b = stage[second + (x + comptime!(j * SIDE)) * row_len + p];
                    sums[comptime!(i * block + j)] += a * b;
                }
            }
        }
    }
    sums
}

/// `sums += weights · rows`, over the first `columns` columns: `block` rows of this unit by its entries of a head.
#[cube]
pub(super) fn add_weighted<E: Float>(
    sums: &mut Array<f32>,
    weights: &[f32],
    x: &Tensor<E>,
    rows: &Rows,
    stage: &mut [f32],
    #[comptime] tiles: UnitTiles,
) {
    let (block, head_dim) = comptime!((tiles.block, tiles.head_dim));
    let (entries, step) = comptime!((tiles.entries(), tiles.step()));
    let weight_stride = comptime!(tiles.weight_stride());
    let (unit_x, unit_y) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    for chunk in 0..comptime!(tiles.side() / step) {
        sync_cube();
        #[unroll]
        for pass in 0..comptime!(step.div_ceil(SIDE)) {
            let row = unit_y + comptime!(pass * SIDE);
            if row < step {
                #[unroll]
                for e in 0..entries {
                    let entry = unit_x + comptime!(e * SIDE);
                    if entry < head_dim {
                        stage[row * head_dim + entry] =
                            read::<E>(x, rows, chunk * step + row, entry);
                    }
                }
            }
        }
        sync_cube();
        for key in 0..step {
            #[unroll]
            for e in 0..entries {
                let entry = unit_x + comptime!(e * SIDE);
                if entry < head_dim {
                    let value = stage[key * head_dim + entry];
                    #[unroll]
                    for i in 0..block {
                        let weight =
                            weights[(unit_y * block + i) * weight_stride + chunk * step + key];
                        sums[comptime!(i * entries + e)] += weight * value;
                    }
                }
            }
        }
    }
}

/// Puts the `block × block` of this unit where all units find them.
#[cube]
pub(super) fn share(of_unit: &Array<f32>, shared: &mut [f32], #[comptime] tiles: UnitTiles) {
    let block = comptime!(tiles.block);
    let row_len = comptime!(tiles.weight_stride());
    #[unroll]
    for i in 0..block {
        let row = (UNIT_POS_Y as usize * block + i) * row_len;
        #[unroll]
        for j in 0..block {
            let column = UNIT_POS_X as usize + comptime!(j * SIDE);
            shared[row + column] = of_unit[comptime!(i * block + j)];
        }
    }
}

/// Writes the `block` rows of this unit, those that are below `limit`, times `factor`.
#[cube]
pub(super) fn write_rows<E: Float>(
    out: &mut Tensor<E>,
    head: usize,
    stride: usize,
    from: usize,
    limit: usize,
    sums: &Array<f32>,
    factor: f32,
    #[comptime] tiles: UnitTiles,
) {
    let (block, entries) = comptime!((tiles.block, tiles.entries()));
    #[unroll]
    for i in 0..block {
        let row = from + UNIT_POS_Y as usize * block + i;
        if row < limit {
            #[unroll]
            for e in 0..entries {
                let entry = UNIT_POS_X as usize + comptime!(e * SIDE);
                if entry < comptime!(tiles.head_dim) {
                    out[head + row * stride + entry] =
                        E::cast_from(sums[comptime!(i * entries + e)] * factor);
                }
            }
        }
    }
}
