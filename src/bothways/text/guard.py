"""What the tokenizers library raises, as one line of ours; and what it is not shown, since it would not survive it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bothways.errors import BothwaysError
from bothways.text.pieces import MOST_CHARACTERS, checked_charsmap, longest_replacement

__all__ = ["check_description", "guarded"]

# How many times as long a text may become on its way to tokens or back: real files stay below 20.
MOST_GROWTH = 64
# What a byte becomes, in bytes, where each one is given a visible character.
BYTE_LEVEL_GROWTH = 2.0


@contextmanager
def guarded(refusal: Callable[[str], BothwaysError]) -> Iterator[None]:
    """Around each call of the library: whatever it raises becomes `refusal(its message)`.

    Its panics derive from BaseException, since they are meant to end the process; interrupts stay what they are.
    """
    try:
        yield
    except (BothwaysError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise refusal(str(error)) from None


def check_description(description: Mapping[str, Any]) -> None:
    """Raise ValueError on a tokenizer.json that would lead the library out of its memory, or fill all there is.

    Everything else it checks itself.
    """
    model = description.get("model")
    for number, piece in enumerate(_pieces(model.get("vocab") if isinstance(model, dict) else None)):
        if isinstance(piece, str) and len(piece) > MOST_CHARACTERS:
            raise ValueError(f"piece {number} has {len(piece):,} characters, more than {MOST_CHARACTERS}")
    before = _growth(description.get("normalizer")) * _growth(description.get("pre_tokenizer"))
    growth = max(before, _growth(description.get("decoder")))
    if growth > MOST_GROWTH:
        raise ValueError(f"it can make a text {growth:.3g} times as long, more than {MOST_GROWTH} times")


def _pieces(vocab: Any) -> Iterator[Any]:
    """The pieces of a vocabulary, which is a map from them, or a list of them or of pairs that begin with them."""
    for entry in vocab if isinstance(vocab, (dict, list)) else ():
        yield entry[0] if isinstance(entry, list) and entry else entry


def _growth(step: Any) -> float:
    """An upper bound on how many times as long a part of the pipeline makes a text; its steps multiply."""
    if not isinstance(step, dict):
        return 1.0
    growth = GROWTHS.get(str(step.get("type")), lambda _: 1.0)(step)
    for key in ("normalizers", "pretokenizers", "decoders"):
        inner = step.get(key)
        for part in inner if isinstance(inner, list) else ():
            growth *= _growth(part)
    return growth


def _replaced(step: Mapping[str, Any]) -> float:
    """A plain pattern takes away its own length; a regular expression may match where there is nothing to take."""
    pattern, written = step.get("pattern"), step.get("content")
    length = len(written) if isinstance(written, str) else 0
    plain = pattern.get("String") if isinstance(pattern, dict) else pattern
    if isinstance(plain, str) and plain:
        return max(1.0, length / len(plain))
    return 1.0 + length


def _mapped(step: Mapping[str, Any]) -> float:
    encoded = step.get("precompiled_charsmap")
    if not isinstance(encoded, str) or not encoded:
        return 1.0
    try:
        charsmap = checked_charsmap(base64.b64decode(encoded))
    except binascii.Error as error:
        raise ValueError(f"its character map is not base64: {error}") from None
    return max(1.0, float(longest_replacement(charsmap)))


GROWTHS: Mapping[str, Callable[[Mapping[str, Any]], float]] = {
    "Replace": _replaced,
    "Precompiled": _mapped,
    "ByteLevel": lambda _: BYTE_LEVEL_GROWTH,
}
