//! The kernels in CUDA's C++, run on a CPU: what only a card can run otherwise.

mod card;

use burn::tensor::{DType, TensorData};

use crate::tests::answer::{Answer, Inputs, numbers};

use super::super::blueprint::{Blueprint, Machine};
use super::super::visible::{first_keys, last_queries};
use super::tests::Setting;
use super::*;
use card::{Argument, Kernel, Launch};

/// As large as an H100.
const CARD: Machine = Machine {
    shared_memory: 232_448,
    units: 1024,
    computes_with_type: true,
    multiplies_matrices: true,
};

/// The three kernels of one type and one width of heads.
pub(crate) struct Emulated {
    dtype: DType,
    forward: (MatrixTiles, Kernel),
    query_gradient: (MatrixTiles, Kernel),
    key_gradient: (MatrixTiles, Kernel),
}

impl Emulated {
    /// With the tiles that a card is given.
    pub(crate) fn compile(dtype: DType, head_dim: usize) -> Self {
        let problem = Problem {
            batch: 1,
            heads: 1,
            kv_heads: 1,
            queries: 1,
            keys: 1,
            head_dim,
            dtype,
            softmax_scale: 1.0,
        };
        let Blueprint::Matrix { forward, backward } = Blueprint::of(&problem, &CARD) else {
            panic!("heads of {head_dim} have no kernel for matrix units");
        };
        let GradientTiles { queries, keys } = backward;
        let setting = |tiles| Setting::new(dtype, tiles);
        Self {
            dtype,
            forward: (forward, Kernel::compile(&setting(forward).forward())),
            query_gradient: (queries, Kernel::compile(&setting(queries).query_gradient())),
            key_gradient: (keys, Kernel::compile(&setting(keys).key_gradient())),
        }
    }

    /// Of all positions, whichever threads run first.
    pub(crate) fn answer(&self, inputs: &Inputs, last_first: bool) -> Answer {
        let (out, lse) = self.forward(inputs, last_first);
        let statistics = statistics(inputs, &out, &lse);
        let dq = self.query_gradient(inputs, &statistics, last_first);
        let [dk, dv] = self.key_gradient(inputs, &statistics, last_first);
        Answer { out, dq, dk, dv }
    }

    /// `(out, lse)`; the queries are those of the last positions.
    pub(crate) fn forward(&self, inputs: &Inputs, last_first: bool) -> (Vec<f64>, Vec<f32>) {
        let [batch, heads, queries, head_dim] = inputs.q.shape().dims();
        let (tiles, kernel) = &self.forward;
        let mut out = unwritten(&[batch, queries, heads, head_dim], 2);
        out.shape.swap(1, 2);
        out.strides.swap(1, 2);
        let arguments = [
            self.argument(&inputs.q),
            self.argument(&inputs.k),
            self.argument(&inputs.v),
            list(first_keys(&inputs.segments, queries)),
            out,
            unwritten(&[batch, heads, queries, 1], 4),
        ];
        let launch = Launch {
            grid: [queries.div_ceil(tiles.rows()), heads, batch],
            planes: tiles.planes,
            scale: inputs.softmax_scale * LOG2_E,
            last_first,
        };
        let [.., out, lse] = kernel.launch(&launch, &arguments);
        let out = turned(&self.read(&out), [batch, queries, heads, head_dim]);
        (out, bytemuck::pod_collect_to_vec(&lse))
    }

    fn query_gradient(&self, inputs: &Inputs, statistics: &[f32], last_first: bool) -> Vec<f64> {
        let [batch, heads, queries, head_dim] = inputs.q.shape().dims();
        let (tiles, kernel) = &self.query_gradient;
        let arguments = [
            self.argument(&inputs.q),
            self.argument(&inputs.k),
            self.argument(&inputs.v),
            self.argument(&inputs.cotangent),
            dense(bytemuck::cast_slice(statistics).to_vec(), &[batch, heads, queries, 2]),
            list(first_keys(&inputs.segments, queries)),
            unwritten(&[batch, heads, queries, head_dim], 2),
        ];
        let launch = Launch {
            grid: [queries.div_ceil(tiles.rows()), heads, batch],
            planes: tiles.planes,
            scale: inputs.softmax_scale,
            last_first,
        };
        let [.., dq] = kernel.launch(&launch, &arguments);
        self.read(&dq)
    }

    fn key_gradient(&self, inputs: &Inputs, statistics: &[f32], last_first: bool) -> [Vec<f64>; 2] {
        let [batch, heads, queries, head_dim] = inputs.q.shape().dims();
        let [_, kv_heads, keys, _] = inputs.k.shape().dims();
        let (tiles, kernel) = &self.key_gradient;
        let arguments = [
            self.argument(&inputs.q),
            self.argument(&inputs.k),
            self.argument(&inputs.v),
            self.argument(&inputs.cotangent),
            dense(bytemuck::cast_slice(statistics).to_vec(), &[batch, heads, queries, 2]),
            list(last_queries(&inputs.segments)),
            unwritten(&[batch, kv_heads, keys, head_dim], 2),
            unwritten(&[batch, kv_heads, keys, head_dim], 2),
        ];
        let launch = Launch {
            grid: [keys.div_ceil(tiles.rows()), kv_heads, batch],
            planes: tiles.planes,
            scale: inputs.softmax_scale,
            last_first,
        };
        let [.., dk, dv] = kernel.launch(&launch, &arguments);
        [dk, dv].map(|bytes| self.read(&bytes))
    }

    fn argument(&self, data: &TensorData) -> Argument {
        let shape = data.shape().to_vec();
        dense(data.clone().convert_dtype(self.dtype).as_bytes().to_vec(), &shape)
    }

    fn read(&self, bytes: &[u8]) -> Vec<f64> {
        let count = bytes.len() / self.dtype.size();
        numbers(TensorData::from_bytes_vec(bytes.to_vec(), [count], self.dtype))
    }
}

/// `(lse, delta)` of each query.
fn statistics(inputs: &Inputs, out: &[f64], lse: &[f32]) -> Vec<f32> {
    let [_, _, _, head_dim] = inputs.q.shape().dims();
    let d_out = numbers(inputs.cotangent.clone());
    let rows = out.chunks(head_dim).zip(d_out.chunks(head_dim)).zip(lse);
    let both = |((out, d_out), lse): ((&[f64], &[f64]), &f32)| {
        let delta: f64 = out.iter().zip(d_out).map(|(a, b)| a * b).sum();
        [*lse, delta as f32]
    };
    rows.flat_map(both).collect()
}

fn dense(bytes: Vec<u8>, shape: &[usize]) -> Argument {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    Argument { bytes, shape: shape.to_vec(), strides }
}

/// Full of what is not a number.
fn unwritten(shape: &[usize], size: usize) -> Argument {
    dense(vec![0xFF; shape.iter().product::<usize>() * size], shape)
}

fn list(numbers: Vec<u32>) -> Argument {
    dense(bytemuck::cast_slice(&numbers).to_vec(), &[numbers.len()])
}

/// `[batch, heads, queries, head_dim]` of `[batch, queries, heads, head_dim]`.
fn turned(x: &[f64], [batch, queries, heads, head_dim]: [usize; 4]) -> Vec<f64> {
    let mut turned = Vec::with_capacity(x.len());
    for row in 0..batch {
        for head in 0..heads {
            for query in 0..queries {
                let at = ((row * queries + query) * heads + head) * head_dim;
                turned.extend(&x[at..at + head_dim]);
            }
        }
    }
    turned
}
