//! How large the pieces of one cube are.

use super::fragment::VECTOR;

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

    /// Shared memory of the forward: its own rows, and a step of keys and of values.
    pub(in crate::cube) fn forward_bytes(&self) -> usize {
        self.bytes_of(self.rows() + 2 * self.columns)
    }

    /// Shared memory of a kernel of the backward: two of its own rows, and two of a step.
    pub(in crate::cube) fn gradient_bytes(&self) -> usize {
        self.bytes_of(2 * self.rows() + 2 * self.columns)
    }

    fn bytes_of(&self, rows: usize) -> usize {
        rows * stride(self.head_dim) * 16
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

/// Vectors from one row of a stage to the next: one more than a row has, so that eight rows lie in different banks.
pub(super) const fn stride(head_dim: usize) -> usize {
    head_dim / VECTOR + 1
}
