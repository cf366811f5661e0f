//! Quantised blocks to floats, bit for bit as ggml's `dequantize_row_*` in `ggml-quants.c` compute
//! them: in f32, every product and every sum rounded by itself.

use half::{bf16, f16};

use crate::TensorKind;

/// Decodes whole blocks.
///
/// # Panics
/// If `bytes` and `out` do not hold equally many blocks.
pub(crate) fn decode(kind: TensorKind, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len() / kind.block_bytes(), out.len() / kind.block_len());
    match kind {
        TensorKind::F32 => numbers(bytes, out, f32::from_le_bytes),
        TensorKind::F16 => numbers(bytes, out, |bytes| f16::from_le_bytes(bytes).to_f32()),
        TensorKind::BF16 => numbers(bytes, out, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        TensorKind::Q4_0 => blocks(bytes, out, q4_0),
        TensorKind::Q4_1 => blocks(bytes, out, q4_1),
        TensorKind::Q5_0 => blocks(bytes, out, q5_0),
        TensorKind::Q5_1 => blocks(bytes, out, q5_1),
        TensorKind::Q8_0 => blocks(bytes, out, q8_0),
        TensorKind::Q4K => blocks(bytes, out, q4_k),
        TensorKind::Q5K => blocks(bytes, out, q5_k),
        TensorKind::Q6K => blocks(bytes, out, q6_k),
    }
}

fn numbers<const N: usize>(bytes: &[u8], out: &mut [f32], decode: impl Fn([u8; N]) -> f32) {
    let (numbers, _) = bytes.as_chunks::<N>();
    for (out, &number) in out.iter_mut().zip(numbers) {
        *out = decode(number);
    }
}

fn blocks<const BYTES: usize, const LEN: usize>(
    bytes: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (out, _) = out.as_chunks_mut::<LEN>();
    for (block, out) in blocks.iter().zip(out) {
        decode(block, out);
    }
}

/// The 16-bit float at a byte of a block.
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Scale, then numbers 0..16 in the low halves of 16 bytes and 16..32 in the high ones, less 8.
fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    for (j, &pair) in block[2..].iter().enumerate() {
        out[j] = (i32::from(pair & 0xf) - 8) as f32 * scale;
        out[j + 16] = (i32::from(pair >> 4) - 8) as f32 * scale;
    }
}

/// Scale and minimum, then numbers as in Q4_0, not shifted.
fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (scale, min) = (half_at(block, 0), half_at(block, 2));
    for (j, &pair) in block[4..].iter().enumerate() {
        out[j] = f32::from(pair & 0xf) * scale + min;
        out[j + 16] = f32::from(pair >> 4) * scale + min;
    }
}

/// Scale, then the fifth bits of all numbers, then the lower bits as in Q4_0, less 16.
fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    let high = [block[2], block[3], block[4], block[5]];
    for (j, &pair) in block[6..].iter().enumerate() {
        let [low, top] = five_bits(pair, high, j);
        out[j] = (i32::from(low) - 16) as f32 * scale;
        out[j + 16] = (i32::from(top) - 16) as f32 * scale;
    }
}

/// Scale and minimum, then numbers as in Q5_0, not shifted.
fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (scale, min) = (half_at(block, 0), half_at(block, 2));
    let high = [block[4], block[5], block[6], block[7]];
    for (j, &pair) in block[8..].iter().enumerate() {
        let [low, top] = five_bits(pair, high, j);
        out[j] = f32::from(low) * scale + min;
        out[j + 16] = f32::from(top) * scale + min;
    }
}

/// Numbers `j` and `j + 16`, their fifth bits taken from bits `j` and `j + 16` of `high`.
fn five_bits(pair: u8, high: [u8; 4], j: usize) -> [u8; 2] {
    let high = u32::from_le_bytes(high);
    let bit = |at: usize| ((high >> at & 1) << 4) as u8;
    [pair & 0xf | bit(j), pair >> 4 | bit(j + 16)]
}

/// Scale, then 32 signed bytes.
fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    for (out, &byte) in out.iter_mut().zip(&block[2..]) {
        *out = f32::from(byte as i8) * scale;
    }
}

/// Two scales, 8 scales and minima of 6 bits, then 4 bits a number: each 32 bytes hold 32 numbers
/// in the low halves and the next 32 in the high ones.
fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (out, _) = out.as_chunks_mut::<32>();
    for (part, out) in out.iter_mut().enumerate() {
        let (scale, min) = scale_and_min(block, part);
        let pairs = &block[16 + part / 2 * 32..][..32];
        for (out, pair) in out.iter_mut().zip(pairs) {
            *out = scale * f32::from(pair >> (part % 2 * 4) & 0xf) - min;
        }
    }
}

/// As Q4_K, with the fifth bits of all numbers before the lower bits: bit `p` of byte `l` is that
/// of number `l` of part `p`.
fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let high = &block[16..48];
    let (out, _) = out.as_chunks_mut::<32>();
    for (part, out) in out.iter_mut().enumerate() {
        let (scale, min) = scale_and_min(block, part);
        let pairs = &block[48 + part / 2 * 32..][..32];
        for ((out, pair), high) in out.iter_mut().zip(pairs).zip(high) {
            let number = pair >> (part % 2 * 4) & 0xf | (high >> part & 1) << 4;
            *out = scale * f32::from(number) - min;
        }
    }
}

/// Scale and minimum of one of the 8 parts of a Q4_K or Q5_K block.
///
/// The first 4 parts have the low 6 bits of a byte each. The other 4 have 4 bits in the last bytes,
/// and the 2 bits that the first 4 leave free.
fn scale_and_min(block: &[u8], part: usize) -> (f32, f32) {
    let packed = &block[4..16];
    let (scale, min) = if part < 4 {
        (packed[part] & 63, packed[part + 4] & 63)
    } else {
        let both = packed[part + 4];
        (both & 0xf | packed[part - 4] >> 6 << 4, both >> 4 | packed[part] >> 6 << 4)
    };
    (half_at(block, 0) * f32::from(scale), half_at(block, 2) * f32::from(min))
}

/// The low 4 bits of all numbers, their high 2 bits, 16 signed scales, a scale; numbers less 32.
///
/// Each half of 128 numbers has 4 parts of 32. Its 64 low bytes hold parts 0 and 1 in their low
/// halves, 2 and 3 in their high ones; part `p` has bits `2p` and `2p + 1` of its 32 high bytes.
fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let scale = half_at(block, 208);
    let (out, _) = out.as_chunks_mut::<32>();
    for (index, out) in out.iter_mut().enumerate() {
        let (half, part) = (index / 4, index % 4);
        let low = &block[half * 64 + part % 2 * 32..][..32];
        let high = &block[128 + half * 32..][..32];
        let scales = &block[192 + index * 2..][..2];
        for (l, out) in out.iter_mut().enumerate() {
            let number = low[l] >> (part / 2 * 4) & 0xf | (high[l] >> (part * 2) & 3) << 4;
            *out = scale * f32::from(scales[l / 16] as i8) * f32::from(number as i8 - 32);
        }
    }
}
