//! RMSNorm, row by row.

use pulp::{Arch, Simd, WithSimd};

use super::CHUNK;
use crate::chunks::written;
use crate::rows::dot;

pub(super) fn forward(x: &[f32], gamma: &[f32], epsilon: f32) -> Vec<f32> {
    let arch = Arch::new();
    let chunk = chunk(gamma.len());
    let (out, _) = written(x.len(), chunk, |index, out| {
        let x = &x[index * chunk..][..out.len()];
        arch.dispatch(Forward { x, gamma, epsilon, out });
    });
    out
}

/// `(dx, dγ)`; chunks of `dγ` are summed in order, so that the result does not depend on the number of threads.
pub(super) fn backward(
    x: &[f32],
    gamma: &[f32],
    epsilon: f32,
    d_out: &[f32],
    gamma_is_trained: bool,
) -> (Vec<f32>, Option<Vec<f32>>) {
    let arch = Arch::new();
    let chunk = chunk(gamma.len());
    let (dx, parts) = written(x.len(), chunk, |index, dx| {
        let [x, d_out] = [x, d_out].map(|all| &all[index * chunk..][..dx.len()]);
        let d_gamma = vec![0.0; if gamma_is_trained { gamma.len() } else { 0 }];
        arch.dispatch(Backward { x, gamma, epsilon, d_out, dx, d_gamma })
    });
    (dx, gamma_is_trained.then(|| sum(&parts, gamma.len())))
}

/// Whole rows.
fn chunk(width: usize) -> usize {
    (CHUNK / width).max(1) * width
}

fn sum(parts: &[Vec<f32>], width: usize) -> Vec<f32> {
    let mut sum = vec![0.0_f64; width];
    for part in parts {
        for (sum, &part) in sum.iter_mut().zip(part) {
            *sum += f64::from(part);
        }
    }
    sum.into_iter().map(|sum| sum as f32).collect()
}

/// `1 / √(mean(x²) + ε)`
#[inline(always)]
fn scale(x: &[f32], epsilon: f32) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + epsilon).sqrt()
}

struct Forward<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    epsilon: f32,
    out: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let width = self.gamma.len();
        for (x, out) in self.x.chunks_exact(width).zip(self.out.chunks_exact_mut(width)) {
            let scale = scale(x, self.epsilon);
            for ((out, &x), &gamma) in out.iter_mut().zip(x).zip(self.gamma) {
                *out = x * scale * gamma;
            }
        }
    }
}

struct Backward<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    epsilon: f32,
    d_out: &'a [f32],
    dx: &'a mut [f32],
    /// Zeros, or nothing where it is not asked for.
    d_gamma: Vec<f32>,
}

impl WithSimd for Backward<'_> {
    type Output = Vec<f32>;

    /// With `r` the scale and `g = dy · γ`: `dx = r · g - x · r³ · mean(g · x)`, `dγ = Σ dy · x · r`.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> Vec<f32> {
        let Self { gamma, mut d_gamma, .. } = self;
        let width = gamma.len();
        let mut weighted = vec![0.0; width];
        let rows = self.x.chunks_exact(width).zip(self.d_out.chunks_exact(width));
        for ((x, d_out), dx) in rows.zip(self.dx.chunks_exact_mut(width)) {
            let scale = scale(x, self.epsilon);
            for ((weighted, &d_out), &gamma) in weighted.iter_mut().zip(d_out).zip(gamma) {
                *weighted = d_out * gamma;
            }
            let along = dot(&weighted, x) / width as f32 * scale * scale * scale;
            for ((dx, &weighted), &x) in dx.iter_mut().zip(&weighted).zip(x) {
                *dx = scale * weighted - x * along;
            }
            for ((d_gamma, &d_out), &x) in d_gamma.iter_mut().zip(d_out).zip(x) {
                *d_gamma += d_out * x * scale;
            }
        }
        d_gamma
    }
}
