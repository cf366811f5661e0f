"""Writes adapters as LongLoRA's own code left them: `python make.py`, beside this file, from ../tiny/model.

LoRA is in `adapter_model.bin`, norms and embeddings in `trainable_params.bin`, and the linear scaling of the training in
no file. `vectors.safetensors` has what LongLoRA's `merge_lora_weights_and_save_hf_model.py` makes of them: its base gets
the scaling, then `load_state_dict(trainable_params, strict=False)`, then PEFT's adapter.
"""

import shutil
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).resolve().parent
MODEL = HERE.parent / "tiny" / "model"
FACTOR = 2.0


def base(tied):
    config = LlamaConfig.from_pretrained(MODEL, tie_word_embeddings=tied)
    config.rope_scaling = {"type": "linear", "factor": FACTOR}
    return LlamaForCausalLM.from_pretrained(MODEL, config=config, dtype=torch.float32, attn_implementation="eager")


def make(name, tied, prefix, dtype):
    torch.manual_seed(len(name))
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    model = get_peft_model(base(tied), LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", target_modules=targets))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder, safe_serialization=False)
    (folder / "README.md").unlink()
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace(f'"{MODEL}"', '"tiny/model"'))

    # What `--trainable_params embed,norm` means: every name with one of these words in it.
    plain = base(tied)
    trained = {n: p.detach() for n, p in plain.named_parameters() if "embed" in n or "norm" in n}
    trained = {n: (p + 0.05 * torch.randn_like(p)).to(dtype) for n, p in trained.items()}
    torch.save({f"{prefix}{n}": p for n, p in trained.items()}, folder / "trainable_params.bin")

    plain.load_state_dict(trained, strict=False)
    model = PeftModel.from_pretrained(plain, folder).eval()
    ids = torch.randint(3, 96, (1, 20))
    vectors = {"input_ids": ids, "logits": model(input_ids=ids).logits.detach()}
    vectors["logits_merged"] = model.merge_and_unload()(input_ids=ids).logits.detach()
    save_file({key: tensor.contiguous().clone() for key, tensor in vectors.items()}, folder / "vectors.safetensors")
    print(name, sorted(p.name for p in folder.iterdir()), list(trained))


if __name__ == "__main__":
    make("untied", False, "", torch.float32)
    make("tied", True, "base_model.model.", torch.bfloat16)
