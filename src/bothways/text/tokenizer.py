"""Texts to token ids with character offsets, on the `tokenizers` library. Truncation is always counted."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from tokenizers import Encoding
from tokenizers import Tokenizer as Backend

from bothways.errors import InputError, TruncationWarning
from bothways.text.guard import guarded

__all__ = ["Cuts", "Encoded", "Strategy", "Tokenizer", "as_texts", "checked_texts", "cut_lengths", "warn_of_truncation"]

Strategy = Literal["longest_first", "only_first", "only_second"]

# How many tokens are left to a side that is cut, of `room` for both texts with `first` and `second` tokens.
ROOMS: Mapping[Strategy, Callable[[int, int, int], int]] = {
    "longest_first": lambda room, first, second: room - min(first, second, room - room // 2),
    "only_first": lambda room, first, second: room - second,
    "only_second": lambda room, first, second: room - first,
}


@dataclass(frozen=True, eq=False)
class Encoded:
    """One text, or one pair of texts, as tokens.

    ids: with the special tokens.    types: 0 for the first text, 1 for the second.
    offsets: (start, end) in characters of its own text, so that text[start:end] is what the token covers; (0, 0) for
    special tokens.    sequences: 0 or 1, the text a token is from; None for special tokens.
    special: whether the tokenizer added the token.    dropped: tokens lost by truncation.    pair: of two texts.
    text: which of the texts that were encoded together this is, or is a window of.
    start: how many tokens of the text that is read in windows stand before this one.
    first: of a pair read in windows, the first window, where this is a later one.
    """

    encoding: Encoding
    dropped: int = 0
    pair: bool = False
    text: int = 0
    start: int = 0
    first: Encoded | None = None

    def __len__(self) -> int:
        return len(self.encoding)

    @cached_property
    def ids(self) -> list[int]:
        return self.encoding.ids

    @property
    def types(self) -> list[int]:
        if self.first is None:
            return self.encoding.type_ids
        # The backend's templates give their types to the first window only.
        types = dict(zip(self.first.sequences, self.first.types))
        return [t if s is None else types.get(s, t) for t, s in zip(self.encoding.type_ids, self.sequences)]

    @property
    def tokens(self) -> list[str]:
        return self.encoding.tokens

    @property
    def offsets(self) -> list[tuple[int, int]]:
        return self.encoding.offsets

    @property
    def sequences(self) -> list[int | None]:
        sides = self.encoding.sequence_ids
        if self.first is None or self.encoding.n_sequences == 2:
            return sides
        # Where nothing stands around the texts, the backend tells only by the type which text of a later window is it.
        return list(self.encoding.type_ids)

    @property
    def special(self) -> list[bool]:
        return [bool(mask) for mask in self.encoding.special_tokens_mask]


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """A text's way to token ids and back.

    special: the special tokens by role: "unk", "cls", "sep", "pad", "mask" (those there are).
    max_length: the longest input its model was made for, in tokens; None where nothing says.
    config: `tokenizer_config.json` as it was read, written back on saving; with its class where it named none.
    """

    backend: Backend
    special: Mapping[str, str] = field(default_factory=dict)
    max_length: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        self.backend.no_padding()
        self.backend.no_truncation()

    @property
    def vocab_size(self) -> int:
        """One more than the largest id, added tokens included."""
        return max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def id_of(self, role: str) -> int | None:
        """The id of a special token ("mask", "cls", …); None if there is none."""
        token = self.special.get(role)
        return None if token is None else self.backend.token_to_id(token)

    def encode(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        max_length: int | None = None,
        strategy: Strategy = "longest_first",
        offsets: bool = True,
        stride: int | None = None,
    ) -> list[Encoded]:
        """Encode many texts (or pairs of texts) at once, with special tokens and without padding.

        max_length: keep at most this many tokens, special ones included; what was lost is in `Encoded.dropped`.
        strategy: which side of a pair is cut.    offsets: False is faster where nobody reads them.
        stride: nothing is lost; a text too long gives several results one after another, windows that begin with the
        last `stride` tokens of the window before. `Encoded.text` says whose they are; offsets are in the whole text.

        Raises InputError on what is not a text, and on a max_length with no room for one (or for more than a stride).
        """
        inputs: list[Any] = checked_texts(texts)
        if pairs is not None:
            if len(pairs) != len(texts):
                raise InputError(f"{len(texts)} texts need as many second texts, got {len(pairs)}")
            inputs = list(zip(inputs, checked_texts(pairs)))
        self._check_room(max_length, pairs is not None)
        with self._lock:
            if stride is not None:
                self._check_stride(stride, max_length, inputs, strategy)
            try:
                with guarded(lambda message: _refusal(message, max_length, strategy)):
                    self._truncate(max_length, strategy, stride or 0)
                    encodings = self._run(inputs, offsets)
                    lost = [0 if stride is not None else self._dropped(e, x) for e, x in zip(encodings, inputs)]
            finally:
                self.backend.no_truncation()  # the backend is saved as it stands
        if stride is None:
            return [Encoded(encoding, lost[i], pairs is not None, i) for i, encoding in enumerate(encodings)]
        side = int(pairs is not None and strategy == "only_second")
        return [
            window
            for i, encoding in enumerate(encodings)
            for window in _windows(encoding, pairs is not None, i, side, stride)
        ]

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """Ids to text, joined as the tokenizer's own decoder joins them. Raises InputError on what is not an id."""
        with guarded(lambda message: InputError(f"cannot make text of these ids: {message}")):
            return self.backend.decode(list(ids), skip_special_tokens=skip_special)

    def to_json(self) -> str:
        """What `tokenizer.json` says of it, whatever other threads encode meanwhile."""
        with self._lock:
            return self.backend.to_str(pretty=True)

    def _run(self, inputs: list[Any], offsets: bool) -> list[Encoding]:
        return self.backend.encode_batch(inputs) if offsets else self.backend.encode_batch_fast(inputs)

    def _dropped(self, encoding: Encoding, text: Any) -> int:
        """How many tokens truncation took. A pair's overflow comes in overlapping parts, so a pair is encoded again."""
        if not encoding.overflowing:
            return 0
        if isinstance(text, str):
            return sum(part.special_tokens_mask.count(0) for part in encoding.overflowing)
        limit = dict(self.backend.truncation or {})
        self.backend.no_truncation()
        whole = self.backend.encode(*text)
        self.backend.enable_truncation(limit["max_length"], strategy=limit["strategy"])
        return len(whole) - len(encoding)

    def _check_room(self, max_length: int | None, pair: bool) -> None:
        special = self.backend.num_special_tokens_to_add(pair)
        if max_length is not None and max_length <= special:
            raise InputError(f"a limit of {max_length} tokens leaves no room: {special} are special tokens")

    def _check_stride(self, stride: int, max_length: int | None, inputs: Sequence[Any], strategy: Strategy) -> None:
        """Refuse, before the backend does it in its own way, windows that would not move on."""
        pair = bool(inputs) and not isinstance(inputs[0], str)
        room = (max_length or 0) - self.backend.num_special_tokens_to_add(pair)
        if max_length is None or not 0 <= stride < room:
            raise InputError(f"a stride of {stride} needs a larger max_length than {max_length}: windows must move on")
        self.backend.no_truncation()
        sides = [self._lengths(side) for side in zip(*inputs)] if pair else []
        for i, (first, second) in enumerate(zip(*sides)):
            if first + second > room and ROOMS[strategy](room, first, second) <= stride:
                raise InputError(
                    f"pair {i}: {max_length} tokens with {strategy} leave no more room than the stride of {stride}"
                )

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        with guarded(lambda message: InputError(f"cannot tokenize: {message}")):
            return [len(e) for e in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def _truncate(self, max_length: int | None, strategy: Strategy, stride: int) -> None:
        if max_length is None:
            self.backend.no_truncation()
        else:
            self.backend.enable_truncation(max_length, stride=stride, strategy=strategy)


def _windows(encoding: Encoding, pair: bool, text: int, side: int, stride: int) -> Iterator[Encoded]:
    """The windows of one text. side: of a pair, which is cut."""
    first = Encoded(encoding, 0, pair, text)
    yield first
    start = first.sequences.count(side) - stride
    for overflowing in encoding.overflowing:
        window = Encoded(overflowing, 0, pair, text, start, first if pair else None)
        yield window
        start += window.sequences.count(side) - stride


def _refusal(message: str, max_length: int | None, strategy: Strategy) -> InputError:
    """Of a text that cannot be encoded, or not be cut (as where only_first cannot cut enough)."""
    cutting = max_length is not None and "truncat" in message.lower()
    return InputError(
        f"cannot cut to {max_length} tokens with {strategy}: {message}" if cutting else f"cannot tokenize: {message}"
    )


def as_texts(inputs: Any) -> list[str]:
    """One text, or several, as a list. Raises InputError on anything else, naming its type."""
    if isinstance(inputs, str):
        return [inputs]
    if isinstance(inputs, (bytes, Mapping)) or not isinstance(inputs, Iterable):
        raise InputError(f"a text or a list of texts was expected, not {type(inputs).__name__}")
    return list(inputs)


def checked_texts(texts: Sequence[str]) -> list[str]:
    """The texts, if they are strings that can be encoded as UTF-8."""
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"text {i} is not a string but {type(text).__name__}: {text!r:.60}")
        if not text.isascii():
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise InputError(
                    f"text {i}: character {error.start} is half of a surrogate pair (U+{ord(text[error.start]):04X}), "
                    "which no text has; decode the text with errors='replace'"
                ) from None
    return list(texts)


