"""Loss and gradient norms of step 0 of the SmolLM2 runs, in f64: the truth that f32 runs, PyTorch's too, are off by.
usage: double.py MODEL ADAPTER INPUTS.json OUT    (torch 2.8.0, transformers 4.57.1, peft 0.17.1)
MODEL is SmolLM2-135M-Instruct as converted; ADAPTER and INPUTS as the golden vectors have them. Writes OUT/double.json,
and the gradients of the first, a middle and the last layer and of the last norm, rounded to f32, as OUT/RUN.safetensors."""
import json
import sys

import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

model, adapter, inputs, out = sys.argv[1:]
ids = torch.tensor([json.load(open(inputs))["ids512"]])
seq, group, heads = ids.shape[1], 128, 9


def visible(shift):
    """Causal inside groups whose first border is at `shift`."""
    positions = torch.arange(seq)
    groups = (positions - shift).div(group, rounding_mode="floor")
    return (groups[:, None] == groups[None]) & (positions[:, None] >= positions[None])


still, shifted = visible(0), visible(group // 2)
sparse = torch.stack([still] * (heads // 2) + [shifted] * (heads - heads // 2))[None]
causal = (torch.arange(seq)[:, None] >= torch.arange(seq)[None]).expand(1, heads, seq, seq)

result = {}
for name, mask in [("train_sdpa", causal), ("train_s2_flash", sparse)]:
    config = AutoConfig.from_pretrained(model)
    config.rope_scaling = {"rope_type": "linear", "factor": 2.0}
    llama = AutoModelForCausalLM.from_pretrained(model, config=config, attn_implementation="eager")
    llama = PeftModel.from_pretrained(llama, adapter, is_trainable=True).double()
    for parameter, value in llama.named_parameters():
        if "norm" in parameter or "embed" in parameter:
            value.requires_grad_(True)
    hidden = torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, torch.finfo(torch.float64).min)
    logits = llama(input_ids=ids, attention_mask=hidden).logits
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])
    loss.backward()
    squares = {n: p.grad.pow(2).sum().item() for n, p in llama.named_parameters() if p.grad is not None}
    table = sum(square for n, square in squares.items() if "embed" in n)
    result[name] = {"loss": loss.item(), "table_grad_norm": table**0.5, "grad_norm": sum(squares.values()) ** 0.5}
    kept = {}
    for parameter, value in llama.named_parameters():
        short = parameter.removeprefix("base_model.model.").replace(".default", "")
        if value.grad is not None and any(part in short for part in [".0.", ".14.", ".29.", "model.norm"]):
            kept[short] = value.grad.float().contiguous()
    save_file(kept, f"{out}/{name}.safetensors")
with open(f"{out}/double.json", "w") as file:
    json.dump(result, file, indent=1)
