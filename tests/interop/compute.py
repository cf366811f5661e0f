"""What another program makes of files of ours: token ids, mean negative log-likelihood, and a greedy continuation.

usage: compute.py peft BASE ADAPTER TEXT.txt NEW_TOKENS
       compute.py transformers MODEL TEXT.txt NEW_TOKENS
       compute.py llama FILE.gguf TEXT.txt NEW_TOKENS
Prints JSON: {"ids": of the text, "nll": mean over all but the first, in nats, "continuation": text}.
"""
import json
import math
import sys


def with_torch(model, tokenizer, text, new_tokens):
    import torch

    ids = tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        nll = model(ids, labels=ids).loss.item()
        written = model.generate(ids, do_sample=False, max_new_tokens=new_tokens)
    new = written[0, ids.shape[1]:]
    return {"ids": ids[0].tolist(), "nll": nll, "continuation": tokenizer.decode(new, skip_special_tokens=True)}


def load(path):
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, torch_dtype=torch.float32).eval()


def tokenizer(path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path)


def with_llama_cpp(path, text, new_tokens):
    import llama_cpp
    import numpy

    model = llama_cpp.Llama(path, n_ctx=2048, n_batch=2048, logits_all=True, verbose=False)
    ids = model.tokenize(text.encode(), add_bos=model._model.add_bos_token(), special=True)
    model.eval(ids)
    rows = numpy.asarray(model.scores[: len(ids) - 1], dtype=numpy.float64)
    shifted = rows - rows.max(axis=1, keepdims=True)
    chosen = shifted[numpy.arange(len(ids) - 1), ids[1:]]
    nll = float((numpy.log(numpy.exp(shifted).sum(axis=1)) - chosen).mean())
    new = []
    for _ in range(new_tokens):
        token = int(numpy.argmax(model.scores[model.n_tokens - 1]))
        if token == model.token_eos():
            break
        new.append(token)
        model.eval([token])
    return {"ids": list(ids), "nll": nll, "continuation": model.detokenize(new, prev_tokens=ids).decode()}


def main():
    kind, *paths, file, new_tokens = sys.argv[1:]
    with open(file, encoding="utf-8") as opened:
        text = opened.read()
    new_tokens = int(new_tokens)
    if kind == "peft":
        from peft import PeftModel

        base, adapter = paths
        model = PeftModel.from_pretrained(load(base), adapter).eval()
        result = with_torch(model, tokenizer(base), text, new_tokens)
    elif kind == "transformers":
        result = with_torch(load(paths[0]), tokenizer(paths[0]), text, new_tokens)
    elif kind == "llama":
        result = with_llama_cpp(paths[0], text, new_tokens)
    else:
        sys.exit(f"`{kind}` is neither peft, transformers nor llama")
    assert not math.isnan(result["nll"])
    print(json.dumps(result))


main()
