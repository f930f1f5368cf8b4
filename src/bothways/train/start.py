"""What a run starts from: fresh weights in the shape of a preset, or an encoder that is there already."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from bothways.checkpoint.encoder import Encoder
from bothways.errors import (
    CheckpointError,
    ConfigError,
    FreshWeightsWarning,
    UnusedWeightsWarning,
    meant,
)
from bothways.families import FAMILIES, Family
from bothways.families.presets import PRESETS
from bothways.nn.blocks import EncoderLayer
from bothways.nn.config import EncoderConfig, LearnedPositions
from bothways.nn.encoder import EncoderNetwork, Pooler
from bothways.nn.heads import Classifier
from bothways.nn.layers import initialise
from bothways.objectives.causal import edges
from bothways.objectives.choice import check_heads, generator_head, heads_of, pairs_of
from bothways.objectives.rtd import judges
from bothways.text.targets import opening
from bothways.text.tokenizer import Tokenizer
from bothways.train.settings import PretrainSettings

__all__ = [
    "REPLACED",
    "check_vocabulary",
    "fresh_head",
    "fresh_network",
    "set_dropout",
    "starting_encoder",
    "warn_of_fresh",
]

NO_HEADS: Mapping[str, nn.Module] = MappingProxyType({})
# A head for tags that is one for replaced tokens has this label alone; transformers reads it from the config.
REPLACED = {"id2label": {"0": "replaced"}, "label2id": {"replaced": 0}}


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
        hint = meant(str(name), PRESETS, "; bothways families lists them")
        raise ConfigError(f"preset {name!r} is not known{hint}")
    preset = PRESETS[name]
    family = FAMILIES[preset.family]
    check_heads(settings.objective.objectives, family)
    config = counted_from_padding(replace(preset.config, vocab=tokenizer.vocab_size), family, tokenizer)
    config = _dropping(config, settings.model.dropout)
    names = heads_of(settings.objective.objectives, family)
    extras = {**_special_ids(config, tokenizer), **_labels(settings, names)}
    generator = torch.Generator().manual_seed(settings.run.seed)
    network = EncoderNetwork(config, pooler=any(family.heads[name].pools for name in names))
    fresh_network(network, family, generator)
    heads = {name: fresh_head(name, network, family, extras, generator) for name in names}
    return Encoder(network, family, opening(tokenizer) if config.causal else tokenizer, heads, extras)


@torch.no_grad()
def fresh_network(network: EncoderNetwork, family: Family, generator: torch.Generator) -> None:
    """Give a network weights as its family begins with them."""
    initialise(network, network.config.init_std, generator)
    for layer in network.layers if family.begins_shallow else ():
        assert isinstance(layer, EncoderLayer)
        adding = [layer.attention.out, layer.ffn.down, *([] if layer.cross is None else [layer.cross.out])]
        for linear in adding:
            linear.weight.div_(math.sqrt(len(adding) * len(network.config.order)))


def _special_ids(config: EncoderConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """What a config says of special tokens: of all that there are, since what is not said is taken to be as in the
    vocabularies that families were released with."""
    cls, sep, pad = (tokenizer.id_of(role) for role in ("cls", "sep", "pad"))
    first, last = edges(tokenizer) if config.causal else (cls, sep)
    ids = {"bos_token_id": first, "eos_token_id": last, "pad_token_id": pad}
    if not config.causal:
        ids |= {"cls_token_id": cls, "sep_token_id": sep}
    return {key: number for key, number in ids.items() if number is not None}


def _labels(settings: PretrainSettings, heads: Collection[str]) -> dict[str, Any]:
    """What a config says of the labels of a head for tags that is to find replaced tokens."""
    return REPLACED if "tag" in heads and generator_head(settings.objective.objectives) is not None else {}


def fresh_head(
    name: str, network: EncoderNetwork, family: Family, extras: Mapping[str, Any], generator: torch.Generator
) -> nn.Module:
    """A head with fresh weights, but for those it shares with the network."""
    head = family.heads[name].made(network, extras, ())
    shared = {id(parameter) for parameter in network.parameters()}
    for part in head.modules():
        own = list(part.parameters(recurse=False))
        if own and not any(id(parameter) in shared for parameter in own):
            initialise(part, network.config.init_std, generator)
    return head


def counted_from_padding(config: EncoderConfig, family: Family, tokenizer: Tokenizer) -> EncoderConfig:
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
    """The config with that dropout everywhere; None: as it is."""
    if dropout is None:
        return config
    embeddings = None if config.embedding_dropout is None else dropout  # None: they have that of all else
    return replace(config, dropout=dropout, attention_dropout=dropout, embedding_dropout=embeddings)


def _continued(settings: PretrainSettings, tokenizer: Tokenizer) -> Encoder:
    """An encoder with its heads for the objectives, or fresh ones. Others, which know other weights, stay behind."""
    start = settings.model.start
    assert start is not None
    encoder = Encoder.from_pretrained(start)
    check_vocabulary(start, encoder, tokenizer)
    check_heads(settings.objective.objectives, encoder.family)
    names = heads_of(settings.objective.objectives, encoder.family)
    encoder = _relabelled(encoder, _labels(settings, names))
    set_dropout(encoder.network, settings.model.dropout, encoder.heads)
    generator = torch.Generator().manual_seed(settings.run.seed)
    pools = encoder.network.pooler is None and any(encoder.family.heads[name].pools for name in names)
    if pools:
        encoder.network.pooler = Pooler(encoder.config)
        initialise(encoder.network.pooler, encoder.config.init_std, generator)
    heads = {name: encoder.heads.get(name) or _fresh_of(name, encoder, generator) for name in names}
    left = [f"head {name}" for name in encoder.heads if name not in names] + list(encoder.lost)
    _warn_of_left(start, left)
    fresh = [f"head {name}" for name in names if name not in encoder.heads and _has_own(heads[name], encoder.network)]
    warn_of_fresh(start, [*fresh, *(["pooler"] if pools else [])])
    told = opening(tokenizer) if encoder.config.causal else tokenizer
    return replace(encoder, tokenizer=told, heads=heads, unused=())


def _relabelled(encoder: Encoder, labels: Mapping[str, Any]) -> Encoder:
    """The encoder with these labels, if there are any; a head for other tags is lost."""
    head = encoder.heads.get("tag")
    if not labels or (head is not None and judges(head)):
        return encoder
    extras = {key: value for key, value in encoder.extras.items() if key != "num_labels"}
    others = {name: one for name, one in encoder.heads.items() if name != "tag"}
    lost = () if head is None else ("head tag",)
    return replace(encoder, heads=others, extras={**extras, **labels}, unused=(*encoder.unused, *lost))


def _has_own(head: nn.Module, network: EncoderNetwork) -> bool:
    """Whether a head has weights that are not the network's."""
    shared = {id(parameter) for parameter in network.parameters()}
    return any(id(parameter) not in shared for parameter in head.parameters())


