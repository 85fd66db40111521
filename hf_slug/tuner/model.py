# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The tuner: unlearning patches as PEFT adapters."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from typing import Any, Optional

import torch
from peft.config import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, _ExcludedModule, check_target_module_exists
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from ..arithmetic import weighted_sum
from ..errors import CorruptPatchError
from .checks import check_adapter_name, check_tensors
from .config import SlugConfig
from .layer import SlugLayer, SlugLinear
from .removal import path_parts, take_off


PEFT_PREFIX = "base_model.model."


def listed(names: str | Iterable[str] | None) -> list[str]:
    """The names of a config field that holds one regular expression, several names or nothing."""
    return [names] if isinstance(names, str) else list(names or ())


class SlugModel(BaseTuner):
    """
    Applies unlearning patches to a model. One patch is one delta to the weights of one layer, computed by
    [`~hf_slug.unlearn`] and never trained; see [Targeted Unlearning with Single Layer Unlearning
    Gradient](https://arxiv.org/abs/2407.11867).

    Args:
        model ([`~transformers.PreTrainedModel`]): The model to be changed.
        config ([`SlugConfig`]): The configuration of the patch.
        adapter_name (`str`): The name of the adapter, defaults to `"default"`.
        low_cpu_mem_usage (`bool`, *optional*, defaults to `False`):
            Create empty adapter weights on meta device. Useful to speed up the loading process.

    Returns:
        `torch.nn.Module`: The model with the patch.

    Example:

        ```py
        >>> from peft import PeftModel
        >>> from transformers import CLIPModel
        >>> import hf_slug

        >>> model = CLIPModel.from_pretrained("openai/clip-vit-base-patch32")
        >>> model = PeftModel.from_pretrained(model, "user/forget-mickey")
        ```

    **Attributes**:
        - **model** ([`~transformers.PreTrainedModel`]) -- The model that is changed.
        - **peft_config** ([`SlugConfig`]): The configuration of the patch.
    """

    prefix: str = "slug_"
    tuner_layer_cls = SlugLayer
    peft_config: dict[str, SlugConfig]  # type: ignore[assignment]
    target_module_mapping: dict[str, list[str]] = {}  # a patch belongs to the layer that the search chose: no defaults

    # ---------------------------------------------------------------- injection

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """
        Put the layers of an adapter in place, or, if that fails, leave the model as it was.

        Args:
            model (`nn.Module`):
                The model to be changed.
            adapter_name (`str`):
                The adapter name, which must be in `peft_config`.
            args, kwargs (*optional*):
                As in [`~peft.tuners.tuners_utils.BaseTuner.inject_adapter`].

        Raises:
            AdapterNameError: If PEFT would mix up the name with that of a module.
            WrongBaseError: If the config has a fingerprint and the weights are others.
            TypeError: If a target is of an unsupported type.
            ValueError: If no module matches the targets.
        """
        config = self.peft_config[adapter_name]
        targets = copy.copy(config.target_modules)
        if "_trainable_before" not in vars(self):
            # PEFT freezes the base; a failing load gives it back as it was.
            self._trainable_before = [parameter for parameter in model.parameters() if parameter.requires_grad]
        try:
            check_adapter_name(adapter_name, self.prefix, path_parts(model))
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        except BaseException:
            take_off(self, adapter_name)
            raise
        if isinstance(targets, set):
            # PEFT condenses long lists to what suffices on this very model. A patch keeps its canonical names.
            config.target_modules = targets

    @staticmethod
    def resolve_targets(config: SlugConfig, model: nn.Module) -> None:
        """
        Find the canonical names of a config in a model and note where they are, in `config.live_names`.

        Args:
            config ([`SlugConfig`]): The configuration.
            model (`nn.Module`): The model.
        """
        from ..towers import resolve_modules

        names = {*listed(config.target_modules), *listed(config.exclude_modules)}
        config.live_names = resolve_modules(model, sorted(names))

    def _prepare_model(self, peft_config: SlugConfig, model: nn.Module) -> None:  # type: ignore[override]
        if peft_config.without_weights is not None:
            raise CorruptPatchError(
                f"{peft_config.without_weights} holds the config of a patch and no `{SAFETENSORS_WEIGHTS_NAME}`. Nothing was "
                "changed; get the patch again from its author."
            )
        self.resolve_targets(peft_config, model)
        if peft_config.base_fingerprint is not None:
            self._verify_base(peft_config, model)

    def _verify_base(self, config: SlugConfig, model: nn.Module) -> None:
        from ..fingerprint import verify_fingerprint

        weights: dict[str, Tensor] = {}
        for canonical in config.base_fingerprint or {}:
            live = config.live_names.get(canonical, canonical)
            try:
                module: Any = model.get_submodule(live)
            except AttributeError:
                continue
            kept = module.slug_original if isinstance(module, SlugLayer) else None
            module = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
            weights[canonical] = module.weight.data if kept is None else kept
        verify_fingerprint(weights, config.base_fingerprint or {}, base_name=config.base_model_name_or_path)

    @staticmethod
    def _check_target_module_exists(  # type: ignore[override]
        peft_config: SlugConfig, key: str
    ) -> bool | re.Match[str] | None:
        live_names = peft_config.live_names
        if any(live_names.get(name) == key for name in listed(peft_config.exclude_modules)):
            return _ExcludedModule()  # type: ignore[return-value]
        # A canonical name that was found stands for that module alone; the others are matched as PEFT does.
        targets = listed(peft_config.target_modules)
        known = [name for name in targets if name in live_names]
        rest = copy.copy(peft_config)
        if known:
            rest.target_modules = [name for name in targets if name not in live_names]
        found = check_target_module_exists(rest, key)
        if isinstance(found, _ExcludedModule):
            return found
        return found or any(live_names[name] == key for name in known)

    def _create_and_replace(
        self,
        peft_config: SlugConfig,  # type: ignore[override]
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: Optional[str] = None,
    ) -> None:
        if isinstance(target, SlugLayer):
            target.update_layer(adapter_name, peft_config, current_key)
            return
        if isinstance(parent, nn.MultiheadAttention):
            raise TypeError(
                f"Target module {current_key!r} belongs to an `nn.MultiheadAttention`, which reads its weight without "
                "calling it, so a wrapper around it would change nothing. Use `load_unlearning`, which writes the "
                "weight itself."
            )
        base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        layer_cls = SlugLinear if isinstance(base, nn.Linear) else SlugLayer
        self._replace_module(parent, target_name, layer_cls(target, adapter_name, peft_config, current_key), target)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """Do nothing: a delta is in float32 from the start."""

    # ---------------------------------------------------------------- files

    @classmethod
    def _adapter_keys(cls, model: nn.Module, adapter_name: str) -> dict[str, tuple[str, torch.Size]]:
        """By the parameter's name in `model`: its name with the module's canonical name, and its shape."""
        keys = {}
        for name, module in model.named_modules():
            if not isinstance(module, SlugLayer) or adapter_name not in module.canonical_names:
                continue
            live, canonical = module.canonical_names[adapter_name]
            in_file = name.removesuffix(live) + canonical if name.endswith(live) else name
            for attribute in module.adapter_layer_names:
                if adapter_name in getattr(module, attribute):
                    shape = getattr(module, attribute)[adapter_name].shape
                    keys[f"{name}.{attribute}.{adapter_name}"] = (f"{in_file}.{attribute}.{adapter_name}", shape)
        return keys

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: PeftConfig,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        unwanted_adapter_names: list[str],
    ) -> dict[str, Tensor]:
        keys = cls._adapter_keys(model, adapter_name)
        return {in_file: state_dict[key] for key, (in_file, _) in keys.items() if key in state_dict}

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        keys = cls._adapter_keys(model, adapter_name)
        # The file may use the canonical name or, after transformers' own renaming, the live one; a model that is not a
        # `PeftModel` has no prefix, the file always does.
        known = {}
        for key, (in_file, _) in keys.items():
            for name in (key, in_file):
                short = cls._remove_adapter_name_from_key(name, adapter_name)
                known.update({short: key, PEFT_PREFIX + short: key})
        wrappers = [f"{n}." for n, m in model.named_modules() if isinstance(m, AuxiliaryTrainingWrapper)]
        found: dict[str, Tensor] = {}
        for name, value in state_dict.items():
            found[name if known.get(name, name) in found else known.get(name, name)] = value
        try:
            check_tensors(found, {key: shape for key, (_, shape) in keys.items()}, wrappers)
        except ValueError:
            take_off(getattr(model, "base_model", model), adapter_name)
            raise
        return {name: value.to(torch.float32) if name in keys else value for name, value in found.items()}

    def adapter_tensors(self, adapter_name: str) -> dict[str, Tensor]:
        """The tensors of an adapter, keyed as in its file."""
        keys, state = self._adapter_keys(self.model, adapter_name), self.model.state_dict()
        return {
            PEFT_PREFIX + self._remove_adapter_name_from_key(in_file, adapter_name): state[key]
            for key, (in_file, _) in keys.items()
        }

    def push_to_hub(self, repo_id: str, adapter_name: Optional[str] = None, **hub_kwargs: Any) -> str:
        """
        Publish an adapter as a patch, in one commit. See [`~hf_slug.UnlearningPatch.push_to_hub`].

        Args:
            repo_id (`str`):
                Repository id, `"user/name"`.
            adapter_name (`str`, *optional*):
                Which adapter. May be left out where one is active.
            hub_kwargs (additional keyword arguments, *optional*):
                `private`, `token`, `commit_message`, `create_pr`, `revision`, `subfolder`.

        Returns:
            `str`: The address of the commit, or of the pull request.
        """
        from ..patch import UnlearningPatch

        return UnlearningPatch.from_peft(self, adapter_name).push_to_hub(repo_id, **hub_kwargs)

    # ---------------------------------------------------------------- several adapters

    def add_weighted_adapter(self, adapters: Sequence[str], weights: Sequence[float], adapter_name: str) -> None:
        """
        Add an adapter whose delta is `Σ weightᵢ·Δᵢ` of others, computed in float64 and stored dense in float32.

        Args:
            adapters (`List[str]`):
                The names of the adapters; they may change different modules.
            weights (`List[float]`):
                The weight of each, on the delta as published (a scale set at run time does not count).
            adapter_name (`str`):
                The name of the new adapter, which is not activated.

        Raises:
            ValueError: If an adapter is not there or named twice, the lengths differ, or the new name is taken or
            unusable.
        """
        unknown = sorted(set(adapters) - set(self.peft_config))
        if unknown or not adapters or len(set(adapters)) != len(adapters) or len(weights) != len(adapters):
            raise ValueError(
                f"Expected one weight for each of some distinct adapters out of {sorted(self.peft_config)}, got "
                f"adapters {list(adapters)} and weights {list(weights)}."
            )
        if adapter_name in self.peft_config:
            raise ValueError(f"There is already an adapter {adapter_name!r}. Choose another name, or delete it first.")
        if any(self.peft_config[name].modules_to_save for name in adapters):
            raise ValueError("Adapters with `modules_to_save` can't be added up: those modules are not deltas.")
        factor = dict(zip(adapters, weights, strict=True))
        layers = [layer for layer in self.model.modules() if isinstance(layer, SlugLayer)]
        shares = [(layer, [name for name in adapters if name in layer.scaling]) for layer in layers]
        targets = {layer.canonical_names[name][1] for layer, names in shares for name in names}
        self.peft_config[adapter_name] = self._weighted_config(adapters, targets)
        self.inject_adapter(self.model, adapter_name)
        for layer, names in shares:
            if names and adapter_name in layer.slug_delta:
                delta = weighted_sum({name: layer.get_delta(name).detach() for name in names}, factor)
                layer.slug_delta[adapter_name].data = delta.to(layer.slug_delta[adapter_name].device)

    def _weighted_config(self, adapters: Sequence[str], targets: set[str]) -> SlugConfig:
        configs = [self.peft_config[name] for name in adapters]
        prints = [config.base_fingerprint for config in configs]
        towers = {config.tower for config in configs}
        concepts = [config.concept for config in configs if config.concept]
        return SlugConfig(
            base_model_name_or_path=configs[0].base_model_name_or_path,
            revision=configs[0].revision,
            task_type=configs[0].task_type,
            inference_mode=configs[0].inference_mode,
            target_modules=list(targets),
            tower=towers.pop() if len(towers) == 1 else None,
            concept=", ".join(concepts) or None,
            base_fingerprint=None
            if None in prints
            else {key: value for known in prints for key, value in (known or {}).items()},
        )
