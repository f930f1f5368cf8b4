"""One optimizer step, over as many batches as it takes; and evaluation, which is the same without the step."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bothways.data.batch import Batch
from bothways.engine.streams import Streams
from bothways.nn.dropout import seeded
from bothways.objectives.objective import Joint, Losses, Model, Objective, Part

__all__ = ["Means", "StepResult", "evaluate", "train_step"]


class Means:
    """Means over all rows of several batches: sums and counts are added, never means."""

    def __init__(self) -> None:
        self._totals: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)

    def add(self, name: str, total: float, count: int) -> None:
        self._totals[name] += total
        self._counts[name] += count

    def values(self) -> dict[str, float]:
        """The mean of each name; NaN where there was no row."""
        return {name: self._totals[name] / n if n else math.nan for name, n in self._counts.items()}


@dataclass(frozen=True)
class StepResult:
    """loss: the weighted sum of the objective's mean losses.    means: of losses and metrics, by name.

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
    scaler: torch.amp.GradScaler | None = None,
) -> StepResult:
    """Gradients of the batches' losses, as if they were one batch; then a step, unless a number is not finite.

    Each loss is a sum over rows, divided by the count of such rows in all batches together, which is known beforehand.
    On a CPU the batches are computed side by side, and their gradients added in their order: the result does not
    depend on how many threads there are. seed: of dropout, and of all else that the objective leaves to chance.
    """
    counts: dict[str, int] = defaultdict(int)
    for batch in batches:
        for name, count in objective.counts(batch).items():
            counts[name] += count
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    back = _Back(model, objective, parameters, counts, seed, scaler)
    optimizer.zero_grad(set_to_none=True)
    sums: list[tuple[str, Part]] = []
    for found, parts in back.all(batches, streams):
        _add_gradients(parameters, found)
        sums += parts
    if scaler is not None:
        scaler.unscale_(optimizer)
    gradient = _clip(model, clip)
    means = _means(sums)
    loss = sum(means[name] * objective.losses[name] for name in counts if counts[name])
    applied = math.isfinite(loss) and math.isfinite(gradient)
    if scaler is not None:
        scaler.step(optimizer)
        scaler.update()
    elif applied:
        optimizer.step()
    return StepResult(loss, means, sum(batch.tokens.layout.total for batch in batches), gradient, applied)


Gradients = Sequence[Tensor | None]
Told = list[tuple[str, Part]]


@dataclass(frozen=True, eq=False)
class _Back:
    """The way back of a step's batches: the gradients of the parameters, and losses and metrics."""

    model: Model
    objective: Objective
    parameters: list[nn.Parameter]
    counts: Mapping[str, int]
    seed: int
    scaler: torch.amp.GradScaler | None

    def all(self, batches: Sequence[Batch], streams: Streams) -> Iterator[tuple[Gradients, Told]]:
        """Of each batch, in their order."""
        if isinstance(self.objective, Joint) and len(batches) > 1:
            return self._jointly(self.objective, batches, streams)
        return streams.map(self._apart, list(enumerate(batches)))

    def _apart(self, numbered: tuple[int, Batch]) -> tuple[Gradients, Told]:
        number, batch = numbered
        with seeded(self.seed + number):
            result = self.objective.loss(self.model, batch)
            return self._slopes(result, self.parameters), _told(result)

    def _jointly(
        self, objective: Joint, batches: Sequence[Batch], streams: Streams
    ) -> Iterator[tuple[Gradients, Told]]:
        """The loss once, from the states of all batches; then each batch again, back from the slopes of its states."""

        @torch.no_grad()
        def states_of(numbered: tuple[int, Batch]) -> Tensor:
            number, batch = numbered
            with seeded(self.seed + number):
                return objective.states(self.model, batch)

        def again(numbered: tuple[int, tuple[Batch, Tensor | None]]) -> tuple[Gradients, Told]:
            number, (batch, slope) = numbered
            with seeded(self.seed + number):
                states = objective.states(self.model, batch)
                return torch.autograd.grad(states, self.parameters, slope, allow_unused=True), []

        states = [some.requires_grad_() for some in streams.map(states_of, list(enumerate(batches)))]
        with seeded(self.seed + len(batches)):
            result = objective.joint(self.model, states, batches)
            slopes = self._slopes(result, [*states, *self.parameters])
        yield slopes[len(states) :], _told(result)
        yield from streams.map(again, list(enumerate(zip(batches, slopes))))

    def _slopes(self, result: Losses, of: Sequence[Tensor]) -> Gradients:
        """The derivatives of the loss: of weighted means over the rows of all batches."""
        weights = self.objective.losses
        parts = [part.total / max(1, self.counts[name]) * weights[name] for name, part in result.losses.items()]
        loss = torch.stack(parts).sum()
        return torch.autograd.grad(loss if self.scaler is None else self.scaler.scale(loss), of, allow_unused=True)


def _told(result: Losses) -> Told:
    told = (*result.losses.items(), *result.metrics.items())
    return [(name, Part(part.total.detach(), part.count)) for name, part in told]


def _add_gradients(parameters: Iterable[nn.Parameter], found: Iterable[Tensor | None]) -> None:
    for parameter, gradient in zip(parameters, found):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


def _clip(model: nn.Module, longest: float) -> float:
    """Shorten the gradient to `longest` (0: not at all); its length before."""
    return float(torch.nn.utils.clip_grad_norm_(model.parameters(), longest or math.inf))


def _means(sums: Iterable[tuple[str, Part]]) -> dict[str, float]:
    means = Means()
    for name, part in sums:
        means.add(name, float(part.total), part.count)
    return means.values()


def evaluate(model: Model, objective: Objective, batches: Iterable[Batch], streams: Streams) -> dict[str, float]:
    """Mean losses and metrics over all rows of the batches, without dropout; they are computed side by side.

    What an objective leaves to chance is the same each time: its seed is the batch's number.
    """

    @torch.no_grad()
    def parts(numbered: tuple[int, Batch]) -> Told:
        number, batch = numbered
        with seeded(number):
            return _told(objective.loss(model, batch.to(streams.device)))

    training = model.training
    model.eval()
    found = [part for some in streams.map(parts, list(enumerate(batches))) for part in some]
    model.train(training)
    return _means(found)
