"""Writes the vectors of this folder: see README.md. Usage: python make.py"""

import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFValueType, GGUFWriter, quants
from gguf.constants import GGML_QUANT_SIZES

# Byte offsets of the 16-bit floats of a block.
SCALES = {
    Kind.Q4_0: [0], Kind.Q4_1: [0, 2], Kind.Q5_0: [0], Kind.Q5_1: [0, 2], Kind.Q8_0: [0],
    Kind.Q4_K: [0, 2], Kind.Q5_K: [0, 2], Kind.Q6_K: [208],
    Kind.F16: [0], Kind.BF16: [0],
}  # fmt: skip


def random_blocks(rng, kind, count):
    """Random bytes, but no infinite or NaN scale: their products are not one fixed NaN."""
    block_len, block_bytes = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (count, block_bytes), dtype=np.uint8)
    for at in SCALES[kind]:
        high = blocks[:, at + 1]
        exponent = 0x7F if kind == Kind.BF16 else 0x7C
        blocks[:, at + 1] = np.where(high & exponent == exponent, high & 0xBF, high)
    return blocks


def main():
    rng = np.random.default_rng(20240229)
    blocks = {kind: random_blocks(rng, kind, 256 // GGML_QUANT_SIZES[kind][0] * 3) for kind in SCALES}
    for kind, encoded in blocks.items():
        encoded.tofile(f"{kind.name}.encoded")
        quants.dequantize(encoded, kind).astype("<f4").tofile(f"{kind.name}.f32")

    # Numbers of many magnitudes, some exactly between two neighbours of the coarser kinds.
    numbers = rng.standard_normal(768) * 2.0 ** rng.integers(-20, 12, 768)
    numbers[::7] = np.round(numbers[::7] * 64) / 64
    numbers[128:160] = 0.0
    numbers[160:192] = np.arange(32) - 15.5
    numbers[160] = 127.0
    numbers = numbers.astype("<f4")
    numbers.tofile("numbers.f32")
    for kind in [Kind.F16, Kind.BF16, Kind.Q8_0]:
        quants.quantize(numbers, kind).tofile(f"numbers.{kind.name}")

    writer = GGUFWriter("python.gguf", "llama")
    writer.add_uint8("test.u8", 200)
    writer.add_int8("test.i8", -100)
    writer.add_uint16("test.u16", 60000)
    writer.add_int16("test.i16", -30000)
    writer.add_uint32("test.u32", 4000000000)
    writer.add_int32("test.i32", -2000000000)
    writer.add_float32("test.f32", 0.1)
    writer.add_bool("test.bool", True)
    writer.add_string("test.string", "äöü 🦙")
    writer.add_uint64("test.u64", 2**63 + 1)
    writer.add_int64("test.i64", -(2**62))
    writer.add_float64("test.f64", 0.1)
    writer.add_array("test.strings", ["<s>", "", "▁a"])
    writer.add_array("test.floats", [0.5, -1.0])
    writer.add_array("test.integers", [1, -2, 3])
    writer.add_array("test.bools", [True, False])
    writer.add_key_value("test.bytes", [1, 255], GGUFValueType.ARRAY, sub_type=GGUFValueType.UINT8)
    writer.add_tensor("f32", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.add_tensor("f16", np.arange(10, dtype=np.float16).reshape(1, 2, 5))
    for kind in [Kind.Q4_1, Kind.Q6_K]:
        _, block_bytes = GGML_QUANT_SIZES[kind]
        rows = blocks[kind].reshape(3, -1)  # 3 rows of 256 numbers
        writer.add_tensor(kind.name, rows, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main()
