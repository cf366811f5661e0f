"""The peer in PyTorch: one LoRA training step, one perplexity forward, or attention alone, of a LLaMA on the CPU.

    python peer_bench.py MODEL TEXT train|eval full|s2 SEQ [--group G] [--checkpointing] [--steps N] [--threads N]
    python peer_bench.py MODEL random attention full SEQ [--heads 9/3] [--head-dim 64] [--gqa] [--steps N] [--threads N]

MODEL is a Hugging Face folder, or `random`: weights of SmolLM2-135M's shape; attention alone reads no model. TEXT is a
text file, read from its token 1,000 on, or `random`: random ids.

train: PEFT LoRA r=8 alpha=16 on q, k, v and o, AdamW, f32, batch 1; head and loss in chunks of 2,048 tokens that are
computed again in the backward, so that logits are never held whole. Positions are interpolated where SEQ is beyond the
model's own reach, as `longlora finetune` does, so that first losses are the same. s2: LongLoRA's shifted sparse attention
without wrap-around, through SDPA per group; group SEQ/4 unless given.
eval: negative log-likelihoods of the window, without gradients.
attention: F.scaled_dot_product_attention, causal, forward and backward, on random queries, keys and values; keys and values
are repeated as transformers' `repeat_kv` does, inside what is timed, or left to SDPA with --gqa.

Prints one line of JSON: seconds of each step, tokens/s by their median, peak resident memory, losses, versions.
Needs what requirements.txt beside it names. It starts itself again with the settings under which PyTorch was fastest and
smallest: jemalloc where Debian's libjemalloc2 is installed (do install it: glibc's allocator either doubles the peak or is
slow), and idle OpenMP threads asleep.
"""

import os
import sys

JEMALLOC = [
    path
    for path in (
        "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2",
        "/usr/lib/aarch64-linux-gnu/libjemalloc.so.2",
    )
    if os.path.exists(path)
]
TUNED = dict(OMP_WAIT_POLICY="PASSIVE", TRANSFORMERS_VERBOSITY="error", HF_HUB_OFFLINE="1", PEER_TUNED="1")
if JEMALLOC:
    TUNED.update(
        LD_PRELOAD=JEMALLOC[0],
        MALLOC_CONF="background_thread:true,dirty_decay_ms:3000,muzzy_decay_ms:3000,metadata_thp:auto,thp:always",
    )
if __name__ == "__main__" and "PEER_TUNED" not in os.environ:
    os.execve(sys.executable, [sys.executable, "-W", "ignore", *sys.argv], {**os.environ, **TUNED})

import argparse
import json
import resource
import statistics
import time

import torch
import torch.nn.functional as F
import torch.utils.checkpoint

# Tokens at the front of a text that are left out.
FIRST_TOKEN = 1000


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="Hugging Face folder, or `random`")
    parser.add_argument("text", help="text file, or `random`")
    parser.add_argument("mode", choices=["train", "eval", "attention"])
    parser.add_argument("attention", choices=["full", "s2"])
    parser.add_argument("seq", type=int)
    parser.add_argument("--group", type=int)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--heads", default="9/3", help="query heads/kv heads, of `attention`")
    parser.add_argument("--head-dim", type=int, default=64, help="of `attention`")
    parser.add_argument("--gqa", action="store_true", help="SDPA shares keys and values by itself")
    given = parser.parse_args()
    if given.mode == "attention" and given.attention != "full":
        parser.error("attention alone is full")
    return given


def repeat_kv(x, times):
    batch, heads, seq, width = x.shape
    return x[:, :, None].expand(batch, heads, times, seq, width).reshape(batch, heads * times, seq, width)


def shifted_attention(group):
    """LongLoRA's pattern as an attention function of transformers: half of the heads in groups moved by half a group."""

    def attend(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **_):
        times = module.num_key_value_groups
        q, k, v = query, repeat_kv(key, times), repeat_kv(value, times)
        batch, heads, seq, width = q.shape
        half, shift = heads // 2, group // 2

        def spans(start, end, heads, size):
            count = (end - start) // size

            def cut(x):
                x = x[:, heads, start:end].reshape(batch, -1, count, size, width)
                return x.transpose(1, 2).reshape(batch * count, -1, size, width)

            out = F.scaled_dot_product_attention(cut(q), cut(k), cut(v), is_causal=True, scale=scaling)
            out = out.reshape(batch, count, -1, size, width).permute(0, 1, 3, 2, 4)
            return out.reshape(batch, end - start, -1, width)

        still, rest = spans(0, seq, slice(0, half), group), slice(half, heads)
        ends = spans(0, shift, rest, shift), spans(seq - shift, seq, rest, shift)
        moved = torch.cat([ends[0], spans(shift, seq - shift, rest, group), ends[1]], 1)
        return torch.cat([still, moved], 2), None

    return attend


