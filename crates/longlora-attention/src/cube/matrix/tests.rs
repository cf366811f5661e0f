//! The kernels spelled out, on any machine: what runs only on a device with matrix units fails here if it cannot be.

use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Shape};
use burn_cubecl::{CubeBackend, CubeDevice, tensor::CubeTensor};
use cubecl::CubeKernel;
use cubecl::prelude::*;

use super::fragment::VECTOR;
use super::*;

/// Two batches, four heads that share two of keys, and rows that fill no tile. Only types and tiles are part of a kernel:
/// the sizes may be any.
pub(super) struct Setting {
    device: CubeDevice,
    dtype: DType,
    tiles: MatrixTiles,
}

impl Setting {
    pub(super) fn new(dtype: DType, tiles: MatrixTiles) -> Self {
        let devices = CubeDevice::enumerate_all();
        let device = devices.into_iter().next().expect("the tests run on a device");
        Self { device, dtype, tiles }
    }

    fn zeros(&self, shape: &[usize]) -> CubeTensor {
        CubeBackend::float_zeros(Shape::from(shape.to_vec()), &self.device, DType::F32.into())
    }

    fn of_queries(&self) -> TensorArg {
        self.zeros(&[2, 4, 100, self.tiles.head_dim]).into_tensor_arg()
    }

    fn of_keys(&self) -> TensorArg {
        self.zeros(&[2, 2, 100, self.tiles.head_dim]).into_tensor_arg()
    }

    fn statistics(&self) -> TensorArg {
        self.zeros(&[2, 4, 100, 2]).into_tensor_arg()
    }

    fn list(&self) -> TensorArg {
        self.zeros(&[2, 2, 100]).into_tensor_arg()
    }

    fn cube_dim(&self) -> CubeDim {
        CubeDim::new_2d(32, self.tiles.planes as u32)
    }

    pub(super) fn forward(&self) -> impl CubeKernel {
        let client = self.zeros(&[1]).client;
        forward::forward_kernel::create_dummy_kernel(
            client.properties_shared(),
            client.target_properties_shared(),
            CubeCount::Static(1, 4, 2),
            self.cube_dim(),
            AddressType::U32,
            VECTOR,
            2,
            self.of_queries(),
            self.of_keys(),
            self.of_keys(),
            self.list(),
            self.of_queries(),
            self.statistics(),
            0.125,
            self.tiles,
            dtype_to_storage_type(self.dtype),
        )
    }

    pub(super) fn query_gradient(&self) -> impl CubeKernel {
        let client = self.zeros(&[1]).client;
        query_gradient::query_gradient_kernel::create_dummy_kernel(
            client.properties_shared(),
            client.target_properties_shared(),
            CubeCount::Static(1, 4, 2),
            self.cube_dim(),
            AddressType::U32,
            VECTOR,
            2,
            self.of_queries(),
            self.of_keys(),
            self.of_keys(),
            self.of_queries(),
            self.statistics(),
            self.list(),
            self.of_queries(),
            0.125,
            self.tiles,
            dtype_to_storage_type(self.dtype),
        )
    }

    pub(super) fn key_gradient(&self) -> impl CubeKernel {
        let client = self.zeros(&[1]).client;
        key_gradient::key_gradient_kernel::create_dummy_kernel(
            client.properties_shared(),
            client.target_properties_shared(),
            CubeCount::Static(1, 2, 2),
            self.cube_dim(),
            AddressType::U32,
            VECTOR,
            2,
            self.of_queries(),
            self.of_keys(),
            self.of_keys(),
            self.of_queries(),
            self.statistics(),
            self.list(),
            self.of_keys(),
            self.of_keys(),
            0.125,
            self.tiles,
            dtype_to_storage_type(self.dtype),
        )
    }

    /// `number` products of a step, each of all rows of a plane with all columns over the entries of a head, are so many
    /// instructions.
    #[track_caller]
    fn check(&self, kernel: &impl CubeKernel, number: usize) {
        let scope = kernel.define().body;
        assert_eq!(scope.pop_errors(), Vec::<String>::new(), "{:?}", self.tiles);
        let MatrixTiles { head_dim, blocks, columns, .. } = self.tiles;
        let of_product = blocks * (columns / 8) * (head_dim / 16);
        let instructions = scope.to_string().matches("matrix.mma").count();
        assert_eq!(instructions, number * of_product, "{:?}", self.tiles);
    }
}

#[test]
fn kernels_are_spelled_out_for_every_tile() {
    for head_dim in [64, 80, 96, 128, 256] {
        for (blocks, planes, columns) in [(1, 4, 64), (2, 4, 32)] {
            let tiles = MatrixTiles { head_dim, blocks, planes, columns };
            let setting = Setting::new(DType::BF16, tiles);
            setting.check(&setting.forward(), 2);
            setting.check(&setting.query_gradient(), 3);
            setting.check(&setting.key_gradient(), 4);
        }
    }
}
