//! The gate: an entry per unit.
//!
//! With `σ = 1 / (1 + e⁻ᵍ)`: `d_gate = d_out · up · σ · (1 + g · (1 - σ))`, `d_up = d_out · g · σ`.

use burn::backend::cubecl::dtype_to_storage_type;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::room::empty;
use super::tensors::address;

pub(super) fn forward(gate: CubeTensor, up: CubeTensor) -> CubeTensor {
    let (gate, up) = (into_contiguous(gate), into_contiguous(up));
    let out = empty(&gate, gate.meta.shape().clone(), gate.dtype);
    let entries = out.meta.shape().num_elements();
    if entries > 0 {
        let (client, dtype) = (gate.client.clone(), dtype_to_storage_type(gate.dtype));
        let cube_dim = CubeDim::new(&client, entries);
        forward_kernel::launch(
            &client,
            calculate_cube_count_elemwise(&client, entries, cube_dim),
            cube_dim,
            address([&gate]),
            gate.into_tensor_arg(),
            up.into_tensor_arg(),
            out.clone().into_tensor_arg(),
            dtype,
        );
    }
    out
}

pub(super) fn backward(gate: CubeTensor, up: CubeTensor, d_out: CubeTensor) -> [CubeTensor; 2] {
    let [gate, up, d_out] = [gate, up, d_out].map(into_contiguous);
    let [d_gate, d_up] = [(); 2].map(|()| empty(&gate, gate.meta.shape().clone(), gate.dtype));
    let entries = d_up.meta.shape().num_elements();
    if entries > 0 {
        let (client, dtype) = (gate.client.clone(), dtype_to_storage_type(gate.dtype));
        let cube_dim = CubeDim::new(&client, entries);
        backward_kernel::launch(
            &client,
            calculate_cube_count_elemwise(&client, entries, cube_dim),
            cube_dim,
            address([&gate]),
            gate.into_tensor_arg(),
            up.into_tensor_arg(),
            d_out.into_tensor_arg(),
            d_gate.clone().into_tensor_arg(),
            d_up.clone().into_tensor_arg(),
            dtype,
        );
    }
    [d_gate, d_up]
}

#[cube(launch, address_type = "dynamic")]
fn forward_kernel<E: Float>(
    gate: &Tensor<E>,
    up: &Tensor<E>,
    out: &mut Tensor<E>,
    #[define(E)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at >= out.len() {
        terminate!();
    }
    let g = f32::cast_from(gate[at]);
    out[at] = E::cast_from(g / (1.0 + (-g).exp()) * f32::cast_from(up[at]));
}

#[cube(launch, address_type = "dynamic")]
fn backward_kernel<E: Float>(
    gate: &Tensor<E>,
    up: &Tensor<E>,
    d_out: &Tensor<E>,
    d_gate: &mut Tensor<E>,
    d_up: &mut Tensor<E>,
    #[define(E)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at >= d_up.len() {
        terminate!();
    }
    let (g, d) = (f32::cast_from(gate[at]), f32::cast_from(d_out[at]));
    let sigmoid = 1.0 / (1.0 + (-g).exp());
    d_up[at] = E::cast_from(d * g * sigmoid);
    d_gate[at] = E::cast_from(d * f32::cast_from(up[at]) * sigmoid * (1.0 + g * (1.0 - sigmoid)));
}
