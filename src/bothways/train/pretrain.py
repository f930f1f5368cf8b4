"""From shards to an encoder: `pretrain` sets a run up or goes on with it, drives the loop, saves and reports."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bothways.data.corpus import Corpus
from bothways.errors import ConfigError, InputError, MissingExtraError
from bothways.objectives.objective import Model
from bothways.train.averaging import Average
from bothways.train.board import Board, check_board
from bothways.train.card import write_card
from bothways.train.compiling import compile_layers
from bothways.train.curves import plot_curves
from bothways.train.folder import Lock, begin, check_run, described
from bothways.train.generator import starting_networks
from bothways.train.loop import Event, Trainer, check_place
from bothways.train.material import Material, material_of
from bothways.train.meter import Meter, Reading
from bothways.train.optim import OPTIMIZERS, parameter_groups
from bothways.train.plan import Plan, flops_of_step_token, matmul_rate, plan_of
from bothways.train.report import MetricsLog, write_failure
from bothways.train.settings import PretrainSettings, RunSettings
from bothways.train.state import Progress, Restored, best, prune, restore, save_checkpoint

__all__ = ["Outcome", "Watch", "plan", "pretrain"]

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
RATE_SECONDS = 0.2  # in which the matrix-product rate is measured
RATE_SIZES = {"cpu": 1024}  # of the matrices; elsewhere they are larger
RATE_SIZE = 4096

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


def pretrain(
    settings: PretrainSettings,
    output: Path,
    *,
    resume: bool = False,
    device: torch.device | str = "cpu",
    watch: Watch = lambda event, reading: None,
) -> Outcome:
    """Train an encoder on a corpus: fresh, or one that is there already, or from the newest checkpoint in `output`.

    A finished run leaves two folders, each a model like any other: `model`, and `best`, which had the lowest held-out
    loss. With `ema` both have the average of the weights, which is what was evaluated.

    watch: is told of every event.    SIGINT and SIGTERM end the run after the step at hand, with a checkpoint.

    Raises ConfigError, InputError, CheckpointError or MissingExtraError, before anything is trained or written, on
    settings that do not go together, a corpus that is damaged or of another tokenizer, an output folder that cannot be
    written, holds a run already or is another process's at the time, and a disk without room for the checkpoints.
    """
    device = _device(device, settings.step.precision)
    with Lock(output) as lock:
        check_run(output, settings, resume)
        if settings.run.tensorboard:
            check_board()
        material = material_of(settings)
        started = _started(settings, material, output, resume, device)
        begin(output, settings, started, material.corpus.identity, lock, resume)
        outcome = _run(settings, material, started, output, watch, device)
        if outcome.finished:
            _finish(settings, material.corpus, started, output, outcome)
        return outcome


def plan(settings: PretrainSettings, device: torch.device | str = "cpu") -> Plan:
    """What `pretrain` with these settings will take. Raises what `pretrain` raises; nothing is written."""
    device = _device(device, settings.step.precision)
    material = material_of(settings)
    model = starting_networks(settings, material.tokenizer).model().to(device)
    _set_up(model, settings, device)
    return plan_of(settings, model, material.objective, material.train, device)


def _started(
    settings: PretrainSettings, material: Material, output: Path, resume: bool, device: torch.device
) -> Restored:
    """The newest whole checkpoint of a run that is resumed, or step 0."""
    check = partial(check_place, material.train, settings.corpus)
    started = restore(output, lambda model: _parts(settings, model.to(device)), check) if resume else None
    if started is None:
        networks = starting_networks(settings, material.tokenizer)
        model = networks.model()
        started = Restored(networks, model, *_parts(settings, model.to(device)), Progress(), output)
    elif started.corpus not in (None, material.corpus.identity):
        folder = settings.corpus.corpus
        raise InputError(f"{folder}: not the corpus that {started.folder} was trained on; name that one with --corpus")
    _set_up(started.model, settings, device)
    return started


def _parts(settings: PretrainSettings, model: Model) -> tuple[torch.optim.Optimizer, Average | None]:
    """What a run has beside its model, which is on its device: the optimizer, and the average of the weights."""
    groups = parameter_groups(model, settings.adam.weight_decay)
    average = Average(model, settings.step.ema) if settings.step.ema else None
    return OPTIMIZERS[settings.step.optimizer](groups, settings.adam), average


def _set_up(model: Model, settings: PretrainSettings, device: torch.device) -> None:
    """How the networks compute: their precision, what they keep for the way back, compiled or not."""
    for network in model.networks:
        network.dtype = PRECISIONS[settings.step.precision]
        network.checkpointing = settings.step.checkpointing
        if settings.step.compile:
            compile_layers(network, device)


def _run(
    settings: PretrainSettings, material: Material, started: Restored, output: Path, watch: Watch, device: torch.device
) -> Outcome:
    """The loop, with everything that is told of it."""
    trainer = Trainer(
        started.model,
        material.objective,
        started.optimizer,
        material.train,
        material.held,
        device,
        settings.corpus,
        settings.step,
        settings.run,
        started.average,
    )

    def save(at: Progress) -> None:
        save_checkpoint(
            output,
            started.networks,
            started.optimizer,
            at,
            described(settings),
            started.average,
            material.corpus.identity,
        )
        prune(output, settings.run.keep, at)

    with _logs(output, settings.run, started.progress.step) as log:
        meter = _meter(settings, material, started.model, device)
        return _drive(trainer, started.progress, meter, (log, watch), save, output)


@contextmanager
def _logs(output: Path, run: RunSettings, step: int) -> Iterator[Watch]:
    """What writes each event to the log, and for TensorBoard if that is wished."""
    with ExitStack() as stack:
        log = stack.enter_context(closing(MetricsLog(output, run.log_every, step)))
        board = stack.enter_context(closing(Board(output, run.log_every, step))) if run.tensorboard else None

        def add(event: Event, reading: Reading | None) -> None:
            log.add(event)
            if board is not None:
                board.add(event, reading)

        yield add


def _meter(settings: PretrainSettings, material: Material, model: Model, device: torch.device) -> Meter:
    dtype = model.network.dtype or torch.float32
    rate = matmul_rate(dtype, device, RATE_SECONDS, RATE_SIZES.get(device.type, RATE_SIZE))
    flops = flops_of_step_token(model, material.train, material.objective)
    return Meter(settings.step.steps, flops, rate, losses=tuple(material.objective.losses))


def _finish(settings: PretrainSettings, corpus: Corpus, started: Restored, output: Path, outcome: Outcome) -> None:
    prune(output, settings.run.keep, outcome.progress)  # a run killed at its end may not have come to it
    with nullcontext() if started.average is None else started.average.swapped():
        started.networks.save(output / "model")
    write_card(output / "model", settings, corpus, started.networks, outcome.progress, outcome.reading)
    if (found := best(output, outcome.progress)) is not None:
        networks, at = found
        networks.save(output / "best")
        write_card(output / "best", settings, corpus, networks, at, outcome.reading)
    with suppress(MissingExtraError):  # no picture without matplotlib
        plot_curves(output)


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
    return Outcome(progress, progress.step >= trainer.step.steps, stopped=False, reading=meter.reading)


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


def _device(device: torch.device | str, precision: str) -> torch.device:
    try:
        place = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError):
        raise ConfigError(f"device {str(device)!r} is not one that is here; cpu always is") from None
    if precision == "fp16" and place.type == "cpu":
        raise ConfigError("precision fp16 needs a GPU; use fp32 or bf16 on a CPU")
    return place
