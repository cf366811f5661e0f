//! How a problem will be solved on a machine: a pure function of both.

use burn::tensor::DType;
use burn_cubecl::CubeTensor;
use cubecl::ir::features::TypeUsage;

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
}

/// How it will be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blueprint {
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
                .type_usage(burn::backend::cubecl::dtype_to_elem_type(dtype))
                .contains(TypeUsage::Arithmetic),
        }
    }
}

impl Blueprint {
    pub(super) fn of(problem: &Problem, machine: &Machine) -> Self {
        if !machine.computes_with_type {
            return Self::Plain("the device does not compute with this type");
        }
        match UnitTiles::that_fit(problem.head_dim, machine.shared_memory, machine.units) {
            Some(tiles) => Self::Units(tiles),
            None => Self::Plain("the device has too little shared memory or too few units"),
        }
    }
}
