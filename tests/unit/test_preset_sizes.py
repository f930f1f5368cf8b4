"""The presets have the sizes that their papers and model cards print."""

from __future__ import annotations

import pytest

from bothways.families import FAMILIES
from bothways.families.family import config_from_hf, config_to_hf
from bothways.families.presets import PRESETS

MILLIONS = {
    "bert-tiny": "4.4",
    "bert-mini": "11.2",
    "bert-small": "28.8",
    "bert-medium": "41.4",
    "bert-base": "109.5",
    "bert-large": "335.1",
    "minilm-l6": "22.7",
    "minilm-l12": "33.4",
    "roberta-base": "124.6",
    "roberta-large": "355.4",
    "xlm-roberta-base": "278.0",
    "xlm-roberta-large": "559.9",
    "distilbert-base": "66.4",
    "albert-base": "11.7",
    "albert-large": "17.7",
    "albert-xlarge": "58.7",
    "electra-small": "13.5",
    "electra-base": "108.9",
    "electra-large": "334.1",
    "mpnet-base": "109.5",
    "deberta-v3-xsmall": "70.7",
    "deberta-v3-small": "141.3",
    "deberta-v3-base": "183.8",
    "deberta-v3-large": "434.0",
    "mdeberta-v3-base": "278.2",
    "deberta-v2-xlarge": "884.6",
    "modernbert-base": "149.0",
    "modernbert-large": "394.8",
}


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_are_those_of_the_release(name: str) -> None:
    assert f"{PRESETS[name].parameters() / 1e6:.1f}" == MILLIONS[name]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_written_as_a_config_of_its_family_and_read_again(name: str) -> None:
    family = FAMILIES[PRESETS[name].family]
    assert config_from_hf(family, config_to_hf(family, PRESETS[name].config, {})) == (PRESETS[name].config, {})
