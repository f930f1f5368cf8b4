"""Every preset is the network that transformers builds of the same config, weight for weight."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel

from bothways.families import FAMILIES
from bothways.families.family import config_from_hf, config_to_hf, expand
from bothways.families.presets import PRESETS


def theirs(name: str) -> PreTrainedModel:
    preset = PRESETS[name]
    family = FAMILIES[preset.family]
    config = AutoConfig.for_model(family.model_type, **config_to_hf(family, preset.config, {}))
    with torch.device("meta"):
        return AutoModel.from_config(config)


def parts(name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors that a file of the preset would have: their names and shapes."""
    preset = PRESETS[name]
    family = FAMILIES[preset.family]
    with torch.device("meta"):
        network = preset.network()
    parameters = dict(network.named_parameters())
    for rule in expand((*family.rules, *family.pooler), preset.config):
        if rule.ours in parameters:
            shape = rule.stored_shape(tuple(parameters[rule.ours].shape))
            yield from ((source, shape) for source in rule.sources)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_weights_of_transformers_one_by_one(name: str) -> None:
    expected = {source: tuple(parameter.shape) for source, parameter in theirs(name).named_parameters()}
    assert dict(parts(name)) == expected
    assert PRESETS[name].parameters() == sum(torch.Size(shape).numel() for shape in expected.values())


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_comes_back_the_same_from_a_config_of_transformers(name: str) -> None:
    family = FAMILIES[PRESETS[name].family]
    config, _ = config_from_hf(family, theirs(name).config.to_dict())
    assert config == PRESETS[name].config
