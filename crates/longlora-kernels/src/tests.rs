//! Values and every gradient, against the operations spelled out.

mod nf4;

use burn::tensor::{DType, Device, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    linear, linear_with_update, loss_and_gradient, nll, pull_back, reference, rms_norm, rotate,
    swiglu,
};

/// The CPU; in a build for GPUs the default device, which `BURN_DEVICE` names.
fn device() -> Device {
    if cfg!(feature = "gpu") { Device::default() } else { Device::flex() }
}

/// What lies on each side of an input: whole kilobytes, so that it may begin behind them on every device.
const AROUND: usize = 1024;

/// A view of numbers that lie within what is not a number: whoever read beyond them would compute none.
fn random<const D: usize>(shape: [usize; D], scale: f32, seed: u64) -> Tensor<D> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let count: usize = shape.iter().product();
    let numbers: Vec<f32> = (0..count).map(|_| random.random_range(-scale..scale)).collect();
    let (device, inside) = (device().autodiff(), AROUND..AROUND + count);
    let numbers = Tensor::from_data(TensorData::new(numbers, [count]), &device);
    let around = Tensor::<1>::full([inside.end + AROUND], f32::NAN, &device);
    let around = around.slice_assign([inside.clone()], numbers);
    around.slice([inside]).reshape(shape).detach().require_grad()
}

fn frozen<const D: usize>(shape: [usize; D], scale: f32, seed: u64) -> Tensor<D> {
    random(shape, scale, seed).detach().set_require_grad(false)
}

/// The largest difference, relative to the largest entry.
fn error<const D: usize>(ours: Tensor<D>, theirs: Tensor<D>) -> f64 {
    let largest = theirs.clone().abs().max().into_scalar::<f64>();
    (ours - theirs).abs().max().into_scalar::<f64>() / largest.max(f64::MIN_POSITIVE)
}

/// On a GPU, with guards around all that its kernels write. Products are burn's own.
fn guarded<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(feature = "gpu")]
    return crate::room::guarded(work).0;
    #[cfg(not(feature = "gpu"))]
    work()
}

/// Each kernel asks for the room of what it writes, so that [`guarded`] guards it.
#[cfg(feature = "gpu")]
#[test]
fn kernels_write_into_rooms() {
    let rooms = |work: &dyn Fn()| crate::room::guarded(work).1;
    let x = || random([2, 3, 6], 1.0, 1);
    let backward = |y: Tensor<3>| drop(y.sum().backward());
    assert_eq!(rooms(&|| backward(swiglu(x(), x()))), 3);
    assert!(rooms(&|| backward(rms_norm(x(), random([6], 1.0, 2), 1e-6))) >= 3);
    let (heads, table) = (random([1, 2, 3, 6], 1.0, 3), random([1, 3, 3], 1.0, 4));
    let turn = || rotate(heads.clone(), table.clone(), table.clone());
    assert!(rooms(&|| drop(turn().sum().backward())) >= 4);
    let (hidden, head) = (random([5, 8], 1.0, 1), random([8, 9], 1.0, 2));
    let (hidden, head) = (hidden.without_autodiff(), head.without_autodiff());
    let loss = || loss_and_gradient(hidden.clone(), head.clone(), &[1, 2, 3, 4, 5], 1.0, true);
    assert!(rooms(&|| drop(loss())) >= 2);
    assert_eq!(rooms(&|| drop(nf4::weight([64, 3]).dequantize(DType::F32))), 1);
}

/// Values and gradients of both, for the same cotangent.
#[track_caller]
fn check<const D: usize>(
    ours: impl FnOnce() -> Tensor<D>,
    theirs: Tensor<D>,
    gradients: impl Fn(&burn::tensor::Gradients) -> Vec<Tensor<1>>,
) {
    let cotangent = random(theirs.dims(), 1.0, 99).detach();
    let (ours, of_ours) = guarded(|| {
        let ours = ours();
        let of_ours = gradients(&(ours.clone() * cotangent.clone()).sum().backward());
        (ours, of_ours)
    });
    assert!(error(ours.detach(), theirs.clone().detach()) < 1e-6, "the values differ");
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
        let theirs = reference::swiglu(gate.clone(), up.clone());
        check(
            || swiglu(gate, up),
            theirs,
            |gradients| vec![gradient(&inputs.0, gradients), gradient(&inputs.1, gradients)],
        );
    }
}

