"""The loop: steps, evaluations and checkpoints, as events; whoever drives it shows and logs them.

Everything that happens in a step is a function of the settings' seed and the step's number: order, masks, dropout. A
run that is stopped anywhere and resumed from a checkpoint gives the same losses, bit for bit on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch

from bothways.data.batch import Batch
from bothways.engine.streams import Streams
from bothways.objectives.objective import Model, Objective
from bothways.train.averaging import Average
from bothways.train.progress import Cursor, Progress
from bothways.train.schedule import learning_rate
from bothways.train.settings import UpdateSettings
from bothways.train.step import StepResult, train_step
from bothways.train.tables import Table

__all__ = ["Event", "Judged", "Steps", "Times", "Trainer", "ended_early"]

# The mean that a spike is told by: how fast it forgets, and after how many steps it is one.
FORGETS, SETTLED = 0.02, 20


@dataclass(frozen=True)
class Event:
    """What happened after `progress.step` steps.

    kind: "step" (result, and lr, the highest of all groups), "skip" or "stop" (a number was not finite; batches:
    where), "evaluate" (means), "save" (now is the time).
    """

    kind: Literal["step", "skip", "stop", "evaluate", "save"]
    progress: Progress
    result: StepResult | None = None
    lr: float = 0.0
    means: dict[str, float] | None = None
    batches: tuple[Batch, ...] = ()


class Steps(Protocol):
    """What is trained on: the batches of each step, a function of the step's place in the run alone."""

    def __call__(self, progress: Progress) -> Iterator[list[tuple[Batch, Cursor]]]:
        """The batches of each step from `progress` to the last, each with the place after it."""


@dataclass(frozen=True)
class Judged:
    """What an evaluation found. means: by name.    loss: what is to be low; None or NaN where it cannot be the best."""

    means: dict[str, float]
    loss: float | None


@dataclass(frozen=True)
class Times:
    """What happens when. steps: of the whole run.    seed: of dropout.

    evaluate_every, save_every: steps.    patience: so many evaluations without a better one end the run; 0: none do.
    """

    steps: int
    seed: int
    evaluate_every: int
    save_every: int
    patience: int = 0


