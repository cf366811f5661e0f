//! Rotations of heads, read where they lie: a pair per unit.

use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::room::empty;
use super::tensors::{address, plain};

/// Turns every head by its angle, or back if `direction` is -1; the result is contiguous.
pub(super) fn rotate(
    x: CubeTensor,
    cos: CubeTensor,
    sin: CubeTensor,
    direction: f32,
) -> CubeTensor {
    let x = with_entries_side_by_side(x);
    let (cos, sin) = (plain(cos), plain(sin));
    let out = empty(&x, x.meta.shape().clone(), x.dtype);
    let pairs = x.meta.shape().num_elements() / 2;
    if pairs == 0 {
        return out;
    }
    let (client, dtype) = (x.client.clone(), dtype_to_storage_type(x.dtype));
    let cube_dim = CubeDim::new(&client, pairs);
    rotate_kernel::launch(
        &client,
        calculate_cube_count_elemwise(&client, pairs, cube_dim),
        cube_dim,
        address([&x, &out]),
        x.into_tensor_arg(),
        cos.into_tensor_arg(),
        sin.into_tensor_arg(),
        out.clone().into_tensor_arg(),
        direction,
        dtype,
    );
    out
}

/// The gradients by `cos` and `sin`, in f32: `[table_heads, seq, pairs]` each.
pub(super) fn tables_backward(
    x: CubeTensor,
    d_out: CubeTensor,
    table_heads: usize,
) -> [CubeTensor; 2] {
    let (x, d_out) = (with_entries_side_by_side(x), with_entries_side_by_side(d_out));
    let [_, _, seq, head_dim] = x.meta.shape().dims();
    let shape = Shape::new([table_heads, seq, head_dim / 2]);
    let [d_cos, d_sin] = [(); 2].map(|()| empty(&x, shape.clone(), DType::F32));
    let entries = shape.num_elements();
    if entries > 0 {
        let (client, dtype) = (x.client.clone(), dtype_to_storage_type(x.dtype));
        let cube_dim = CubeDim::new(&client, entries);
        tables_kernel::launch(
            &client,
            calculate_cube_count_elemwise(&client, entries, cube_dim),
            cube_dim,
            address([&x, &d_out]),
            x.into_tensor_arg(),
            d_out.into_tensor_arg(),
            d_cos.clone().into_tensor_arg(),
            d_sin.clone().into_tensor_arg(),
            dtype,
        );
    }
    [d_cos, d_sin]
}

fn with_entries_side_by_side(x: CubeTensor) -> CubeTensor {
    if x.meta.strides()[3] == 1 { x } else { into_contiguous(x) }
}

#[cube(launch, address_type = "dynamic")]
fn rotate_kernel<E: Float>(
    x: &Tensor<E>,
    cos: &Tensor<f32>,
    sin: &Tensor<f32>,
    out: &mut Tensor<E>,
    direction: f32,
    #[define(E)] _dtype: ElemType,
) {
    let (heads, seq, table_heads, pairs) = (x.shape(1), x.shape(2), cos.shape(0), cos.shape(2));
    let at = ABSOLUTE_POS;
    if at >= x.shape(0) * heads * seq * pairs {
        terminate!();
    }
    let (pair, position) = (at % pairs, at / pairs % seq);
    let (head, row) = (at / pairs / seq % heads, at / pairs / seq / heads);
    let from = row * x.stride(0) + head * x.stride(1) + position * x.stride(2) + pair;
    let to = ((row * heads + head) * seq + position) * 2 * pairs + pair;
    let angle = (head / (heads / table_heads) * seq + position) * pairs + pair;
    let (cos, sin) = (cos[angle], sin[angle] * direction);
    let (low, high) = (f32::cast_from(x[from]), f32::cast_from(x[from + pairs]));
    out[to] = E::cast_from(low * cos - high * sin);
    out[to + pairs] = E::cast_from(high * cos + low * sin);
}

/// An entry of both tables per unit, summed over the rows of the batch and the heads that share a table.
#[cube(launch, address_type = "dynamic")]
fn tables_kernel<E: Float>(
    x: &Tensor<E>,
    d_out: &Tensor<E>,
    d_cos: &mut Tensor<f32>,
    d_sin: &mut Tensor<f32>,
    #[define(E)] _dtype: ElemType,
) {
    let (table_heads, seq, pairs) = (d_cos.shape(0), d_cos.shape(1), d_cos.shape(2));
    let at = ABSOLUTE_POS;
    if at >= table_heads * seq * pairs {
        terminate!();
    }
    let (pair, position, table) = (at % pairs, at / pairs % seq, at / pairs / seq);
    let shared_by = x.shape(1) / table_heads;
    let mut of_cos = 0.0f32;
    let mut of_sin = 0.0f32;
    for row in 0..x.shape(0) {
        for member in 0..shared_by {
            let head = table * shared_by + member;
            let i = row * x.stride(0) + head * x.stride(1) + position * x.stride(2) + pair;
            let j =
                row * d_out.stride(0) + head * d_out.stride(1) + position * d_out.stride(2) + pair;
            let (low, high) = (f32::cast_from(x[i]), f32::cast_from(x[i + pairs]));
            let (d_low, d_high) = (f32::cast_from(d_out[j]), f32::cast_from(d_out[j + pairs]));
            of_cos += low * d_low + high * d_high;
            of_sin += low * d_high - high * d_low;
        }
    }
    d_cos[at] = of_cos;
    d_sin[at] = of_sin;
}
