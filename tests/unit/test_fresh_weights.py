"""What a run starts with: weights as each family begins with them, and the dropout that is asked for, everywhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from bothways import Encoder, Ragged
from bothways.families import FAMILIES
from bothways.families.presets import PRESETS, Preset
from bothways.nn.config import LocalAttention
from bothways.nn.encoder import EncoderNetwork
from bothways.nn.layers import initialise
from bothways.train.start import _dropping, fresh_network, set_dropout

SIZES: dict[str, Any] = {
    "bert": {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128},
    "gpt2": {"n_embd": 64, "n_head": 2},
    "modernbert": {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128, "pad_token_id": 0},
}
FAMILY_OF = {preset.family: name for name, preset in PRESETS.items()}  # one preset of each


def small(preset: Preset, depth: int = 2) -> EncoderNetwork:
    """The preset's network with few and narrow layers."""
    local = preset.config.local and LocalAttention(8, (preset.config.local.kinds * depth)[:depth])
    config = replace(preset.config, vocab=64, width=32, heads=2, ffn=64, depth=depth, local=local)
    network = EncoderNetwork(config, pooler=False)
    initialise(network, 0.5, torch.Generator().manual_seed(0))
    return network


@pytest.mark.parametrize("family", FAMILY_OF)
def test_without_dropout_two_forwards_are_the_same_and_with_it_every_part_drops(family: str) -> None:
    tokens = Ragged.of([[5, 6, 7, 8]])
    network = small(PRESETS[FAMILY_OF[family]]).train()
    set_dropout(network, 0.0)
    assert torch.equal(network(tokens).last.data, network(tokens).last.data)
    set_dropout(network, 0.25)
    embedded = [network.embeddings(tokens, None) for _ in range(2)]
    assert not torch.equal(*embedded)
    assert {part.dropout for part in network.modules() if hasattr(part, "dropout")} == {0.25}
    again = EncoderNetwork(network.config, pooler=False)
    assert dropouts(again) == dropouts(network)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_takes_a_dropout_everywhere_or_keeps_its_own(name: str) -> None:
    config = PRESETS[name].config
    for dropout in (0.0, 0.25):
        found = _dropping(config, dropout)
        assert {found.dropout, found.attention_dropout} == {dropout}
        assert found.embedding_dropout == (None if config.embedding_dropout is None else dropout)
    assert _dropping(config, None) == config


ORACLES = {
    "bert": (transformers.BertConfig, transformers.BertModel),
    "gpt2": (transformers.GPT2Config, transformers.GPT2Model),
    "modernbert": (transformers.ModernBertConfig, transformers.ModernBertModel),
}


@pytest.mark.parametrize("family", ORACLES)
@pytest.mark.parametrize("depth", [2, 8])
def test_fresh_weights_are_as_large_as_those_of_transformers(family: str, depth: int, tmp_path: Path) -> None:
    """Of each weight the standard deviation, which in GPT-2 and ModernBERT is less in deep networks."""
    kind, model = ORACLES[family]
    torch.manual_seed(1)
    theirs = model(kind(vocab_size=64, num_hidden_layers=depth, **SIZES[family]))
    theirs.save_pretrained(tmp_path)
    encoder = Encoder.from_pretrained(tmp_path)
    expected = spreads(encoder.network)
    fresh = EncoderNetwork(encoder.config, pooler=encoder.network.pooler is not None)
    fresh_network(fresh, encoder.family, torch.Generator().manual_seed(0))
    assert spreads(fresh) == pytest.approx(expected, rel=0.2)  # ModernBERT's there are cut at twice that


def spreads(network: nn.Module) -> dict[str, float]:
    """The standard deviation of each matrix that has enough numbers for one."""
    return {name: float(one.detach().std()) for name, one in network.named_parameters() if one.numel() > 1000}


@pytest.mark.parametrize("family", ["gpt2", "modernbert"])
def test_fresh_hidden_states_do_not_grow_with_the_depth(family: str) -> None:
    spread = {}
    for depth in (2, 32):
        network = small(PRESETS[FAMILY_OF[family]], depth).eval()
        network.norm = None
        fresh_network(network, FAMILIES[family], torch.Generator().manual_seed(0))
        with torch.inference_mode():
            spread[depth] = float(network(Ragged.of([list(range(5, 25))])).last.data.std())
    assert spread[32] < 1.5 * spread[2]


def dropouts(network: nn.Module) -> dict[str, float]:
    """By the name of the part."""
    return {name: float(part.dropout) for name, part in network.named_modules() if hasattr(part, "dropout")}