/// Far out, a gate is open or shut, and nothing overflows.
#[test]
fn swiglu_is_finite_wherever_its_inputs_are() {
    let device = device();
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
        check(
            || rms_norm(x, gamma, 1e-5),
            theirs,
            |gradients| vec![gradient(&inputs.0, gradients), gradient(&inputs.1, gradients)],
        );
    }
}

/// A GPU's kernel goes on in a second row of its grid behind 32,768.
#[test]
fn there_may_be_more_rows_than_one_row_of_a_grid_takes() {
    let (x, gamma) = (random([1, 33_000, 2], 1.0, 1), frozen([2], 1.0, 2));
    let (input, theirs) = (x.clone(), reference::rms_norm(x.clone(), gamma.clone(), 1e-6));
    check(|| rms_norm(x, gamma, 1e-6), theirs, |gradients| vec![gradient(&input, gradients)]);
}

/// Frozen norms get no gradient, and their inputs do.
#[test]
fn a_frozen_norm_passes_the_gradient_on() {
    let (x, gamma) = (random([1, 9, 6], 1.0, 1), frozen([6], 1.0, 2));
    let theirs = reference::rms_norm(x.clone(), gamma.clone(), 1e-6);
    let input = x.clone();
    check(|| rms_norm(x, gamma, 1e-6), theirs, |gradients| vec![gradient(&input, gradients)]);
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
    let ours = || rotate(view(x.clone()), cos.clone(), sin.clone());
    let theirs = reference::rotate(view(x.clone()), cos.clone(), sin.clone());
    check(ours, theirs, |gradients| {
        vec![gradient(&x, gradients), gradient(&cos, gradients), gradient(&sin, gradients)]
    });
}

/// The CPU's alone: GPUs have no threads of ours.
#[cfg(not(feature = "gpu"))]
mod threads {
    use super::*;

    /// The same bits, however many threads there are: chunks do not depend on them.
    #[track_caller]
    fn check_threads<T: PartialEq + Send + std::fmt::Debug>(run: impl Fn() -> T + Sync) {
        let [one, three, many] = [1, 3, 16].map(|threads| {
            rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(&run)
        });
        assert!(one == three && one == many, "the bits differ");
    }

    #[test]
    fn a_norm_does_not_depend_on_the_number_of_threads() {
        check_threads(|| {
            let (x, gamma) = (random([1, 900, 96], 1.0, 1), random([96], 1.0, 2));
            let gradients = rms_norm(x.clone(), gamma.clone(), 1e-5).sum().backward();
            gamma.grad(&gradients).unwrap().into_data()
        });
    }

    #[test]
    fn a_layer_does_not_depend_on_the_number_of_threads() {
        check_threads(|| {
            let (x, weight) = (random([1300, 70], 1.0, 1), frozen([70, 90], 1.0, 2));
            let factors = [random([70, 8], 1.0, 3), random([8, 90], 1.0, 4)];
            let y = linear_with_update(x.clone(), weight, factors.clone(), 2.0);
            let gradients = (y.clone() * y).sum().backward();
            let [a, b] = factors.map(|factor| gradient(&factor, &gradients).into_data());
            (gradient(&x, &gradients).into_data(), a, b)
        });
    }

