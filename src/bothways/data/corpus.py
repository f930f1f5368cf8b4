"""A corpus as token ids on disk: what `build` writes and pretraining reads, mapped into memory.

A folder has `corpus.json` (the index), `tokenizer/`, and for each shard four arrays, little-endian and without headers:
`train-00000.tokens` uint16 or uint32 [T], ids without special tokens; `.words` uint8 [T], 1 where a word begins;
`.sentences` int64 [S + 1], offsets in tokens; `.documents` int64 [D + 1], offsets in sentences.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bothways.errors import ConfigError, InputError
from bothways.files import read_object

__all__ = ["INDEX", "PARTS", "SPLITS", "VERSION", "Corpus", "Shard", "Split", "sha256", "shard_name", "token_dtype"]

INDEX = "corpus.json"
VERSION = 1
SPLITS = ("train", "held_out")
PARTS = ("tokens", "words", "sentences", "documents")
DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
OFFSETS: np.dtype[Any] = np.dtype("<i8")


def token_dtype(vocab_size: int) -> str:
    """The name of the smallest type that holds every id."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


def shard_name(split: str, number: int) -> str:
    return f"{split}-{number:05d}"


def sha256(path: Path) -> str:
    """The checksum of a file, in hexadecimal."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


@dataclass(frozen=True)
class Shard:
    """Some documents of a split; arrays are read-only and stay on disk until they are looked at.

    counts: of "tokens", "sentences" and "documents".    checksums: sha256 of each file, by part.
    """

    folder: Path
    name: str
    dtype: str
    counts: Mapping[str, int]
    checksums: Mapping[str, str]

    @cached_property
    def tokens(self) -> NDArray[Any]:
        """Ids, uint16 or uint32 [T]."""
        return self._map("tokens")

    @cached_property
    def words(self) -> NDArray[Any]:
        """uint8 [T]: 1 where a word begins."""
        return self._map("words")

    @cached_property
    def sentences(self) -> NDArray[Any]:
        """int64 [S + 1]: sentence i is tokens[sentences[i]:sentences[i + 1]]."""
        return self._map("sentences")

    @cached_property
    def documents(self) -> NDArray[Any]:
        """int64 [D + 1]: document i is sentences documents[i] … documents[i + 1] - 1."""
        return self._map("documents")

    def path(self, part: str) -> Path:
        return self.folder / f"{self.name}.{part}"

    def _map(self, part: str) -> NDArray[Any]:
        dtype, length = self.layout(part)
        return np.memmap(self.path(part), dtype, mode="r", shape=(length,))

    def layout(self, part: str) -> tuple[np.dtype[Any], int]:
        """The type of a part, and how many numbers it has."""
        return {
            "tokens": (DTYPES[self.dtype], self.counts["tokens"]),
            "words": (np.dtype("u1"), self.counts["tokens"]),
            "sentences": (OFFSETS, self.counts["sentences"] + 1),
            "documents": (OFFSETS, self.counts["documents"] + 1),
        }[part]

    def check_sizes(self) -> None:
        """Raises InputError, naming the file, if one is missing or not as long as the index says."""
        for part in PARTS:
            dtype, length = self.layout(part)
            path = self.path(part)
            if not path.is_file():
                raise InputError(f"{path}: no such file, though the index names it; build the corpus again")
            if path.stat().st_size != dtype.itemsize * length:
                said = f"{path.stat().st_size:,} bytes where the index says {dtype.itemsize * length:,}"
                raise InputError(f"{path}: {said}; the file is damaged, build the corpus again")

    def verify(self) -> None:
        """Raises InputError, naming the file, if one is not what was written."""
        self.check_sizes()
        for part in PARTS:
            if sha256(self.path(part)) != self.checksums[part]:
                said = "its checksum is not that of the index; build the corpus again"
                raise InputError(f"{self.path(part)}: damaged: {said}")


@dataclass(frozen=True)
class Split:
    """The shards of one part of a corpus, "train" or "held_out"; together they may have none."""

    shards: tuple[Shard, ...]

    @property
    def documents(self) -> int:
        return sum(shard.counts["documents"] for shard in self.shards)

    @property
    def sentences(self) -> int:
        return sum(shard.counts["sentences"] for shard in self.shards)

    @property
    def tokens(self) -> int:
        return sum(shard.counts["tokens"] for shard in self.shards)


@dataclass(frozen=True)
class Corpus:
    """A folder of shards.

    fingerprint: sha256 of the tokenizer's `tokenizer.json`.    vocab_size: one more than the largest id there can be.
    splits: "train" and "held_out".    counts: documents dropped as "duplicates", or for having no tokens ("empty").
    made: the settings it was built with.
    """

    folder: Path
    fingerprint: str
    vocab_size: int
    splits: Mapping[str, Split]
    counts: Mapping[str, int]
    made: Mapping[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> Corpus:
        """Read the index and look that every file has its size; arrays are mapped when they are first used.

        Raises ConfigError on an index that cannot be used, InputError on a file that is missing or of a wrong size.
        """
        folder = Path(folder)
        if not (folder / INDEX).exists():
            raise InputError(f"{folder / INDEX}: no such file; build the corpus (again) with `bothways corpus build`")
        index = read_object(folder / INDEX)
        corpus = _from_index(folder, index)
        for split in corpus.splits.values():
            for shard in split.shards:
                shard.check_sizes()
        if not (corpus.tokenizer_folder / "tokenizer.json").is_file():
            raise InputError(f"{corpus.tokenizer_folder / 'tokenizer.json'}: no such file; build the corpus again")
        return corpus

    @property
    def identity(self) -> str:
        """A checksum of everything that training sees: the tokenizer and all shards, wherever the folder is."""
        parts = (
            (split, shard.name, *sorted(shard.checksums.items()))
            for split in SPLITS
            for shard in self.splits[split].shards
        )
        return hashlib.sha256(repr((self.fingerprint, *parts)).encode()).hexdigest()

    @property
    def tokenizer_folder(self) -> Path:
        return self.folder / "tokenizer"

    def verify(self) -> None:
        """Compare every file with its checksum. Raises InputError, naming the damaged one."""
        path = self.tokenizer_folder / "tokenizer.json"
        if sha256(path) != self.fingerprint:
            raise InputError(f"{path}: not the tokenizer that the corpus was built with: its checksum differs")
        for split in self.splits.values():
            for shard in split.shards:
                shard.verify()


def _from_index(folder: Path, index: Mapping[str, Any]) -> Corpus:
    path = folder / INDEX
    version = index.get("version")
    if version != VERSION:
        raise ConfigError(f"{path}: version {version!r} of the format; {VERSION} can be read; build the corpus again")
    dtype = _value(path, index, "dtype", str)
    if dtype not in DTYPES:
        raise ConfigError(f"{path}: dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    splits = _value(path, index, "splits", dict)
    if set(splits) != set(SPLITS):
        raise ConfigError(f"{path}: splits must be {' and '.join(SPLITS)}, got {', '.join(map(str, splits)) or 'none'}")
    return Corpus(
        folder=folder,
        fingerprint=_value(path, index, "fingerprint", str),
        vocab_size=_count(path, index, "vocab_size"),
        splits={name: _split(path, name, _value(path, splits, name, list), dtype) for name in SPLITS},
        counts={name: _count(path, _value(path, index, "dropped", dict), name) for name in ("duplicates", "empty")},
        made=_value(path, index, "made", dict),
    )


def _split(path: Path, name: str, entries: list[Any], dtype: str) -> Split:
    return Split(tuple(_shard(path, shard_name(name, i), entry, dtype) for i, entry in enumerate(entries)))


def _shard(path: Path, name: str, entry: Any, dtype: str) -> Shard:
    """A shard's files are known by its place, so that no name from the index leads anywhere."""
    if not isinstance(entry, dict):
        raise ConfigError(f"{path}: {name} must be an object, got {entry!r:.60}")
    counts = {part: _count(path, entry, part) for part in ("tokens", "sentences", "documents")}
    if not 1 <= counts["documents"] <= counts["sentences"] <= counts["tokens"]:
        raise ConfigError(f"{path}: {name} cannot have these counts: {counts}")
    sums = _value(path, entry, "sha256", dict)
    return Shard(path.parent, name, dtype, counts, {part: _value(path, sums, part, str) for part in PARTS})


def _value(path: Path, entry: Mapping[str, Any], key: str, kind: type) -> Any:
    if not isinstance(entry.get(key), kind):
        raise ConfigError(f"{path}: {key} must be a {kind.__name__}, got {entry.get(key)!r:.60}")
    return entry[key]


def _count(path: Path, entry: Mapping[str, Any], key: str) -> int:
    value = entry.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 60:
        raise ConfigError(f"{path}: {key} must be a whole number, got {value!r:.60}")
    return value
