//! Weights in NF4.

use burn::tensor::{DType, Tensor};

use super::{check, device, error, frozen, gradient, guarded, random};
use crate::nf4::{Nf4, quantize};
use crate::{linear, linear_with_update, reference};

/// `[d_input, d_output]`, of every kind of number.
pub(super) fn weight([d_input, d_output]: [usize; 2]) -> Nf4 {
    let numbers = frozen([d_output, d_input], 0.1, 7).powi_scalar(3);
    let blocks = quantize(&numbers.to_data()).expect("rows are of whole blocks");
    Nf4::of(Nf4::read(blocks, &device()))
}

/// One row, the most that are multiplied block by block, one more, chunks; one column, and more than a task has.
const SHAPES: [[usize; 3]; 6] =
    [[1, 64, 1], [1, 192, 700], [4, 128, 33], [5, 64, 33], [63, 128, 7], [300, 320, 130]];

#[test]
fn numbers_are_those_of_the_slow_way_to_the_bit() {
    for [_, d_input, d_output] in SHAPES {
        let weight = weight([d_input, d_output]);
        assert_eq!(weight.dims(), [d_input, d_output]);
        for dtype in [DType::F32, DType::BF16] {
            if !device().supports_dtype(dtype) {
                continue;
            }
            let expected = reference::dequantize(&weight, dtype).into_data();
            let found = guarded(|| weight.clone().dequantize(dtype).into_data());
            assert_eq!(found, expected);
        }
    }
}

#[test]
fn a_layer_in_nf4_is_that_of_its_numbers_with_every_gradient() {
    for [rows, d_input, d_output] in SHAPES {
        let weight = weight([d_input, d_output]);
        let x = random([rows, d_input], 1.0, 1);
        let theirs = reference::linear(x.clone(), weight.clone());
        check(|| linear(x.clone(), weight), theirs, |of| vec![gradient(&x, of)]);
    }
}

#[test]
fn an_update_beside_nf4_is_one_beside_its_numbers_with_every_gradient() {
    for [rows, d_input, d_output] in SHAPES {
        let weight = weight([d_input, d_output]);
        let x = random([rows, d_input], 1.0, 1);
        let (a, b) = (random([d_input, 3], 0.5, 2), random([3, d_output], 0.5, 3));
        let factors = || [a.clone(), b.clone()];
        let theirs = reference::linear_with_update(x.clone(), weight.clone(), factors(), 2.0);
        check(
            || linear_with_update(x.clone(), weight, factors(), 2.0),
            theirs,
            |of| vec![gradient(&x, of), gradient(&a, of), gradient(&b, of)],
        );
    }
}

#[test]
fn a_scaled_weight_is_that_of_its_scaled_columns() {
    let factors: Vec<f32> = (0..7).map(|column| column as f32 - 2.5).collect();
    let (scaled, plain) = (weight([128, 7]).scaled(&factors), weight([128, 7]));
    let factors = Tensor::<1>::from_floats(factors.as_slice(), &device());
    let expected = plain.dequantize(DType::F32) * factors.unsqueeze();
    assert!(error(scaled.dequantize(DType::F32), expected) < 1e-6);
}

/// What the levels are for: weights as they are drawn, normal, lose a tenth of their size, and the layer as much.
#[test]
fn a_normal_weight_loses_a_tenth() {
    use burn::tensor::Distribution;
    let numbers = Tensor::<2>::random([96, 512], Distribution::Normal(0.0, 0.02), &device());
    let blocks = quantize(&numbers.to_data()).expect("rows are of whole blocks");
    let kept = Nf4::of(Nf4::read(blocks, &device()));
    let kept = kept.dequantize(DType::F32).transpose();
    let size = |x: Tensor<2>| x.square().mean().sqrt().into_scalar::<f64>();
    let lost = size(kept.clone() - numbers.clone()) / size(numbers.clone());
    assert!((0.07..0.11).contains(&lost), "lost {lost}");
    assert!(error(kept, numbers) < 0.16);
}
