"""Writes the golden vectors of PEFT's options: `python make.py`, beside this file, from ../tiny/model.

Each folder holds `adapter/`, as `save_pretrained` wrote it, and `vectors.safetensors`: token ids, logits with the
adapter and merged, the loss, and its gradient by everything that PEFT trains. Names are those of the adapter's file,
without `base_model.model.`.
"""

import shutil
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).resolve().parent
MODEL = HERE.parent / "tiny" / "model"
PREFIX = "base_model.model."

CASES = {
    "rslora": {"lora": {"target_modules": ["q_proj", "v_proj"], "use_rslora": True}},
    "dora": {"lora": {"target_modules": ["q_proj", "v_proj", "down_proj"], "use_dora": True}},
    # The options together: a pattern that is a suffix, one that is a path, one that is a regular expression.
    "patterns": {
        "lora": {
            "target_modules": ["q_proj", "v_proj", "o_proj", "gate_proj", "mlp.down_proj"],
            "exclude_modules": ["layers.1.mlp.gate_proj"],
            "rank_pattern": {"layers.0.self_attn.q_proj": 2, "down_proj": 3, r"layers\.1\..*v_proj": 5},
            "alpha_pattern": {"o_proj": 3, "self_attn.q_proj": 5.5},
            "use_rslora": True,
            "use_dora": True,
        }
    },
    "regex": {"lora": {"target_modules": r"(?!.*gate).*\.1\.(self_attn\.[qk]|mlp\.\w+)_proj"}},
    "all_linear": {"lora": {"target_modules": "all-linear", "rank_pattern": {"mlp.up_proj": 1}}},
    "layers": {
        "lora": {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1], "layers_pattern": "layers"}
    },
    # "norm" is a suffix of the name of every norm.
    "saved": {"lora": {"target_modules": ["q_proj"], "modules_to_save": ["norm", "embed_tokens", "lm_head"]}},
    "saved_some": {"lora": {"target_modules": ["q_proj"], "modules_to_save": ["input_layernorm", "lm_head"]}},
    # Two tables that were one: PEFT trains each by itself.
    "tied_both": {"tied": True, "lora": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}},
    # The head stays on the table of the base.
    "tied_embeddings": {"tied": True, "lora": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}},
    # The tables of the base were changed, as by resizing, and are saved with the adapter.
    "resized": {"resized": True, "lora": {"target_modules": ["q_proj"]}},
    "tied_resized": {
        "tied": True,
        "resized": True,
        "lora": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    },
}


def base(tied):
    config = LlamaConfig.from_pretrained(MODEL, tie_word_embeddings=tied)
    return LlamaForCausalLM.from_pretrained(MODEL, config=config, dtype=torch.float32, attn_implementation="eager")


def file_name(name):
    name = name.removeprefix(PREFIX).replace("modules_to_save.default.", "").replace(".default", "")
    return name.removesuffix(".weight") if "lora_magnitude_vector" in name else name


def make(name, lora, tied=False, resized=False):
    torch.manual_seed(len(name))
    model = base(tied)
    if resized:
        with torch.no_grad():
            for module in {model.get_input_embeddings(), model.get_output_embeddings()}:
                module.weight.add_(0.1 * torch.randn_like(module.weight))
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=6, task_type="CAUSAL_LM", **lora))
    trained = {file_name(n): p for n, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for key, parameter in trained.items():
            spread = 0.05 * torch.randn_like(parameter)
            parameter.add_(spread * parameter if "magnitude" in key else spread)

    ids = torch.randint(3, 96, (1, 20))
    model.eval()
    out = model(input_ids=ids, labels=ids)
    out.loss.backward()
    vectors = {"input_ids": ids, "logits": out.logits.detach(), "loss": out.loss.detach().reshape(1)}
    vectors |= {f"grad.{key}": parameter.grad for key, parameter in trained.items()}

    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder / "adapter", save_embedding_layers=resized)
    (folder / "adapter" / "README.md").unlink()
    config = folder / "adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace(f'"{MODEL}"', '"tiny/model"'))

    merged = model.merge_and_unload()
    vectors["logits_merged"] = merged(input_ids=ids).logits.detach()
    save_file({key: tensor.contiguous().clone() for key, tensor in vectors.items()}, folder / "vectors.safetensors")
    print(f"{name:<16} loss {float(out.loss):.6f}  trained {len(trained)}")


if __name__ == "__main__":
    for name, case in CASES.items():
        make(name, **case)
