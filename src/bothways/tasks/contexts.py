"""Questions and contexts as tokens: the question whole in every window of the context (Devlin et al. 2018, 4.2)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from bothways.errors import InputError, TruncationWarning
from bothways.tasks.task import Facts
from bothways.text.tokenizer import Encoded, Tokenizer
from bothways.text.windows import Windows, in_windows

__all__ = ["Read", "Reading", "context_rows"]

USUAL_STRIDE = 128  # tokens that a window shares with the one before, in BERT's recipe for SQuAD


class Read(NamedTuple):
    """A question and its context.

    windows: of the context, in order, each behind the question.    cut: tokens that the question lost.
    """

    windows: list[Encoded]
    cut: int


@dataclass(frozen=True)
class Reading:
    """How contexts are read.

    length: tokens of a window at most, all included; no more than the model takes.
    stride: tokens that a window shares with the one before; None: 128, or half the room for the context where that is
    less.    question: tokens of a question at most; what is longer is cut, and that is told.
    """

    length: int = 384
    stride: int | None = None
    question: int = 64

    def __call__(
        self, questions: Sequence[Any], contexts: Sequence[Any], places: Sequence[str], facts: Facts
    ) -> list[Read]:
        """The questions with their contexts. What becomes of one does not depend on the others.

        places: what to call each in messages.    Warns of questions that are cut.
        Raises InputError, naming its place, on a text that is none or is blank, and where windows have no room for the
        context, or no more than they share.
        """
        for place, question, context in zip(places, questions, contexts):
            _check_text(place, "question", question)
            _check_text(place, "context", context)
        tokenizer, length = facts.tokenizer, min(self.length, facts.longest)
        lengths = _lengths(tokenizer, questions)
        short = [
            question if tokens <= self.question else _beginning(tokenizer, question, self.question, place)
            for place, question, tokens in zip(places, questions, lengths)
        ]
        left = [
            tokens if one is question else _lengths(tokenizer, [one])[0]
            for one, question, tokens in zip(short, questions, lengths)
        ]
        strides = self._strides(tokenizer, length, left, contexts, places)
        windows = _windows(tokenizer, short, contexts, length, strides)
        for place, one in zip(places, windows):
            if not context_rows(one[0]):
                raise InputError(f"{place}: nothing in the context is a token of this model")
        self._warn([tokens for tokens in lengths if tokens > self.question], len(questions))
        return [Read(one, tokens - rest) for one, tokens, rest in zip(windows, lengths, left)]

    def _strides(
        self,
        tokenizer: Tokenizer,
        length: int,
        questions: Sequence[int],
        contexts: Sequence[str],
        places: Sequence[str],
    ) -> list[int]:
        """How many tokens the windows of each context share. questions: tokens of each."""
        around = tokenizer.backend.num_special_tokens_to_add(True)
        strides = []
        for place, tokens, context in zip(places, questions, contexts):
            room = length - around - tokens
            if room < 1:
                raise InputError(
                    f"{place}: a question of {tokens} tokens leaves no room for the context in windows of {length}"
                )
            stride = min(USUAL_STRIDE, room // 2) if self.stride is None else self.stride
            if stride >= room:
                if _lengths(tokenizer, [context])[0] > room:
                    raise InputError(
                        f"{place}: windows of {length} tokens leave {room} for the context beside the question, "
                        f"which must be more than the doc_stride of {stride}"
                    )
                stride = 0  # one window has all
            strides.append(stride)
        return strides

    def _warn(self, cut: Sequence[int], count: int) -> None:
        if cut:
            message = f"{len(cut):,} of {count:,} questions were cut to {self.question} tokens"
            message += f" (the longest had {max(cut):,}); max_question_len says how many they may have"
            warnings.warn(message, TruncationWarning, stacklevel=3)


def context_rows(window: Encoded) -> range:
    """The rows that the context has in a window."""
    sides = window.sequences
    count = sides.count(1)
    first = sides.index(1) if count else 0
    return range(first, first + count)


def _windows(
    tokenizer: Tokenizer, questions: Sequence[str], contexts: Sequence[str], length: int, strides: Sequence[int]
) -> list[list[Encoded]]:
    """The windows of each context. strides: of each."""
    found: list[list[Encoded]] = [[] for _ in questions]
    for stride in sorted(set(strides)):
        numbers = [i for i, one in enumerate(strides) if one == stride]
        texts, pairs = [questions[i] for i in numbers], [contexts[i] for i in numbers]
        for window in in_windows(tokenizer, texts, pairs, Windows(length, stride, "only_second"), length):
            number = numbers[window.text]
            found[number].append(replace(window, text=number))
    return found


def _lengths(tokenizer: Tokenizer, texts: Sequence[str]) -> list[int]:
    """Tokens of each text, special ones left out."""
    around = tokenizer.backend.num_special_tokens_to_add(False)
    return [len(one) - around for one in tokenizer.encode(texts, offsets=False)]


def _beginning(tokenizer: Tokenizer, question: str, most: int, place: str) -> str:
    """As much of a question as has so many tokens. (Cut off, a word may have more of them than before.)"""
    (encoded,) = tokenizer.encode([question])
    ends = [end for (_, end), side in zip(encoded.offsets, encoded.sequences) if side == 0]
    for end in sorted(set(ends[:most]), reverse=True):
        if 0 < _lengths(tokenizer, [question[:end]])[0] <= most:
            return question[:end]
    raise InputError(
        f"{place}: no beginning of the question has {most} tokens or fewer; give a larger max_question_len"
    )


def _check_text(place: str, what: str, text: Any) -> None:
    if not isinstance(text, str):
        raise InputError(f"{place}: the {what} is not a text but {type(text).__name__}: {text!r:.60}")
    if not text.strip():
        raise InputError(f"{place}: the {what} is empty")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"{place}: character {error.start} of the {what} is half of a surrogate pair; "
                "decode the text with errors='replace'"
            ) from None
