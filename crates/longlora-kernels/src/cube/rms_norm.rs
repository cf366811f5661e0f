//! The norm: a cube per row.
//!
//! With `r = 1 / √(mean(x²) + ε)` and `g = d_out ⊙ γ`: `dx = r · g - x · r³ · mean(g ⊙ x)`, `dγ = Σ d_out ⊙ x · r`.

use burn::backend::cubecl::dtype_to_storage_type;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::reduce::{UNITS, sum_of_cube};
use super::room::empty;
use super::tensors::{address, in_type, plain};

/// Rows whose share of `dγ` one unit adds up.
const ROWS_PER_PART: usize = 256;
/// Units of a cube that works on columns.
const COLUMNS: u32 = 64;

pub(super) fn forward(x: CubeTensor, gamma: CubeTensor, epsilon: f32) -> CubeTensor {
    let (x, gamma) = (into_contiguous(x), plain(gamma));
    let out = empty(&x, x.meta.shape().clone(), x.dtype);
    let width = gamma.meta.shape()[0];
    let rows = out.meta.shape().num_elements() / width;
    if rows == 0 {
        return out;
    }
    let (client, dtype) = (x.client.clone(), dtype_to_storage_type(x.dtype));
    forward_kernel::launch(
        &client,
        cubes(rows),
        CubeDim::new_1d(UNITS as u32),
        address([&x]),
        x.into_tensor_arg(),
        gamma.into_tensor_arg(),
        out.clone().into_tensor_arg(),
        epsilon,
        rows as u32,
        width as u32,
        dtype,
    );
    out
}

/// `(dx, dγ)`; the second in γ's type, if it is asked for.
pub(super) fn backward(
    x: CubeTensor,
    gamma: CubeTensor,
    epsilon: f32,
    d_out: CubeTensor,
    gamma_is_trained: bool,
) -> (CubeTensor, Option<CubeTensor>) {
    let gamma_dtype = gamma.dtype;
    let (x, d_out, gamma) = (into_contiguous(x), into_contiguous(d_out), plain(gamma));
    let dx = empty(&x, x.meta.shape().clone(), x.dtype);
    let width = gamma.meta.shape()[0];
    let rows = dx.meta.shape().num_elements() / width;
    let inverse = empty(&x, Shape::new([rows]), DType::F32);
    let (client, dtype) = (x.client.clone(), dtype_to_storage_type(x.dtype));
    if rows > 0 {
        backward_kernel::launch(
            &client,
            cubes(rows),
            CubeDim::new_1d(UNITS as u32),
            address([&x]),
            x.clone().into_tensor_arg(),
            gamma.into_tensor_arg(),
            d_out.clone().into_tensor_arg(),
            dx.clone().into_tensor_arg(),
            inverse.clone().into_tensor_arg(),
            epsilon,
            rows as u32,
            width as u32,
            dtype,
        );
    }
    if !gamma_is_trained {
        return (dx, None);
    }
    let parts = rows.div_ceil(ROWS_PER_PART).max(1);
    let partial = empty(&x, Shape::new([parts, width]), DType::F32);
    gamma_kernel::launch(
        &client,
        CubeCount::Static((width as u32).div_ceil(COLUMNS), parts as u32, 1),
        CubeDim::new_1d(COLUMNS),
        address([&x, &partial]),
        x.into_tensor_arg(),
        d_out.into_tensor_arg(),
        inverse.into_tensor_arg(),
        partial.clone().into_tensor_arg(),
        rows as u32,
        width as u32,
        dtype,
    );
    let d_gamma = CubeBackend::float_sum_dim(partial, 0);
    let d_gamma = CubeBackend::float_reshape(d_gamma, Shape::new([width]));
    (dx, Some(in_type(d_gamma, gamma_dtype)))
}

/// A cube for each row, in two directions, since one has at most 65,535.
fn cubes(rows: usize) -> CubeCount {
    let across = rows.min(1 << 15);
    CubeCount::Static(across as u32, rows.div_ceil(across) as u32, 1)
}

