"""The generator that a run begins with: one beside the encoder that it goes on from, or a fresh one."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import torch

from bothways.checkpoint.encoder import Encoder
from bothways.checkpoint.generator import GENERATOR, generator_folder, read_generator
from bothways.checkpoint.hub import resolve
from bothways.errors import CheckpointError, ConfigError, LargeGeneratorWarning
from bothways.families import Family
from bothways.families.presets import PRESETS, Generator
from bothways.nn.config import EncoderConfig
from bothways.nn.encoder import EncoderNetwork
from bothways.nn.sharing import Sharing, share, take_over
from bothways.objectives.choice import generator_head
from bothways.text.tokenizer import Tokenizer
from bothways.train.networks import Networks
from bothways.train.settings import PretrainSettings
from bothways.train.start import (
    REPLACED,
    check_vocabulary,
    fresh_head,
    fresh_network,
    set_dropout,
    starting_encoder,
    warn_of_fresh,
)

__all__ = ["starting_networks"]

# The generator's size where nothing is said: ELECTRA-small's, and DeBERTa-v3's where it must be as wide.
NARROW, SHALLOW = Generator(width=1 / 4), Generator(depth=1 / 2)
DISENTANGLED = ("deberta-v2",)  # the families that share embeddings so, if nothing is said


def starting_networks(settings: PretrainSettings, tokenizer: Tokenizer) -> Networks:
    """What is trained, at step 0, the same for the same settings. Raises what `starting_encoder` raises, and
    ConfigError or CheckpointError on a generator that cannot be, or does not go with the encoder.
    """
    encoder = starting_encoder(settings, tokenizer)
    head = generator_head(settings.objective.objectives)
    if head is None:
        return Networks(encoder)
    sharing = _sharing_of(settings, encoder.family)
    generator = _continued_generator(settings, encoder, tokenizer, head)
    generator = generator or _fresh_generator(settings, encoder, sharing, head)
    _warn_of_size(encoder, generator)
    try:
        share(encoder.network, generator.network, sharing)
    except CheckpointError as error:
        raise CheckpointError(f"{settings.model.start}/{GENERATOR}: {error}") from None
    return Networks(encoder, generator, sharing)


def _sharing_of(settings: PretrainSettings, family: Family) -> Sharing:
    """How embeddings are shared, as the settings say or else as the family does."""
    return settings.objective.sharing or ("disentangled" if family.model_type in DISENTANGLED else "tied")


def _continued_generator(
    settings: PretrainSettings, encoder: Encoder, tokenizer: Tokenizer, head: str
) -> Encoder | None:
    """The generator beside an encoder to go on from; None, with a warning, where there is none."""
    start = settings.model.start
    if start is None:
        return None
    folder = generator_folder(resolve(start))
    if folder is None:
        warn_of_fresh(start, ["generator"])
        return None
    _check_size_is_its_own(settings, folder)
    generator = read_generator(folder, encoder, head)
    check_vocabulary(str(folder), generator, tokenizer)
    if generator.config.longest < settings.corpus.longest:
        longest = f"the {generator.config.longest} tokens that {folder} takes"
        raise ConfigError(f"longest {settings.corpus.longest} is more than {longest}")
    set_dropout(generator.network, settings.model.dropout, generator.heads)
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
    fresh_network(network, encoder.family, rng)
    if sharing != "none":
        take_over(network, encoder.network)
    head = fresh_head(name, network, encoder.family, extras, rng)
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
            encoder.family.heads[head].made(network, encoder.extras, ())
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
