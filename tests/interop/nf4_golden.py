"""Prints what bitsandbytes makes of three rows in NF4: the golden numbers of longlora-kernels' `nf4` tests.

    python tests/interop/nf4_golden.py    # bitsandbytes 0.50.2, torch 2.8, on a CPU
"""

import bitsandbytes.functional as bnb
import torch

# Three rows of two blocks; the same formula stands in the test. The last block is all zeros.
numbers = [((i * 2654435761) % 65536) / 32768.0 - 1.0 for i in range(384)]
numbers = [x * x * x * [0.01, 0.1, 1.0, 10.0, 100.0, 0.0][i // 64] for i, x in enumerate(numbers)]
weight = torch.tensor(numbers, dtype=torch.float32).reshape(3, 128)
packed, state = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4")
print("codes  ", packed.flatten().numpy().tobytes().hex())
print("absmax ", " ".join(f"{bits & 0xFFFFFFFF:08x}" for bits in state.absmax.view(torch.int32).tolist()))
decoded = bnb.dequantize_4bit(packed, state).flatten().view(torch.int32)
print("decoded", " ".join(f"{bits & 0xFFFFFFFF:08x}" for bits in decoded[:16].tolist()))
print("code   ", " ".join(repr(x) for x in state.code.tolist()))
