//! The kernels spelled out, on any machine: what runs only on a device with matrix units fails here if it cannot be.

use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Shape};
use burn_cubecl::{CubeBackend, CubeDevice, tensor::CubeTensor};
use cubecl::CubeKernel;
use cubecl::prelude::*;

use super::fragment::VECTOR;
use super::*;

const DTYPE: DType = DType::BF16;

/// Two batches, four heads that share two of keys, and rows that fill no tile.
struct Setting {
    device: CubeDevice,
    tiles: MatrixTiles,
}

impl Setting {
    fn zeros(&self, shape: &[usize]) -> CubeTensor {
        CubeBackend::float_zeros(Shape::from(shape.to_vec()), &self.device, DType::F32.into())
    }

    fn client(&self) -> Client {
        self.zeros(&[1]).client
    }

    fn of_queries(&self) -> CubeTensor {
        self.zeros(&[2, 4, 100, self.tiles.head_dim])
    }

    fn of_keys(&self) -> CubeTensor {
        self.zeros(&[2, 2, 100, self.tiles.head_dim])
    }

    fn statistics(&self) -> CubeTensor {
        self.zeros(&[2, 4, 100, 2])
    }

    fn list(&self) -> CubeTensor {
        self.zeros(&[2, 2, 100])
    }

    fn cube_dim(&self) -> CubeDim {
        CubeDim::new_2d(32, self.tiles.planes as u32)
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
    let device = CubeDevice::enumerate_all().into_iter().next().expect("the tests run on a device");
    for head_dim in [64, 80, 96, 128, 256] {
        for (blocks, planes, columns) in [(1, 4, 64), (2, 4, 32)] {
            let tiles = MatrixTiles { head_dim, blocks, planes, columns };
            let setting = Setting { device: device.clone(), tiles };
            check_forward(&setting);
            check_query_gradient(&setting);
            check_key_gradient(&setting);
        }
    }
}

fn check_forward(setting: &Setting) {
    let client = setting.client();
    let kernel = forward::forward_kernel::create_dummy_kernel(
        client.properties_shared(),
        client.target_properties_shared(),
        CubeCount::Static(1, 4, 2),
        setting.cube_dim(),
        AddressType::U32,
        VECTOR,
        2,
        setting.of_queries().into_tensor_arg(),
        setting.of_keys().into_tensor_arg(),
        setting.of_keys().into_tensor_arg(),
        setting.list().into_tensor_arg(),
        setting.of_queries().into_tensor_arg(),
        setting.statistics().into_tensor_arg(),
        0.125,
        setting.tiles,
        dtype_to_storage_type(DTYPE),
    );
    setting.check(&kernel, 2);
}

fn check_query_gradient(setting: &Setting) {
    let client = setting.client();
    let kernel = query_gradient::query_gradient_kernel::create_dummy_kernel(
        client.properties_shared(),
        client.target_properties_shared(),
        CubeCount::Static(1, 4, 2),
        setting.cube_dim(),
        AddressType::U32,
        VECTOR,
        2,
        setting.of_queries().into_tensor_arg(),
        setting.of_keys().into_tensor_arg(),
        setting.of_keys().into_tensor_arg(),
        setting.of_queries().into_tensor_arg(),
        setting.statistics().into_tensor_arg(),
        setting.list().into_tensor_arg(),
        setting.of_queries().into_tensor_arg(),
        0.125,
        setting.tiles,
        dtype_to_storage_type(DTYPE),
    );
    setting.check(&kernel, 3);
}

fn check_key_gradient(setting: &Setting) {
    let client = setting.client();
    let kernel = key_gradient::key_gradient_kernel::create_dummy_kernel(
        client.properties_shared(),
        client.target_properties_shared(),
        CubeCount::Static(1, 2, 2),
        setting.cube_dim(),
        AddressType::U32,
        VECTOR,
        2,
        setting.of_queries().into_tensor_arg(),
        setting.of_keys().into_tensor_arg(),
        setting.of_keys().into_tensor_arg(),
        setting.of_queries().into_tensor_arg(),
        setting.statistics().into_tensor_arg(),
        setting.list().into_tensor_arg(),
        setting.of_keys().into_tensor_arg(),
        setting.of_keys().into_tensor_arg(),
        0.125,
        setting.tiles,
        dtype_to_storage_type(DTYPE),
    );
    setting.check(&kernel, 4);
}
