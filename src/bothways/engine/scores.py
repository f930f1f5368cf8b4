"""Scores of the next token, changed by what a text may be: no end too early, no repetition. And the best of them.

Shapes: R rows (texts that are being written), V words of the vocabulary, L tokens that each row has so far.
Each rule is transformers' of the same name, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bothways.engine.decoding import Decoding
from bothways.errors import InputError

__all__ = ["NOTHING", "Rules", "best", "check_numbers", "log_top", "top"]

NOTHING = -1  # in a row's tokens, before its first one
# Rows of scores are searched in blocks of so many columns: the k best are in the k blocks with the largest maxima.
# A plain topk of 30,000 columns copies them all and their numbers.
BLOCK = 64
BLOCKS_FROM = 4096
ROWS_AT_A_TIME = 16


@dataclass(frozen=True)
class Place:
    """Where rows are. written: how many tokens they have beyond their prompts.

    first, last: int64 [M], the rows that have a single token so far, and those that can have only one more.
    begin: those whose next token is the first that is not forced.
    sources: int64 [R, S], what each row's text is written from, NOTHING before its first token.
    """

    written: int
    first: Tensor | None = None
    last: Tensor | None = None
    begin: Tensor | None = None
    sources: Tensor | None = None


class Rules:
    """What the settings say of scores: functions of (scores [R, V], changed in place; tokens int64 [R, L]; place).

    reads: whether it needs the tokens so far.    any: whether it may change anything.
    sources: whether it needs what texts are written from.
    """

    def __init__(self, decoding: Decoding, end: Sequence[int]) -> None:
        rules: list[partial[None]] = []
        penalty, size = decoding.repetition_penalty, decoding.no_repeat_ngram_size
        if penalty != 1.0:
            rules.append(partial(_penalise, penalty))
        if size:
            rules.append(partial(_forbid_repeats, size))
        self.sources = bool(decoding.encoder_no_repeat_ngram_size)
        if self.sources:
            rules.append(partial(_forbid_copies, decoding.encoder_no_repeat_ngram_size))
        bad = [word for word in decoding.bad_words_ids if word not in {(one,) for one in end}]
        rules += [partial(_forbid_word, list(word)) for word in bad if len(word) > 1]
        self.reads = bool(rules)
        if single := [word[0] for word in bad if len(word) == 1]:
            rules.append(partial(_forbid_always, single))
        if decoding.min_new_tokens and end:
            rules.append(partial(_forbid_end, list(end), decoding.min_new_tokens))
        if decoding.forced_bos_token_id is not None:
            rules.append(partial(_force_first, decoding.forced_bos_token_id))
        if decoding.ends:
            rules.append(partial(_force_last, list(decoding.ends)))
        if decoding.suppress_tokens:
            rules.append(partial(_forbid_always, list(decoding.suppress_tokens)))
        if decoding.begin_suppress_tokens:
            rules.append(partial(_forbid_first, list(decoding.begin_suppress_tokens)))
        self._rules = rules
        self.any = bool(rules)

    def forbidden(self, place: Place) -> list[int] | None:
        """The words that may not come, where that is all that the rules say; else None."""
        if any(rule.func not in OF_ALL_ROWS for rule in self._rules):
            return None
        return sorted({token for rule in self._rules if OF_ALL_ROWS[rule.func](rule, place) for token in rule.args[0]})

    def __call__(self, scores: Tensor, tokens: Tensor | None, place: Place) -> None:
        """tokens: int64 [R, L], NOTHING before a row's first one; None unless `reads`."""
        for rule in self._rules:
            rule(scores, tokens, place)


def _penalise(penalty: float, scores: Tensor, tokens: Tensor | None, place: Place) -> None:
    assert tokens is not None
    there = torch.where(tokens == NOTHING, tokens[:, -1:], tokens)
    found = scores.gather(1, there)
    scores.scatter_(1, there, torch.where(found < 0, found * penalty, found / penalty))


def _forbid_repeats(size: int, scores: Tensor, tokens: Tensor | None, place: Place) -> None:
    """No token that would make the last `size` ones a sequence that was there."""
    assert tokens is not None
    length = tokens.shape[1]
    if length < size:
        return
    ending = tokens[:, length + 1 - size :]
    windows = tokens.unfold(1, size, 1)
    same = (windows[..., :-1] == ending[:, None]).all(-1) & (windows[..., 0] != NOTHING)
    rows, at = same.nonzero(as_tuple=True)
    scores[rows, windows[rows, at, -1]] = -torch.inf


def _forbid_copies(size: int, scores: Tensor, tokens: Tensor | None, place: Place) -> None:
    """No token that would make the last `size` ones a sequence of the source."""
    assert tokens is not None
    assert place.sources is not None
    length = tokens.shape[1]
    if length < size - 1 or place.sources.shape[1] < size:
        return
    windows = place.sources.unfold(1, size, 1)
    same = (windows[..., :-1] == tokens[:, None, length + 1 - size :]).all(-1) & (windows[..., 0] != NOTHING)
    rows, at = same.nonzero(as_tuple=True)
    scores[rows, windows[rows, at, -1]] = -torch.inf


