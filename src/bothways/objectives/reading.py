"""Objectives that share one forward: each reads the same output, and what they lose is added."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from bothways.data.batch import Batch
from bothways.data.packing import Packed
from bothways.nn.encoder import EncoderOutput
from bothways.nn.heads import rows_of_last
from bothways.objectives.objective import Losses, Model
from bothways.ragged import Layout, Ragged

__all__ = ["Reading", "Together", "read_of"]

FEW = 0.5  # of a batch's rows: from there on all are computed


class Reading(Protocol):
    """Something that can be learnt from the output of one forward. Readings hold no state of training."""

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads it needs, by their names in a family."""

    @property
    def losses(self) -> Mapping[str, float]:
        """What is minimised, by name, and how much a mean of each weighs."""

    def corrupt(self, packed: Packed, batch: Batch, rng: np.random.Generator) -> Batch:
        """The batch as it is so far, with what this reading hides and asks. Same generator, same batch."""

    def counts(self, batch: Batch) -> Mapping[str, int]:
        """How many rows each loss will be a sum over; known on the host before anything is computed."""

    def predicted(self, length: float) -> float:
        """How many of the tokens of sequences of `length` tokens words are predicted from: a share."""

    def read(self, model: Model, output: EncoderOutput, batch: Batch) -> Losses:
        """The losses of a batch, as sums. Of the output it asks the rows of its labels and no others: `output.at`."""


@dataclass(frozen=True)
class Together:
    """The objective of one or more readings: the network runs once.

    They corrupt a batch one after the other; names of heads, losses and metrics are each one reading's own.
    """

    readings: tuple[Reading, ...]
    steady = True

    @property
    def heads(self) -> tuple[str, ...]:
        return tuple(head for reading in self.readings for head in reading.heads)

    @property
    def losses(self) -> Mapping[str, float]:
        return {name: weight for reading in self.readings for name, weight in reading.losses.items()}

    def corrupt(self, packed: Packed, rng: np.random.Generator) -> Batch:
        types = None if packed.types is None else torch.from_numpy(packed.types)
        tokens = Ragged(torch.from_numpy(packed.ids), Layout.of(packed.lengths))
        batch = Batch(tokens, types, tuple(range(len(packed.lengths))))
        for reading in self.readings:
            batch = reading.corrupt(packed, batch, rng)
        return replace(batch, rows=_asked(batch))

    def counts(self, batch: Batch) -> Mapping[str, int]:
        return {name: count for reading in self.readings for name, count in reading.counts(batch).items()}

    def predicted(self, length: float) -> float:
        return sum(reading.predicted(length) for reading in self.readings)

    def loss(self, model: Model, batch: Batch) -> Losses:
        heads = [model.heads[name] for name in self.heads if name in model.heads]
        output = model.network(batch.tokens, batch.types, rows=rows_of_last(heads, batch.rows))
        found = [reading.read(model, output, batch) for reading in self.readings]
        losses = {name: part for one in found for name, part in one.losses.items()}
        return Losses(losses, {name: part for one in found for name, part in one.metrics.items()})


def _asked(batch: Batch) -> Ragged | None:
    """The rows of all labels, if they are few."""
    layout = batch.tokens.layout
    rows = [answers.rows.numpy() for answers in batch.labels.values() if answers.rows is not None]
    if not rows or len(rows) < len(batch.labels):  # labels without rows are of all
        return None
    asked = np.unique(np.concatenate(rows))
    if len(asked) >= FEW * layout.total:
        return None
    counts = np.diff(np.searchsorted(asked, [*layout.starts, layout.total]))
    return Ragged(torch.from_numpy(asked), Layout.of(counts.tolist()))


def read_of(predicted: float) -> float:
    """The share of rows that is computed of the last hidden states, where words are predicted from such a share of
    them: 0 for what predicts none, and reads all."""
    return predicted if 0.0 < predicted < FEW else 1.0
