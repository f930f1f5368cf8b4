"""What a run starts from: fresh weights in the shape of a preset, or an encoder that is there already."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from bothways.checkpoint.encoder import Encoder
from bothways.errors import CheckpointError, ConfigError, UnusedWeightsWarning
from bothways.families import FAMILIES, Family
from bothways.families.presets import PRESETS
from bothways.nn.config import EncoderConfig, LearnedPositions
from bothways.nn.encoder import EncoderNetwork, Pooler
from bothways.nn.layers import initialise
from bothways.objectives.causal import edges
from bothways.objectives.choice import check_heads, heads_of, pairs_of
from bothways.text.tokenizer import Tokenizer
from bothways.train.settings import PretrainSettings

__all__ = ["starting_encoder"]


def starting_encoder(settings: PretrainSettings, tokenizer: Tokenizer) -> Encoder:
    """The encoder at step 0, the same for the same settings.

    Raises ConfigError on a preset that is not known, on objectives that its family has no heads for, and on sequences
    longer than the encoder takes; CheckpointError on an encoder to go on from that cannot be read, or was trained with
    another vocabulary.
    """
    encoder = _fresh(settings, tokenizer) if settings.model.start is None else _continued(settings, tokenizer)
    if pairs_of(settings.objective.objectives) is not None and encoder.config.types < 2:
        name = settings.model.start or settings.model.preset
        raise ConfigError(f"objectives has pairs of segments, but {name} has no types to tell them apart by")
    if settings.corpus.longest > encoder.config.longest:
        name = settings.model.start or settings.model.preset
        longest = f"the {encoder.config.longest} tokens {name} takes"
        raise ConfigError(f"longest {settings.corpus.longest} is more than {longest}")
    return encoder


def _fresh(settings: PretrainSettings, tokenizer: Tokenizer) -> Encoder:
    name = settings.model.preset
    if name not in PRESETS:
        raise ConfigError(f"preset {name!r} is not known; bothways families lists them")
    preset = PRESETS[name]
    family = FAMILIES[preset.family]
    check_heads(settings.objective.objectives, family)
    config = _counted_from_padding(replace(preset.config, vocab=tokenizer.vocab_size), family, tokenizer)
    config = _dropping(config, settings.model.dropout)
    extras = _special_ids(config, tokenizer)
    generator = torch.Generator().manual_seed(settings.run.seed)
    names = heads_of(settings.objective.objectives, family)
    network = EncoderNetwork(config, pooler=any(family.heads[name].pools for name in names))
    initialise(network, config.init_std, generator)
    heads = {name: _fresh_head(name, network, family, extras, generator) for name in names}
    return Encoder(network, family, tokenizer, heads, extras)


def _special_ids(config: EncoderConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """What a config says of special tokens."""
    first, last = edges(tokenizer) if config.causal else (None, None)
    ids = {"bos_token_id": first, "eos_token_id": last, "pad_token_id": tokenizer.id_of("pad")}
    return {key: number for key, number in ids.items() if number is not None}


def _fresh_head(
    name: str, network: EncoderNetwork, family: Family, extras: Mapping[str, Any], generator: torch.Generator
) -> nn.Module:
    """A head with fresh weights, but for those it shares with the network."""
    head = family.heads[name].build(network, extras, ())
    shared = {id(parameter) for parameter in network.parameters()}
    for part in head.modules():
        own = list(part.parameters(recurse=False))
        if own and not any(id(parameter) in shared for parameter in own):
            initialise(part, network.config.init_std, generator)
    return head


def _counted_from_padding(config: EncoderConfig, family: Family, tokenizer: Tokenizer) -> EncoderConfig:
    """The config with positions behind this tokenizer's padding id, for families whose files say so.

    (MPNet counts from 2 whatever the padding is: a file of it could not say otherwise.)
    """
    positions, pad = config.positions, tokenizer.id_of("pad")
    said = any(key.ours == "positions.offset" for key in family.keys)
    if pad is None or not said or not isinstance(positions, LearnedPositions):
        return config
    count = positions.count - positions.offset + pad + 1
    return replace(config, positions=replace(positions, count=count, offset=pad + 1))


def _dropping(config: EncoderConfig, dropout: float | None) -> EncoderConfig:
    return config if dropout is None else replace(config, dropout=dropout, attention_dropout=dropout)


def _continued(settings: PretrainSettings, tokenizer: Tokenizer) -> Encoder:
    """An encoder with its heads for the objectives, or fresh ones. Others, which know other weights, stay behind."""
    start = settings.model.start
    assert start is not None
    encoder = Encoder.from_pretrained(start)
    _check_vocabulary(start, encoder, tokenizer)
    check_heads(settings.objective.objectives, encoder.family)
    _drop(encoder.network, _dropping(encoder.config, settings.model.dropout))
    generator = torch.Generator().manual_seed(settings.run.seed)
    names = heads_of(settings.objective.objectives, encoder.family)
    if encoder.network.pooler is None and any(encoder.family.heads[name].pools for name in names):
        encoder.network.pooler = Pooler(encoder.config)
        initialise(encoder.network.pooler, encoder.config.init_std, generator)
    heads = {name: encoder.heads.get(name) or _fresh_of(name, encoder, generator) for name in names}
    left = [f"head {name}" for name in encoder.heads if name not in names]
    left += encoder.lost
    if left:
        named = ", ".join(left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
        warnings.warn(f"{start}: trained without {named}", UnusedWeightsWarning, stacklevel=4)
    return replace(encoder, tokenizer=tokenizer, heads=heads, unused=())


def _fresh_of(name: str, encoder: Encoder, generator: torch.Generator) -> nn.Module:
    return _fresh_head(name, encoder.network, encoder.family, encoder.extras, generator)


def _check_vocabulary(start: str, encoder: Encoder, tokenizer: Tokenizer) -> None:
    """The corpus's ids mean the words that the encoder knows by them."""
    if tokenizer.vocab_size > encoder.config.vocab:
        rows = f"{encoder.config.vocab:,} rows, the corpus's tokenizer {tokenizer.vocab_size:,} entries"
        raise CheckpointError(f"{start}: has {rows}; build the corpus with this encoder's tokenizer")
    if encoder.tokenizer is None:
        return
    ours, theirs = (one.backend.get_vocab(with_added_tokens=True) for one in (tokenizer, encoder.tokenizer))
    if ours != theirs:
        token = min(set(ours.items()) ^ set(theirs.items()), key=lambda entry: (entry[1], entry[0]))[0]
        ids = f"{token!r} has the id {theirs.get(token)} there, {ours.get(token)} in the corpus"
        raise CheckpointError(f"{start}: its vocabulary is another one: {ids}; build the corpus with its tokenizer")


def _drop(network: EncoderNetwork, config: EncoderConfig) -> None:
    """Give a network the dropout of another config: each part that of its twin."""
    with torch.device("meta"):
        twin = EncoderNetwork(config, pooler=network.pooler is not None)
    for part, like in zip(network.modules(), twin.modules()):
        if hasattr(part, "dropout"):
            part.dropout = like.dropout
    network.config = config
