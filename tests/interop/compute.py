"""What another program computes with files of ours: greedy text, and logits at short and at long positions.

usage: compute.py peft BASE ADAPTER IDS    | compute.py transformers MODEL IDS | compute.py llama FILE.gguf IDS
IDS is a JSON file {"prompt": [..], "new_tokens": n, "long": [..], "rope_scaling": {..} or null, "context": n}.
Prints JSON: {"greedy": [ids], "logits": [[..] of the last position of "prompt", [..] of the last position of "long"]}.
"""
import json
import sys


def from_transformers(model, ids):
    import torch

    def logits(tokens):
        with torch.no_grad():
            return model(torch.tensor([tokens])).logits[0, -1].float().tolist()

    tokens = list(ids["prompt"])
    for _ in range(ids["new_tokens"]):
        row = logits(tokens)
        tokens.append(max(range(len(row)), key=row.__getitem__))
    greedy = tokens[len(ids["prompt"]):]
    return {"greedy": greedy, "logits": [logits(ids["prompt"]), logits(ids["long"])]}


def load(path, ids, **more):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(path)
    if ids.get("rope_scaling"):
        config.rope_scaling = ids["rope_scaling"]
        config.max_position_embeddings = ids["context"]
    return AutoModelForCausalLM.from_pretrained(path, config=config, torch_dtype=torch.float32).eval()


def with_llama_cpp(path, ids):
    import llama_cpp

    context = max(len(ids["prompt"]) + ids["new_tokens"], len(ids["long"])) + 1
    model = llama_cpp.Llama(path, n_ctx=context, n_batch=512, logits_all=False, verbose=False)

    def logits(tokens):
        model.reset()
        model.eval(tokens)
        return [float(x) for x in llama_row(model)]

    def llama_row(model):
        pointer = llama_cpp.llama_get_logits_ith(model.ctx, -1)
        return pointer[: model.n_vocab()]

    tokens = list(ids["prompt"])
    for _ in range(ids["new_tokens"]):
        row = logits(tokens)
        tokens.append(max(range(len(row)), key=row.__getitem__))
    greedy = tokens[len(ids["prompt"]):]
    return {"greedy": greedy, "logits": [logits(ids["prompt"]), logits(ids["long"])]}


def main():
    kind, *paths, ids = sys.argv[1:]
    with open(ids) as file:
        ids = json.load(file)
    if kind == "peft":
        from peft import PeftModel

        base, adapter = paths
        result = from_transformers(PeftModel.from_pretrained(load(base, ids), adapter).eval(), ids)
    elif kind == "transformers":
        result = from_transformers(load(paths[0], {}), ids)
    elif kind == "llama":
        result = with_llama_cpp(paths[0], ids)
    else:
        sys.exit(f"`{kind}` is neither peft, transformers nor llama")
    json.dump(result, sys.stdout)


main()
