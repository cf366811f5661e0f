use longlora_gguf::TensorKind;
use proptest::prelude::*;

use crate::raw::Raw;

/// `count` bits of a block from bit `first` on, where bit 0 is the lowest of byte 0.
fn bits(block: &[u8], first: usize, count: usize) -> u32 {
    let bit = |at: usize| u32::from(block[at / 8] >> (at % 8)) & 1;
    (0..count).map(|n| bit(first + n) << n).sum()
}

/// A 16-bit float by the definition of IEEE 754.
fn half_at(block: &[u8], byte: usize) -> f32 {
    let first = 8 * byte;
    let (fraction, exponent) = (bits(block, first, 10), bits(block, first + 10, 5));
    let sign = if bits(block, first + 15, 1) == 1 { -1.0 } else { 1.0 };
    let magnitude = match exponent {
        0 => fraction as f32 * 2f32.powi(-24),
        31 if fraction == 0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1024 + fraction) as f32 * 2f32.powi(exponent as i32 - 25),
    };
    sign * magnitude
}

fn signed_byte(block: &[u8], byte: usize) -> f32 {
    f32::from(block[byte] as i8)
}

/// Scale and minimum of part `part` of a Q4_K or Q5_K block.
///
/// The 12 bytes from byte 4 on, highest bit first, where capital letters are the parts' scales and
/// small ones their minima:
/// `EEAAAAAA FFBBBBBB GGCCCCCC HHDDDDDD eeaaaaaa .. hhdddddd eeeeEEEE .. hhhhHHHH`.
fn scale_and_min(block: &[u8], part: usize) -> (f32, f32) {
    let at = |byte: usize, bit: usize, count: usize| bits(block, 8 * (4 + byte) + bit, count);
    let (scale, min) = match part {
        0..4 => (at(part, 0, 6), at(4 + part, 0, 6)),
        _ => {
            let part = part - 4;
            let (scale, min) = (at(8 + part, 0, 4), at(8 + part, 4, 4));
            (scale | at(part, 6, 2) << 4, min | at(4 + part, 6, 2) << 4)
        }
    };
    (half_at(block, 0) * scale as f32, half_at(block, 2) * min as f32)
}

/// Number `i` of a block, straight from the layout of the bits.
fn twin(kind: TensorKind, block: &[u8], i: usize) -> f32 {
    // 16 bytes that hold numbers 0..16 in their low halves and 16..32 in their high ones.
    let nibble = |start: usize| bits(block, 8 * (start + i % 16) + 4 * (i / 16), 4) as i32;
    let with_fifth = |start: usize| nibble(start + 4) | (bits(block, 8 * start + i, 1) << 4) as i32;
    // Bytes of which each 32 hold 32 numbers in their low halves and 32 in their high ones.
    let wide_nibble =
        |start: usize| bits(block, 8 * (start + i / 64 * 32 + i % 32) + i / 32 % 2 * 4, 4);
    match kind {
        TensorKind::F32 => f32::from_bits(bits(block, 0, 32)),
        TensorKind::F16 => half_at(block, 0),
        TensorKind::BF16 => f32::from_bits(bits(block, 0, 16) << 16),
        TensorKind::Q4_0 => (nibble(2) - 8) as f32 * half_at(block, 0),
        TensorKind::Q4_1 => nibble(4) as f32 * half_at(block, 0) + half_at(block, 2),
        TensorKind::Q5_0 => (with_fifth(2) - 16) as f32 * half_at(block, 0),
        TensorKind::Q5_1 => with_fifth(4) as f32 * half_at(block, 0) + half_at(block, 2),
        TensorKind::Q8_0 => signed_byte(block, 2 + i) * half_at(block, 0),
        TensorKind::Q4K => {
            let (scale, min) = scale_and_min(block, i / 32);
            scale * wide_nibble(16) as f32 - min
        }
        TensorKind::Q5K => {
            let (scale, min) = scale_and_min(block, i / 32);
            let fifth = bits(block, 8 * (16 + i % 32) + i / 32, 1);
            scale * (wide_nibble(48) | fifth << 4) as f32 - min
        }
        TensorKind::Q6K => {
            let (half, part, l) = (i / 128, i / 32 % 4, i % 32);
            let low = bits(block, 8 * (64 * half + 32 * (part % 2) + l) + 4 * (part / 2), 4);
            let high = bits(block, 8 * (128 + 32 * half + l) + 2 * part, 2);
            let number = (low | high << 4) as i32 - 32;
            half_at(block, 208) * signed_byte(block, 192 + i / 16) * number as f32
        }
    }
}

#[track_caller]
fn check(kind: TensorKind, blocks: &[u8]) {
    let ours = Raw::of_blocks(kind, blocks).open().unwrap().read_f32("x").unwrap();

    let expected: Vec<f32> = blocks
        .chunks(kind.block_bytes())
        .flat_map(|block| (0..kind.block_len()).map(move |i| twin(kind, block, i)))
        .collect();
    assert_eq!(ours.len(), expected.len());
    for (i, (ours, expected)) in ours.iter().zip(&expected).enumerate() {
        let same = ours.to_bits() == expected.to_bits() || ours.is_nan() && expected.is_nan();
        assert!(same, "number {i} of {kind}: {ours}, expected {expected}");
    }
}

fn kinds() -> impl Strategy<Value = TensorKind> {
    prop::sample::select(TensorKind::ALL.to_vec())
}

proptest! {
    #[test]
    fn random_blocks_are_decoded_as_their_bits_say(
        (kind, blocks) in kinds().prop_flat_map(|kind| {
            let bytes = 3 * kind.block_bytes();
            (Just(kind), prop::collection::vec(any::<u8>(), bytes))
        })
    ) {
        check(kind, &blocks);
    }
}

#[test]
fn each_single_bit_has_its_place() {
    for kind in TensorKind::ALL {
        for bit in 0..8 * kind.block_bytes() {
            // Scales of 1.0 and quantised scales that are not 0, so that every bit shows.
            let mut block = vec![0x11; kind.block_bytes()];
            let scales: &[usize] = match kind {
                TensorKind::F32 | TensorKind::F16 | TensorKind::BF16 => &[],
                TensorKind::Q6K => &[208],
                TensorKind::Q4_0 | TensorKind::Q5_0 | TensorKind::Q8_0 => &[0],
                _ => &[0, 2],
            };
            for &at in scales {
                block[at..at + 2].copy_from_slice(&half::f16::ONE.to_le_bytes());
            }
            block[bit / 8] ^= 1 << (bit % 8);
            check(kind, &block);
        }
    }
}

#[test]
fn a_tensor_of_more_than_one_chunk_is_read_whole() {
    let numbers: Vec<u8> =
        (0..10_000).flat_map(|number: i32| (number as f32).to_le_bytes()).collect();

    check(TensorKind::F32, &numbers);
}
