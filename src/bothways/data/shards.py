"""Shards written one after another, each whole or not at all, and found again when a build goes on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from bothways.data.corpus import DTYPES, OFFSETS, PARTS, SPLITS, Shard, shard_name
from bothways.errors import BothwaysError, InputError
from bothways.files import read_object, write_json

__all__ = ["PARTIAL", "Block", "ShardWriter", "has_records", "remove_records", "remove_unfinished"]

PARTIAL = ".partial"


@dataclass(frozen=True)
class Block:
    """Some documents as tokens.

    tokens: ids [T].    words: uint8 [T], 1 where a word begins.    sentences: int64, tokens of each sentence.
    documents: int64, sentences of each document, 0 for one without tokens.
    """

    tokens: NDArray[Any]
    words: NDArray[Any]
    sentences: NDArray[Any]
    documents: NDArray[Any]

    def until(self, count: int) -> Block:
        """The first `count` documents."""
        s = int(self.documents[:count].sum())
        t = int(self.sentences[:s].sum())
        return Block(self.tokens[:t], self.words[:t], self.sentences[:s], self.documents[:count])

    def after(self, count: int) -> Block:
        """All documents but the first `count`."""
        s = int(self.documents[:count].sum())
        t = int(self.sentences[:s].sum())
        return Block(self.tokens[t:], self.words[t:], self.sentences[s:], self.documents[count:])

    def document_tokens(self) -> NDArray[Any]:
        """int64: the tokens of each document."""
        ends = np.concatenate([[0], np.cumsum(self.sentences)])
        bounds = np.concatenate([[0], np.cumsum(self.documents)])
        return ends[bounds[1:]] - ends[bounds[:-1]]


class _Part:
    """A file that grows beside its place, and its checksum."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: BinaryIO = self.aside.open("wb")
        self.sha = hashlib.sha256()

    @property
    def aside(self) -> Path:
        return self.path.with_name(f".{self.path.name}.{os.getpid()}{PARTIAL}")

    def write(self, array: NDArray[Any]) -> None:
        data = array.tobytes()
        self.file.write(data)
        self.sha.update(data)

    def finish(self) -> str:
        self.file.flush()
        os.fsync(self.file.fileno())  # the record that names it is written later, and must not outlive it
        self.file.close()
        os.replace(self.aside, self.path)
        return self.sha.hexdigest()

    def discard(self) -> None:
        self.file.close()
        self.aside.unlink(missing_ok=True)


class _Open:
    """A shard that is being written."""

    def __init__(self, folder: Path, name: str, dtype: str) -> None:
        self.parts = {part: _Part(folder / f"{name}.{part}") for part in PARTS}
        self.dtype = dtype
        self.counts = {"tokens": 0, "sentences": 0, "documents": 0}
        for part in ("sentences", "documents"):
            self.parts[part].write(np.zeros(1, OFFSETS))

    def append(self, block: Block) -> None:
        documents = block.documents[block.documents > 0]
        self.parts["tokens"].write(block.tokens.astype(DTYPES[self.dtype], copy=False))
        self.parts["words"].write(block.words)
        self.parts["sentences"].write((self.counts["tokens"] + np.cumsum(block.sentences)).astype(OFFSETS))
        self.parts["documents"].write((self.counts["sentences"] + np.cumsum(documents)).astype(OFFSETS))
        added = (len(block.tokens), len(block.sentences), len(documents))
        self.counts = {name: self.counts[name] + more for name, more in zip(self.counts, added)}

    def finish(self) -> dict[str, Any]:
        return {**self.counts, "sha256": {name: part.finish() for name, part in self.parts.items()}}


