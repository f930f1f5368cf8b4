"""Objectives that share one forward: each reads the same output, and what they lose is added."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from bothways.data.batch import Batch
from bothways.data.packing import Packed
from bothways.nn.encoder import EncoderOutput
from bothways.objectives.objective import Losses, Model
from bothways.ragged import Layout, Ragged

__all__ = ["Reading", "Together"]


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
        """The losses of a batch, as sums."""


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
        return batch

    def counts(self, batch: Batch) -> Mapping[str, int]:
        return {name: count for reading in self.readings for name, count in reading.counts(batch).items()}

    def predicted(self, length: float) -> float:
        return sum(reading.predicted(length) for reading in self.readings)

    def loss(self, model: Model, batch: Batch) -> Losses:
        output = model.network(batch.tokens, batch.types)
        found = [reading.read(model, output, batch) for reading in self.readings]
        losses = {name: part for one in found for name, part in one.losses.items()}
        return Losses(losses, {name: part for one in found for name, part in one.metrics.items()})