def _forbid_word(word: list[int], scores: Tensor, tokens: Tensor | None, place: Place) -> None:
    """No token that would be the last one of a word of several."""
    assert tokens is not None
    *before, last = word
    if tokens.shape[1] >= len(before):
        there = tokens[:, -len(before) :] == torch.tensor(before, device=tokens.device)
        scores[there.all(1), last] = -torch.inf


def _forbid_always(words: list[int], scores: Tensor, tokens: Tensor | None, place: Place) -> None:
    scores[:, words] = -torch.inf


def _forbid_first(words: list[int], scores: Tensor, tokens: Tensor | None, place: Place) -> None:
    if place.begin is not None:
        scores[place.begin[:, None], torch.tensor(words, device=scores.device)] = -torch.inf


def _forbid_end(end: list[int], least: int, scores: Tensor, tokens: Tensor | None, place: Place) -> None:
    if place.written < least:
        scores[:, end] = -torch.inf


def _force_first(token: int, scores: Tensor, tokens: Tensor | None, place: Place) -> None:
    _force([token], scores, place.first)


def _force_last(words: list[int], scores: Tensor, tokens: Tensor | None, place: Place) -> None:
    _force(words, scores, place.last)


def _force(words: list[int], scores: Tensor, rows: Tensor | None) -> None:
    if rows is not None:
        scores[rows] = -torch.inf
        scores[rows[:, None], torch.tensor(words, device=scores.device)] = 0.0


# Rules that forbid the words they begin with in all rows alike, and when they do.
OF_ALL_ROWS: Mapping[Callable[..., None], Callable[[partial[None], Place], bool]] = {
    _forbid_always: lambda rule, place: True,
    _forbid_first: lambda rule, place: place.begin is not None,
    _forbid_end: lambda rule, place: place.written < rule.args[1],
}


def check_numbers(numbers: Tensor | float, what: str) -> None:
    """Raise InputError, saying what they are, where some are NaN or infinite."""
    if not bool(torch.as_tensor(numbers).isfinite().all()):
        raise InputError(
            f"{what} are no numbers (NaN or infinite); its weights are damaged, or overflow in this precision"
        )


def best(scores: Tensor) -> tuple[Tensor, Tensor]:
    """scores [R, V] → the largest of each row and its column, both [R]; NaN where a row has one."""
    if not _in_blocks(scores):
        values, columns = scores.max(1)
        return values, columns
    largest, block = _maxima(scores).max(1, keepdim=True)
    values, columns = _members(scores, block)
    return largest[:, 0], columns.gather(1, values.max(1, keepdim=True).indices)[:, 0]


def top(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """scores [R, V] → the `count` largest of each row, best first, and their columns, both [R, count] (or V)."""
    count = min(count, scores.shape[1])
    if not _in_blocks(scores) or count * BLOCK * 2 > scores.shape[1]:
        values, columns = torch.topk(scores, count)
        return values, columns
    values, columns = _members(scores, torch.topk(_maxima(scores), count).indices)
    values, at = torch.topk(values, count)
    return values, columns.gather(1, at)


def log_top(logits: Tensor, count: int, without: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
    """logits [R, V] → the `count` largest log-probabilities of each row, best first, and their columns, [R, count].

    without: columns that do not count, though they are part of the whole.
    Some rows at a time, so that they are still in cache when they are read again.
    """
    parts = []
    for rows in logits.split(ROWS_AT_A_TIME) if logits.device.type == "cpu" else (logits,):
        known = rows.log_softmax(1)
        if without:
            known[:, list(without)] = -torch.inf
        parts.append(top(known, count))
    if len(parts) == 1:
        return parts[0]
    return torch.cat([values for values, _ in parts]), torch.cat([columns for _, columns in parts])


def _in_blocks(scores: Tensor) -> bool:
    return scores.device.type == "cpu" and scores.shape[1] >= BLOCKS_FROM


def _maxima(scores: Tensor) -> Tensor:
    """The largest of each block [R, blocks]; the last block may be shorter."""
    whole = scores.shape[1] // BLOCK * BLOCK
    maxima = scores[:, :whole].unflatten(1, (-1, BLOCK)).amax(-1)
    if whole == scores.shape[1]:
        return maxima
    return torch.cat([maxima, scores[:, whole:].amax(-1, keepdim=True)], 1)


def _members(scores: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor]:
    """blocks int64 [R, K] → the scores in them and their columns [R, K · BLOCK]; -inf behind a row's end."""
    columns = (blocks[..., None] * BLOCK + torch.arange(BLOCK, device=blocks.device)).flatten(1)
    inside = columns < scores.shape[1]
    columns = columns.clamp(max=scores.shape[1] - 1)
    return scores.gather(1, columns).masked_fill(~inside, -torch.inf), columns
