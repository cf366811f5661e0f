//! How large the pieces of one cube are.

/// Units along the rows and along the columns of a tile.
pub(super) const SIDE: usize = 16;
/// Entries of a head that are summed over at a time.
pub(super) const DEPTH: usize = 16;

/// A square tile of scores, of which each of 16 × 16 units computes `block × block`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::cube) struct UnitTiles {
    pub(in crate::cube) head_dim: usize,
    pub(in crate::cube) block: usize,
}

impl UnitTiles {
    /// The largest that fit; `shared_memory` in bytes.
    pub(in crate::cube) fn that_fit(
        head_dim: usize,
        shared_memory: usize,
        units: usize,
    ) -> Option<Self> {
        let fits = |tiles: &Self| {
            tiles.bytes() <= shared_memory && tiles.units() <= units && tiles.step() > 0
        };
        [4, 2, 1].map(|block| Self { head_dim, block }).into_iter().find(fits)
    }

    /// Rows of a tile, and its columns.
    pub(super) fn side(&self) -> usize {
        SIDE * self.block
    }

    /// Units of a cube.
    pub(super) fn units(&self) -> usize {
        SIDE * SIDE
    }

    /// Units that share the statistics of a row.
    pub(super) fn parts(&self) -> usize {
        self.units() / self.side()
    }

    /// Entries of a head that one unit sums up: those `SIDE` apart.
    pub(super) fn entries(&self) -> usize {
        self.head_dim.div_ceil(SIDE)
    }

    /// Numbers from one row of the weights to the next: one more than a row has, against conflicts of banks.
    pub(super) fn weight_stride(&self) -> usize {
        self.side() + 1
    }

    /// Numbers of the stage, which holds a chunk of a tile's rows and of its columns, or a step of whole rows.
    pub(super) fn stage(&self) -> usize {
        2 * self.side() * (DEPTH + 1)
    }

    /// Whole rows that fit into the stage.
    pub(super) fn step(&self) -> usize {
        let most = (self.stage() / self.head_dim).min(self.side());
        if most == 0 { 0 } else { 1 << most.ilog2() }
    }

    fn bytes(&self) -> usize {
        let statistics = 3 * self.side() + 2 * self.units();
        4 * (self.stage() + self.side() * self.weight_stride() + statistics)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(head_dim: usize, shared_memory: usize, expected: Option<(usize, usize)>) {
        let tiles = UnitTiles::that_fit(head_dim, shared_memory, 256);
        assert_eq!(tiles.map(|tiles| (tiles.side(), tiles.step())), expected);
    }

    #[test]
    fn tiles_are_as_large_as_shared_memory_allows() {
        check(64, 48 << 10, Some((64, 32)));
        check(128, 32 << 10, Some((64, 16)));
        check(256, 32 << 10, Some((64, 8)));
        check(3, 32 << 10, Some((64, 64)));
        check(128, 16 << 10, Some((32, 8)));
        check(128, 8 << 10, Some((16, 4)));
        check(128, 2 << 10, None);
    }

    #[test]
    fn too_few_units_are_none() {
        assert_eq!(UnitTiles::that_fit(64, 48 << 10, 128), None);
    }
}
