"""The peer in PyTorch on a GPU: causal attention alone, forward and backward, by FlashAttention-2.

    python gpu_peer.py [--heads 32/32] [--tokens 2048,8192,32768,131072] [--head-dim 64,128] [--dtype bf16] [--repeat N]

Full attention is F.scaled_dot_product_attention with its flash backend alone. s2 is LongLoRA's shifted sparse attention
with groups of a quarter: each group is a row of a batch, and the shifted half of the heads is rolled by half a group, as
the official code does. Times are of the device, by events, medians. Prints one line of JSON for each case; rates count
what a causal score needs: 4 · head_dim operations forward, 10 · head_dim backward, for each pair of a query and a key.
"""

import argparse
import json
import statistics

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


def timed(run, repeat):
    for _ in range(2):
        run()
    times = []
    for _ in range(repeat):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / 1000)
    return statistics.median(times)


def full(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])


def s2(q, k, v):
    """Groups of a quarter; the second half of the heads is shifted by half a group."""
    batch, heads, seq, width = q.shape
    group = seq // 4

    def grouped(x):
        still, shifted = x.chunk(2, 1)
        x = torch.cat([still, shifted.roll(-group // 2, 2)], 1)
        return x.reshape(batch, x.shape[1], 4, group, width).transpose(1, 2).reshape(batch * 4, x.shape[1], group, width)

    out = full(grouped(q), grouped(k), grouped(v))
    out = out.reshape(batch, 4, heads, group, width).transpose(1, 2).reshape(batch, heads, seq, width)
    still, shifted = out.chunk(2, 1)
    return torch.cat([still, shifted.roll(group // 2, 2)], 1)


def case(kind, tokens, heads, kv_heads, head_dim, dtype, repeat):
    torch.manual_seed(0)
    shape = lambda heads: (1, heads, tokens, head_dim)
    q, k, v = (
        torch.randn(shape(n), device="cuda", dtype=dtype, requires_grad=True) for n in (heads, kv_heads, kv_heads)
    )
    d_out = torch.randn(shape(heads), device="cuda", dtype=dtype)
    attend = full if kind == "full" else s2
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        with torch.no_grad():
            forward = timed(lambda: attend(q, k, v), repeat)
        out = attend(q, k, v)
        backward = timed(lambda: torch.autograd.grad(out, (q, k, v), d_out, retain_graph=True), repeat)
    pairs = heads * tokens * tokens / 2 / (1 if kind == "full" else 4)
    print(
        json.dumps(
            dict(
                peer="torch", attention=kind, tokens=tokens, heads=heads, kv_heads=kv_heads, head_dim=head_dim,
                dtype=str(dtype).removeprefix("torch."), forward_s=forward, backward_s=backward,
                forward_tflop_per_s=4 * head_dim * pairs / forward / 1e12,
                backward_tflop_per_s=10 * head_dim * pairs / backward / 1e12,
                device=torch.cuda.get_device_name(), torch=torch.__version__,
            )
        ),
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--heads", default="32/32")
    parser.add_argument("--tokens", default="2048,8192,32768,131072")
    parser.add_argument("--head-dim", default="64,128")
    parser.add_argument("--dtype", choices=["bf16", "f16"], default="bf16")
    parser.add_argument("--repeat", type=int, default=5)
    given = parser.parse_args()
    heads, kv_heads = map(int, given.heads.split("/"))
    dtype = dict(bf16=torch.bfloat16, f16=torch.float16)[given.dtype]
    for head_dim in map(int, given.head_dim.split(",")):
        for tokens in map(int, given.tokens.split(",")):
            for kind in ("full", "s2"):
                case(kind, tokens, heads, kv_heads, head_dim, dtype, given.repeat)


if __name__ == "__main__":
    main()
