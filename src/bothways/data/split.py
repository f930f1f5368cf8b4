"""A part of labelled rows kept apart to evaluate on; which, goes by what rows say and not by their order."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from hashlib import blake2b
from heapq import nsmallest
from typing import TypeVar

from bothways.data.choices import Choice
from bothways.data.labelled import Example
from bothways.data.parallel import Parallel
from bothways.data.questions import Question
from bothways.data.tagged import Tagged
from bothways.errors import InputError

__all__ = ["held_apart", "picked", "sampled"]

T = TypeVar("T", Example, Tagged, Question, Choice, Parallel)


def held_apart(examples: Sequence[T], share: float = 0.1, salt: str = "") -> tuple[list[T], list[T]]:
    """The examples to learn from, and about this share of them to evaluate on; at least one each.

    Rows of the same text, and questions about the same context, stay together. Of examples with a single label each
    label gets its share, where there are enough of them. Both lists are in an order that goes by what examples say.
    salt: another one keeps others apart.

    Raises InputError where share is not between 0 and 1, and where there are not two examples of different texts.
    """
    if not 0 < share < 1:
        raise InputError(f"the share to evaluate on must be above 0 and below 1, got {share}")
    groups: dict[bytes, list[T]] = defaultdict(list)
    for example in examples:
        groups[_digest(salt, _together(example))].append(example)
    if len(groups) < 2:
        count = f"{len(examples):,} row{'' if len(examples) == 1 else 's'}"
        same = " of the same text" if len(examples) > 1 else ""
        raise InputError(f"{count}{same}, of which none can be kept apart to evaluate on; give rows to evaluate on")
    kept = _kept({key: len(group) for key, group in groups.items()}, _strata(groups), share)
    train = [one for key in groups.keys() - kept for one in groups[key]]
    held = [one for key in kept for one in groups[key]]
    return _ordered(train, salt), _ordered(held, salt)


def _together(example: Example | Tagged | Question | Choice | Parallel) -> Hashable:
    """What examples have in common that stay together."""
    if isinstance(example, Example):
        return example.text, example.text_pair
    if isinstance(example, Question):
        return example.context
    if isinstance(example, Parallel):
        return example.source
    return (example.question, example.choices) if isinstance(example, Choice) else example.text


def _ordered(examples: Iterable[T], salt: str) -> list[T]:
    return sorted(examples, key=lambda one: (_digest(salt, one.__dict__ | {"place": ""}), one.place))


def _digest(salt: str, said: object) -> bytes:
    return blake2b(repr((salt, said)).encode("utf-8"), digest_size=16).digest()


def _strata(groups: Mapping[bytes, Sequence[T]]) -> dict[str, list[bytes]]:
    """The groups of each single label, in an order of chance; all of them as one where labels are none, or several."""
    strata: dict[str, list[bytes]] = defaultdict(list)
    for key in sorted(groups):
        labels = {_label(example) for example in groups[key]}
        strata[repr(sorted(labels))].append(key)
    return dict(sorted(strata.items()))


def _label(example: Example | Tagged | Question | Choice | Parallel) -> str:
    """A single label; "" for what has none."""
    return example.label if isinstance(example, Example) and isinstance(example.label, str) else ""


def _kept(sizes: Mapping[bytes, int], strata: Mapping[str, Sequence[bytes]], share: float) -> set[bytes]:
    """The groups that are kept apart: never all of a label, and about as many rows as the share says."""
    total = sum(sizes.values())
    target = min(max(round(share * total), 1), total - 1)
    rows = {label: sum(sizes[key] for key in keys) for label, keys in strata.items()}
    if sum(count - 1 for count in rows.values()) < target:
        strata, rows = {"": sorted(sizes)}, {"": total}
    kept: set[bytes] = set()
    for label, quota in _quotas(rows, target).items():
        for key in strata[label]:
            if sizes[key] <= quota:
                kept.add(key)
                quota -= sizes[key]
    return kept or {min(sizes, key=lambda key: (sizes[key], key))}


def _quotas(rows: Mapping[str, int], target: int) -> dict[str, int]:
    """How many rows of each label make the target: the same share of each, the largest remainders rounded up."""
    share = target / sum(rows.values())
    quotas = {label: min(math.floor(share * count), count - 1) for label, count in rows.items()}
    while (missing := target - sum(quotas.values())) > 0:
        open_ones = [label for label, count in rows.items() if quotas[label] < count - 1]
        open_ones.sort(key=lambda label: (quotas[label] - share * rows[label], _digest("", label)))
        for label in open_ones[:missing]:
            quotas[label] += 1
    return quotas


def picked(examples: Sequence[T], most: int | None) -> Sequence[T]:
    """At most so many examples, from all over, in their order; which, goes by what they say."""
    if most is None or most >= len(examples):
        return examples
    kept = {id(one) for one in _ordered(examples, "picked")[:most]}
    return [one for one in examples if id(one) in kept]


def sampled(examples: Iterable[T], most: int) -> list[T]:
    """As `picked`, of rows that come one by one: only so many are held in memory."""
    digests = ((_digest("picked", one.__dict__ | {"place": ""}), one.place, i, one) for i, one in enumerate(examples))
    return [
        one for *_, one in sorted(nsmallest(most, digests, key=lambda found: found[:3]), key=lambda found: found[2])
    ]
