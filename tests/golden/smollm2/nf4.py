"""Writes nf4.json: what transformers makes of SmolLM2-135M with the layers of its blocks in NF4, by bitsandbytes, and its
embedding table in bf16, all computed in f32.

    python nf4.py MODEL INPUTS.json    # transformers 4.57.1, bitsandbytes 0.50.2, torch 2.8, on a CPU
"""

import json
import sys
from pathlib import Path

import bitsandbytes.functional as bnb
import torch
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(sys.argv[1], torch_dtype=torch.float32)
for layer in (module for module in model.model.layers.modules() if isinstance(module, torch.nn.Linear)):
    packed, state = bnb.quantize_4bit(layer.weight.data, blocksize=64, quant_type="nf4")
    layer.weight.data = bnb.dequantize_4bit(packed, state)
table = model.model.embed_tokens.weight
table.data = table.data.bfloat16().float()
ids = torch.tensor([json.loads(Path(sys.argv[2]).read_text())["ids512"]])
with torch.no_grad():
    log_p = torch.log_softmax(model(ids).logits[0, :-1].double(), -1)
nll = -log_p[torch.arange(ids.shape[1] - 1), ids[0, 1:]]
Path("nf4.json").write_text(json.dumps({"mean_nll512": nll.mean().item(), "first_nll": nll[:8].tolist()}, indent=1) + "\n")