@dataclass(eq=False)
class Trainer:
    """What a run is made of. Weights and optimizer change as `events` runs; nothing else does.

    steps: the batches.    evaluation: how good the model is, as it is then; None where nothing is held out.
    average: of the weights, which is evaluated in their place, or None.    tables: whose gradients are kept as rows.
    small: a step is so little work that it is not worth sharing out; see `Streams`.
    """

    model: Model
    objective: Objective
    optimizer: torch.optim.Optimizer
    steps: Steps
    evaluation: Callable[[Streams], Judged] | None
    device: torch.device
    update: UpdateSettings
    times: Times
    average: Average | None = None
    tables: Sequence[Table] = ()
    small: bool = False

    def events(self, progress: Progress, asked: Callable[[], bool] = lambda: False) -> Iterator[Event]:
        """Go on from `progress` to the last step.

        asked: whether to stop early. Asked after each step, it ends the loop with what else belongs to that step (an
        evaluation that is due) and a save, so that a resumed run misses nothing.
        """
        self.model.train()
        base = [group["lr"] for group in self.optimizer.param_groups]
        highest = max(base)
        scaler = self._scaler(progress)
        streams = Streams(self.device, self.small)
        if ended_early(progress, self.times):
            return
        rising = self.update.rising(self.times.steps)
        for some in self.steps(progress):
            share = learning_rate(progress.step, self.times.steps, rising, self.update.schedule)
            for group, lr in zip(self.optimizer.param_groups, base):
                group["lr"] = lr * share
            on_device = [batch.to(self.device) for batch, _ in some]
            longest = self._longest(progress)
            result = train_step(
                self.model,
                self.objective,
                on_device,
                self.optimizer,
                streams,
                seed=_mixed(self.times.seed, progress.step),
                clip=self.update.clip,
                longest=longest,
                scaler=scaler,
                tables=self.tables,
            )
            if self.average is not None and result.applied:
                self.average.update()
            progress = _scaled(_after(progress, result, some[-1][1], longest), scaler)
            kind: Literal["step", "skip", "stop"] = "step" if result.applied else self._otherwise(scaler)
            failed = () if result.applied else tuple(batch for batch, _ in some)
            yield Event(kind, progress, result, highest * share, batches=failed)
            if kind == "stop":
                return
            stop = asked()
            progress = yield from self._at_times(progress, streams, stop)
            if stop or ended_early(progress, self.times):
                return

    def _weights(self) -> AbstractContextManager[None]:
        """Within, the model has the weights that are evaluated."""
        return nullcontext() if self.average is None else self.average.swapped()

    def _longest(self, progress: Progress) -> float:
        """The longest gradient that is no spike; until there is a mean of some steps, any."""
        known = self.update.spike and progress.gradient is not None and progress.step >= SETTLED
        return self.update.spike * (progress.gradient or 0.0) if known else math.inf

    def _otherwise(self, scaler: torch.amp.GradScaler | None) -> Literal["skip", "stop"]:
        """A step that was not taken: looking for a scale in fp16 it is what happens, else as the settings say.

        A scale below 1 is no scale: numbers that are too large even so are not for lack of one.
        """
        looking = scaler is not None and scaler.get_scale() >= 1.0
        return "skip" if looking or self.update.nonfinite == "skip" else "stop"

    def _scaler(self, progress: Progress) -> torch.amp.GradScaler | None:
        """What scales losses up in fp16, whose small gradients would be zeros, from where the run is."""
        if self.update.precision != "fp16":
            return None
        scaler = torch.amp.GradScaler(self.device.type)
        if progress.scale is not None:
            scaler.load_state_dict(
                {**scaler.state_dict(), "scale": progress.scale, "_growth_tracker": progress.unchanged}
            )
        return scaler

    def _at_times(self, progress: Progress, streams: Streams, stop: bool) -> Generator[Event, None, Progress]:
        """What is due after some steps only."""
        last, best = progress.step == self.times.steps, progress.best_step
        if self.evaluation is not None and (last or progress.step % self.times.evaluate_every == 0):
            with self._weights():
                judged = self.evaluation(streams)
            loss = judged.loss
            if loss is not None and math.isfinite(loss) and (progress.best_loss is None or loss < progress.best_loss):
                progress = replace(progress, best_loss=loss, best_step=progress.step)
            yield Event("evaluate", progress, means=judged.means)
        due = last or stop or ended_early(progress, self.times) or progress.best_step != best
        if due or progress.step % self.times.save_every == 0:
            yield Event("save", progress)
        return progress


def ended_early(progress: Progress, times: Times) -> bool:
    """Whether a run has been evaluated often enough without getting better."""
    if not times.patience or progress.best_step is None:
        return False
    since = progress.step // times.evaluate_every - progress.best_step // times.evaluate_every
    return since >= times.patience


def _after(progress: Progress, result: StepResult, place: Cursor, longest: float) -> Progress:
    """Progress after a step. longest: the longest gradient that is no spike.

    Spikes move the mean as far as that: where all gradients are long from some step on, the run finds them usual in
    time, and does not skip to its end.
    """
    mean = progress.gradient
    if math.isfinite(result.gradient):
        length = min(result.gradient, longest)
        mean = length if mean is None else mean + FORGETS * (length - mean)
    return replace(
        progress,
        gradient=mean,
        step=progress.step + 1,
        skipped=progress.skipped + (not result.applied),
        tokens=progress.tokens + result.tokens,
        epoch=place.epoch,
        number=place.number,
    )


def _scaled(progress: Progress, scaler: torch.amp.GradScaler | None) -> Progress:
    if scaler is None:
        return progress
    return replace(progress, scale=scaler.get_scale(), unchanged=scaler.state_dict()["_growth_tracker"])


def _mixed(seed: int, step: int) -> int:
    """A seed of dropout for each step; the batches of a step count on from it."""
    mixed = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9) & ((1 << 64) - 1)
    return (mixed ^ (mixed >> 31)) & ((1 << 62) - 1)
