"""Where texts that a decoder writes begin and end: ids that a model's files must say, for nothing else tells them; and
what it was trained to see around a source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bothways.errors import CheckpointError

__all__ = ["GENERATION", "Around", "Marks", "read_marks"]

# What transformers' generate reads, beside config.json.
GENERATION = "generation_config.json"
PREFIX, SEPARATOR, LONGEST = "bothways_prefix", "bothways_separator", "bothways_source_length"
KEYS = {"start": "decoder_start_token_id", "end": "eos_token_id", "pad": "pad_token_id"}


@dataclass(frozen=True)
class Marks:
    """Ids of the target's vocabulary. start: what a decoder is given first.    end: any of them ends a text.
    pad: what fills rows up where another program pads; here nothing is."""

    start: int
    end: tuple[int, ...]
    pad: int

    def as_keys(self) -> dict[str, Any]:
        """What config.json and generation_config.json say of them."""
        end = self.end[0] if len(self.end) == 1 else list(self.end)
        return {KEYS["start"]: self.start, KEYS["end"]: end, KEYS["pad"]: self.pad}


@dataclass(frozen=True)
class Around:
    """What a model was trained to see around a source. In `config.json`: transformers keeps it there.

    prefix: the text before each source, "" for none; None where nothing is said of it.
    separator: of a decoder alone, the text behind each source, from which on it writes, "" for none; None as above.
    longest: of a decoder alone, tokens of a source and what is around it, where longer ones were cut; None where none
    were to be.
    """

    prefix: str | None = None
    separator: str | None = None
    longest: int | None = None

    def asked(self, prefix: str | None, separator: str | None = None) -> Around:
        """The same with what is asked for, where that is not None."""
        own, behind = self.prefix if prefix is None else prefix, self.separator if separator is None else separator
        return replace(self, prefix=own, separator=behind)

    @property
    def sides(self) -> tuple[str, str]:
        """The texts before a source and behind it."""
        return self.prefix or "", self.separator or ""

    def as_keys(self) -> dict[str, Any]:
        """What config.json says of it."""
        said = {PREFIX: self.prefix, SEPARATOR: self.separator, LONGEST: self.longest}
        return {key: value for key, value in said.items() if value is not None}

    @classmethod
    def of(cls, config: Mapping[str, Any], model: str) -> Around:
        """What a config says. Raises CheckpointError, naming the key, on what cannot be."""
        longest = config.get(LONGEST)
        for key in (PREFIX, SEPARATOR):
            if not isinstance(value := config.get(key, ""), str):
                raise CheckpointError(f"{model}: {key} in its config.json is {value!r:.40}; expected is a text")
        if longest is not None and (type(longest) is not int or longest < 1):
            raise CheckpointError(f"{model}: {LONGEST} in its config.json is {longest!r:.40}; expected is a length")
        return cls(config.get(PREFIX), config.get(SEPARATOR), longest)


def read_marks(folder: Path, places: Mapping[str, Mapping[str, Any]], vocab: int) -> Marks:
    """The marks that a model's configs say. places: configs by what messages call them; the first that has a key tells.

    Raises CheckpointError, naming the key, on one that is missing, or is no id of a vocabulary of that size.
    """
    (start,), end, (pad,) = (_ids(folder, places, KEYS[role], vocab, role == "end") for role in ("start", "end", "pad"))
    return Marks(start, end, pad)


def _ids(folder: Path, places: Mapping[str, Mapping[str, Any]], key: str, vocab: int, several: bool) -> tuple[int, ...]:
    for place, config in places.items():
        value = config.get(key)
        if value is None:
            continue
        ids = tuple(value) if several and isinstance(value, list) and value else (value,)
        for one in ids:
            if type(one) is not int or not 0 <= one < vocab:
                raise CheckpointError(
                    f"{folder / place}: {key} is {one!r:.40}; an id of the decoder's {vocab:,} entries was expected"
                )
        return ids
    raise CheckpointError(
        f"{folder}: no {key} in {' or '.join(places)}; without it nobody knows where a text that is written begins or "
        "ends: put it into config.json"
    )
