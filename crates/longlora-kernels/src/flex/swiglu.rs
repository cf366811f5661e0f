//! `silu(gate) · up`.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::CHUNK;
use crate::rows::exp;

pub(super) fn forward(gate: &[f32], up: &[f32]) -> Vec<f32> {
    let arch = Arch::new();
    let mut out = vec![0.0; gate.len()];
    out.par_chunks_mut(CHUNK)
        .zip(gate.par_chunks(CHUNK))
        .zip(up.par_chunks(CHUNK))
        .for_each(|((out, gate), up)| arch.dispatch(Forward { gate, up, out }));
    out
}

/// `(d_gate, d_up)`
pub(super) fn backward(gate: &[f32], up: &[f32], d_out: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let arch = Arch::new();
    let (mut d_gate, mut d_up) = (vec![0.0; gate.len()], vec![0.0; up.len()]);
    d_gate
        .par_chunks_mut(CHUNK)
        .zip(d_up.par_chunks_mut(CHUNK))
        .zip(gate.par_chunks(CHUNK))
        .zip(up.par_chunks(CHUNK))
        .zip(d_out.par_chunks(CHUNK))
        .for_each(|((((d_gate, d_up), gate), up), d_out)| {
            arch.dispatch(Backward { gate, up, d_out, d_gate, d_up });
        });
    (d_gate, d_up)
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

struct Forward<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        for ((out, &gate), &up) in self.out.iter_mut().zip(self.gate).zip(self.up) {
            *out = gate * sigmoid(gate) * up;
        }
    }
}

struct Backward<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    d_out: &'a [f32],
    d_gate: &'a mut [f32],
    d_up: &'a mut [f32],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let gradients = self.d_gate.iter_mut().zip(self.d_up);
        let inputs = self.gate.iter().zip(self.up).zip(self.d_out);
        for ((d_gate, d_up), ((&gate, &up), &d_out)) in gradients.zip(inputs) {
            let sigmoid = sigmoid(gate);
            let silu = gate * sigmoid;
            *d_up = d_out * silu;
            *d_gate = d_out * up * (sigmoid + silu * (1.0 - sigmoid));
        }
    }
}
