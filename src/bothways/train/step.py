"""One optimizer step, over as many batches as it takes; and evaluation, which is the same without the step."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from bothways.data.batch import Batch
from bothways.engine.streams import Streams
from bothways.nn.dropout import seeded
from bothways.nn.layers import copied
from bothways.objectives.objective import Joint, Losses, Model, Objective, Part
from bothways.train.gradients import Gradients, gradients_in_order
from bothways.train.tables import Table

__all__ = ["Means", "StepResult", "add_means", "evaluate", "train_step"]


class Means:
    """Means over all rows of several batches: sums and counts are added, never means."""

    def __init__(self) -> None:
        self._totals: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)

    def add(self, name: str, total: float, count: int) -> None:
        self._totals[name] += total
        self._counts[name] += count

    def values(self) -> dict[str, float]:
        """The mean of each name that had a row."""
        return {name: self._totals[name] / n for name, n in self._counts.items() if n}


@dataclass(frozen=True)
class StepResult:
    """loss: the weighted sum of the objective's mean losses.    means: of losses and metrics, by name; what had no row
    is left out.

    tokens: of all batches.    gradient: its length before clipping.    applied: whether the weights were changed.
    """

    loss: float
    means: dict[str, float]
    tokens: int
    gradient: float
    applied: bool


def train_step(
    model: Model,
    objective: Objective,
    batches: Sequence[Batch],
    optimizer: torch.optim.Optimizer,
    streams: Streams,
    *,
    seed: int = 0,
    clip: float = 0.0,
    longest: float = math.inf,
    scaler: torch.amp.GradScaler | None = None,
    tables: Sequence[Table] = (),
) -> StepResult:
    """Gradients of the batches' losses, as if they were one batch; then a step, unless a number is not finite.

    Each loss is a sum over rows, divided by the count of such rows in all batches together, which is known beforehand.
    On a CPU the batches are computed side by side, and their gradients added in their order: the result does not
    depend on how many threads there are.

    seed: of dropout, and of all else that the objective leaves to chance.    clip: gradients are shortened to it; 0 for
    none.    longest: a longer gradient, before that, is a spike, and the step is not taken.
    tables: whose gradients are kept as rows; on a CPU, without a scaler.
    """
    counts: dict[str, int] = defaultdict(int)
    for batch in batches:
        for name, count in objective.counts(batch).items():
            counts[name] += count
    parameters = list(model.parameters())
    for parameter in parameters:  # as the optimizer's own zero_grad, without what it asks of profilers
        parameter.grad = None
    for table in tables:
        table.clear()
    only = len(batches) == 1
    with copied(model, model.network.dtype), gradients_in_order(parameters, tables, only=only) as gradients:
        sums = list(_Back(model, objective, counts, seed, streams, scaler, gradients).all(batches))
    if scaler is not None:
        scaler.unscale_(optimizer)
    gradient = _clip(_apart(model, parameters), clip, tables)
    for table in tables:
        table.write()
    means = _means(sums)
    loss = sum(means[name] * objective.losses[name] for name in counts if counts[name])
    applied = math.isfinite(loss) and math.isfinite(gradient) and gradient <= longest
    if scaler is not None:
        if applied or not math.isfinite(gradient):  # of the latter it takes note, and takes no step
            scaler.step(optimizer)
        scaler.update()
    elif applied:
        optimizer.step()
    return StepResult(loss, means, sum(map(_tokens, batches)), gradient, applied)


def _tokens(batch: Batch) -> int:
    """Of both sides, where there are two."""
    return batch.tokens.layout.total + (0 if batch.target is None else batch.target.layout.total)


Told = list[tuple[str, Part]]


@dataclass(frozen=True, eq=False)
class _Back:
    """The way forward and back through a step's batches: gradients are added up, losses and metrics told."""

    model: Model
    objective: Objective
    counts: Mapping[str, int]
    seed: int
    streams: Streams
    scaler: torch.amp.GradScaler | None
    gradients: Gradients

    def all(self, batches: Sequence[Batch]) -> Iterator[tuple[str, Part]]:
        """Of each batch in their order, or of all together."""
        numbered = list(enumerate(batches))
        if len(batches) > 1 and isinstance(self.objective, Joint):
            yield from self._jointly(self.objective, numbered)
        else:
            yield from chain.from_iterable(self.streams.map(self._apart, numbered))

    def _apart(self, numbered: tuple[int, Batch]) -> Told:
        number, batch = numbered
        with self.gradients.turn(number), self._seeded(number):
            result = self.objective.loss(self.model, batch)
            self.gradients.of(self._mean(result))
        return _told(result)

    def _jointly(self, objective: Joint, numbered: list[tuple[int, Batch]]) -> Told:
        """The loss once, from the states of all batches; then each batch again, back from the slopes of its states."""

        def states_of(numbered: tuple[int, Batch]) -> Tensor:
            number, batch = numbered
            # Not under no_grad: attention would take another path, on which dropout drops other numbers.
            with self._seeded(number):
                return objective.states(self.model, batch).detach()

        def again(numbered: tuple[int, Batch]) -> None:
            number, batch = numbered
            with self.gradients.turn(1 + number), self._seeded(number):
                self.gradients.of(objective.states(self.model, batch), slopes[number])

        states = [some.requires_grad_() for some in self.streams.map(states_of, numbered)]
        with self.gradients.turn(0), self._seeded(len(numbered)):
            result = objective.joint(self.model, states, [batch for _, batch in numbered])
            slopes = self.gradients.of(self._mean(result), beside=states)
        deque(self.streams.map(again, numbered), maxlen=0)
        return _told(result)

    def _seeded(self, number: int) -> AbstractContextManager[None]:
        return seeded(self.seed + number, self.streams.device)

    def _mean(self, result: Losses) -> Tensor:
        """The weighted sum of means over the rows of all batches, scaled."""
        weights = self.objective.losses
        parts = [part.total / max(1, self.counts[name]) * weights[name] for name, part in result.losses.items()]
        loss = torch.stack(parts).sum()
        return loss if self.scaler is None else self.scaler.scale(loss)


