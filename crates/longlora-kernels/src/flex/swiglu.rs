//! `silu(gate) · up`.

use pulp::{Arch, Simd, WithSimd};

use super::CHUNK;
use crate::chunks::{both_written, written};
use crate::rows::exp;

pub(super) fn forward(gate: &[f32], up: &[f32]) -> Vec<f32> {
    let arch = Arch::new();
    let (out, _) = written(gate.len(), CHUNK, |index, out| {
        let [gate, up] = [gate, up].map(|all| &all[index * CHUNK..][..out.len()]);
        arch.dispatch(Forward { gate, up, out });
    });
    out
}

/// `(d_gate, d_up)`
pub(super) fn backward(gate: &[f32], up: &[f32], d_out: &[f32]) -> [Vec<f32>; 2] {
    let arch = Arch::new();
    both_written([gate.len(); 2], [CHUNK; 2], |index, d_gate, d_up| {
        let [gate, up, d_out] = [gate, up, d_out].map(|all| &all[index * CHUNK..][..d_gate.len()]);
        arch.dispatch(Backward { gate, up, d_out, d_gate, d_up });
    })
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
