# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Makes methods of `load_unlearning` and its siblings, whichever of hf_slug and the host's library is imported first."""

from types import ModuleType

import wrapt


# Where the classes live that get the methods. What is never imported costs nothing.
_CLASSES = {
    "diffusers.pipelines.pipeline_utils": "DiffusionPipeline",
    "transformers.models.clip.modeling_clip": "CLIPPreTrainedModel",
    "transformers.models.llava.modeling_llava": "LlavaPreTrainedModel",
    "transformers.models.llava_next.modeling_llava_next": "LlavaNextPreTrainedModel",
    "transformers.models.vipllava.modeling_vipllava": "VipLlavaPreTrainedModel",
    "transformers.models.video_llava.modeling_video_llava": "VideoLlavaPreTrainedModel",
}


def register() -> None:
    """Adds the methods now to classes that are there already, and to the others as soon as their module is imported."""
    for path in _CLASSES:
        wrapt.register_post_import_hook(_install, path)


def _install(module: ModuleType) -> None:
    from .hosts import VERBS

    cls = getattr(module, _CLASSES[module.__name__])
    for verb in VERBS:
        setattr(cls, verb.__name__, verb)
