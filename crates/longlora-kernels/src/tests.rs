//! Values and every gradient, against the operations spelled out.

use burn::tensor::{Device, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{reference, rms_norm, rotate, swiglu};

fn random<const D: usize>(shape: [usize; D], scale: f32, seed: u64) -> Tensor<D> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let count = shape.iter().product();
    let numbers: Vec<f32> = (0..count).map(|_| random.random_range(-scale..scale)).collect();
    Tensor::from_data(TensorData::new(numbers, shape), &Device::flex().autodiff()).require_grad()
}

/// The largest difference, relative to the largest entry.
fn error<const D: usize>(ours: Tensor<D>, theirs: Tensor<D>) -> f64 {
    let largest = theirs.clone().abs().max().into_scalar::<f64>();
    (ours - theirs).abs().max().into_scalar::<f64>() / largest.max(f64::MIN_POSITIVE)
}

/// Values and gradients of both, for the same cotangent.
#[track_caller]
fn check<const D: usize>(
    ours: Tensor<D>,
    theirs: Tensor<D>,
    gradients: impl Fn(&burn::tensor::Gradients) -> Vec<Tensor<1>>,
) {
    let cotangent = random(ours.dims(), 1.0, 99).detach();
    assert!(error(ours.clone().detach(), theirs.clone().detach()) < 1e-6, "the values differ");
    let of_ours = gradients(&(ours * cotangent.clone()).sum().backward());
    let of_theirs = gradients(&(theirs * cotangent).sum().backward());
    for (index, (ours, theirs)) in of_ours.into_iter().zip(of_theirs).enumerate() {
        let error = error(ours, theirs);
        assert!(error < 3e-6, "gradient {index} is off by {error:e}");
    }
}

fn gradient<const D: usize>(x: &Tensor<D>, gradients: &burn::tensor::Gradients) -> Tensor<1> {
    x.grad(gradients).expect("the result depends on it").flatten::<1>(0, D - 1)
}

#[test]
fn swiglu_is_silu_times_the_input() {
    for (shape, scale) in [([2, 3, 5], 4.0), ([1, 700, 130], 30.0), ([1, 1, 1], 1.0)] {
        let (gate, up) = (random(shape, scale, 1), random(shape, 2.0, 2));
        let inputs = (gate.clone(), up.clone());
        check(swiglu(gate.clone(), up.clone()), reference::swiglu(gate, up), |gradients| {
            vec![gradient(&inputs.0, gradients), gradient(&inputs.1, gradients)]
        });
    }
}

/// Far out, a gate is open or shut, and nothing overflows.
#[test]
fn swiglu_is_finite_wherever_its_inputs_are() {
    let device = Device::flex();
    let gate = Tensor::<1>::from_floats([-1e4, -100.0, -88.0, 88.0, 1e4], &device);
    let out: Vec<f32> = swiglu(gate.clone(), gate.ones_like()).into_data().try_to_vec().unwrap();
    assert!(out[..3].iter().all(|&shut| shut.abs() < 1e-30), "{out:?}");
    assert_eq!(out[3..], [88.0, 1e4]);
}

#[test]
fn rms_norm_divides_by_the_root_of_the_mean_square() {
    for (shape, scale) in [([2, 3, 5], 1.0), ([1, 700, 130], 50.0), ([1, 1, 1], 1e-3)] {
        let (x, gamma) = (random(shape, scale, 1), random([shape[2]], 2.0, 2));
        let inputs = (x.clone(), gamma.clone());
        let theirs = reference::rms_norm(x.clone(), gamma.clone(), 1e-5);
        check(rms_norm(x, gamma, 1e-5), theirs, |gradients| {
            vec![gradient(&inputs.0, gradients), gradient(&inputs.1, gradients)]
        });
    }
}

/// Frozen norms get no gradient, and their inputs do.
#[test]
fn a_frozen_norm_passes_the_gradient_on() {
    let (x, gamma) = (random([1, 9, 6], 1.0, 1), random([6], 1.0, 2).detach());
    let theirs = reference::rms_norm(x.clone(), gamma.clone(), 1e-6);
    let input = x.clone();
    check(rms_norm(x, gamma, 1e-6), theirs, |gradients| vec![gradient(&input, gradients)]);
}

/// Tables shared by heads, by kv groups and by none; heads contiguous, and as a projection leaves them.
#[test]
fn rotate_turns_half_split_pairs() {
    for (batch, heads, table_heads, seq, head_dim) in
        [(2, 4, 1, 5, 6), (1, 9, 3, 600, 64), (1, 2, 2, 1, 2), (3, 6, 2, 33, 10)]
    {
        let tables = || {
            let shape = [table_heads, seq, head_dim / 2];
            (random(shape, 1.0, 2), random(shape, 1.0, 3))
        };
        check_rotate(random([batch, heads, seq, head_dim], 1.0, 1), tables(), |x| x);
        let swap = |x: Tensor<4>| x.swap_dims(1, 2);
        check_rotate(random([batch, seq, heads, head_dim], 1.0, 1), tables(), swap);
    }
}

#[track_caller]
fn check_rotate(
    x: Tensor<4>,
    (cos, sin): (Tensor<3>, Tensor<3>),
    view: impl Fn(Tensor<4>) -> Tensor<4>,
) {
    let ours = rotate(view(x.clone()), cos.clone(), sin.clone());
    let theirs = reference::rotate(view(x.clone()), cos.clone(), sin.clone());
    check(ours, theirs, |gradients| {
        vec![gradient(&x, gradients), gradient(&cos, gradients), gradient(&sin, gradients)]
    });
}

/// The same bits, however many threads there are: chunks do not depend on them.
#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (x, gamma) = (random([1, 900, 96], 1.0, 1), random([96], 1.0, 2));
            let gradients = rms_norm(x.clone(), gamma.clone(), 1e-5).sum().backward();
            gamma.grad(&gradients).unwrap().into_data()
        })
    };
    assert_eq!(run(1), run(3));
}
