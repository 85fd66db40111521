# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
Forgets a concept of a CLIPModel, saves the patch, loads it with PEFT, and takes it off again.

    python examples/unlearn_clip.py                                   # the embedded CLIP forgets "three"
    python examples/unlearn_clip.py --model openai/clip-vit-base-patch32 --concept mira --forget F --retain R
"""

import argparse

import torch
from peft import PeftModel
from transformers import CLIPModel, CLIPProcessor

from hf_slug import unlearn, zoo


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", help="folder or Hub id of a CLIPModel; default: the embedded one, with data of its own")
parser.add_argument("--concept", default="three")
parser.add_argument("--forget", help="image-text pairs of the concept (with --model)")
parser.add_argument("--retain", help="image-text pairs to keep (with --model)")
parser.add_argument("--output", default="forget-it")
args = parser.parse_args()

if args.model:
    if not (args.forget and args.retain):
        parser.error("--model needs --forget and --retain")
    model = CLIPModel.from_pretrained(args.model)
    processor = CLIPProcessor.from_pretrained(args.model)
    result = unlearn(model, processor, args.forget, args.retain, concept=args.concept)
else:
    model, processor = zoo.load_clip()
    result = zoo.unlearn_clip(args.concept)
metrics = result.report["metrics"]
print(f"forgotten: {result.succeeded}; before {metrics['before']}, after {metrics['after']}")
result.patch.save_pretrained(args.output)

original = {name: weight.clone() for name, weight in model.state_dict().items()}
patched = PeftModel.from_pretrained(model, args.output)
print("changes", ", ".join(sorted(result.patch.modules)))
restored = patched.unload().state_dict()
print("taken off to the bit:", all(torch.equal(restored[name], original[name]) for name in original))
