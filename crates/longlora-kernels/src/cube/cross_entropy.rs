//! Head and loss in chunks of tokens, so that logits are never held whole; the gradient in the same pass.
//!
//! With `p = softmax(h·W)`: `nll = log Σ exp(l) - l[target]`, `d_logits = scale · (p - onehot(target))`.

use burn::backend::cubecl::dtype_to_storage_type;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Shape, Slice};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use crate::cross_entropy::LOGITS_AT_ONCE;

use super::linear::product;
use super::reduce::{UNITS, max_of_cube, sum_of_cube};
use super::room::empty;
use super::tensors::{address, zeros};

/// Lower than any logit, and finite.
const LOW: f32 = -1e30;

/// Final hidden states, the head's matrix in their type, and what each token should have been followed by.
pub(super) struct Problem {
    hidden: CubeTensor,
    head: CubeTensor,
    /// Negative where there is none.
    targets: CubeTensor,
    tokens: usize,
}

impl Problem {
    pub(super) fn new(hidden: CubeTensor, head: CubeTensor, targets: &[i64]) -> Self {
        let hidden = into_contiguous(hidden);
        let head = super::tensors::in_type(head, hidden.dtype);
        let ids: Vec<i32> = targets
            .iter()
            .map(|&id| i32::try_from(id).unwrap_or(if id < 0 { -1 } else { i32::MAX }))
            .collect();
        let handle = hidden.client.create_from_slice(i32::as_bytes(&ids));
        let (client, device) = (hidden.client.clone(), hidden.device.clone());
        let tokens = ids.len();
        let targets =
            CubeTensor::new_contiguous(client, device, Shape::new([tokens]), handle, DType::I32);
        Self { hidden, head, targets, tokens }
    }

    fn vocab(&self) -> usize {
        self.head.meta.shape()[1]
    }

    /// The first tokens of each chunk, and how many it has.
    fn chunks(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (size, tokens) = ((LOGITS_AT_ONCE / self.vocab()).max(1), self.tokens);
        (0..tokens).step_by(size).map(move |begin| (begin, size.min(tokens - begin)))
    }

    fn hidden_of(&self, begin: usize, count: usize) -> CubeTensor {
        let slices = [Slice::from(begin..begin + count), Slice::full()];
        CubeBackend::float_slice(self.hidden.clone(), &slices)
    }

    /// Writes the negative log-likelihoods of a chunk; with `d_logits`, the gradient too.
    fn losses(
        &self,
        [begin, count]: [usize; 2],
        nll: &CubeTensor,
        d_logits: &CubeTensor,
        scale: Option<f32>,
    ) {
        let logits = product(self.hidden_of(begin, count), self.head.clone(), DType::F32);
        let logits = into_contiguous(logits);
        let client = logits.client.clone();
        let across = count.min(1 << 15);
        loss_kernel::launch(
            &client,
            CubeCount::Static(across as u32, count.div_ceil(across) as u32, 1),
            CubeDim::new_1d(UNITS as u32),
            address([&logits]),
            logits.into_tensor_arg(),
            self.targets.clone().into_tensor_arg(),
            nll.clone().into_tensor_arg(),
            d_logits.clone().into_tensor_arg(),
            scale.unwrap_or(0.0),
            begin as u32,
            count as u32,
            self.vocab() as u32,
            scale.is_some(),
            dtype_to_storage_type(d_logits.dtype),
        );
    }
}

/// `[tokens]`, in f32
pub(super) fn nll(problem: &Problem) -> CubeTensor {
    let nll = empty(&problem.hidden, Shape::new([problem.tokens]), DType::F32);
    let nothing = empty(&problem.hidden, Shape::new([1, 1]), problem.hidden.dtype);
    for (begin, count) in problem.chunks() {
        problem.losses([begin, count], &nll, &nothing, None);
    }
    nll
}

/// `(nll, d_hidden, d_head)`, the last one in f32, if it is asked for.
pub(super) fn gradient(
    problem: &Problem,
    scale: f32,
    head_is_trained: bool,
) -> (CubeTensor, CubeTensor, Option<CubeTensor>) {
    let Problem { hidden, head, tokens, .. } = problem;
    let nll = empty(hidden, Shape::new([*tokens]), DType::F32);
    let mut d_hidden = empty(hidden, hidden.meta.shape().clone(), hidden.dtype);
    let mut d_head = head_is_trained.then(|| zeros(head, head.meta.shape().clone(), DType::F32));
    for (begin, count) in problem.chunks() {
        let d_logits = empty(hidden, Shape::new([count, problem.vocab()]), hidden.dtype);
        problem.losses([begin, count], &nll, &d_logits, Some(scale));
        if let Some(sum) = d_head.take() {
            let of_chunk = CubeBackend::float_transpose(problem.hidden_of(begin, count));
            let of_chunk = product(of_chunk, d_logits.clone(), DType::F32);
            d_head = Some(CubeBackend::float_add(sum, of_chunk));
        }
        let head = CubeBackend::float_transpose(head.clone());
        let of_chunk = product(d_logits, head, hidden.dtype);
        let slices = [Slice::from(begin..begin + count), Slice::full()];
        d_hidden = CubeBackend::float_slice_assign(d_hidden, &slices, of_chunk);
    }
    (nll, d_hidden, d_head)
}

/// A token per cube.
#[cube(launch, address_type = "dynamic")]
fn loss_kernel<E: Float>(
    logits: &Tensor<f32>,
    targets: &Tensor<i32>,
    nll: &mut Tensor<f32>,
    d_logits: &mut Tensor<E>,
    scale: f32,
    begin: u32,
    count: u32,
    vocab: u32,
    #[comptime] with_gradient: bool,
    #[define(E)] _dtype: ElemType,
) {
    let mut room = Shared::<[f32]>::new_slice(UNITS);
    let row = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) as usize;
    if row >= count as usize {
        terminate!();
    }
    let (vocab, unit) = (vocab as usize, UNIT_POS as usize);
    let (token, from) = (begin as usize + row, row * vocab);
    let target = targets[token];
    let mut highest = f32::new(LOW);
    for step in 0..vocab.div_ceil(UNITS) {
        let id = step * UNITS + unit;
        if id < vocab {
            highest = max(highest, logits[from + id]);
        }
    }
    let highest = max_of_cube(highest, &mut room);
    let mut sum = 0.0f32;
    for step in 0..vocab.div_ceil(UNITS) {
        let id = step * UNITS + unit;
        if id < vocab {
            sum += (logits[from + id] - highest).exp();
        }
    }
    let log_sum = highest + sum_of_cube(sum, &mut room).ln();
    if unit == 0 {
        let mut loss = 0.0f32;
        if target >= 0 {
            loss = log_sum - logits[from + target as usize];
        }
        nll[token] = loss;
    }
    if with_gradient {
        let strength = select(target >= 0, scale, 0.0f32);
        for step in 0..vocab.div_ceil(UNITS) {
            let id = step * UNITS + unit;
            if id < vocab {
                let weight = (logits[from + id] - log_sum).exp();
                let hit = select(id as i32 == target, 1.0f32, 0.0f32);
                d_logits[from + id] = E::cast_from(strength * (weight - hit));
            }
        }
    }
}
