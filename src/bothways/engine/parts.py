"""What a model that writes consists of, however it is stored: an encoder–decoder, or a decoder alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from bothways.checkpoint.encoder import Encoder, tokenizer_of
from bothways.checkpoint.encoder_decoder import ENCODER_DECODERS, EncoderDecoder
from bothways.checkpoint.hub import resolve
from bothways.checkpoint.marks import GENERATION, Around
from bothways.engine.usual import usual_settings
from bothways.errors import CheckpointError, InputError
from bothways.files import read_object
from bothways.nn.encoder import EncoderNetwork
from bothways.text.targets import as_targets
from bothways.text.tokenizer import Tokenizer

__all__ = ["Parts", "is_pair", "load", "parts_of", "settings_of", "writes"]


@dataclass(frozen=True, eq=False)
class Parts:
    """What a model that writes consists of.

    encoder, adapter: what reads the source; None where a decoder alone goes on from a text.
    start: the token that texts begin with; None where they go on from the given ones.    end: tokens that end them.
    around: what it was trained to see around a source.
    """

    encoder: EncoderNetwork | None
    adapter: nn.Module | None
    decoder: EncoderNetwork
    head: nn.Module
    source: Tokenizer
    target: Tokenizer
    start: int | None
    end: tuple[int, ...]
    around: Around = field(default_factory=Around)

    @property
    def limit(self) -> int | None:
        """The most tokens that the decoder has positions for; None for no limit."""
        return self.decoder.config.limit

    def ids_of(self, target: str) -> list[int]:
        """A text as the decoder is asked for it: without the start's mark, with one of the end.

        Raises InputError on an empty text.
        """
        if not target.strip():
            raise InputError("the target is empty: there is nothing to score")
        return as_targets(self.target, [target], self.start, self.end)[0].ids

    @property
    def source_limit(self) -> int:
        """The most tokens that are read of a text."""
        return (self.encoder or self.decoder).config.longest


def parts_of(model: Encoder | EncoderDecoder, name: str = "the model") -> Parts:
    """Raises CheckpointError on a model that has no decoder."""
    if isinstance(model, EncoderDecoder):
        if model.tokenizer is None:
            raise CheckpointError(f"{name} has no tokenizer: put its tokenizer.json into its folder")
        target = model.tokenizer if model.target_tokenizer is None else model.target_tokenizer
        sides = model.encoder, model.adapter, model.decoder, model.head, model.tokenizer, target
        around = Around(Around.of(model.extras, name).prefix)
        return Parts(*sides, model.marks.start, _known(model.marks.end, model.decoder), around)
    if "causal" not in model.heads:
        raise CheckpointError(
            f"{name} has no decoder: a {model.family.model_type} model encodes and writes no text; "
            "load a decoder (gpt2), or train one on the encoder with `bothways finetune generate`"
        )
    tokenizer = tokenizer_of(model, name)
    end = model.extras.get("eos_token_id")
    marks = end if isinstance(end, list) else [] if end is None else [end]
    head, ends, around = model.heads["causal"], _known(marks, model.network), Around.of(model.extras, name)
    return Parts(None, None, model.network, head, tokenizer, tokenizer, None, ends, around)


def is_pair(model: str | Path, revision: str | None = None) -> bool:
    """Whether a model's folder or hub id is an encoder–decoder."""
    path = resolve(model, revision) / "config.json"
    return path.is_file() and read_object(path).get("model_type") in ENCODER_DECODERS


def load(model: str | Path, revision: str | None = None) -> Encoder | EncoderDecoder:
    """Whichever of the two a folder or hub id is. Raises ConfigError or CheckpointError where it cannot be loaded."""
    folder = resolve(model, revision)
    if is_pair(folder):
        return EncoderDecoder.from_pretrained(folder)
    return _ended_as_said(Encoder.from_pretrained(folder), folder)


def writes(model: Encoder | EncoderDecoder) -> bool:
    """Whether it is a model that writes: it has a decoder, or is one."""
    return isinstance(model, EncoderDecoder) or ("causal" in model.heads and model.config.causal)


def settings_of(model: Encoder | EncoderDecoder, folder: Path | None) -> dict[str, Any]:
    """Settings that its folder says: in `generation_config.json`, or without one in its config; of our own
    encoder–decoders also where the former has marks alone.

    folder: None for a model that is of none.
    """
    where, both = folder or Path(), isinstance(model, EncoderDecoder)
    said, name = model.extras, "config.json"
    if isinstance(model, EncoderDecoder):
        more = any(value is not None for value in model.generation.values())
        said, name = (model.generation, GENERATION) if more else (said, name)
    elif folder is not None and (folder / GENERATION).is_file():
        said, name = read_object(folder / GENERATION), GENERATION
    network = model.decoder if isinstance(model, EncoderDecoder) else model.network
    return usual_settings(said, where / name, network.config.vocab, 1 if both else None)


def _ended_as_said(model: Encoder, folder: Path) -> Encoder:
    """A decoder alone with the end that `generation_config.json` says, which goes before that of its config."""
    path = folder / GENERATION
    end = read_object(path).get("eos_token_id") if path.is_file() else None
    return model if end is None else replace(model, extras={**model.extras, "eos_token_id": end})


def _known(marks: Sequence[Any], network: EncoderNetwork) -> tuple[int, ...]:
    """The marks that are words of the vocabulary: a config of another one has those of that."""
    return tuple(mark for mark in marks if type(mark) is int and 0 <= mark < network.config.vocab)
