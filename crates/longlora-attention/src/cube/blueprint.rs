//! How a problem will be solved on a machine: a pure function of both.

use burn::backend::cubecl::dtype_to_elem_type;
use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::features::{MmaConfig, TypeUsage};
use cubecl::ir::{DeviceProperties, ElemType, FloatKind};

use super::matrix::{GradientTiles, MatrixTiles};
use super::problem::Problem;
use super::units::UnitTiles;

/// What a device can do, as far as the choice depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Machine {
    /// Bytes of shared memory that a cube may have.
    pub(super) shared_memory: usize,
    /// Units that a cube may have.
    pub(super) units: usize,
    /// Whether it computes with numbers of the problem's type.
    pub(super) computes_with_type: bool,
    /// Whether planes of 32 multiply 16 × 16 by 16 × 8 numbers of the problem's type, summed in f32, read operands from
    /// shared memory in one instruction and copy there while they compute.
    pub(super) multiplies_matrices: bool,
}

/// How it will be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blueprint {
    /// Matrix units, with operands that go from one product to the next in registers.
    Matrix { forward: MatrixTiles, backward: GradientTiles },
    /// Tiles in shared memory, sums in the registers of each unit.
    Units(UnitTiles),
    /// Plain tensor operations, one tile of queries at a time; always right, never fast.
    Plain(&'static str),
}

impl Machine {
    /// Of the device where `tensor` lies.
    pub(super) fn of(tensor: &CubeTensor, dtype: DType) -> Self {
        let properties = tensor.client.properties();
        let hardware = &properties.hardware;
        Self {
            shared_memory: hardware.max_shared_memory_size,
            units: hardware.max_units_per_cube as usize,
            computes_with_type: properties
                .type_usage(dtype_to_elem_type(dtype))
                .contains(TypeUsage::Arithmetic),
            multiplies_matrices: multiplies_matrices(properties, dtype),
        }
    }
}

fn multiplies_matrices(properties: &DeviceProperties, dtype: DType) -> bool {
    let kind = dtype_to_elem_type(dtype);
    let matmul = &properties.features.matmul;
    let product = MmaConfig {
        a_type: kind,
        b_type: kind,
        cd_type: ElemType::Float(FloatKind::F32),
        m: 16,
        n: 8,
        k: 16,
    };
    let planes = (properties.hardware.plane_size_min, properties.hardware.plane_size_max);
    matmul.mma.contains(&product)
        && matmul.ldmatrix.contains(&kind)
        && properties.features.copy_async
        && planes == (32, 32)
}

impl Blueprint {
    pub(super) fn of(problem: &Problem, machine: &Machine) -> Self {
        if problem.batch * problem.heads * problem.queries == 0 {
            return Self::Plain("there is nothing to compute");
        }
        if !matches!(problem.dtype, DType::F32 | DType::F16 | DType::BF16) {
            return Self::Plain("the kernels sum in f32, which is less than this type");
        }
        if !machine.computes_with_type {
            return Self::Plain("the device does not compute with this type");
        }
        if let Some((forward, backward)) = matrix_tiles(problem, machine) {
            return Self::Matrix { forward, backward };
        }
        match UnitTiles::that_fit(problem.head_dim, machine.shared_memory, machine.units) {
            Some(tiles) => Self::Units(tiles),
            None => Self::Plain("the device has too little shared memory or too few units"),
        }
    }
}

/// The fastest of those tried on an H200 at 8,192 and 32,768 tokens (docs/performance.md), for heads of 64 and 128; the
/// others take the next wider ones. Heads of up to 256 fit: what does not stay in registers spills.
fn matrix_tiles(problem: &Problem, machine: &Machine) -> Option<(MatrixTiles, GradientTiles)> {
    let head_dim = problem.head_dim;
    if !machine.multiplies_matrices || !head_dim.is_multiple_of(16) {
        return None;
    }
    let tiles = |blocks, columns| MatrixTiles { head_dim, blocks, planes: 4, columns };
    let (forward, queries, keys) = match head_dim {
        0..=64 => (tiles(2, 64), tiles(2, 32), tiles(2, 32)),
        65..=128 => (tiles(2, 64), tiles(1, 64), tiles(1, 32)),
        129..=256 => (tiles(1, 64), tiles(1, 32), tiles(1, 16)),
        _ => return None,
    };
    let fits = [forward.forward_bytes(), queries.gradient_bytes(), keys.gradient_bytes()]
        .iter()
        .all(|bytes| *bytes <= machine.shared_memory);
    fits.then_some((forward, GradientTiles { queries, keys }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As large as an H100's.
    const CARD: Machine = Machine {
        shared_memory: 232_448,
        units: 1024,
        computes_with_type: true,
        multiplies_matrices: true,
    };

    fn problem(head_dim: usize) -> Problem {
        Problem {
            batch: 1,
            heads: 4,
            kv_heads: 2,
            queries: 100,
            keys: 100,
            head_dim,
            dtype: DType::BF16,
            softmax_scale: 0.1,
        }
    }

    #[track_caller]
    fn check(head_dim: usize, machine: Machine, expected: &str) {
        let name = match Blueprint::of(&problem(head_dim), &machine) {
            Blueprint::Matrix { .. } => "matrix",
            Blueprint::Units(_) => "units",
            Blueprint::Plain(_) => "plain",
        };
        assert_eq!(name, expected, "heads of {head_dim} on {machine:?}");
    }

    #[test]
    fn matrix_units_take_every_head_that_models_have() {
        for head_dim in [64, 80, 96, 128, 256] {
            check(head_dim, CARD, "matrix");
        }
    }

    #[test]
    fn heads_that_do_not_fit_matrix_units_take_the_others() {
        check(24, CARD, "units");
        check(272, CARD, "units");
        check(128, Machine { shared_memory: 48 << 10, ..CARD }, "units");
    }

    #[test]
    fn a_device_without_matrix_units_takes_the_others() {
        check(128, Machine { multiplies_matrices: false, ..CARD }, "units");
        let small = Machine { shared_memory: 16 << 10, units: 256, ..CARD };
        check(128, Machine { multiplies_matrices: false, ..small }, "units");
    }

    #[test]
    fn what_no_kernel_can_do_is_done_plainly() {
        check(128, Machine { computes_with_type: false, ..CARD }, "plain");
        check(128, Machine { units: 64, multiplies_matrices: false, ..CARD }, "plain");
        let wide = Problem { dtype: DType::F64, ..problem(64) };
        assert!(matches!(Blueprint::of(&wide, &CARD), Blueprint::Plain(_)));
        let empty = Problem { queries: 0, ..problem(64) };
        assert!(matches!(Blueprint::of(&empty, &CARD), Blueprint::Plain(_)));
    }
}
