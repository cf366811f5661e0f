//! Floats to the kinds that are written.

use half::{bf16, f16};

use crate::TensorKind;

/// Appends encoded numbers, or gives the place of the first that the kind cannot hold.
pub(crate) type Encode = fn(&[f32], &mut Vec<u8>) -> Result<(), usize>;

/// How a kind is written, if it is.
pub(crate) fn encoder(kind: TensorKind) -> Option<Encode> {
    match kind {
        TensorKind::F32 => Some(f32s),
        TensorKind::F16 => Some(f16s),
        TensorKind::BF16 => Some(bf16s),
        TensorKind::Q8_0 => Some(q8_0),
        TensorKind::Q4_0
        | TensorKind::Q4_1
        | TensorKind::Q5_0
        | TensorKind::Q5_1
        | TensorKind::Q4K
        | TensorKind::Q5K
        | TensorKind::Q6K => None,
    }
}

fn f32s(numbers: &[f32], out: &mut Vec<u8>) -> Result<(), usize> {
    out.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    Ok(())
}

/// Rounds to nearest, ties to even. A number that would become infinite is refused.
fn f16s(numbers: &[f32], out: &mut Vec<u8>) -> Result<(), usize> {
    for (place, &number) in numbers.iter().enumerate() {
        let rounded = f16::from_f32(number);
        if number.is_finite() && rounded.is_infinite() {
            return Err(place);
        }
        out.extend(rounded.to_le_bytes());
    }
    Ok(())
}

/// Rounds to nearest, ties to even. A number that would become infinite is refused.
fn bf16s(numbers: &[f32], out: &mut Vec<u8>) -> Result<(), usize> {
    for (place, &number) in numbers.iter().enumerate() {
        let rounded = bf16::from_f32(number);
        if number.is_finite() && rounded.is_infinite() {
            return Err(place);
        }
        out.extend(rounded.to_le_bytes());
    }
    Ok(())
}

/// As ggml's `quantize_row_q8_0_ref`: the scale is the largest magnitude / 127, numbers are rounded
/// half away from zero. What is not finite is refused, and a scale that a 16-bit float cannot hold.
fn q8_0(numbers: &[f32], out: &mut Vec<u8>) -> Result<(), usize> {
    let (blocks, rest) = numbers.as_chunks::<32>();
    debug_assert!(rest.is_empty(), "rows are whole blocks");
    for (index, block) in blocks.iter().enumerate() {
        let mut largest = (0, 0.0);
        for (place, number) in block.iter().enumerate() {
            if !number.is_finite() {
                return Err(index * 32 + place);
            }
            if number.abs() > largest.1 {
                largest = (place, number.abs());
            }
        }
        let scale: f32 = largest.1 / 127.0;
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let stored = f16::from_f32(scale);
        if stored.is_infinite() {
            return Err(index * 32 + largest.0);
        }
        out.extend(stored.to_le_bytes());
        out.extend(block.iter().map(|number| (number * inverse).round() as i8 as u8));
    }
    Ok(())
}
