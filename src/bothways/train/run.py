"""What all training runs share: events are logged and shown, checkpoints saved, signals heeded."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bothways.errors import ConfigError, InputError, MissingExtraError
from bothways.objectives.objective import Model
from bothways.train.averaging import Average
from bothways.train.board import Board
from bothways.train.compiling import compile_layers
from bothways.train.curves import plot_curves
from bothways.train.loop import Event, Trainer, ended_early
from bothways.train.meter import Meter, Reading
from bothways.train.progress import Progress
from bothways.train.report import MetricsLog, write_failure
from bothways.train.settings import UpdateSettings
from bothways.train.state import Read, Restored, TrainedT, best, prune, save_checkpoint

__all__ = ["Keeping", "Outcome", "Watch", "average_of", "device_of", "drive", "leave", "precision_of", "set_up"]

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}

Watch = Callable[[Event, Reading | None], None]
"""What is told of every event, with the loss and the speed of the last steps (None before the first)."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended. finished: it took its last step.    stopped: a number was not finite.

    Neither: it was asked to stop, and has saved.    reading: the last one; None if no step was left to take.
    """

    progress: Progress
    finished: bool
    stopped: bool
    reading: Reading | None = None


@dataclass(frozen=True)
class Keeping:
    """What is kept of a run. log_every: steps.    keep: newest checkpoints, beside the best one."""

    log_every: int
    keep: int
    tensorboard: bool = False


def precision_of(update: UpdateSettings) -> torch.dtype | None:
    """What hidden states are computed in; None: as the weights."""
    return PRECISIONS[update.precision]


def set_up(model: Model, update: UpdateSettings, device: torch.device) -> None:
    """How the networks compute: their precision, what they keep for the way back, compiled or not."""
    for network in model.networks:
        network.dtype = precision_of(update)
        network.checkpointing = update.checkpointing
        if update.compile:
            compile_layers(network, device)


def average_of(model: Model, update: UpdateSettings) -> Average | None:
    """The average of the weights, for a run that keeps one; the model is on its device."""
    return Average(model, update.ema) if update.ema else None


def drive(
    trainer: Trainer,
    started: Restored[TrainedT],
    settings: Mapping[str, Any],
    identity: str,
    keeping: Keeping,
    output: Path,
    meter: Meter,
    watch: Watch,
) -> Outcome:
    """Run the loop until its end, a number that is not finite, or a signal: SIGINT or SIGTERM end it after the step at
    hand, with a checkpoint.

    settings, identity: of the run and of its data, for its checkpoints.
    """

    def save(at: Progress) -> None:
        average = started.average
        save_checkpoint(output, started.networks, started.optimizer, at, settings, average, identity)
        prune(output, keeping.keep, at)

    with _logs(output, keeping, started.progress.step) as log:
        return _drive(trainer, started.progress, meter, (log, watch), save, output)


@contextmanager
def _logs(output: Path, keeping: Keeping, step: int) -> Iterator[Watch]:
    """What writes each event to the log, and for TensorBoard if that is wished."""
    with ExitStack() as stack:
        log = stack.enter_context(closing(MetricsLog(output, keeping.log_every, step)))
        board = stack.enter_context(closing(Board(output, keeping.log_every, step))) if keeping.tensorboard else None

        def add(event: Event, reading: Reading | None) -> None:
            log.add(event)
            if board is not None:
                board.add(event, reading)

        yield add


def _drive(
    trainer: Trainer,
    progress: Progress,
    meter: Meter,
    watches: tuple[Watch, ...],
    save: Callable[[Progress], None],
    output: Path,
) -> Outcome:
    """Run the loop until its end, a number that is not finite, or a signal."""
    with _asked_to_stop() as asked:
        for event in trainer.events(progress, asked.is_set):
            progress, reading = event.progress, meter.add(event)
            for watch in watches:
                watch(event, reading)
            if event.kind == "stop":
                write_failure(output, event)
                return Outcome(progress, finished=False, stopped=True, reading=reading)
            if event.kind == "save":
                save(progress)
            meter.resume()
    finished = progress.step >= trainer.times.steps or ended_early(progress, trainer.times)
    return Outcome(progress, finished, stopped=False, reading=meter.reading)


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """An event that SIGINT or SIGTERM sets; the second SIGINT interrupts as always."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, frame: Any) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(
    started: Restored[TrainedT],
    read: Read[TrainedT],
    output: Path,
    keep: int,
    at: Progress,
    card: Callable[[Path, TrainedT, Progress], None],
) -> None:
    """Write what a finished run leaves: `model`, `best` if one was the best, and curves where matplotlib is installed.

    keep: newest checkpoints that stay.    card: writes what is told of a model, (folder, what it is, its progress).
    """
    prune(output, keep, at)  # a run killed at its end may not have come to it
    with nullcontext() if started.average is None else started.average.swapped():
        started.networks.save(output / "model")
    card(output / "model", started.networks, at)
    if (found := best(output, read, at)) is not None:
        networks, there = found
        networks.save(output / "best")
        card(output / "best", networks, there)
    with suppress(MissingExtraError, InputError):  # no picture without matplotlib, nor of fewer steps than are logged
        plot_curves(output)


def device_of(device: torch.device | str, precision: str) -> torch.device:
    """The device, if it is there and can compute in that precision; else ConfigError."""
    try:
        place = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError):
        raise ConfigError(f"device {str(device)!r} is not one that is here; cpu always is") from None
    if precision == "fp16" and place.type == "cpu":
        raise ConfigError("precision fp16 needs a GPU; use fp32 or bf16 on a CPU")
    return place