def _told(result: Losses) -> Told:
    told = (*result.losses.items(), *result.metrics.items())
    return [(name, Part(part.total.detach(), part.count)) for name, part in told]


def _clip(parts: Sequence[Sequence[nn.Parameter]], longest: float, tables: Sequence[Table]) -> float:
    """Shorten the gradient of each part to `longest` (0: not at all); the length of all before."""
    rows = {id(table.embedding.weight): table.sums for table in tables}
    lengths = []
    for part in parts:
        gradients = [found for one in part if (found := rows.get(id(one), one.grad)) is not None]
        length = torch.nn.utils.get_total_norm(gradients)
        share = (longest or math.inf) / (length + 1e-6)
        if not share >= 1.0:
            torch._foreach_mul_(gradients, share)
        lengths.append(float(length))
    return math.hypot(*lengths)


def _apart(model: Model, every: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Its parameters, which are given, and by themselves those of a generator that shares none.

    Two networks without a parameter in common are shortened each by itself: one that is told much would else hold back
    the other, from step to step by another factor.
    """
    if model.generator is None:
        return [every]
    theirs = list(model.generator.parameters())
    known = {id(parameter) for parameter in theirs}
    own = [parameter for parameter in every if id(parameter) not in known]
    shared = {id(one) for part in (model.network, model.heads) for one in part.parameters()} & known
    return [own, theirs] if theirs and not shared else [every]


def _means(sums: Iterable[tuple[str, Part]]) -> dict[str, float]:
    means = Means()
    for name, part in sums:
        means.add(name, float(part.total), part.count)
    return means.values()


def evaluate(model: Model, objective: Objective, batches: Iterable[Batch], streams: Streams) -> dict[str, float]:
    """Mean losses and metrics over all rows of the batches, without dropout; they are computed side by side. What had
    no row (a pair, among sequences of one segment) is left out.

    What an objective leaves to chance is the same each time: its seed is the batch's number.
    """
    means = Means()
    add_means(means, model, objective, list(batches), streams)
    return means.values()


def add_means(means: Means, model: Model, objective: Objective, batches: Sequence[Batch], streams: Streams) -> None:
    """As `evaluate`, of some of the batches."""

    @torch.no_grad()
    def parts(numbered: tuple[int, Batch]) -> Told:
        number, batch = numbered
        with seeded(number):
            return _told(objective.loss(model, batch.to(streams.device)))

    training = model.training
    model.eval()
    found = [part for some in streams.map(parts, list(enumerate(batches))) for part in some]
    model.train(training)
    for name, part in found:
        means.add(name, float(part.total), part.count)
