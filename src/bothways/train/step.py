"""One optimizer step, over as many batches as it takes; and evaluation, which is the same without the step."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from bothways.data.batch import Batch
from bothways.engine.streams import Streams
from bothways.nn.dropout import seeded
from bothways.nn.layers import copied
from bothways.objectives.objective import Model, Objective, Part
from bothways.train.gradients import gradients_in_order

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
    """loss: the sum of the objective's mean losses.    means: of losses and metrics, by name.

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
) -> StepResult:
    """Gradients of the batches' losses, as if they were one batch; then a step, unless a number is not finite.

    Each loss is a sum over rows, divided by the count of such rows in all batches together, which is known beforehand.
    On a CPU the batches are computed side by side, and their gradients added in their order: the result does not
    depend on how many threads there are.

    seed: of dropout.    clip: gradients are shortened to it; 0 for none.    longest: a longer gradient, before that, is
    a spike, and the step is not taken.
    """
    counts: dict[str, int] = defaultdict(int)
    for batch in batches:
        for name, count in objective.counts(batch).items():
            counts[name] += count

    def lose(numbered: tuple[int, Batch]) -> list[tuple[str, Part]]:
        number, batch = numbered
        with gradients.turn(number), seeded(seed + number, streams.device):
            result = objective.loss(model, batch)
            parts = [(part.total / max(1, counts[name])) for name, part in result.losses.items()]
            loss = torch.stack(parts).sum() if scaler is None else scaler.scale(torch.stack(parts).sum())
            gradients.of(loss)
        told = (*result.losses.items(), *result.metrics.items())
        return [(name, Part(part.total.detach(), part.count)) for name, part in told]

    optimizer.zero_grad(set_to_none=True)
    with copied(model, model.network.dtype), gradients_in_order(model.parameters()) as gradients:
        sums = [part for parts in streams.map(lose, list(enumerate(batches))) for part in parts]
    if scaler is not None:
        scaler.unscale_(optimizer)
    gradient = _clip(model, clip)
    means = _means(sums)
    loss = sum(means[name] for name in counts if counts[name])
    applied = math.isfinite(loss) and math.isfinite(gradient) and gradient <= longest
    if scaler is not None:
        if applied or not math.isfinite(gradient):  # of the latter it takes note, and takes no step
            scaler.step(optimizer)
        scaler.update()
    elif applied:
        optimizer.step()
    return StepResult(loss, means, sum(batch.tokens.layout.total for batch in batches), gradient, applied)


def _clip(model: nn.Module, longest: float) -> float:
    """Shorten the gradient to `longest` (0: not at all); its length before."""
    return float(torch.nn.utils.clip_grad_norm_(model.parameters(), longest or math.inf))


def _means(sums: Iterable[tuple[str, Part]]) -> dict[str, float]:
    means = Means()
    for name, part in sums:
        means.add(name, float(part.total), part.count)
    return means.values()


def evaluate(model: Model, objective: Objective, batches: Iterable[Batch], streams: Streams) -> dict[str, float]:
    """Mean losses and metrics over all rows of the batches, without dropout; they are computed side by side."""

    @torch.no_grad()
    def parts(batch: Batch) -> list[tuple[str, Part]]:
        result = objective.loss(model, batch.to(streams.device))
        return [*result.losses.items(), *result.metrics.items()]

    training = model.training
    model.eval()
    found = [part for some in streams.map(parts, list(batches)) for part in some]
    model.train(training)
    return _means(found)
