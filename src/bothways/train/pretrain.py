"""From shards to an encoder: `pretrain` sets a run up or goes on with it, drives the loop, saves and reports."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from bothways.data.corpus import Corpus
from bothways.data.packing import Packing
from bothways.data.pairs import PairPacking
from bothways.engine.streams import Streams
from bothways.errors import InputError
from bothways.objectives.objective import Model
from bothways.train.averaging import Average
from bothways.train.board import check_board
from bothways.train.card import write_card
from bothways.train.feed import PackedSteps, held_out
from bothways.train.folder import Lock, begin, check_run, described
from bothways.train.generator import starting_networks
from bothways.train.loop import Judged, Times, Trainer
from bothways.train.material import Material, material_of
from bothways.train.meter import Meter
from bothways.train.networks import Networks
from bothways.train.optim import OPTIMIZERS, parameter_groups
from bothways.train.plan import Plan, flops_of_step_token, plan_of, rate_here
from bothways.train.progress import Progress
from bothways.train.run import Keeping, Outcome, Watch, average_of, device_of, drive, leave, set_up
from bothways.train.settings import PretrainSettings
from bothways.train.state import Restored, restore
from bothways.train.step import evaluate

__all__ = ["plan", "pretrain"]

FEW_PAIRS = 0.5


def pretrain(
    settings: PretrainSettings,
    output: Path,
    *,
    resume: bool = False,
    device: torch.device | str = "cpu",
    watch: Watch = lambda event, reading: None,
    told: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Train an encoder on a corpus: fresh, or one that is there already, or from the newest checkpoint in `output`.

    A finished run leaves two folders, each a model like any other: `model`, and `best`, which had the lowest held-out
    loss. With `ema` both have the average of the weights, which is what was evaluated.

    watch: is told of every event.    told: is told from which step a run goes on, and where few sequences are pairs.
    SIGINT and SIGTERM end the run after the step at hand, with a checkpoint.

    Raises ConfigError, InputError, CheckpointError or MissingExtraError, before anything is trained or written, on
    settings that do not go together, a corpus that is damaged or of another tokenizer, an output folder that cannot be
    written, holds a run already or is another process's at the time, and a disk without room for the checkpoints.
    """
    device = device_of(device, settings.update.precision)
    with Lock(output) as lock:
        check_run(output, settings, resume)
        if settings.run.tensorboard:
            check_board()
        material = material_of(settings)
        started = _started(settings, material, output, resume, device)
        begin(output, settings, started, material.corpus.identity, lock, resume, told)
        _tell_of_pairs(material.train, told)
        outcome = _run(settings, material, started, output, watch, device)
        if outcome.finished:
            _finish(settings, material.corpus, started, output, outcome)
        return outcome


def _tell_of_pairs(packing: Packing, told: Callable[[str], None]) -> None:
    """Say so where most sequences hold no pair: an objective of pairs learns from few then."""
    if isinstance(packing, PairPacking) and packing.paired < FEW_PAIRS:
        told(
            f"{packing.paired:.0%} of the sequences are pairs with a label, the others single segments: longest leaves "
            "little room for two sentences, or the documents have few"
        )


def plan(settings: PretrainSettings, device: torch.device | str = "cpu") -> Plan:
    """What `pretrain` with these settings will take. Raises what `pretrain` raises; nothing is written."""
    device = device_of(device, settings.update.precision)
    material = material_of(settings)
    model = starting_networks(settings, material.tokenizer).model().to(device)
    set_up(model, settings.update, device)
    return plan_of(settings, model, material.objective, material.train, device)


def _started(
    settings: PretrainSettings, material: Material, output: Path, resume: bool, device: torch.device
) -> Restored[Networks]:
    """The newest whole checkpoint of a run that is resumed, or step 0."""
    check = _steps(settings, material).check_place
    started = restore(output, Networks.of, lambda model: _parts(settings, model.to(device)), check) if resume else None
    if started is None:
        networks = starting_networks(settings, material.tokenizer)
        model = networks.model()
        started = Restored(networks, model, *_parts(settings, model.to(device)), Progress(), output)
    elif started.corpus not in (None, material.corpus.identity):
        folder = settings.corpus.corpus
        raise InputError(f"{folder}: not the corpus that {started.folder} was trained on; name that one with --corpus")
    set_up(started.model, settings.update, device)
    return started


def _parts(settings: PretrainSettings, model: Model) -> tuple[torch.optim.Optimizer, Average | None]:
    """What a run has beside its model, which is on its device: the optimizer, and the average of the weights."""
    groups = parameter_groups(model, settings.adam.weight_decay)
    return OPTIMIZERS[settings.update.optimizer](groups, settings.adam), average_of(model, settings.update)


def _run(
    settings: PretrainSettings,
    material: Material,
    started: Restored[Networks],
    output: Path,
    watch: Watch,
    device: torch.device,
) -> Outcome:
    """The loop, with everything that is told of it."""
    run = settings.run
    trainer = Trainer(
        started.model,
        material.objective,
        started.optimizer,
        _steps(settings, material),
        partial(_held_out, started.model, material, run.evaluate_tokens),
        device,
        settings.update,
        Times(settings.step.steps, run.seed, run.evaluate_every, run.save_every),
        started.average,
    )
    meter = _meter(settings, material, started.model, device)
    keeping = Keeping(run.log_every, run.keep, run.tensorboard)
    identity = material.corpus.identity
    return drive(trainer, started, described(settings), identity, keeping, output, meter, watch)


def _steps(settings: PretrainSettings, material: Material) -> PackedSteps:
    return PackedSteps(material.train, material.objective, settings.run.seed, settings.corpus, settings.step)


def _held_out(model: Model, material: Material, tokens: int, streams: Streams) -> Judged:
    """The means over the held-out split. Without one of its losses an evaluation says nothing of the whole; it is not
    the best one."""
    objective = material.objective
    means = evaluate(model, objective, held_out(material.held, objective, tokens), streams)
    loss = sum(means.get(name, math.nan) * weight for name, weight in objective.losses.items())
    return Judged(means, loss if objective.steady else None)


def _meter(settings: PretrainSettings, material: Material, model: Model, device: torch.device) -> Meter:
    dtype = model.network.dtype or torch.float32
    rate = rate_here(dtype, device)
    flops = flops_of_step_token(model, material.train, material.objective)
    return Meter(settings.step.steps, flops, rate, losses=tuple(material.objective.losses))


def _finish(
    settings: PretrainSettings, corpus: Corpus, started: Restored[Networks], output: Path, outcome: Outcome
) -> None:
    def card(folder: Path, networks: Networks, at: Progress) -> None:
        write_card(folder, output, settings, corpus, networks, at, outcome.reading)

    leave(started, Networks.of, output, settings.run.keep, outcome.progress, card)
