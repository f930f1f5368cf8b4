"""What a model's labels mean, as `config.json` says it: `id2label`, `label2id`, `problem_type`; and
`label_thresholds`, of ours: from which score on each label is answered."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bothways.data.labelled import Kind, Labels
from bothways.errors import ConfigError
from bothways.families.heads import label_count

__all__ = ["LABEL_KEYS", "THRESHOLDS", "labels_of", "said_of"]

THRESHOLDS = "label_thresholds"
LABEL_KEYS = ("id2label", "label2id", "num_labels", "problem_type", THRESHOLDS)
PROBLEMS: dict[str, Kind] = {
    "single_label_classification": "single",
    "multi_label_classification": "multi",
    "regression": "regression",
}


def labels_of(extras: Mapping[str, Any]) -> Labels:
    """The labels that a config names, by their numbers; LABEL_0, LABEL_1 … where it names none, as in transformers.

    Raises ConfigError on names that are not numbered from 0 on, on a kind of problem that is not known, and on
    thresholds that are not a number for each label.
    """
    count = label_count(extras)
    named = extras.get("id2label") or {str(number): f"LABEL_{number}" for number in range(count)}
    try:
        by_number = {int(number): str(name) for number, name in named.items()}
    except (TypeError, ValueError):
        raise ConfigError(f"id2label has a key that is no number: {named!r:.80}") from None
    if sorted(by_number) != list(range(count)):
        raise ConfigError(f"id2label must name the labels 0 to {count - 1}, got {sorted(by_number)!r:.80}")
    problem = extras.get("problem_type")
    if problem is not None and problem not in PROBLEMS:
        raise ConfigError(f"problem_type must be one of {', '.join(PROBLEMS)}, got {problem!r:.80}")
    kind = "single" if problem is None else PROBLEMS[problem]
    names = tuple(by_number[i] for i in range(count))
    return Labels(kind, names, thresholds=_thresholds(extras.get(THRESHOLDS), count))


def _thresholds(value: Any, count: int) -> tuple[float, ...]:
    if value is None:
        return ()
    numbers = value if isinstance(value, list) else []
    if len(numbers) != count or not all(type(one) in (int, float) and math.isfinite(one) for one in numbers):
        raise ConfigError(f"{THRESHOLDS} must be a list of {count} numbers, one for each label, got {value!r:.80}")
    return tuple(map(float, numbers))


def said_of(labels: Labels) -> dict[str, Any]:
    """What a config says of labels; the inverse of `labels_of`."""
    chosen = {THRESHOLDS: list(labels.thresholds)} if labels.thresholds else {}
    names = labels.names or ("LABEL_0",)
    problem = next(theirs for theirs, ours in PROBLEMS.items() if ours == labels.kind)
    return {
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
        "problem_type": problem,
        **chosen,
    }
