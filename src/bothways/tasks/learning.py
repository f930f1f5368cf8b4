"""How a task is learnt from labelled rows. The same value trains, evaluates and predicts.

row → `samples`: its sequences (one, its windows, or its choices) and what they are labelled with
    → `Supervised.batch` → the network → `loss`
row → `request_of` → the pipeline's answer → `outcome` → `metrics`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeVar

from torch import nn

from bothways.data.batch import Answers, Batch, Tokens, batch
from bothways.data.labelled import Labels
from bothways.nn.encoder import EncoderOutput
from bothways.nn.heads import Classifier
from bothways.objectives.objective import Losses, Model
from bothways.ragged import Layout, Ragged
from bothways.tasks.task import Facts, Request, Task
from bothways.text.windows import Windows

__all__ = ["Learnable", "Sample", "Supervised", "Weighing"]

RowT = TypeVar("RowT", contravariant=True)


@dataclass(frozen=True, eq=False)
class Sample:
    """A labelled row as it is learnt from.

    sequences: its text, the windows of it, or its choices; they stay in one batch.
    answer: what the task makes of its label, such as a number, or a number for each token.
    cut: tokens of it that no sequence has.
    """

    sequences: tuple[Tokens, ...]
    answer: Any
    cut: int = 0

    def __len__(self) -> int:
        """Tokens of all sequences."""
        return sum(map(len, self.sequences))


@dataclass(frozen=True)
class Weighing:
    """What a run says of losses.

    smoothing: the share of each label's certainty that all labels get (Szegedy et al. 2015, arXiv:1512.00567).
    classes: how much rows of each label weigh, 1 on average over the rows; None: all alike.
    reduce: how the scores of a text's windows become one: "mean" or "max".
    """

    smoothing: float = 0.0
    classes: tuple[float, ...] | None = None
    reduce: Literal["mean", "max"] = "mean"


class Learnable(Task[Any], Protocol[RowT]):
    """A task that can be learnt. Like every task it holds no state; one value serves every model.

    RowT: what it reads of a file, such as `data.labelled.Example`.
    """

    @property
    def losses(self) -> Mapping[str, float]:
        """What is minimised, by name, and how much a mean of each weighs."""

    def best(self, labels: Labels) -> str:
        """The metric that says which of several models is best; the higher the better."""

    def weighs(self, labels: Labels) -> frozenset[str]:
        """What a run may say that means something for these labels: smoothing, class_weights, windows."""

    def says(self, rows: Sequence[RowT]) -> Mapping[str, Any]:
        """Keys that the config of a model has which learns these rows, beside those of labels."""

    def labels_of(self, rows: Sequence[RowT], labels: Labels | None = None) -> Labels:
        """What these rows are labelled with; checked against `labels`, if those are known.

        Raises InputError, naming file and row, on a label that is not known, and where there is nothing to learn.
        """

    def samples(
        self, rows: Sequence[RowT], labels: Labels, facts: Facts, windows: Windows | None, max_length: int | None
    ) -> list[Sample]:
        """The rows as tokens, one sample each, in order.

        windows: how texts that are too long are read; None: as the task does by default.
        max_length: tokens a sequence may have; None: what the model takes.
        Raises InputError, naming the row, on one that cannot be learnt from.
        """

    def answers(self, samples: Sequence[Sample], layout: Layout) -> Mapping[str, Answers]:
        """What losses compare with. layout: of all sequences of these samples, one after another."""

    def loss(self, output: EncoderOutput, head: nn.Module, batch: Batch, weighing: Weighing) -> Losses:
        """The losses of a batch as sums, by the names in `losses`, and how many were right.

        batch.groups: the sequences of each sample.
        """

    def request_of(self, rows: Sequence[RowT], windows: Windows | None, max_length: int | None) -> Request:
        """What a pipeline is asked to predict these rows, with everything in its answers that `outcome` reads."""

    def outcome(self, row: RowT, answer: Any, labels: Labels) -> Any:
        """What metrics need of a row and of the pipeline's answer: a few numbers or names, no texts."""

    def metrics(self, outcomes: Sequence[Any], labels: Labels) -> dict[str, float]:
        """How good the answers are: by the name that `best` gives, and by others."""


@dataclass(frozen=True, eq=False)
class Supervised:
    """The objective of learning a task: its head on the network's output, compared with labels."""

    task: Learnable[Any]
    head: str
    weighing: Weighing = Weighing()
    steady = True

    @property
    def heads(self) -> tuple[str, ...]:
        return (self.head,)

    @property
    def losses(self) -> Mapping[str, float]:
        return self.task.losses

    def batch(self, samples: Sequence[Sample], states: Ragged | None = None) -> Batch:
        """Samples as one batch; `groups` has the sequences of each.

        states: hidden states of their sequences, which are to be in the place of ids.
        """
        groups = Layout.of(len(sample.sequences) for sample in samples)
        if states is None:
            sequences = [one for sample in samples for one in sample.sequences]
            made = batch(sequences, range(len(sequences)))
        else:
            made = Batch(states, None, tuple(range(len(states))))
        return replace(made, groups=groups, labels=self.task.answers(samples, made.tokens.layout))

    def counts(self, batch: Batch) -> Mapping[str, int]:
        return {name: len(batch.labels[name].values) for name in self.losses}

    def loss(self, model: Model, batch: Batch) -> Losses:
        head = model.heads[self.head]
        rows = head.reads(batch.tokens.layout) if isinstance(head, Classifier) else None
        output = model.network(batch.tokens, batch.types, rows=rows)
        return self.task.loss(output, head, batch, self.weighing)
