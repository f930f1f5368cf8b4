"""The presets have the sizes that their papers and model cards print; those of our own are sized as BERT's."""

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
    "gpt2": "124.4",
    "gpt2-medium": "354.8",
    "gpt2-large": "774.0",
    "gpt2-xl": "1557.6",
}
RELEASED = [name for name, preset in PRESETS.items() if not preset.ours]
OURS = [name for name, preset in PRESETS.items() if preset.ours]


@pytest.mark.parametrize("name", RELEASED)
def test_parameters_are_those_of_the_release(name: str) -> None:
    assert f"{PRESETS[name].parameters() / 1e6:.1f}" == MILLIONS[name]


@pytest.mark.parametrize("name", OURS)
def test_a_size_of_our_own_is_as_deep_and_as_wide_as_berts(name: str) -> None:
    ours, berts = PRESETS[name].config, PRESETS[f"bert-{name.rpartition('-')[2]}"].config
    assert (ours.depth, ours.width, ours.heads) == (berts.depth, berts.width, berts.heads)


# Of the papers: ELECTRA's table 6 (its small, base and large), DeBERTa-v3's half as many layers.
GENERATORS = {
    "electra-small": (12, 64, 1, 256, 128),
    "electra-base": (12, 256, 4, 1024, 768),
    "electra-large": (24, 256, 4, 1024, 1024),
    "deberta-v3-base": (6, 768, 12, 3072, 768),
    "deberta-v3-large": (12, 1024, 16, 4096, 1024),
}


@pytest.mark.parametrize("name", GENERATORS)
def test_generators_have_the_sizes_of_the_papers(name: str) -> None:
    preset = PRESETS[name]
    assert preset.generator is not None
    config = preset.generator.of(preset.config)
    assert (config.depth, config.width, config.heads, config.ffn, config.embed_width) == GENERATORS[name]


@pytest.mark.parametrize("name", [name for name in PRESETS if PRESETS[name].generator is not None])
def test_a_generator_is_smaller_and_shares_the_width_of_its_word_vectors(name: str) -> None:
    preset = PRESETS[name]
    assert preset.generator is not None
    config = preset.generator.of(preset.config)
    assert config.depth * config.width < preset.config.depth * preset.config.width
    assert config.embed_width == preset.config.embed_width
    assert config.head_width == preset.config.head_width


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_written_as_a_config_of_its_family_and_read_again(name: str) -> None:
    family = FAMILIES[PRESETS[name].family]
    assert config_from_hf(family, config_to_hf(family, PRESETS[name].config, {})) == (PRESETS[name].config, {})
