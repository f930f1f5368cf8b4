"""SentencePiece's `.model` files, read as the protocol buffers they are, and never by code that trusts them.

Paper: Kudo and Richardson, 2018, https://arxiv.org/abs/1808.06226. Fields: `sentencepiece_model.proto` of the project.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path

import numpy as np

from bothways.errors import CheckpointError

__all__ = [
    "CONTROL",
    "MOST_CHARACTERS",
    "UNIGRAM",
    "USER_DEFINED",
    "Piece",
    "Pieces",
    "checked_charsmap",
    "longest_replacement",
    "read_pieces",
]

# The kinds of a piece.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
# The algorithms that a file can be trained with, of which two have a backend.
UNIGRAM, BPE = 1, 2

# The largest model in use (a quarter of a million pieces) takes 5 MB.
MOST_BYTES = 1 << 25
MOST_PIECES = 1 << 20
# The longest piece: real ones have 16 to 128 characters. The backend walks a piece by recursion, and so cannot take
# one of any length.
MOST_CHARACTERS = 512
# The longest replacement of a character map: the longest of NFKC takes 33 bytes.
MOST_REPLACED_BYTES = 256
# How many bytes follow the tag of a field, by its wire type; variable-length ones are read apart.
FIXED = {1: 8, 5: 4}


@dataclass(frozen=True)
class Piece:
    """A piece of text (blanks are "▁"), its log probability, and its kind (NORMAL, UNKNOWN, CONTROL, …)."""

    text: str
    score: float
    kind: int = NORMAL


@dataclass(frozen=True)
class Pieces:
    """What a `.model` file holds: its pieces in the order of their ids, and how texts are normalised.

    algorithm: UNIGRAM or BPE.    charsmap: the normaliser's precompiled character map; None if there is none.
    byte_fallback: whether what no piece covers becomes pieces of single bytes.
    """

    pieces: tuple[Piece, ...]
    algorithm: int = UNIGRAM
    charsmap: bytes | None = None
    byte_fallback: bool = False

    @property
    def unknown(self) -> int:
        """The id of the piece that stands for all unknown text."""
        return next(i for i, piece in enumerate(self.pieces) if piece.kind == UNKNOWN)


def read_pieces(path: Path) -> Pieces:
    """The pieces of a `.model` file. Raises CheckpointError, naming the file, on one that is damaged or of no use."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise CheckpointError(f"{path}: {path.stat().st_size:,} bytes are too many for a SentencePiece model")
        return _parsed(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    except _Damaged as error:
        raise CheckpointError(f"{path}: not a SentencePiece model that can be read: {error}") from None


def checked_charsmap(data: bytes) -> bytes:
    """The same bytes, if nothing in them points outside; else ValueError.

    A character map is the length of a trie in bytes, the trie (a double array of 32-bit units, as darts-clone lays it
    out), and the replacements, each closed by a zero byte. Backends follow it without looking.
    """
    size = int.from_bytes(data[:4], "little")
    if len(data) < 4 or size % 1024 or not 0 < size <= len(data) - 4:
        raise _Damaged(f"a character map of {len(data):,} bytes cannot hold a trie of {size:,}")
    units = np.frombuffer(data, "<u4", size // 4, offset=4).astype(np.int64)
    inner = (units >> 31) == 0
    offsets = (units >> 10) << ((units & 512) >> 6)
    targets = (np.arange(len(units)) ^ offsets)[inner]
    if (targets >= len(units)).any():
        raise _Damaged("its character map points outside its trie")
    leaves = targets[(units[inner] & 256) != 0]
    _check_replacements(data[4 + size :], units[leaves] & 0x7FFFFFFF)
    return data


def longest_replacement(charsmap: bytes) -> int:
    """How many characters the longest replacement of a checked character map has."""
    size = int.from_bytes(charsmap[:4], "little")
    return max(len(text) for text in charsmap[4 + size :].decode("utf-8").split("\0"))


class _Damaged(ValueError):
    """What is wrong with a file, without its name."""


def _check_replacements(text: bytes, starts: np.ndarray) -> None:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        raise _Damaged("the replacements of its character map are not UTF-8") from None
    if len(starts) and starts.max() >= len(text):
        raise _Damaged("its character map points outside its replacements")
    if ((np.frombuffer(text, np.uint8)[starts] & 0xC0) == 0x80).any():
        raise _Damaged("its character map points inside a character")
    longest = max(map(len, text.split(b"\0")))
    if longest > MOST_REPLACED_BYTES:
        raise _Damaged(f"its character map has a replacement of {longest:,} bytes, more than {MOST_REPLACED_BYTES}")


def _parsed(data: bytes) -> Pieces:
    pieces: list[Piece] = []
    trainer = normaliser = b""
    for field, value in _fields(data):
        if field == 1:
            if len(pieces) == MOST_PIECES:
                raise _Damaged(f"it has more than {MOST_PIECES:,} pieces")
            pieces.append(_piece(value, len(pieces)))
        elif field == 2:
            trainer = _bytes(value)
        elif field == 3:
            normaliser = _bytes(value)
    training, charsmap = dict(_fields(trainer)), _bytes(dict(_fields(normaliser)).get(2, b""))
    algorithm = training.get(3, UNIGRAM)
    if algorithm not in (UNIGRAM, BPE):
        raise _Damaged(f"its algorithm is number {algorithm!r}; unigram (1) and BPE (2) are known")
    if sum(piece.kind == UNKNOWN for piece in pieces) != 1:
        raise _Damaged(f"one of its {len(pieces):,} pieces must be the unknown one")
    checked = checked_charsmap(charsmap) if charsmap else None
    return Pieces(tuple(pieces), algorithm, checked, bool(training.get(35, False)))


def _piece(value: int | bytes, number: int) -> Piece:
    fields = dict(_fields(_bytes(value)))
    try:
        text = _bytes(fields.get(1, b"")).decode("utf-8")
    except UnicodeDecodeError:
        raise _Damaged(f"piece {number} is not UTF-8") from None
    if len(text) > MOST_CHARACTERS:
        raise _Damaged(f"piece {number} has {len(text):,} characters, more than {MOST_CHARACTERS}")
    score, kind = _score(_bytes(fields.get(2, bytes(4)))), fields.get(3, NORMAL)
    if not text or not isfinite(score) or not isinstance(kind, int):
        raise _Damaged(f"piece {number} has no text, no finite score or no kind")
    return Piece(text, score, kind)


def _score(data: bytes) -> float:
    return float(struct.unpack("<f", data)[0]) if len(data) == 4 else nan


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise _Damaged("a number where a message was expected")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message in order: (number, whole number, or bytes of whatever else)."""
    place = 0
    while place < len(data):
        tag, place = _whole(data, place)
        kind = tag & 7
        if kind == 0:
            value, place = _whole(data, place)
            yield tag >> 3, value
            continue
        if kind == 2:
            size, place = _whole(data, place)
        elif kind in FIXED:
            size = FIXED[kind]
        else:
            raise _Damaged(f"a field of unknown kind {kind}")
        if place + size > len(data):
            raise _Damaged("it ends in the middle of a field")
        yield tag >> 3, data[place : place + size]
        place += size


def _whole(data: bytes, place: int) -> tuple[int, int]:
    """A whole number of seven bits a byte, the lowest first, and the place behind it."""
    value = shift = 0
    while place < len(data) and shift < 64:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
    raise _Damaged("it ends in the middle of a number")
