//! Rotations of heads, read where they lie.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::Shape;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{CHUNK, floats, tensor};
use crate::chunks::written;

/// Heads of one tensor: a head's entries lie side by side, anything else where the strides say.
struct Heads<'a> {
    data: &'a [f32],
    /// Between rows of the batch, heads, positions.
    strides: [usize; 3],
    /// `[batch, heads, seq, head_dim]`
    shape: [usize; 4],
}

impl<'a> Heads<'a> {
    /// `None`, if the entries of a head do not lie side by side.
    fn of(x: &'a FloatTensor<Flex>) -> Option<Self> {
        let layout = x.layout();
        let strides = <[isize; 4]>::try_from(layout.strides()).ok()?;
        let shape: [usize; 4] = x.shape().dims();
        if strides[3] != 1 {
            return None;
        }
        let stride = |axis: usize| usize::try_from(strides[axis]).ok();
        let strides = [stride(0)?, stride(1)?, stride(2)?];
        Some(Self { data: &x.storage::<f32>()[layout.start_offset()..], strides, shape })
    }

    fn head(&self, batch: usize, head: usize, position: usize) -> &'a [f32] {
        let [of_batch, of_head, of_position] = self.strides;
        let start = batch * of_batch + head * of_head + position * of_position;
        &self.data[start..start + self.shape[3]]
    }
}

/// The same heads, copied only if they cannot be read as they lie.
fn in_runs(x: &FloatTensor<Flex>) -> FloatTensor<Flex> {
    if Heads::of(x).is_some() { x.clone() } else { x.to_contiguous() }
}

/// Turns every head by its angle, or back if `direction` is -1.
pub(super) fn rotate(
    x: &FloatTensor<Flex>,
    cos: &FloatTensor<Flex>,
    sin: &FloatTensor<Flex>,
    direction: f32,
) -> FloatTensor<Flex> {
    let (x, cos, sin) = (in_runs(x), cos.to_contiguous(), sin.to_contiguous());
    let heads = Heads::of(&x).expect("the entries of a head were put side by side");
    let [table_heads, seq, pairs] = cos.shape().dims();
    let [batch, count, _, head_dim] = heads.shape;
    let (cos, sin) = (floats(&cos), floats(&sin));
    let arch = Arch::new();
    let positions = (CHUNK / head_dim).clamp(1, seq.max(1));
    // A head, so that chunks of positions never reach into the next.
    let of_head = (seq * head_dim).max(1);
    let (out, _) = written(batch * count * seq * head_dim, of_head, |index, out| {
        let (row, head) = (index / count, index % count);
        let table = head / (count / table_heads) * seq;
        out.par_chunks_mut(positions * head_dim).enumerate().for_each(|(chunk, out)| {
            let first = chunk * positions;
            let last = first + out.len() / head_dim;
            let range = (table + first) * pairs..(table + last) * pairs;
            let tables = (&cos[range.clone()], &sin[range]);
            arch.dispatch(Rotate { heads: &heads, row, head, first, tables, direction, out });
        });
    });
    tensor(out, Shape::new(heads.shape))
}

struct Rotate<'a> {
    heads: &'a Heads<'a>,
    row: usize,
    head: usize,
    /// The first position.
    first: usize,
    /// Cosines and sines of the positions.
    tables: (&'a [f32], &'a [f32]),
    direction: f32,
    out: &'a mut [f32],
}

impl WithSimd for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let head_dim = self.heads.shape[3];
        let pairs = head_dim / 2;
        let tables = self.tables.0.chunks_exact(pairs).zip(self.tables.1.chunks_exact(pairs));
        for (i, (out, (cos, sin))) in self.out.chunks_exact_mut(head_dim).zip(tables).enumerate() {
            let x = self.heads.head(self.row, self.head, self.first + i);
            let ((low, high), (out_low, out_high)) = (x.split_at(pairs), out.split_at_mut(pairs));
            let tables = cos.iter().zip(sin);
            let pairs = low.iter().zip(high).zip(tables);
            for (((&low, &high), (&cos, &sin)), (y_low, y_high)) in
                pairs.zip(out_low.iter_mut().zip(out_high))
            {
                let sin = sin * self.direction;
                *y_low = low * cos - high * sin;
                *y_high = high * cos + low * sin;
            }
        }
    }
}

/// The gradients by the tables: sums over the batch and the heads that share a table.
///
/// `d_cos = Σ dy_low · x_low + dy_high · x_high`, `d_sin = Σ dy_high · x_low - dy_low · x_high`
pub(super) fn tables_backward(
    x: &FloatTensor<Flex>,
    d_out: &FloatTensor<Flex>,
    table_heads: usize,
) -> [FloatTensor<Flex>; 2] {
    let (x, d_out) = (in_runs(x), in_runs(d_out));
    let heads = Heads::of(&x).expect("the entries of a head were put side by side");
    let d_heads = Heads::of(&d_out).expect("the entries of a head were put side by side");
    let [batch, count, seq, head_dim] = heads.shape;
    let (pairs, group) = (head_dim / 2, count / table_heads);
    let mut d_cos = vec![0.0; table_heads * seq * pairs];
    let mut d_sin = d_cos.clone();
    let positions = d_cos.par_chunks_mut(pairs).zip(d_sin.par_chunks_mut(pairs)).enumerate();
    positions.with_min_len((CHUNK / head_dim).max(1)).for_each(|(index, (d_cos, d_sin))| {
        let (table, position) = (index / seq, index % seq);
        for row in 0..batch {
            for head in table * group..(table + 1) * group {
                let (low, high) = heads.head(row, head, position).split_at(pairs);
                let (d_low, d_high) = d_heads.head(row, head, position).split_at(pairs);
                for i in 0..pairs {
                    d_cos[i] += d_low[i] * low[i] + d_high[i] * high[i];
                    d_sin[i] += d_high[i] * low[i] - d_low[i] * high[i];
                }
            }
        }
    });
    let shape = Shape::new([table_heads, seq, pairs]);
    [tensor(d_cos, shape.clone()), tensor(d_sin, shape)]
}
