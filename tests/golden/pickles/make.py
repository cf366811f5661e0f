"""PyTorch's own files of the tiny model, as `save_pretrained(safe_serialization=False)` wrote them in their time.
usage: make.py MODEL OUT   (torch 2.8.0, safetensors 0.8.0)"""
import json
import sys

import torch
from safetensors.torch import load_file

model, out = sys.argv[1:]
tensors = load_file(f"{model}/model.safetensors")
half = {name: tensor.half() for name, tensor in tensors.items()}
torch.save(half, f"{out}/half.bin")
# Views of one storage, not contiguous, of several types: what checkpoints of old hold.
mixed = {name: (tensor.t().contiguous().t() if tensor.dim() == 2 else tensor.bfloat16()) for name, tensor in tensors.items()}
names = sorted(mixed)
shards = {"pytorch_model-00001-of-00002.bin": names[: len(names) // 2], "pytorch_model-00002-of-00002.bin": names[len(names) // 2 :]}
for file, part in shards.items():
    torch.save({name: mixed[name] for name in part}, f"{out}/{file}")
index = {"metadata": {"total_size": 0}, "weight_map": {name: file for file, part in shards.items() for name in part}}
json.dump(index, open(f"{out}/pytorch_model.bin.index.json", "w"), indent=1)
torch.save(half, f"{out}/legacy.bin", _use_new_zipfile_serialization=False)
