"""What a run starts from: fresh weights in the shape of a preset, or an encoder that is there already; and the
generator beside it, where tokens are replaced.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bothways.checkpoint.encoder import Encoder
from bothways.checkpoint.hub import resolve
from bothways.errors import (
    CheckpointError,
    ConfigError,
    FreshWeightsWarning,
    LargeGeneratorWarning,
    UnusedWeightsWarning,
)
from bothways.families import FAMILIES, Family
from bothways.families.presets import PRESETS, Generator
from bothways.nn.config import EncoderConfig, LearnedPositions
from bothways.nn.encoder import EncoderNetwork, Pooler
from bothways.nn.heads import Classifier
from bothways.nn.layers import initialise
from bothways.nn.sharing import Sharing, share, take_over
from bothways.objectives.causal import edges
from bothways.objectives.choice import check_heads, generator_head, heads_of, pairs_of
from bothways.text.tokenizer import Tokenizer
from bothways.train.networks import GENERATOR, Networks
from bothways.train.settings import PretrainSettings

__all__ = ["sharing_of", "starting_encoder", "starting_networks"]

# The generator's size where nothing is said: ELECTRA-small's, and DeBERTa-v3's where it must be as wide.
NARROW, SHALLOW = Generator(width=1 / 4), Generator(depth=1 / 2)
DISENTANGLED = ("deberta-v2",)  # the families that share embeddings so, if nothing is said
# A head for tags that is one for replaced tokens has this label alone; transformers reads it from the config.
REPLACED = {"id2label": {"0": "replaced"}, "label2id": {"replaced": 0}}


def starting_networks(settings: PretrainSettings, tokenizer: Tokenizer) -> Networks:
    """What is trained, at step 0, the same for the same settings. Raises what `starting_encoder` raises, and
    ConfigError or CheckpointError on a generator that cannot be, or does not go with the encoder.
    """
    encoder = starting_encoder(settings, tokenizer)
    head = generator_head(settings.objective.objectives)
    if head is None:
        return Networks(encoder)
    sharing = sharing_of(settings, encoder.family)
    generator = _continued_generator(settings, encoder, tokenizer, head)
    generator = generator or _fresh_generator(settings, encoder, sharing, head)
    _warn_of_size(encoder, generator)
    try:
        share(encoder.network, generator.network, sharing)
    except CheckpointError as error:
        raise CheckpointError(f"{settings.model.start}/{GENERATOR}: {error}") from None
    return Networks(encoder, generator, sharing)


def sharing_of(settings: PretrainSettings, family: Family) -> Sharing:
    """How embeddings are shared, as the settings say or else as the family does."""
    return settings.objective.sharing or ("disentangled" if family.model_type in DISENTANGLED else "tied")


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
    names = heads_of(settings.objective.objectives, family)
    extras = {**_special_ids(config, tokenizer), **_labels(settings, names)}
    generator = torch.Generator().manual_seed(settings.run.seed)
    network = EncoderNetwork(config, pooler=any(family.heads[name].pools for name in names))
    initialise(network, config.init_std, generator)
    heads = {name: _fresh_head(name, network, family, extras, generator) for name in names}
    return Encoder(network, family, tokenizer, heads, extras)


def _special_ids(config: EncoderConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """What a config says of special tokens."""
    first, last = edges(tokenizer) if config.causal else (None, None)
    ids = {"bos_token_id": first, "eos_token_id": last, "pad_token_id": tokenizer.id_of("pad")}
    return {key: number for key, number in ids.items() if number is not None}


def _labels(settings: PretrainSettings, heads: Collection[str]) -> dict[str, Any]:
    """What a config says of the labels of a head for tags that is to find replaced tokens."""
    return REPLACED if "tag" in heads and generator_head(settings.objective.objectives) is not None else {}


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
    names = heads_of(settings.objective.objectives, encoder.family)
    encoder = _relabelled(encoder, _labels(settings, names))
    _drop(encoder.network, _dropping(encoder.config, settings.model.dropout))
    generator = torch.Generator().manual_seed(settings.run.seed)
    pools = encoder.network.pooler is None and any(encoder.family.heads[name].pools for name in names)
    if pools:
        encoder.network.pooler = Pooler(encoder.config)
        initialise(encoder.network.pooler, encoder.config.init_std, generator)
    heads = {name: encoder.heads.get(name) or _fresh_of(name, encoder, generator) for name in names}
    left = [f"head {name}" for name in encoder.heads if name not in names] + list(encoder.lost)
    _warn_of_left(start, left)
    fresh = [f"head {name}" for name in names if name not in encoder.heads and _has_own(heads[name], encoder.network)]
    _warn_of_fresh(start, [*fresh, *(["pooler"] if pools else [])])
    return replace(encoder, tokenizer=tokenizer, heads=heads, unused=())


def _relabelled(encoder: Encoder, labels: Mapping[str, Any]) -> Encoder:
    """The encoder with these labels, if there are any; a head for other tags is lost."""
    head = encoder.heads.get("tag")
    if not labels or (isinstance(head, Classifier) and head.out.out_features == 1):
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


def _warn_of_fresh(start: str, fresh: list[str]) -> None:
    if fresh:
        warnings.warn(f"{start}: has no {' and no '.join(fresh)}: fresh weights", FreshWeightsWarning, stacklevel=5)


def _continued_generator(
    settings: PretrainSettings, encoder: Encoder, tokenizer: Tokenizer, head: str
) -> Encoder | None:
    """The generator beside an encoder to go on from; None, with a warning, where there is none."""
    start = settings.model.start
    if start is None:
        return None
    folder = resolve(start) / GENERATOR
    if not (folder / "config.json").is_file():
        _warn_of_fresh(start, ["generator"])
        return None
    _check_size_is_its_own(settings, folder)
    generator = Encoder.from_pretrained(folder)
    if generator.family is not encoder.family or head not in generator.heads:
        kind = f"{encoder.family.model_type} model with a head {head}"
        raise CheckpointError(f"{folder}: no {kind}, as the generator of {start} must be; remove it for a fresh one")
    _check_vocabulary(str(folder), generator, tokenizer)
    if generator.config.vocab != encoder.config.vocab:
        rows = f"{generator.config.vocab:,} rows of words, the encoder beside it {encoder.config.vocab:,}"
        raise CheckpointError(f"{folder}: has {rows}; remove it for a fresh one")
    if generator.config.longest < settings.corpus.longest:
        longest = f"the {generator.config.longest} tokens that {folder} takes"
        raise ConfigError(f"longest {settings.corpus.longest} is more than {longest}")
    _drop(generator.network, _dropping(generator.config, settings.model.dropout))
    return replace(generator, tokenizer=tokenizer, heads={head: generator.heads[head]}, unused=())


def _check_size_is_its_own(settings: PretrainSettings, folder: Path) -> None:
    for key in ("generator_width", "generator_depth"):
        if getattr(settings.model, key) is not None:
            raise ConfigError(f"{key} is given, but {folder} has a size already; leave it out")


def _fresh_generator(settings: PretrainSettings, encoder: Encoder, sharing: Sharing, name: str) -> Encoder:
    """A generator in the encoder's family, with its embeddings where they are shared, and its tokenizer."""
    config = _generator_config(settings, encoder, sharing, name)
    extras = {key: value for key, value in encoder.extras.items() if key not in REPLACED}
    rng = torch.Generator().manual_seed(settings.run.seed + 1)  # not the encoder's own numbers
    network = EncoderNetwork(config, pooler=encoder.family.heads[name].pools)
    initialise(network, config.init_std, rng)
    if sharing != "none":
        take_over(network, encoder.network)
    head = _fresh_head(name, network, encoder.family, extras, rng)
    return Encoder(network, encoder.family, encoder.tokenizer, {name: head}, extras)


