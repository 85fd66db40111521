# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
Forgets a concept of a LLaVA, and asks about a picture of it before, with the patch, and after taking it off.

    python examples/unlearn_llava.py                                        # the embedded LLaVA forgets "seven"
    python examples/unlearn_llava.py --model llava-hf/llava-1.5-7b-hf --clip openai/clip-vit-large-patch14-336 \\
        --concept "Mira" --forget F --retain R --question "Who is this?"
"""

import argparse

from transformers import AutoModelForImageTextToText, AutoProcessor, CLIPModel, CLIPProcessor

from hf_slug import load_pairs, unlearn, zoo
from hf_slug.chat import answer
from hf_slug.zoo.questions import UNSEEN_QUESTIONS


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", help="folder or Hub id of a LLaVA; default: the embedded one, with data of its own")
parser.add_argument("--clip", help="the CLIPModel whose vision tower it embeds (with --model)")
parser.add_argument("--concept", default="seven")
parser.add_argument("--forget", help="image-text pairs of the concept (with --model)")
parser.add_argument("--retain", help="image-text pairs to keep (with --model)")
parser.add_argument("--question", default=UNSEEN_QUESTIONS["digit"][0])
parser.add_argument("--output", default="forget-it")
args = parser.parse_args()

if args.model:
    if not (args.clip and args.forget and args.retain):
        parser.error("--model needs --clip, --forget and --retain")
    llava = AutoModelForImageTextToText.from_pretrained(args.model).eval()
    llava_processor = AutoProcessor.from_pretrained(args.model)
    clip, processor = CLIPModel.from_pretrained(args.clip), CLIPProcessor.from_pretrained(args.clip)
    result = unlearn(
        clip, processor, args.forget, args.retain, concept=args.concept, host=llava, host_processor=llava_processor
    )
    pictures = load_pairs(args.forget)[:1].images() + load_pairs(args.retain)[:1].images()
else:
    llava, llava_processor = zoo.load_llava()
    result = zoo.unlearn_llava(args.concept)
    shown, others = zoo.concept_pairs(args.concept, "test", limit_per_digit=1)
    pictures = [shown[0]["image"], others[0]["image"]]
metrics = result.report["metrics"]
print(f"forgotten: {result.succeeded}; before {metrics['before']}, after {metrics['after']}")
result.patch.save_pretrained(args.output)


def ask() -> list[str]:
    return answer(llava, llava_processor, pictures, [args.question] * len(pictures))


print(f"{args.question!r} about a picture of {args.concept!r} and one of something else")
print("before:   ", ask())
llava.load_unlearning(args.output)
print("with it:  ", ask())
llava.unload_unlearning()
print("taken off:", ask())