    /// A vocabulary so large that a core holds the logits of few tokens, and a last chunk of one.
    #[test]
    fn a_loss_does_not_depend_on_the_number_of_threads() {
        let (tokens, vocab) = (131, 128_256);
        let hidden = frozen([tokens, 8], 1.0, 1).without_autodiff();
        let targets: Vec<i64> = (0..tokens as i64).map(|token| token * 977).collect();
        for turned in [false, true] {
            let head =
                frozen(if turned { [vocab, 8] } else { [8, vocab] }, 2.0, 2).without_autodiff();
            let head = if turned { head.transpose() } else { head };
            for trained in [false, true] {
                check_threads(|| {
                    let (hidden, head) = (hidden.clone(), head.clone());
                    let ours = loss_and_gradient(hidden, head, &targets, 0.01, trained);
                    let d_head = ours.d_head.map(Tensor::into_data);
                    (ours.nll_sum.to_bits(), ours.d_hidden.into_data(), d_head)
                });
            }
        }
    }
}

/// Few rows, whole chunks and a tail; weights as they are stored, and transposed as a tied head is.
const ROWS: [usize; 4] = [1, 5, 70, 1100];

#[test]
fn linear_is_a_product() {
    for rows in ROWS {
        for turned in [false, true] {
            let x = random([rows, 33], 1.0, 1);
            let w = random(if turned { [70, 33] } else { [33, 70] }, 1.0, 2);
            let view = |w: Tensor<2>| if turned { w.transpose() } else { w };
            let inputs = (x.clone(), w.clone());
            let theirs = reference::linear(x.clone(), view(w.clone()));
            check(
                || linear(x, view(w)),
                theirs,
                |gradients| vec![gradient(&inputs.0, gradients), gradient(&inputs.1, gradients)],
            );
        }
    }
}

#[test]
fn a_frozen_weight_passes_the_gradient_on() {
    let (x, w) = (random([70, 9], 1.0, 1), frozen([9, 6], 1.0, 2));
    let theirs = reference::linear(x.clone(), w.clone());
    let input = x.clone();
    check(|| linear(x, w), theirs, |gradients| vec![gradient(&input, gradients)]);
}

#[test]
fn an_update_adds_its_product_with_every_gradient() {
    for rows in ROWS {
        let (x, w) = (random([rows, 33], 1.0, 1), frozen([33, 70], 1.0, 2));
        let factors = [random([33, 8], 1.0, 3), random([8, 70], 1.0, 4)];
        let inputs = [x.clone(), factors[0].clone(), factors[1].clone()];
        let theirs = reference::linear_with_update(x.clone(), w.clone(), factors.clone(), 0.7);
        check(
            || linear_with_update(x, w, factors, 0.7),
            theirs,
            |gradients| inputs.iter().map(|input| gradient(input, gradients)).collect(),
        );
    }
}

/// Frozen weights kept in bf16 are those numbers in f32.
#[test]
fn weights_in_bf16_compute_in_f32() {
    if !device().supports_dtype(DType::BF16) {
        return;
    }
    for rows in ROWS {
        for turned in [false, true] {
            let w = frozen(if turned { [70, 33] } else { [33, 70] }, 1.0, 2).cast(DType::BF16);
            let w = if turned { w.transpose() } else { w };
            let x = random([rows, 33], 1.0, 1);
            let theirs = reference::linear(x.clone(), w.clone());
            check(
                || linear(x.clone(), w.clone()),
                theirs,
                |gradients| vec![gradient(&x, gradients)],
            );

            let x = random([rows, 33], 1.0, 1);
            let factors = [random([33, 8], 1.0, 3), random([8, 70], 1.0, 4)];
            let inputs = [x.clone(), factors[0].clone(), factors[1].clone()];
            let theirs = reference::linear_with_update(x.clone(), w.clone(), factors.clone(), 2.0);
            check(
                || linear_with_update(x, w, factors, 2.0),
                theirs,
                |gradients| inputs.iter().map(|input| gradient(input, gradients)).collect(),
            );
        }
    }
}

/// Of a sum of losses. GPUs' exponentials and logarithms are a unit or two in the last place off: 1.6e-7 was measured of one
/// token, on Mesa's software renderer.
const LOSS_ERROR: f64 = if cfg!(feature = "gpu") { 2.5e-7 } else { 1e-7 };