@dataclass(eq=False)
class Cuts:
    """Texts that were cut, counted over several calls, to be told once.

    texts: all of them.    cut: how many were.    limit: to how many tokens at most.    longest: tokens of the longest.
    """

    texts: int = 0
    cut: int = 0
    limit: int = 0
    longest: int = 0

    def add(self, encoded: Sequence[Encoded]) -> None:
        self.texts += len(encoded)
        for one in encoded:
            if one.dropped:
                self.cut += 1
                self.limit = max(self.limit, len(one))
                self.longest = max(self.longest, len(one) + one.dropped)

    def warn(self) -> None:
        """Warn, if there were any."""
        if self.cut:
            told = f"{self.cut:,} of {self.texts:,} texts were cut to {self.limit} tokens at most"
            warnings.warn(f"{told} (the longest had {self.longest:,})", TruncationWarning, stacklevel=2)


def cut_lengths(encoded: Iterable[Encoded]) -> list[int]:
    """The lengths, in tokens, that cut texts had before."""
    return [len(e) + e.dropped for e in encoded if e.dropped]


def warn_of_truncation(cut: Sequence[int], count: int, max_length: int) -> None:
    """Warn, once for all of them, that of `count` texts some were cut; `cut` as from `cut_lengths`.

    The warning names the line that called the function which calls this one.
    """
    if cut:
        message = f"{len(cut):,} of {count:,} texts were cut to {max_length} tokens (the longest had {max(cut):,})"
        if count == 1:
            message = f"the text was cut to {max_length} tokens (it had {cut[0]:,})"
        warnings.warn(message, TruncationWarning, stacklevel=3)
