"""Sorting texts by length and cutting them into batches of about equal work, for the engines driven by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from time import perf_counter
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Setting = TypeVar("Setting")
TUNING_CHARACTERS = 90_000
BATCH_TOKENS = (256, 512, 1024, 2048)


def sorted_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of the texts by falling length, in batches of at most `budget` tokens, padding included.

    A text longer than the budget is a batch of its own.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        last = batches[-1] if batches else []
        if last and (len(last) + 1) * lengths[last[0]] <= budget:
            last.append(index)
        else:
            batches.append([index])
    return batches


def padded(ids: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids and mask, both [batch, longest], with zeros where a text has ended."""
    width = max(map(len, ids))
    tokens = np.zeros((len(ids), width), dtype=np.int64)
    mask = np.zeros((len(ids), width), dtype=np.int64)
    for row, text in enumerate(ids):
        tokens[row, : len(text)] = text
        mask[row, : len(text)] = 1
    return tokens, mask


def sample(texts: Sequence[str]) -> list[str]:
    """The first of the texts, as many as it takes to tell a good batch size from a bad one."""
    ends = accumulate(map(len, texts))
    return [text for text, end in zip(texts, ends, strict=True) if end <= TUNING_CHARACTERS]


def fastest(settings: Sequence[Setting], run: Callable[[Setting], object]) -> Setting:
    """The setting with the shortest run: each runs twice, the second time measured."""

    def seconds(setting: Setting) -> float:
        run(setting)
        start = perf_counter()
        run(setting)
        return perf_counter() - start

    return min(settings, key=seconds)
