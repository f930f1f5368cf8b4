"""What a fine-tuning run is taught with: labelled rows as tokens, and what stands for them in its checkpoints."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import blake2b
from typing import Any

import torch

from bothways.checkpoint.encoder import Encoder, tokenizer_of
from bothways.data.batch import Numbers
from bothways.data.labelled import Labels
from bothways.engine.evaluation import Reading
from bothways.errors import ConfigError, TruncationWarning
from bothways.tasks.learning import Learnable, Sample, Supervised, Weighing
from bothways.tasks.task import Facts
from bothways.train.tuning import TuningSettings

__all__ = ["Material", "identity_of", "material_of", "reading_of"]

ROWS_AT_A_TIME = 4096


@dataclass(frozen=True, eq=False)
class Material:
    """What a run is taught with: a task, its labels, rows as tokens, and rows to evaluate on.

    identity: what stands for all rows.    held_identity: for those to evaluate on; None where there are none.
    """

    name: str
    task: Learnable[Any]
    labels: Labels
    samples: Sequence[Sample]
    held: Sequence[Any]
    objective: Supervised
    identity: str
    held_identity: str | None


def material_of(
    name: str,
    task: Learnable[Any],
    labels: Labels,
    rows: Sequence[Any],
    held: Sequence[Any],
    encoder: Encoder,
    settings: TuningSettings,
) -> Material:
    """The rows as tokens. Warns of texts that are cut."""
    facts = Facts(tokenizer_of(encoder), encoder.extras, encoder.config.longest)
    samples = list(_samples(task, rows, labels, facts, settings))
    cut = [len(sample) + sample.cut for sample in samples if sample.cut]
    if cut:
        limit = settings.text.max_length or facts.longest
        told = f"{len(cut):,} of {len(samples):,} rows were cut to {limit} tokens (the longest had {max(cut):,})"
        warnings.warn(told, TruncationWarning, stacklevel=3)
    reduce = "mean" if settings.text.windows == "cut" else settings.text.windows
    objective = Supervised(task, task.head or "", Weighing(settings.loss.smoothing, reduce=reduce))
    if settings.loss.class_weights == "balanced":
        weighing = replace(objective.weighing, classes=_balanced(objective, samples, labels))
        objective = replace(objective, weighing=weighing)
    asked = (labels.kind, labels.names)
    held_identity = identity_of(asked, held, ()) if held else None
    return Material(name, task, labels, samples, held, objective, identity_of(asked, rows, held), held_identity)


def _samples(
    task: Learnable[Any], rows: Sequence[Any], labels: Labels, facts: Facts, settings: TuningSettings
) -> Iterator[Sample]:
    """Some at a time, since a tokenizer's results are many times as large as their numbers."""
    reading = reading_of(settings)
    for start in range(0, len(rows), ROWS_AT_A_TIME):
        some = rows[start : start + ROWS_AT_A_TIME]
        for sample in task.samples(some, labels, facts, reading.windows, reading.max_length):
            yield replace(sample, sequences=tuple(map(Numbers.of, sample.sequences)))


def reading_of(settings: TuningSettings) -> Reading:
    """How texts are read, in training as in evaluation."""
    return Reading(settings.text.reading(), settings.text.max_length)


def _balanced(objective: Supervised, samples: Sequence[Sample], labels: Labels) -> tuple[float, ...]:
    """How much rows of each label weigh, so that all labels weigh alike, and rows 1 on average."""
    (loss,) = objective.losses
    parts = [objective.batch(samples[i : i + ROWS_AT_A_TIME]) for i in range(0, len(samples), ROWS_AT_A_TIME)]
    values = torch.cat([part.labels[loss].values for part in parts])
    if labels.kind != "single" or values.is_floating_point() or not labels.names:
        raise ConfigError("class_weights = balanced is for rows that have one of several labels each")
    counts = values.bincount(minlength=len(labels.names)).tolist()
    there = sum(count > 0 for count in counts)
    return tuple(len(values) / (there * count) if count else 0.0 for count in counts)


def identity_of(asked: Any, rows: Sequence[Any], held: Sequence[Any]) -> str:
    """What stands for rows, wherever they are read from. asked: what is learnt of them, such as labels' numbers."""
    found = blake2b(repr(asked).encode("utf-8", errors="backslashreplace"), digest_size=16)
    for row in (*rows, None, *held):
        said = row and [getattr(row, one.name) for one in fields(row) if one.name != "place"]
        found.update(repr(said).encode("utf-8", errors="backslashreplace"))
    return found.hexdigest()
