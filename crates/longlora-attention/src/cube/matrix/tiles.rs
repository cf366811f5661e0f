//! How large the pieces of one cube are.

/// Of a kernel that keeps its own rows in registers and walks over the columns of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::cube) struct MatrixTiles {
    pub(in crate::cube) head_dim: usize,
    /// Blocks of 16 rows in each plane.
    pub(in crate::cube) blocks: usize,
    /// Planes of 32 units in a cube.
    pub(in crate::cube) planes: usize,
    /// Columns of a step.
    pub(in crate::cube) columns: usize,
}

impl MatrixTiles {
    /// Rows of a cube.
    pub(super) fn rows(&self) -> usize {
        16 * self.blocks * self.planes
    }

    /// Units of a cube.
    pub(super) fn units(&self) -> usize {
        32 * self.planes
    }
}

/// Of the two kernels of the backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cube) struct GradientTiles {
    /// Rows are queries.
    pub(in crate::cube) queries: MatrixTiles,
    /// Rows are keys.
    pub(in crate::cube) keys: MatrixTiles,
}
