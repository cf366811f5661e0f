//! Sums and maxima over the units of a cube, always in the same order.

use cubecl::prelude::*;

/// Units of a cube that works on one row.
pub(super) const UNITS: usize = 256;

/// The sum of one number per unit, for all of them. `room` has a number per unit.
#[cube]
pub(super) fn sum_of_cube(value: f32, room: &mut [f32]) -> f32 {
    let unit = UNIT_POS as usize;
    sync_cube();
    room[unit] = value;
    sync_cube();
    #[unroll]
    for level in 0..8usize {
        let half = comptime!(UNITS >> (level + 1));
        if unit < half {
            let other = room[unit + half];
            room[unit] += other;
        }
        sync_cube();
    }
    room[0]
}

/// The largest of one number per unit, for all of them.
#[cube]
pub(super) fn max_of_cube(value: f32, room: &mut [f32]) -> f32 {
    let unit = UNIT_POS as usize;
    sync_cube();
    room[unit] = value;
    sync_cube();
    #[unroll]
    for level in 0..8usize {
        let half = comptime!(UNITS >> (level + 1));
        if unit < half {
            let other = room[unit + half];
            room[unit] = max(room[unit], other);
        }
        sync_cube();
    }
    room[0]
}