def read_config(given):
    from transformers import AutoConfig, LlamaConfig

    if given.model != "random":
        config = AutoConfig.from_pretrained(given.model)
    else:
        config = LlamaConfig(
            hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
            num_key_value_heads=3, head_dim=64, vocab_size=49152, max_position_embeddings=8192,
            rope_theta=100000.0, rms_norm_eps=1e-5, tie_word_embeddings=True,
        )
    reach = config.max_position_embeddings
    if given.mode == "train" and given.seq > reach:
        config.rope_scaling = {"rope_type": "linear", "factor": given.seq / reach}
    return config


def read_model(given, group):
    from transformers import LlamaForCausalLM
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register("s2", shifted_attention(group))
    config = read_config(given)
    how = dict(attn_implementation="sdpa" if given.attention == "full" else "s2")
    if given.model == "random":
        return LlamaForCausalLM._from_config(config, dtype=torch.float32, **how)
    return LlamaForCausalLM.from_pretrained(given.model, config=config, dtype=torch.float32, **how)


def read_ids(given, vocab):
    if given.text == "random":
        return torch.randint(vocab, (1, given.seq))
    from tokenizers import Tokenizer

    with open(given.text, encoding="utf-8") as file:
        text = file.read()
    ids = Tokenizer.from_file(os.path.join(given.model, "tokenizer.json")).encode(text).ids
    if len(ids) < FIRST_TOKEN + given.seq:
        sys.exit(f"`{given.text}` has {len(ids)} tokens, and {FIRST_TOKEN + given.seq} are needed")
    return torch.tensor([ids[FIRST_TOKEN : FIRST_TOKEN + given.seq]])


def timed(given, step):
    """Seconds and losses of the steps."""
    seconds, losses = [], []
    for _ in range(given.steps):
        start = time.time()
        losses.append(step())
        seconds.append(time.time() - start)
    return seconds, losses


def train(given, group):
    from peft import LoraConfig, get_peft_model

    model = read_model(given, group)
    ids = read_ids(given, model.config.vocab_size)
    lora = LoraConfig(
        r=8, lora_alpha=16, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
        lora_dropout=0.0, bias="none", task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, lora)
    model.train()
    if given.checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, betas=(0.9, 0.95), weight_decay=0.0)
    body, head = model.base_model.model.model, model.base_model.model.lm_head

    def nll(hidden, targets):
        return F.cross_entropy(head(hidden), targets, reduction="sum")

    def step():
        hidden, total, last = body(ids, use_cache=False).last_hidden_state[0], 0.0, given.seq - 1
        for i in range(0, last, 2048):
            j = min(i + 2048, last)
            chunk = hidden[i:j], ids[0, i + 1 : j + 1]
            total = total + torch.utils.checkpoint.checkpoint(nll, *chunk, use_reentrant=False)
        loss = total / last
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return timed(given, step)


def evaluate(given, group):
    model = read_model(given, group)
    ids = read_ids(given, model.config.vocab_size)
    model.eval()

    @torch.no_grad()
    def step():
        hidden, total, last = model.model(ids, use_cache=False).last_hidden_state[0], 0.0, given.seq - 1
        for i in range(0, last, 1024):
            j = min(i + 1024, last)
            logits = model.lm_head(hidden[i:j])
            total += F.cross_entropy(logits, ids[0, i + 1 : j + 1], reduction="sum").item()
        return total / last

    return timed(given, step)


def attend(given):
    heads, kv_heads = map(int, given.heads.split("/"))

    def random(heads):
        return torch.randn(1, heads, given.seq, given.head_dim)

    q, k, v = (random(n).requires_grad_() for n in (heads, kv_heads, kv_heads))
    pull = random(heads)

    def step():
        if given.gqa:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        else:
            keys, values = (repeat_kv(x, heads // kv_heads) for x in (k, v))
            out = F.scaled_dot_product_attention(q, keys, values, is_causal=True)
        torch.autograd.grad(out, (q, k, v), pull)

    seconds, _ = timed(given, step)
    return seconds, []


def versions(given):
    if given.mode == "attention":
        return dict(torch=torch.__version__)
    import peft
    import transformers

    return dict(torch=torch.__version__, transformers=transformers.__version__, peft=peft.__version__)


def main():
    given = arguments()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    group = given.group or given.seq // 4
    if given.mode == "train":
        seconds, losses = train(given, group)
    elif given.mode == "eval":
        seconds, losses = evaluate(given, group)
    else:
        seconds, losses = attend(given)
    line = dict(
        mode=given.mode,
        attention=given.attention,
        seq=given.seq,
        group=None if given.attention == "full" else group,
        checkpointing=given.checkpointing,
        seconds=[round(second, 3) for second in seconds],
        process_cpu_seconds=round(time.process_time(), 1),
        tokens_per_s=round(given.seq / statistics.median(seconds), 2),
        peak_rss_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        losses=losses,
        threads=given.threads,
        allocator="jemalloc" if JEMALLOC else "glibc",
        **versions(given),
    )
    print(json.dumps(line))


if __name__ == "__main__":
    main()
