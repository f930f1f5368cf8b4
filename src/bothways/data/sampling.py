"""Choosing documents by what they say, so that order, files and machines make no difference."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

__all__ = ["DIGEST_BYTES", "Sample", "Size", "digest", "draw", "measure"]

DIGEST_BYTES = 16
# A report on a vocabulary needs no more text than this.
MOST_HELD_OUT_BYTES = 1 << 22


def digest(text: str) -> bytes:
    """16 bytes that stand for a document (BLAKE2b)."""
    return blake2b(text.encode("utf-8"), digest_size=DIGEST_BYTES).digest()


def draw(document: bytes, seed: int) -> float:
    """A number in [0, 1) drawn for a digest: the same one always."""
    key = (seed % (1 << 64)).to_bytes(8, "little")
    return int.from_bytes(blake2b(document, digest_size=7, key=key).digest(), "little") / (1 << 56)


@dataclass(frozen=True)
class Size:
    """What a source holds: documents, their bytes as UTF-8, and how often each character occurs."""

    documents: int
    bytes: int
    characters: Counter[str]


def measure(documents: Iterable[str]) -> Size:
    """Read everything once, and count."""
    count, size = 0, 0
    characters = np.zeros(sys.maxunicode + 1, np.int64)
    for texts in _in_turns(documents):
        count += len(texts)
        together = "".join(texts)
        size += len(together.encode("utf-8"))
        codes = np.frombuffer(together.encode("utf-32-le"), "<u4")  # ten times as fast as a Counter
        characters += np.bincount(codes, minlength=len(characters))
    return Size(count, size, Counter({chr(code): int(characters[code]) for code in np.flatnonzero(characters)}))


def _in_turns(documents: Iterable[str], most: int = 1 << 20) -> Iterator[list[str]]:
    """Documents, some at a time: until they have `most` characters."""
    texts: list[str] = []
    length = 0
    for text in documents:
        texts.append(text)
        length += len(text)
        if length >= most:
            yield texts
            texts, length = [], 0
    yield texts


@dataclass
class Sample:
    """Of all documents, those with draw(digest) < held_out set aside, and of the others the share below `share`.

    Iterating reads the source once; the counts are those of what was read until then.
    """

    source: Iterable[str]
    share: float = 1.0
    held_out: float = 0.01
    seed: int = 0
    documents: int = 0
    bytes: int = 0
    aside: list[str] = field(default_factory=list)
    _aside_bytes: int = 0

    def __iter__(self) -> Iterator[str]:
        for text in self.source:
            number = draw(digest(text), self.seed)
            if number < self.held_out:
                self._set_aside(text)
            elif number < self.held_out + (1 - self.held_out) * self.share:
                self.documents += 1
                self.bytes += len(text.encode("utf-8"))
                yield text

    def _set_aside(self, text: str) -> None:
        if self._aside_bytes < MOST_HELD_OUT_BYTES:
            self.aside.append(text)
            self._aside_bytes += len(text.encode("utf-8"))