/// Some tokens without a target, more than one chunk, a head as stored and a tied one, frozen and trained, also in bf16.
#[test]
fn head_and_loss_are_those_spelled_out() {
    for (tokens, vocab, turned) in [(1, 3, false), (700, 90, true), (600, 50_000, false)] {
        let hidden = frozen([tokens, 8], 1.0, 1).without_autodiff();
        let head = frozen(if turned { [vocab, 8] } else { [8, vocab] }, 2.0, 2).without_autodiff();
        let targets: Vec<i64> = (0..tokens as i64)
            .map(|i| if i % 5 == 3 { -100 } else { i * 7 % vocab as i64 })
            .collect();
        let has_bf16 = device().supports_dtype(DType::BF16);
        for dtype in [DType::F32, DType::BF16].into_iter().take(1 + usize::from(has_bf16)) {
            let head = if turned { head.clone().transpose() } else { head.clone() }.cast(dtype);
            let wide = head.clone().cast(DType::F32);
            let of_each = guarded(|| nll(hidden.clone(), head.clone(), &targets));
            let theirs = reference::nll(hidden.clone(), wide.clone(), &targets);
            let rows = of_each.iter().zip(&theirs);
            assert!(rows.clone().all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs().max(1.0)));
            for trained in [false, true] {
                let ours = guarded(|| {
                    loss_and_gradient(hidden.clone(), head.clone(), &targets, 0.01, trained)
                });
                let theirs = reference::loss_and_gradient(
                    hidden.clone(),
                    wide.clone(),
                    &targets,
                    0.01,
                    trained,
                );
                let off = (ours.nll_sum / theirs.nll_sum - 1.0).abs();
                assert!(off < LOSS_ERROR, "{tokens} tokens of {vocab}: off by {off:e}");
                assert!(error(ours.d_hidden, theirs.d_hidden) < 3e-6);
                assert_eq!(ours.d_head.is_some(), trained);
                if let (Some(ours), Some(theirs)) = (ours.d_head, theirs.d_head) {
                    assert!(error(ours, theirs) < 3e-6);
                }
            }
        }
    }
}

#[test]
fn a_known_gradient_is_pulled_back_as_through_a_product() {
    let (x, w) = (random([7, 5], 1.0, 1), random([5, 3], 1.0, 2));
    let cotangent = frozen([7, 3], 1.0, 3);
    let y = || x.clone().matmul(w.clone()).square();
    let ours = pull_back(y(), cotangent.clone().without_autodiff());
    let theirs = (y() * cotangent).sum().backward();
    assert_eq!(x.grad(&ours).unwrap().into_data(), x.grad(&theirs).unwrap().into_data());
    assert_eq!(w.grad(&ours).unwrap().into_data(), w.grad(&theirs).unwrap().into_data());
}

/// Activations of 16 bits, where the device has them, beside parameters in f32.
#[cfg(feature = "gpu")]
mod low_precision {
    use std::io::Write as _;

    use super::*;

