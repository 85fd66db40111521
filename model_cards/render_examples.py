# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
Makes one patch for each host of the zoo, whose card is an example of what is published.

    python model_cards/render_examples.py        # about ten minutes on two cores; run it in the repository's root
"""

from pathlib import Path

from hf_slug import zoo
from hf_slug.plots import save_plots


MAKE = {
    "clip": lambda: zoo.unlearn_clip("seven", tower="text"),
    "stable-diffusion": lambda: zoo.unlearn_stable_diffusion("five"),
    "llava": lambda: zoo.unlearn_llava("two"),
}


def main() -> None:
    for name, make in MAKE.items():
        result = make()
        folder = Path("model_cards/examples") / name
        # where the package lies differs from machine to machine
        result.patch.config.base_model_name_or_path = "hf_slug/zoo/clip"
        for model in filter(None, (result.report["base_model"], result.report["host"])):
            model["name_or_path"] = "/".join(Path(model["name_or_path"]).parts[-3:])
        plots = [path.name for path in save_plots(result.report, folder)]
        result.patch.save_pretrained(folder, plots=plots)
        print(f"{folder}: forgotten: {result.succeeded}")


if __name__ == "__main__":
    main()
