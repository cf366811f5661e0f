"""What PEFT computes with an adapter: `python peft_check.py MODEL ADAPTER INPUT`, with torch, transformers and peft.

INPUT is a JSON file, a list of token ids or a list of such lists of one length, or else a text, which the model's
tokenizer reads. Prints one JSON object: versions, logits, the likeliest next token at every position, and how the model
goes on from the first row when the likeliest token is always taken.

PEFT has no place for the position embedding: where `longlora.json` beside the adapter has another one than the model,
give it with --rope-scaling and --max-position-embeddings.
"""

import argparse
import json
from pathlib import Path

import peft
import torch
import transformers
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of the base model")
    parser.add_argument("adapter", type=Path, help="folder of the adapter")
    parser.add_argument("input", type=Path, help="JSON of token ids, or a text")
    parser.add_argument("--new-tokens", type=int, default=16, help="length of the continuation")
    parser.add_argument("--rope-scaling", type=json.loads, help="an object, as config.json has it")
    parser.add_argument("--max-position-embeddings", type=int, help="tokens of the new context")
    parser.add_argument("--merge", action="store_true", help="merge the adapter before it is used")
    return parser.parse_args()


def token_ids(path, model):
    if path.suffix != ".json":
        return AutoTokenizer.from_pretrained(model)(path.read_text(), return_tensors="pt").input_ids
    ids = json.loads(path.read_text())
    return torch.tensor(ids if isinstance(ids[0], list) else [ids])


def main():
    args = arguments()
    config = AutoConfig.from_pretrained(args.model)
    if args.rope_scaling:
        config.rope_scaling = args.rope_scaling
    if args.max_position_embeddings:
        config.max_position_embeddings = args.max_position_embeddings
    base = AutoModelForCausalLM.from_pretrained(
        args.model, config=config, dtype=torch.float32, attn_implementation="eager"
    )
    model = PeftModel.from_pretrained(base, args.adapter).eval()
    if args.merge:
        model = model.merge_and_unload()

    ids = token_ids(args.input, args.model)
    with torch.no_grad():
        logits = model(input_ids=ids).logits
        row = ids[:1]
        for _ in range(args.new_tokens):
            row = torch.cat([row, model(input_ids=row).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    report = {
        "versions": {"peft": peft.__version__, "transformers": transformers.__version__, "torch": torch.__version__},
        "logits": logits.tolist(),
        "argmax": logits.argmax(-1).tolist(),
        "greedy": row[0, ids.shape[1] :].tolist(),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
