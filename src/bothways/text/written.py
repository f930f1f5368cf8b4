"""The parts of a `tokenizer.json` that are taken where its class makes the rest."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import models, processors

from bothways.errors import ConfigError
from bothways.text.classes import Vocabulary, checked_ids
from bothways.text.pieces import Pieces

__all__ = ["written_finish", "written_vocabulary"]

# What tells models apart that old files give no type: a key that only one of them has.
MARKS = {"merges": "BPE", "unk_id": "Unigram", "max_input_chars_per_word": "WordPiece"}


def written_vocabulary(path: Path, description: Mapping[str, Any], model: str) -> Vocabulary | None:
    """The vocabulary, if the file's model is of that algorithm. Raises ConfigError, naming the file, on damage."""
    written = description.get("model")
    if not isinstance(written, dict):
        raise ConfigError(f"{path}: an object was expected under model")
    kind = written.get("type") or next((kind for key, kind in MARKS.items() if key in written), None)
    if kind != model:
        return None
    if model == "Unigram":
        return _scored(path, written, _charsmap(description.get("normalizer")))
    merges = [_merge(path, merge) for merge in written.get("merges") or ()]
    return Vocabulary(checked_ids(path, written.get("vocab")), merges)


def written_finish(description: Mapping[str, Any]) -> processors.PostProcessor | None:
    """What the file says is put around texts, if it says so."""
    bare = json.loads(Backend(models.BPE()).to_str())
    return Backend.from_str(json.dumps({**bare, "post_processor": description.get("post_processor")})).post_processor


def _scored(path: Path, model: Mapping[str, Any], charsmap: bytes | None) -> Vocabulary:
    entries, unknown = model.get("vocab"), model.get("unk_id")
    if not isinstance(entries, list) or not all(_is_scored(entry) for entry in entries):
        raise ConfigError(f"{path}: a vocabulary of pieces with their scores was expected")
    if type(unknown) is not int or not 0 <= unknown < len(entries):
        raise ConfigError(f"{path}: unk_id must be the place of a piece, got {unknown!r:.60}")
    scored = [(piece, float(score)) for piece, score in entries]
    return Vocabulary(scored=scored, unknown=unknown, pieces=Pieces((), charsmap=charsmap))


def _is_scored(entry: Any) -> bool:
    if not isinstance(entry, list) or len(entry) != 2:
        return False
    piece, score = entry
    return isinstance(piece, str) and isinstance(score, (int, float)) and isfinite(score)


def _merge(path: Path, merge: Any) -> tuple[str, str]:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
        raise ConfigError(f"{path}: a merge must be of two pieces, got {merge!r:.60}")
    return parts[0], parts[1]


def _charsmap(normalizer: Any) -> bytes | None:
    """The first character map, whatever stands around it."""
    if not isinstance(normalizer, dict):
        return None
    inner = normalizer.get("normalizers")
    for part in [normalizer, *(inner if isinstance(inner, list) else ())]:
        encoded = part.get("precompiled_charsmap") if isinstance(part, dict) else None
        if isinstance(encoded, str) and encoded:
            return b64decode(encoded)
    return None