def _generator_config(settings: PretrainSettings, encoder: Encoder, sharing: Sharing, name: str) -> EncoderConfig:
    """Of a fresh generator. Raises ConfigError, naming the key, where there is none of that size."""
    narrows = _narrows(encoder, name)
    size = _generator_size(settings, narrows)
    given = f"generator_width {size.width:g}, generator_depth {size.depth:g}"
    try:
        config = size.of(encoder.config, sharing != "none")
    except ConfigError as error:
        raise ConfigError(f"{given}: {error}") from None
    if config.embed_mapped and not narrows:
        raise ConfigError(
            f"{given}: hidden states of another width than the shared word vectors, which {encoder.family.model_type} "
            "models cannot have; say generator_width = 1 and a lower generator_depth, or sharing = none"
        )
    return config


def _narrows(encoder: Encoder, head: str) -> bool:
    """Whether a model of the family may have hidden states narrower than its word vectors, and that head."""
    if not any(key.ours == "embedding.words" for key in encoder.family.keys):
        return False
    try:
        with torch.device("meta"):
            network = EncoderNetwork(NARROW.of(encoder.config), pooler=False)
            encoder.family.heads[head].build(network, encoder.extras, ())
    except ConfigError:
        return False
    return True


def _generator_size(settings: PretrainSettings, narrows: bool) -> Generator:
    """As the settings say, else the preset, else what fits. narrows: whether word vectors may be of another width."""
    model = settings.model
    preset = None if model.preset is None else PRESETS[model.preset].generator
    usual = preset or (NARROW if narrows else SHALLOW)
    return Generator(model.generator_width or usual.width, model.generator_depth or usual.depth)


def _warn_of_size(encoder: Encoder, generator: Encoder) -> None:
    """A generator whose words are too good leaves nothing to be found (Clark et al. 2020, section 3.2)."""
    sizes = [sum(parameter.numel() for parameter in one.network.layers.parameters()) for one in (encoder, generator)]
    if sizes[1] > sizes[0]:
        layers = f"its layers have {sizes[1]:,} parameters, the discriminator's {sizes[0]:,}"
        said = f"the generator is larger than the discriminator: {layers}; usual is 1/4 to 1/2"
        warnings.warn(said, LargeGeneratorWarning, stacklevel=4)


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