@dataclass
class ShardWriter:
    """The shards of one split. A shard ends with the first document at which it has `shard_tokens` tokens or more.

    What was finished before is found by its records, `train-00000.json`; its documents come again and are skipped, and
    it is an error if they are others.
    """

    folder: Path
    split: str
    dtype: str
    shard_tokens: int
    entries: list[dict[str, Any]] = field(default_factory=list)
    read: int = 0
    _to_skip: list[tuple[int, str]] = field(default_factory=list)
    _since: int = 0
    _source: Any = field(default_factory=hashlib.sha256)
    _open: _Open | None = None

    def __post_init__(self) -> None:
        while (record := _record(self.folder, shard_name(self.split, len(self.entries)), self.dtype)) is not None:
            self._to_skip.append((record.pop("read"), record.pop("source")))
            self.entries.append(record)

    @property
    def resumed(self) -> int:
        """How many shards had been finished before."""
        return len(self._to_skip)

    def skips(self, document: bytes) -> bool:
        """Whether the document with this digest is in a finished shard; to be asked of all documents, in order.

        Raises InputError if the documents are not those that the shard was made of.
        """
        if not self._to_skip:
            return False
        count, source = self._to_skip[0]
        self.read += 1
        self._since += 1
        self._source.update(document)
        if self._since == count:
            if self._source.hexdigest() != source:
                raise InputError(f"{self.folder}: {CHANGED}")
            self._to_skip.pop(0)
            self._restart()
        return True

    def append(self, block: Block, digests: Sequence[bytes]) -> None:
        """Write documents, given as tokens and as digests, to as many shards as it takes."""
        while digests:
            have = 0 if self._open is None else self._open.counts["tokens"]
            reached = have + np.cumsum(block.document_tokens())
            count = min(int(np.searchsorted(reached, self.shard_tokens)) + 1, len(digests))
            self._write(block.until(count), digests[:count])
            if reached[count - 1] >= self.shard_tokens:
                self._finish()
            block, digests = block.after(count), digests[count:]

    def close(self) -> None:
        """Finish the last shard. Raises InputError if documents of finished shards did not come again."""
        if self._to_skip:
            raise InputError(f"{self.folder}: {CHANGED}")
        if self._open is not None and self._open.counts["tokens"]:
            self._finish()

    def discard(self) -> None:
        """Remove what is not finished."""
        if self._open is not None:
            for part in self._open.parts.values():
                part.discard()

    def _write(self, block: Block, digests: Sequence[bytes]) -> None:
        try:
            if self._open is None:
                self._open = _Open(self.folder, shard_name(self.split, len(self.entries)), self.dtype)
            self._open.append(block)
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be written: {error.strerror or error}") from None
        self.read += len(digests)
        self._since += len(digests)
        self._source.update(b"".join(digests))

    def _finish(self) -> None:
        assert self._open is not None
        try:
            entry = self._open.finish()
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be written: {error.strerror or error}") from None
        record = {**entry, "read": self._since, "source": self._source.hexdigest()}
        write_json(self.folder / f"{shard_name(self.split, len(self.entries))}.json", record)
        self.entries.append(entry)
        self._open = None
        self._restart()

    def _restart(self) -> None:
        self._since, self._source = 0, hashlib.sha256()


CHANGED = "the input is not what this build began with; build into another folder"


def _record(folder: Path, name: str, dtype: str) -> dict[str, Any] | None:
    """A finished shard's record, if its files are whole; else it is made again."""
    path = folder / f"{name}.json"
    if not path.exists():
        return None
    try:
        record = read_object(path)
        Shard(folder, name, dtype, record, record["sha256"]).verify()
        return record
    except (BothwaysError, KeyError, TypeError):
        return None


def has_records(folder: Path) -> bool:
    """Whether a shard was finished."""
    return any((folder / f"{shard_name(split, 0)}.json").exists() for split in SPLITS)


def remove_unfinished(folder: Path) -> None:
    """Remove the files of shards, where none was finished."""
    for path in (p for split in SPLITS for part in PARTS for p in folder.glob(f"{split}-*.{part}")):
        path.unlink(missing_ok=True)


def remove_records(folder: Path) -> None:
    """Remove what a finished build needs no more: records, and files begun by builds that were killed."""
    for path in [*(p for s in SPLITS for p in folder.glob(f"{s}-*.json")), *folder.rglob(f".*{PARTIAL}")]:
        path.unlink(missing_ok=True)
