"""The hidden states of a frozen encoder on disk: computed once, read at every epoch."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bothways.data.batch import Batch, Tokens
from bothways.engine.frozen import states_of
from bothways.errors import InputError
from bothways.files import replacing
from bothways.nn.encoder import EncoderNetwork
from bothways.nn.heads import Classifier
from bothways.ragged import Layout, Ragged
from bothways.tasks.learning import Sample

__all__ = ["States"]

FILE = "states.f32"
LEAST_TOLD = 1 << 24  # bytes; less is nothing to speak of


class Batching(Protocol):
    """An objective that makes batches of samples, of which the hidden states may be known."""

    def batch(self, samples: Sequence[Sample], states: Ragged | None = None) -> Batch: ...


@dataclass(frozen=True, eq=False)
class States:
    """What a head reads of the sequences of some samples, in a file of fp32 numbers.

    path: of the file.    lengths: rows of each sequence; the samples' sequences one after another.    width: of a row.
    firsts: the number of each sample's first sequence, and how many there are.
    """

    path: Path
    lengths: tuple[int, ...]
    width: int
    firsts: tuple[int, ...]

    @classmethod
    def of(cls, width: int, head: nn.Module | None, samples: Sequence[Sample], folder: Path) -> States:
        """Those of samples, in a folder; nothing is computed yet. width: of a row.    head: None for what reads all."""
        pooled = isinstance(head, Classifier) and head.pooling is not None
        lengths = tuple(1 if pooled else len(one) for sample in samples for one in sample.sequences)
        firsts = tuple(accumulate((len(sample.sequences) for sample in samples), initial=0))
        return cls(folder / FILE, lengths, width, firsts)

    @staticmethod
    def remove(folder: Path) -> None:
        """The file in a folder is no longer needed."""
        (folder / FILE).unlink(missing_ok=True)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return 4 * self.width * sum(self.lengths)

    def compute(
        self,
        network: EncoderNetwork,
        head: nn.Module | None,
        sequences: Sequence[Tokens],
        device: torch.device,
        told: Callable[[str], None],
    ) -> None:
        """Write the file, unless a run that is resumed has it. told: is told beforehand how large it will be.

        Raises InputError where the disk has no room for it.
        """
        if self.path.is_file() and self.path.stat().st_size == self.size:
            return
        free = shutil.disk_usage(self.path.parent).free
        taken = f"{self.size / 1e6:,.0f} MB"
        if self.size > free:
            raise InputError(f"{self.path}: hidden states take {taken}, the disk has {free / 1e6:,.0f} MB free")
        if self.size >= LEAST_TOLD:
            told(f"hidden states are computed once and kept in {self.path} while the run lasts: {taken}")
        with replacing(self.path) as aside:
            rows = np.memmap(aside, np.float32, "w+", shape=(sum(self.lengths), self.width))
            starts = self._starts

            def put(number: int, found: Tensor) -> None:
                rows[starts[number] : starts[number] + len(found)] = found.numpy()

            states_of(network, head, sequences, put, device)
            rows.flush()

    def batch(self, objective: Batching, samples: Sequence[Sample], numbers: Sequence[int]) -> Batch:
        """The samples with these numbers as one batch, which has hidden states in the place of ids."""
        chosen = [i for number in numbers for i in range(self.firsts[number], self.firsts[number + 1])]
        lengths = [self.lengths[i] for i in chosen]
        if all(length == 1 for length in lengths):  # as all are that a head pools
            rows = self._rows[[self._starts[i] for i in chosen]]
        else:
            rows = np.concatenate([self._rows[self._starts[i] : self._starts[i] + n] for i, n in zip(chosen, lengths)])
        states = Ragged(torch.from_numpy(rows), Layout.of(lengths))
        return objective.batch([samples[number] for number in numbers], states)

    @property
    def pooled(self) -> bool:
        """Whether a head reads one row of each sequence."""
        return all(length == 1 for length in self.lengths)

    def rows(self, samples: int) -> list[int]:
        """How many rows each of so many samples has."""
        return [self._starts[self.firsts[i + 1]] - self._starts[self.firsts[i]] for i in range(samples)]

    @cached_property
    def _starts(self) -> tuple[int, ...]:
        return tuple(accumulate(self.lengths, initial=0))

    @cached_property
    def _rows(self) -> NDArray[np.float32]:
        # Without what numpy does for each part of a map.
        return np.asarray(np.memmap(self.path, np.float32, "r", shape=(sum(self.lengths), self.width)))
