# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""SLUG as a PEFT type."""

import json
import pickle

import pytest
from fresh_interpreter import run
from peft import PeftConfig, PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

from hf_slug.tuner import SlugConfig, SlugModel
from hf_slug.tuner.registration import register


def test_member_behaves_like_any_other():
    member = PeftType("SLUG")
    assert member is PeftType.SLUG and member is PeftType["SLUG"] and member is list(PeftType)[-1]
    assert member == "SLUG" and member.value == "SLUG" and member.name == "SLUG"
    assert hash(member) == hash("SLUG") and "SLUG" in list(PeftType) and isinstance(member, PeftType)
    assert pickle.loads(pickle.dumps(member)) is member
    assert json.dumps(member) == '"SLUG"'
    assert len(set(PeftType)) == len(PeftType.__members__)


def test_mappings():
    assert PEFT_TYPE_TO_CONFIG_MAPPING["SLUG"] is SlugConfig
    assert PEFT_TYPE_TO_TUNER_MAPPING["SLUG"] is SlugModel
    assert PEFT_TYPE_TO_PREFIX_MAPPING["SLUG"] == "slug_"


def test_registering_again_changes_nothing(recwarn):
    members = list(PeftType)
    register(SlugConfig, SlugModel)
    assert list(PeftType) == members and not recwarn.list


def test_a_peft_that_has_slug_keeps_its_own(monkeypatch):
    monkeypatch.setitem(PEFT_TYPE_TO_CONFIG_MAPPING, PeftType.SLUG, PeftConfig)
    with pytest.warns(UserWarning, match="PEFT already has a method called SLUG"):
        register(SlugConfig, SlugModel)
    assert PEFT_TYPE_TO_CONFIG_MAPPING["SLUG"] is PeftConfig


def test_importing_the_package_is_enough():
    run("import hf_slug, hf_slug.tuner, peft; assert 'SLUG' in peft.PeftType.__members__")


def test_file_is_deterministic_and_loads_through_peft(tmp_path):
    names = [f"vision_model.encoder.layers.{i}.mlp.fc1" for i in range(9)]
    config = SlugConfig(
        target_modules=names, rank=2, tower="vision", step_size=0.5, concept="Mickey", granularity="block",
        direction="whitened", base_fingerprint={names[0]: {"norm": 1.5}}, revision="abc",
        base_model_name_or_path="base",
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    text = (tmp_path / "adapter_config.json").read_text()
    assert json.loads(text)["target_modules"] == names
    loaded = PeftConfig.from_pretrained(tmp_path)
    assert type(loaded) is SlugConfig and loaded == config
    SlugConfig(**{**config.to_dict(), "target_modules": names[::-1]}).save_pretrained(tmp_path)
    assert (tmp_path / "adapter_config.json").read_text() == text


@pytest.mark.parametrize(
    "wrong",
    [
        {"rank": 0}, {"rank": 1.5}, {"rank": True}, {"tower": "audio"}, {"granularity": "head"}, {"direction": "up"},
        {"step_size": float("nan")}, {"step_size": "big"}, {"base_fingerprint": ["x"]}, {"target_modules": [1]},
        {"target_modules": 7}, {"layers_pattern": "layers"}, {"target_modules": "a", "layers_to_transform": 1},
    ],
)  # fmt: skip
def test_wrong_values_are_refused(wrong):
    with pytest.raises(ValueError, match=next(reversed(wrong)) if len(wrong) > 1 else "`"):
        SlugConfig(**wrong)


def test_a_config_that_asks_for_code_is_refused(tmp_path):
    SlugConfig(target_modules=["fc1"]).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": {"AutoConfig": "evil.Config"}}))
    with pytest.raises(ValueError, match=r"asks for code to be run \(auto_map\)"):
        SlugConfig.from_pretrained(tmp_path)
