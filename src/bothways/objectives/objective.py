"""What an objective is: how a batch is corrupted, which heads read it, and what is lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from bothways.data.batch import Batch
from bothways.data.packing import Packed
from bothways.nn.encoder import EncoderNetwork

__all__ = ["Joint", "Losses", "Model", "Objective", "Part", "PretrainingObjective"]


@dataclass(frozen=True)
class Part:
    """A sum over some rows, and how many they are: the mean is taken over all micro-batches together.

    total: a number, with a gradient where it is a loss.
    """

    total: Tensor
    count: int


@dataclass(frozen=True)
class Losses:
    """losses: what is minimised, by name.    metrics: what is reported besides, such as correct predictions."""

    losses: Mapping[str, Part]
    metrics: Mapping[str, Part]


class Model(nn.Module):
    """A network and the heads that are trained with it.

    generator: another network, with its head, which proposes tokens for this one to judge; None for none.
    decoder: a network that reads this one's rows, which the heads then belong to; None for none.
    adapter: what the rows go through on their way to it; None where they stay as they are.
    """

    def __init__(
        self,
        network: EncoderNetwork,
        heads: Mapping[str, nn.Module],
        generator: Model | None = None,
        *,
        decoder: EncoderNetwork | None = None,
        adapter: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.heads = nn.ModuleDict(heads)
        self.generator = generator
        self.decoder = decoder
        self.adapter = adapter

    @property
    def networks(self) -> tuple[EncoderNetwork, ...]:
        """Its own, and the decoder's and the generator's if there are these."""
        decoding = () if self.decoder is None else (self.decoder,)
        return (self.network, *decoding, *(() if self.generator is None else self.generator.networks))

    def first_head(self, names: Sequence[str]) -> nn.Module:
        """The first of the heads with these names that it has."""
        return next(self.heads[name] for name in names if name in self.heads)


class Objective(Protocol):
    """One way to learn: what is lost on a batch. Objectives hold no state of training."""

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads it needs, by their names in a family."""

    @property
    def losses(self) -> Mapping[str, float]:
        """What is minimised, by name, and how much a mean of each weighs."""

    @property
    def steady(self) -> bool:
        """Whether its losses ask the same all along a run, so that one evaluation can be better than another."""

    def counts(self, batch: Batch) -> Mapping[str, int]:
        """How many rows each loss will be a sum over; known on the host before anything is computed."""

    def loss(self, model: Model, batch: Batch) -> Losses:
        """The losses of a batch, as sums. What is left to chance is drawn by `nn.dropout`, whose seed is the step's."""


class PretrainingObjective(Objective, Protocol):
    """One way to learn from text alone: sequences of a corpus are corrupted, and what they were is asked for.

    What only reads the output of one forward is a `Reading`, and `Together` makes an objective of several.
    """

    def corrupt(self, packed: Packed, rng: np.random.Generator) -> Batch:
        """What the model gets to see and what it shall say, on the host. Same generator, same batch."""

    def predicted(self, length: float) -> float:
        """How many of the tokens of sequences of `length` tokens words are predicted from: a share."""


@runtime_checkable
class Joint(Objective, Protocol):
    """An objective whose loss is no sum over batches, since it compares sequences across all batches of a step.

    `loss` is that of a batch by itself. A step of several batches calls `states` of each, then `joint` once, and sends
    the gradients of the states back through each batch (Gao et al. 2021, https://arxiv.org/abs/2101.06983): the same
    gradients as of one large batch, in the memory of a small one, for one more forward.
    """

    def states(self, model: Model, batch: Batch) -> Tensor:
        """[N, …]: what is compared, of each sequence of a batch."""

    def joint(self, model: Model, states: Sequence[Tensor], batches: Sequence[Batch]) -> Losses:
        """The losses over the states of all batches, as sums."""
