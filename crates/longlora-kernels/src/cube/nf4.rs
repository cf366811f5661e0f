//! NF4 on a GPU: a word of eight codes per unit. What comes out is multiplied by burn's products and gone.

use burn::backend::cubecl::dtype_to_storage_type;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use cubecl::calculate_cube_count_elemwise;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use crate::nf4::{CODES_PER_WORD, LEVELS, WORDS, width};

use super::room::empty;
use super::tensors::address;

/// The matrix `[d_input, d_output]`, its columns contiguous.
pub(super) fn dequantize(blocks: CubeTensor, dtype: DType) -> CubeTensor {
    let blocks = into_contiguous(blocks);
    let [d_output, words] = blocks.meta.shape().dims();
    let out = empty(&blocks, Shape::new([d_output, width(words)]), dtype);
    let units = out.meta.shape().num_elements() / CODES_PER_WORD;
    if units > 0 {
        let client = blocks.client.clone();
        let cube_dim = CubeDim::new(&client, units);
        let levels = client.create_from_slice(f32::as_bytes(&LEVELS));
        let levels = CubeTensor::new_contiguous(
            client.clone(),
            blocks.device.clone(),
            Shape::new([LEVELS.len()]),
            levels,
            DType::F32,
        );
        dequantize_kernel::launch(
            &client,
            calculate_cube_count_elemwise(&client, units, cube_dim),
            cube_dim,
            address([&blocks, &out]),
            blocks.into_tensor_arg(),
            levels.into_tensor_arg(),
            out.clone().into_tensor_arg(),
            dtype_to_storage_type(dtype),
        );
    }
    CubeBackend::float_transpose(out)
}

#[cube(launch, address_type = "dynamic")]
fn dequantize_kernel<E: Float>(
    blocks: &Tensor<i32>,
    levels: &Tensor<f32>,
    out: &mut Tensor<E>,
    #[define(E)] _dtype: ElemType,
) {
    let (at, of_block) = (ABSOLUTE_POS, WORDS - 1);
    if at >= out.len() / CODES_PER_WORD {
        terminate!();
    }
    let block = at / of_block * WORDS;
    let absmax = f32::reinterpret(blocks[block]);
    let codes = u32::reinterpret(blocks[block + 1 + at % of_block]);
    #[unroll]
    for i in 0..CODES_PER_WORD {
        let code = (codes >> comptime!(4 * (i ^ 1) as u32)) & 15u32;
        out[at * CODES_PER_WORD + i] = E::cast_from(absmax * levels[code as usize]);
    }
}