def _warn_of_left(start: str, left: list[str]) -> None:
    if left:
        named = ", ".join(left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
        warnings.warn(f"{start}: trained without {named}", UnusedWeightsWarning, stacklevel=5)


def warn_of_fresh(start: str, fresh: list[str]) -> None:
    """Say which parts of an encoder to go on from are not there, if any."""
    if fresh:
        warnings.warn(f"{start}: has no {' and no '.join(fresh)}: fresh weights", FreshWeightsWarning, stacklevel=5)


def _fresh_of(name: str, encoder: Encoder, generator: torch.Generator) -> nn.Module:
    return fresh_head(name, encoder.network, encoder.family, encoder.extras, generator)


def check_vocabulary(start: str, encoder: Encoder, tokenizer: Tokenizer) -> None:
    """The corpus's ids mean the words that the encoder knows by them; raises CheckpointError if they do not."""
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


def set_dropout(network: EncoderNetwork, dropout: float | None, heads: Mapping[str, nn.Module] = NO_HEADS) -> None:
    """Give a network and heads that dropout, wherever they drop; None: leave them as they are. Each part has that of
    its twin.
    """
    for head in heads.values() if dropout is not None else ():
        for place in ("dropout", "dense_dropout"):
            if isinstance(head, Classifier) and getattr(head, place) is not None:
                setattr(head, place, dropout)
    config = _dropping(network.config, dropout)
    with torch.device("meta"):
        twin = EncoderNetwork(config, pooler=network.pooler is not None)
    rates = {name: like.dropout for name, like in twin.named_modules() if hasattr(like, "dropout")}
    for name, part in network.named_modules():
        if name in rates:  # low-rank parts keep their own
            part.dropout = rates[name]
    network.config = config