#[cube(launch, address_type = "dynamic")]
fn forward_kernel<E: Float>(
    x: &Tensor<E>,
    gamma: &Tensor<f32>,
    out: &mut Tensor<E>,
    epsilon: f32,
    rows: u32,
    width: u32,
    #[define(E)] _dtype: ElemType,
) {
    let mut room = Shared::<[f32]>::new_slice(UNITS);
    let row = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) as usize;
    if row >= rows as usize {
        terminate!();
    }
    let (width, unit) = (width as usize, UNIT_POS as usize);
    let begin = row * width;
    let mut squares = 0.0f32;
    for step in 0..width.div_ceil(UNITS) {
        let column = step * UNITS + unit;
        if column < width {
            let value = f32::cast_from(x[begin + column]);
            squares += value * value;
        }
    }
    let mean = sum_of_cube(squares, &mut room) / f32::cast_from(width as u32);
    let inverse = 1.0 / (mean + epsilon).sqrt();
    for step in 0..width.div_ceil(UNITS) {
        let column = step * UNITS + unit;
        if column < width {
            out[begin + column] =
                E::cast_from(f32::cast_from(x[begin + column]) * inverse * gamma[column]);
        }
    }
}

#[cube(launch, address_type = "dynamic")]
fn backward_kernel<E: Float>(
    x: &Tensor<E>,
    gamma: &Tensor<f32>,
    d_out: &Tensor<E>,
    dx: &mut Tensor<E>,
    inverses: &mut Tensor<f32>,
    epsilon: f32,
    rows: u32,
    width: u32,
    #[define(E)] _dtype: ElemType,
) {
    let mut room = Shared::<[f32]>::new_slice(UNITS);
    let row = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) as usize;
    if row >= rows as usize {
        terminate!();
    }
    let count = f32::cast_from(width);
    let (width, unit) = (width as usize, UNIT_POS as usize);
    let begin = row * width;
    let mut squares = 0.0f32;
    let mut products = 0.0f32;
    for step in 0..width.div_ceil(UNITS) {
        let column = step * UNITS + unit;
        if column < width {
            let value = f32::cast_from(x[begin + column]);
            squares += value * value;
            products += value * f32::cast_from(d_out[begin + column]) * gamma[column];
        }
    }
    let mean = sum_of_cube(squares, &mut room) / count;
    let product = sum_of_cube(products, &mut room) / count;
    let inverse = 1.0 / (mean + epsilon).sqrt();
    let pull = inverse * inverse * inverse * product;
    if unit == 0 {
        inverses[row] = inverse;
    }
    for step in 0..width.div_ceil(UNITS) {
        let column = step * UNITS + unit;
        if column < width {
            let at = begin + column;
            let direct = inverse * f32::cast_from(d_out[at]) * gamma[column];
            dx[at] = E::cast_from(direct - f32::cast_from(x[at]) * pull);
        }
    }
}

/// One column of some rows per unit: `[parts, width]`.
#[cube(launch, address_type = "dynamic")]
fn gamma_kernel<E: Float>(
    x: &Tensor<E>,
    d_out: &Tensor<E>,
    inverses: &Tensor<f32>,
    partial: &mut Tensor<f32>,
    rows: u32,
    width: u32,
    #[define(E)] _dtype: ElemType,
) {
    let (rows, width) = (rows as usize, width as usize);
    let column = ABSOLUTE_POS_X as usize;
    let part = CUBE_POS_Y as usize;
    if column >= width {
        terminate!();
    }
    let begin = part * ROWS_PER_PART;
    let end = min(begin + ROWS_PER_PART, rows);
    let mut sum = 0.0f32;
    for row in begin..end {
        let at = row * width + column;
        sum += f32::cast_from(d_out[at]) * f32::cast_from(x[at]) * inverses[row];
    }
    partial[part * width + column] = sum;
}