    /// Ours and the plain operations' in a type of 16 bits, both against plain operations in f32 on the same rounded numbers:
    /// at most twice the error for values and three times for gradients, or the rounding of the result itself.
    #[track_caller]
    fn check<const D: usize>(
        shape: [usize; D],
        ours: impl Fn(Tensor<D>) -> Tensor<D>,
        plain: impl Fn(Tensor<D>) -> Tensor<D>,
    ) {
        for dtype in [DType::F16, DType::BF16] {
            if !device().supports_dtype(dtype) {
                writeln!(std::io::stderr(), "skipped: the device does not compute in {dtype:?}")
                    .unwrap();
                continue;
            }
            let rounding = dtype.finfo().expect("it is a float type").epsilon;
            let x = frozen(shape, 1.5, 1).cast(dtype);
            let run = |op: &dyn Fn(Tensor<D>) -> Tensor<D>, x: Tensor<D>| {
                let x = x.detach().require_grad();
                let y = op(x.clone());
                let cotangent = frozen(y.dims(), 1.0, 9).cast(dtype).cast(y.dtype());
                let gradients = (y.clone() * cotangent).sum().backward();
                let dx = x.grad(&gradients).expect("the result depends on it");
                [y.detach(), dx.autodiff()].map(|part| part.cast(DType::F32))
            };
            let exact = run(&plain, x.clone().cast(DType::F32));
            let (of_ours, of_plain) = (run(&ours, x.clone()), run(&plain, x.clone()));
            let parts = of_ours.into_iter().zip(of_plain).zip(exact).zip([2.0, 3.0]);
            for (index, (((ours, plain), exact), times)) in parts.enumerate() {
                let (ours, plain) = (error(ours, exact.clone()), error(plain, exact));
                let allowed = rounding.max(times * plain);
                assert!(ours <= allowed, "{dtype:?}, part {index}: {ours:e}, plain {plain:e}");
            }
        }
    }

    #[test]
    fn of_the_norm() {
        let gamma = || frozen([130], 2.0, 2);
        check(
            [1, 70, 130],
            |x| rms_norm(x, gamma(), 1e-5),
            |x| reference::rms_norm(x, gamma(), 1e-5),
        );
    }

    #[test]
    fn of_the_rotation() {
        let tables = || (frozen([2, 33, 8], 1.0, 2), frozen([2, 33, 8], 1.0, 3));
        check(
            [2, 4, 33, 16],
            |x| rotate(x, tables().0, tables().1),
            |x| reference::rotate(x, tables().0, tables().1),
        );
    }

    #[test]
    fn of_the_gate() {
        let up = |x: &Tensor<3>| x.clone().mul_scalar(0.5);
        check([2, 9, 65], |x| swiglu(x.clone(), up(&x)), |x| reference::swiglu(x.clone(), up(&x)));
    }

    #[test]
    fn of_a_layer_with_an_update() {
        let weight = || frozen([65, 65], 0.3, 2);
        let factors = || [frozen([65, 8], 0.3, 3), frozen([8, 65], 0.3, 4)];
        check(
            [70, 65],
            |x| linear_with_update(x, weight(), factors(), 0.7),
            |x| reference::linear_with_update(x, weight(), factors(), 0.7),
        );
    }

    #[test]
    fn of_a_layer_in_nf4() {
        let weight = nf4::weight([128, 33]);
        let factors = || [frozen([128, 8], 0.3, 3), frozen([8, 33], 0.3, 4)];
        check(
            [70, 128],
            |x| linear_with_update(x, weight.clone(), factors(), 0.7),
            |x| reference::linear_with_update(x, weight.clone(), factors(), 0.7),
        );
    }

    #[test]
    fn of_head_and_loss() {
        for dtype in [DType::F16, DType::BF16] {
            if !device().supports_dtype(dtype) {
                continue;
            }
            let hidden = frozen([70, 24], 1.0, 1).without_autodiff().cast(dtype);
            let head = frozen([24, 257], 1.0, 2).without_autodiff().cast(dtype).cast(DType::F32);
            let targets: Vec<i64> = (0..70).map(|i| if i % 5 == 3 { -1 } else { i * 3 }).collect();
            let ours = loss_and_gradient(hidden.clone(), head.clone(), &targets, 0.01, true);
            let wide = hidden.cast(DType::F32);
            let exact = reference::loss_and_gradient(wide, head, &targets, 0.01, true);
            let rounding = dtype.finfo().expect("it is a float type").epsilon;
            assert!((ours.nll_sum / exact.nll_sum - 1.0).abs() < rounding);
            assert!(error(ours.d_hidden.cast(DType::F32), exact.d_hidden) < 3.0 * rounding);
            assert!(error(ours.d_head.unwrap(), exact.d_head.unwrap()) < 3.0 * rounding);
        }
    }
}
