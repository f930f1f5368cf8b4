"""What a run begins with that learns to write: an encoder, an adapter and a decoder, each its own or a fresh one; or a
decoder alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from bothways.checkpoint.encoder import Encoder, tokenizer_of
from bothways.checkpoint.encoder_decoder import EncoderDecoder
from bothways.checkpoint.hub import resolve
from bothways.checkpoint.marks import Around, Marks
from bothways.engine.parts import is_pair, parts_of
from bothways.errors import CheckpointError, ConfigError
from bothways.families import FAMILIES, Family
from bothways.families.pair import paired
from bothways.nn.adapter import AdapterConfig, adapter_of
from bothways.nn.config import EmbeddingMap, EncoderConfig, LearnedPositions
from bothways.nn.encoder import EncoderNetwork
from bothways.objectives.causal import edges
from bothways.text.formats import load_tokenizer
from bothways.text.tokenizer import Tokenizer
from bothways.train.seq2seq_settings import Seq2SeqSettings
from bothways.train.start import counted_from_padding, fresh_head, fresh_network, set_dropout

__all__ = ["starting_model"]

Told = Callable[[str], None]
# Of fresh decoders on encoders of families that have none.
PLAIN = "bert"
LONGEST = 512
LINE_END = "\n"


def starting_model(settings: Seq2SeqSettings, told: Told) -> EncoderDecoder | Encoder:
    """An encoder with a decoder, or a decoder alone, an `Encoder` with a head that predicts next words.

    told: is told which weights are fresh, and which stay behind.
    Raises ConfigError or CheckpointError on parts that are not there or do not go together.
    """
    name, generator = settings.source.model, torch.Generator().manual_seed(settings.run.seed)
    if not name:
        raise ConfigError("model is missing: say what to begin with, a folder or an id on the hub")
    before = Around()
    if is_pair(name):
        pair = EncoderDecoder.from_pretrained(name)
        before = Around(Around.of(pair.extras, name).prefix)
        model: EncoderDecoder | Encoder = _gone_on(pair, settings, generator, told)
    else:
        encoder = Encoder.from_pretrained(name)
        tokenizer_of(encoder, name)
        alone = encoder.config.causal
        model = _alone(encoder, settings) if alone else _joined(encoder, settings, generator, told)
    if isinstance(model, EncoderDecoder):
        model = replace(model, extras={**model.extras, **before.asked(settings.sides.prefix).as_keys()})
        set_dropout(model.encoder, settings.source.dropout)
        set_dropout(model.decoder, settings.source.dropout)
    else:
        set_dropout(model.network, settings.source.dropout)
    return model


def _alone(encoder: Encoder, settings: Seq2SeqSettings) -> Encoder:
    """A decoder alone, with no head but that of next words. Raises ConfigError on what is said of two networks."""
    name = settings.source.model
    if "causal" not in encoder.heads:
        raise CheckpointError(f"{name} has no head that predicts next words; load one trained for it")
    said = {
        "decoder": settings.decoder.decoder,
        "target_tokenizer": settings.decoder.target_tokenizer,
        "adapter": settings.adapter.adapter,
        "encoder_lr": settings.adam.encoder_lr,
        "fresh_encoder": settings.source.fresh_encoder,
        **{size: getattr(settings.decoder, size) for size in ("depth", "width", "heads", "ffn")},
    }
    for key, value in said.items():
        if value:
            raise ConfigError(f"{key} is for an encoder with a decoder, but {name} is a decoder alone; leave it out")
    if settings.source.layers == 0:
        raise ConfigError(f"layers is 0, but {name} is a decoder alone, of which nothing would learn; say 1 or more")
    extras = {**encoder.extras, **_around(encoder, settings).as_keys()}
    if not parts_of(encoder, name).end:  # else nothing would say where a text ends
        extras["eos_token_id"] = edges(tokenizer_of(encoder, name))[1]
    return replace(encoder, heads={"causal": encoder.heads["causal"]}, extras=extras, unused=())


def _around(encoder: Encoder, settings: Seq2SeqSettings) -> Around:
    """What stands around the sources of a decoder alone: what is asked for, else what it was trained with before."""
    own, asked = Around.of(encoder.extras, settings.source.model), settings.sides
    found = Around(own.prefix, LINE_END if own.separator is None else own.separator)
    return replace(found.asked(asked.prefix, asked.separator), longest=asked.max_source_length or own.longest)


def _gone_on(pair: EncoderDecoder, settings: Seq2SeqSettings, generator: torch.Generator, told: Told) -> EncoderDecoder:
    """A model that has both sides, as it is or with parts of it replaced."""
    name, asked, wanted = settings.source.model, settings.decoder, settings.adapter.adapter
    target = pair.target_tokenizer or pair.tokenizer
    if pair.tokenizer is None or target is None:
        raise CheckpointError(f"{name} has no tokenizer: put tokenizer.json into its folder")
    sized = [size for size in ("depth", "width", "heads", "ffn") if getattr(asked, size) is not None]
    if not asked.decoder and not sized and not settings.source.fresh_encoder and wanted is None:
        if asked.target_tokenizer is not None:
            _check_target(name, pair.decoder.config, target, _tokenizer(asked.target_tokenizer))
        return replace(pair, unused=())
    if not pair.family.nested:
        raise ConfigError(
            f"{name} is a {pair.family.model_type} model, whose sides share their words and are trained as they are; "
            "leave decoder, its sizes, adapter and fresh_encoder out"
        )
    _check_replaced(pair, settings, sized)
    encoder = Encoder(pair.encoder, pair.family.encoder, pair.tokenizer, {}, pair.extras.get("encoder", {}))
    if asked.decoder:
        return _joined(encoder, settings, generator, told)
    side = _Side(pair.decoder, pair.family.decoder, pair.head, target, pair.marks, pair.extras.get("decoder", {}))
    return _between(_encoding(encoder, settings, generator, told), side, pair, settings, generator, told)


def _check_replaced(pair: EncoderDecoder, settings: Seq2SeqSettings, sized: Sequence[str]) -> None:
    """Raise ConfigError where trained parts would be lost without a word. sized: sizes of a fresh decoder."""
    name = settings.source.model
    if sized and not settings.decoder.decoder:
        raise ConfigError(
            f"{sized[0]} is of a fresh decoder, but {name} has a trained one: leave it out, or say decoder = fresh to "
            "begin with another"
        )
    anew = settings.decoder.decoder or settings.source.fresh_encoder
    if settings.adapter.adapter is not None and not anew:
        between = "no adapter" if pair.adapter is None else f"a {pair.adapter.config.kind} adapter"
        raise ConfigError(
            f"adapter is {settings.adapter.adapter}, but the sides of {name} were trained with {between} between them: "
            "leave it out, or say decoder = fresh to begin with another decoder"
        )


def _joined(encoder: Encoder, settings: Seq2SeqSettings, generator: torch.Generator, told: Told) -> EncoderDecoder:
    """An encoder and a decoder that is said, or fresh."""
    whole, asked = encoder, settings.decoder
    encoder = _encoding(whole, settings, generator, told)
    own = None if asked.target_tokenizer is None else _tokenizer(asked.target_tokenizer)
    if asked.decoder in ("", "fresh"):
        side = _fresh(encoder, settings, own or tokenizer_of(encoder), generator, told)
    elif asked.decoder == "copy":
        side = _reading(whole, settings.source.model, own, generator, told)
    elif is_pair(asked.decoder):
        side = _loaded(asked.decoder, own)
    else:
        side = _reading(Encoder.from_pretrained(asked.decoder), asked.decoder, own, generator, told)
    return _between(encoder, side, None, settings, generator, told)


def _encoding(encoder: Encoder, settings: Seq2SeqSettings, generator: torch.Generator, told: Told) -> Encoder:
    """The encoder without heads; with fresh weights where these are asked for."""
    copied = settings.decoder.decoder == "copy"
    left = [f"head {name}" for name in encoder.heads if not copied] + list(encoder.lost)
    network = encoder.network
    if settings.source.fresh_encoder:
        network = EncoderNetwork(encoder.config, pooler=encoder.network.pooler is not None)
        fresh_network(network, encoder.family, generator)
        told("fresh: all of the encoder")
    elif left:
        told(f"left behind: {', '.join(left[:5])}" + (f" and {len(left) - 5} more" if len(left) > 5 else ""))
    return replace(encoder, network=network, heads={}, unused=())


@dataclass(frozen=True, eq=False)
class _Side:
    """A decoder. family: with cross-attention.    extras: of its config."""

    network: EncoderNetwork
    family: Family
    head: nn.Module
    tokenizer: Tokenizer
    marks: Marks
    extras: Mapping[str, Any]


def _fresh(
    encoder: Encoder, settings: Seq2SeqSettings, tokenizer: Tokenizer, generator: torch.Generator, told: Told
) -> _Side:
    """In the encoder's shape but for what is said otherwise; of its family, where that has decoders."""
    family = encoder.family if encoder.family.cross else FAMILIES[PLAIN]
    base = encoder.config if encoder.family.cross else _plain(encoder.config, family)
    asked = settings.decoder
    said = {size: getattr(asked, size) for size in ("depth", "width", "heads", "ffn")}
    sizes = {size: value for size, value in said.items() if value is not None}
    if "width" in sizes and base.embedding.words == base.width:
        sizes["embedding"] = replace(base.embedding, words=None)
    if "width" in sizes and "ffn" not in sizes:
        sizes["ffn"] = max(1, base.ffn * sizes["width"] // base.width)
    if "width" in sizes and "heads" not in sizes:
        sizes["heads"] = _heads(sizes["width"], base.width // base.heads)
    shared = tokenizer is encoder.tokenizer
    vocab = encoder.config.vocab if shared else tokenizer.vocab_size
    config = replace(base, **sizes, vocab=vocab, causal=True, memory=sizes.get("width", base.width))
    config = counted_from_padding(config, family, tokenizer)
    pair = paired(encoder.family, family)
    network = EncoderNetwork(config, pooler=False)
    fresh_network(network, pair.decoder, generator)
    head = fresh_head(pair.head, network, pair.decoder, {}, generator)
    told(f"fresh: a {family.model_type} decoder of {config.depth} layers × {config.width}")
    return _Side(network, pair.decoder, head, tokenizer, _marks(tokenizer), {})


def _heads(width: int, columns: int) -> int:
    """As many of about so many columns as divide a width."""
    return min((one for one in range(1, width + 1) if width % one == 0), key=lambda one: abs(width / one - columns))


def _plain(config: EncoderConfig, family: Family) -> EncoderConfig:
    """A shape of the family in the sizes of another."""
    count = min(config.longest, LONGEST)
    return replace(
        family.template,
        vocab=config.vocab,
        width=config.width,
        depth=config.depth,
        heads=config.heads,
        ffn=config.ffn,
        positions=LearnedPositions(count),
        embedding=EmbeddingMap(),
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        init_std=config.init_std,
    )


def _reading(encoder: Encoder, name: str, own: Tokenizer | None, generator: torch.Generator, told: Told) -> _Side:
    """A copy of a network as a decoder, with fresh attention to the source; with another tokenizer its words, too."""
    if not encoder.family.cross:
        raise ConfigError(
            f"decoder: {name} is a {encoder.family.model_type} model, of which there are no decoders that read an "
            "encoder; say fresh"
        )
    there = tokenizer_of(encoder, name)
    tokenizer = own or there
    same = own is None or _entries(own) == _entries(there)
    pair = paired(encoder.family, encoder.family)
    vocab = encoder.config.vocab if same else tokenizer.vocab_size
    config = replace(encoder.config, causal=True, memory=encoder.config.width, vocab=vocab)
    network = EncoderNetwork(config, pooler=False)
    fresh_network(network, pair.decoder, generator)
    head = fresh_head(pair.head, network, pair.decoder, {}, generator)
    fresh = ["attention to the source", *_copied(encoder.network, network, same)]
    if pair.head in encoder.heads and same:
        _copied(encoder.heads[pair.head], head, same)
    else:
        fresh.append(f"head {pair.head}")
    told(f"fresh in the decoder: {', '.join(fresh)}")
    return _Side(network, pair.decoder, head, tokenizer, _marks(tokenizer), {})


@torch.no_grad()
def _copied(source: nn.Module, target: nn.Module, words: bool) -> list[str]:
    """Copy what both have. words: those, too; gives what they are called where they are left out."""
    there = dict(source.named_parameters())
    for name, parameter in target.named_parameters():
        if name in there and (words or "words" not in name):
            parameter.copy_(there[name])
    return [] if words else ["words"]


def _loaded(name: str, own: Tokenizer | None) -> _Side:
    """The decoder of a model that has one."""
    pair = EncoderDecoder.from_pretrained(name)
    tokenizer = pair.target_tokenizer or pair.tokenizer
    if tokenizer is None:
        raise CheckpointError(f"{name} has no tokenizer: put tokenizer.json into its folder")
    if not pair.family.nested:
        raise ConfigError(
            f"decoder: {name} is a {pair.family.model_type} model, whose decoder shares its words with its encoder; "
            "begin with it as the model"
        )
    if own is not None:
        _check_target(name, pair.decoder.config, tokenizer, own)
    extras = pair.extras.get("decoder", {})
    return _Side(pair.decoder, pair.family.decoder, pair.head, tokenizer, pair.marks, extras)


def _between(
    encoder: Encoder,
    side: _Side,
    before: EncoderDecoder | None,
    settings: Seq2SeqSettings,
    generator: torch.Generator,
    told: Told,
) -> EncoderDecoder:
    """Both sides, and what is to stand between them. before: the model that both are from, if that is one."""
    gives, reads = encoder.config.width, side.network.config.memory
    assert reads is not None
    asked = settings.adapter
    if before is not None and asked.adapter is None:
        adapter = before.adapter
    else:
        kind = asked.adapter or ("none" if gives == reads else "linear")
        adapter = adapter_of(AdapterConfig(kind, gives, reads, **asked.sizes), generator)
        if adapter is not None:
            told(f"fresh: a {kind} adapter from rows of {gives} to {reads}")
    family = paired(encoder.family, FAMILIES[side.family.model_type])
    extras = {"encoder": dict(encoder.extras), "decoder": dict(side.extras)}
    source = tokenizer_of(encoder)
    kept: dict[str, Any] = {} if before is None else {**before.extras}
    return EncoderDecoder(
        encoder.network,
        side.network,
        side.head,
        family,
        side.marks,
        adapter,
        source,
        source if side.tokenizer.to_json() == source.to_json() else side.tokenizer,
        {**kept, **extras},
        {} if before is None else before.generation,
    )


def _marks(tokenizer: Tokenizer) -> Marks:
    """Where texts begin and end, and what fills rows up elsewhere, by the tokenizer's special tokens."""
    start, end = edges(tokenizer)
    pad = tokenizer.id_of("pad")
    return Marks(start, (end,), end if pad is None else pad)


def _tokenizer(name: str) -> Tokenizer:
    found = load_tokenizer(resolve(name))
    if found is None:
        raise CheckpointError(f"{name}: no tokenizer in this folder")
    return found


def _entries(tokenizer: Tokenizer) -> dict[str, int]:
    return tokenizer.backend.get_vocab(with_added_tokens=True)


def _check_target(name: str, config: EncoderConfig, known: Tokenizer, own: Tokenizer) -> None:
    """Raises CheckpointError where a decoder was trained with other words than those of the target's tokenizer."""
    if own.vocab_size > config.vocab:
        raise CheckpointError(
            f"target_tokenizer has {own.vocab_size:,} entries, but the decoder of {name} only {config.vocab:,} rows; "
            "leave it out for the decoder's own, or say decoder = fresh"
        )
    ours, theirs = _entries(own), _entries(known)
    if ours != theirs:
        token = min(set(ours.items()) ^ set(theirs.items()), key=lambda entry: (entry[1], entry[0]))[0]
        ids = f"{token!r} has the id {theirs.get(token)} there, {ours.get(token)} in target_tokenizer"
        raise CheckpointError(
            f"{name}: its decoder's words are others: {ids}; leave target_tokenizer out, or say decoder = fresh"
        )
