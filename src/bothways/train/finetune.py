"""From labelled rows to a model that answers: `finetune` sets a run up or goes on with it, drives the loop, saves."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from bothways.checkpoint.encoder import Encoder
from bothways.data.batch import Batch
from bothways.data.labelled import Labels
from bothways.data.split import picked
from bothways.engine.evaluation import evaluated, need_metrics_of
from bothways.engine.frozen import FrozenNetwork, FrozenPipeline
from bothways.engine.pipeline import Pipeline
from bothways.engine.streams import Streams
from bothways.errors import InputError, TruncationWarning
from bothways.nn.encoder import EncoderNetwork
from bothways.nn.freezing import freeze
from bothways.nn.heads import Classifier
from bothways.objectives.objective import Model
from bothways.tasks import TASKS
from bothways.tasks.learning import Learnable
from bothways.train.adapted import check_heeded, encoder_of, numbered, with_head
from bothways.train.averaging import Average
from bothways.train.board import check_board
from bothways.train.folder import Lock, begin, check_run, described
from bothways.train.history import held_out_at
from bothways.train.loop import Judged, Trainer
from bothways.train.meter import Meter
from bothways.train.networks import Networks
from bothways.train.optim import OPTIMIZERS, parameter_groups
from bothways.train.plan import flops_of_token, rate_here
from bothways.train.progress import Progress
from bothways.train.rows import RowSteps, steps_over, times_of
from bothways.train.run import Keeping, Outcome, Watch, average_of, device_of, drive, leave, set_up
from bothways.train.samples import Material, material_of, reading_of
from bothways.train.start import set_dropout
from bothways.train.state import Restored, begun_or_restored
from bothways.train.states import States
from bothways.train.tables import tables_of
from bothways.train.tuning import TuningSettings
from bothways.train.tuning_card import write_tuning_card

__all__ = ["Taught", "finetune", "steps_of"]


@dataclass(frozen=True, eq=False)
class Taught:
    """What a run came to. labels: what was learnt.    metrics: of the last evaluation, by name; none if there was none.

    best: the metric that decided which checkpoint is the best one.    lower: whether the lower, the better.
    """

    folder: Path
    outcome: Outcome
    labels: Labels
    metrics: dict[str, float]
    best: str
    lower: bool = False

    @property
    def best_value(self) -> float | None:
        """That metric of the best checkpoint; None where nothing was evaluated."""
        loss = self.outcome.progress.best_loss
        return loss if loss is None or self.lower else -loss


def finetune(
    task: str,
    rows: Sequence[Any],
    held: Sequence[Any],
    settings: TuningSettings,
    output: Path,
    *,
    labels: Labels | None = None,
    every: Sequence[Any] | None = None,
    resume: bool = False,
    device: torch.device | str = "cpu",
    watch: Watch = lambda event, reading: None,
    told: Callable[[str], None] = lambda line: None,
) -> Taught:
    """Train an encoder, with a head for the task, on labelled rows; or go on from the newest checkpoint in `output`.

    A finished run leaves two folders, each a model like any other, which transformers loads too: `model`, and `best`,
    which did best on the rows held out.

    task: a name in TASKS of one that can be learnt.    rows, held: as the task reads them; none held: no evaluation.
    labels: in the order to number them; None: those of the rows, or of `every`, which has more.
    watch: is told of every event.    told: is told what begins with fresh weights, of the disk that the states of a
    frozen encoder will take, and from which step a run goes on.
    SIGINT and SIGTERM end the run after the step at hand, with a checkpoint.

    Raises ConfigError, InputError, CheckpointError or MissingExtraError, before anything is trained or written, on
    settings that do not go together, rows that cannot be learnt from, an encoder without such a head, and on an output
    folder that cannot be written, holds another run or is another process's at the time.
    """
    device = device_of(device, settings.update.precision)
    with Lock(output) as lock:
        check_run(output, settings, resume)
        if settings.run.tensorboard:
            check_board()
        learnt = _learnable(task)
        encoder = encoder_of(settings)
        labels = labels or numbered(learnt.labels_of(every or rows), encoder, learnt)
        _check(learnt, labels, rows, held, settings)
        rows, held = picked(rows, settings.text.max_train_samples), picked(held, settings.text.max_eval_samples)
        encoder = with_head(encoder, learnt, labels, learnt.says(rows), settings, told)
        material = material_of(task, learnt, labels, rows, held, encoder, settings)
        states = States.of(encoder.config.width, encoder.heads[learnt.head or ""], material.samples, output)
        frozen = states if settings.adapt.layers == 0 else None
        steps = _steps(material, settings, frozen)
        started = _started(encoder, material, steps, settings, output, resume, device)
        begin(output, settings, started, material.identity, lock, resume, told, held=material.held_identity)
        if frozen is not None:
            if started.progress.step == 0:
                States.remove(output)  # of a run that was killed before its first checkpoint, maybe of other rows
            _compute(frozen, started.networks.encoder, material, device, told)
        outcome, metrics = _run(material, started, steps, settings, output, watch, device)
        if outcome.finished:
            _finish(material, started, settings, output, outcome, metrics)
        return Taught(output, outcome, labels, metrics, learnt.best(labels))


def _learnable(name: str) -> Learnable[Any]:
    task: Any = TASKS.get(name)
    if task is None or not hasattr(task, "samples"):
        known = ", ".join(one for one, value in TASKS.items() if hasattr(value, "samples"))
        raise InputError(f"{name!r} is no task that can be learnt; known: {known}")
    return task


def _check(
    task: Learnable[Any], labels: Labels, rows: Sequence[Any], held: Sequence[Any], settings: TuningSettings
) -> None:
    """Raise InputError, ConfigError or MissingExtraError on what would only come up in the midst of the run."""
    for some in (rows, *([held] if held else [])):
        task.labels_of(some, labels)
    check_heeded(task, labels, settings)
    if held:
        need_metrics_of(task, labels)


def _steps(material: Material, settings: TuningSettings, frozen: States | None) -> RowSteps:
    count, samples = len(material.samples), material.samples
    steps, seed, warmup = steps_of(count, settings), settings.run.seed, settings.update.warmup
    if frozen is None:
        return steps_over([len(one) for one in samples], partial(_batch, material), steps, settings.rows, warmup, seed)
    made = partial(frozen.batch, material.objective, samples)
    return steps_over(frozen.rows(count), made, steps, settings.rows, warmup, seed, small=frozen.pooled)


def _compute(
    states: States, encoder: Encoder, material: Material, device: torch.device, told: Callable[[str], None]
) -> None:
    sequences = [one for sample in material.samples for one in sample.sequences]
    states.compute(encoder.network, encoder.heads[material.objective.head], sequences, device, told)


def steps_of(rows: int, settings: TuningSettings) -> int:
    """How many steps a run over so many rows, or as many of them as it shall use, has."""
    rows = min(rows, settings.text.max_train_samples or rows)
    return max(1, math.ceil(settings.rows.epochs * -(-rows // settings.rows.batch_size)))


def _batch(material: Material, rows: Sequence[int]) -> Batch:
    return material.objective.batch([material.samples[row] for row in rows])


def _started(
    encoder: Encoder,
    material: Material,
    steps: RowSteps,
    settings: TuningSettings,
    output: Path,
    resume: bool,
    device: torch.device,
) -> Restored[Networks]:
    """The newest whole checkpoint of a run that is resumed, or step 0."""

    def parts(model: Model) -> tuple[torch.optim.Optimizer, Average | None]:
        adam = settings.adam
        freeze(model.network, settings.adapt.layers)
        groups = parameter_groups(model.to(device), adam.weight_decay, adam.lr, adam.layer_decay, adam.head_lr)
        return OPTIMIZERS[settings.update.optimizer](groups, adam), average_of(model, settings.update)

    started = begun_or_restored(
        output, Networks.of, lambda: Networks(encoder), parts, steps.check_place, material.identity, resume
    )
    there = started.networks.encoder
    set_dropout(there.network, settings.adapt.dropout, there.heads)
    set_up(started.model, settings.update, device)
    started.model.network.filling = True
    return started


def _run(
    material: Material,
    started: Restored[Networks],
    steps: RowSteps,
    settings: TuningSettings,
    output: Path,
    watch: Watch,
    device: torch.device,
) -> tuple[Outcome, dict[str, float]]:
    """The loop, with everything that is told of it; and what the last evaluation found."""
    run, found = settings.run, dict[str, float]()
    encoder, model = started.networks.encoder, started.model
    pipeline_of, frozen = _pipelines(material, encoder, settings, device), settings.adapt.layers == 0
    if frozen:
        model = Model(cast(EncoderNetwork, FrozenNetwork(encoder.config)), encoder.heads)

    def judged(streams: Streams) -> Judged:
        now = _metrics(material, pipeline_of(), settings)
        found.clear()  # a kind of entity that is found no more has no metrics
        found.update(now)
        whole = {name: value for name, value in found.items() if "/" not in name}  # not of each label
        return Judged(whole, -found[material.task.best(material.labels)])

    trainer = Trainer(
        model,
        material.objective,
        started.optimizer,
        steps,
        judged if material.held else None,
        device,
        settings.update,
        times_of(run, steps, judged=bool(material.held)),
        started.average,
        () if frozen else tables_of(model, settings.update.precision == "fp16"),
        small=steps.small,
    )
    meter = _meter(encoder, material, steps, device, frozen)
    keeping = Keeping(run.log_every, run.keep, run.tensorboard)
    outcome = drive(trainer, started, described(settings), material.identity, keeping, output, meter, watch)
    if outcome.finished and material.held and not found:  # resumed at its end
        with nullcontext() if started.average is None else started.average.swapped():
            judged(Streams(device))
    return outcome, found


def _pipelines(
    material: Material, encoder: Encoder, settings: TuningSettings, device: torch.device
) -> Callable[[], Pipeline]:
    """What makes a pipeline of the model as it is then; of a frozen one only the head changes."""
    precision = "fp32" if device.type == "cpu" else settings.update.precision
    if settings.adapt.layers != 0 or not material.held:
        return partial(Pipeline, material.name, encoder, device=str(device), precision=precision, bar=False)
    return FrozenPipeline(material.name, encoder, device=str(device), precision=precision).renewed


def _metrics(material: Material, pipeline: Pipeline, settings: TuningSettings) -> dict[str, float]:
    """How good it is on the rows held out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)  # told once, before the run
        return evaluated(pipeline, material.task, material.held, material.labels, reading_of(settings))[0]


def _meter(encoder: Encoder, material: Material, steps: RowSteps, device: torch.device, frozen: bool) -> Meter:
    """Operations of a frozen encoder, which are not computed, are none."""
    dtype = encoder.network.dtype or torch.float32
    rate = rate_here(dtype, device)
    length = sum(steps.lengths) / len(steps.lengths)
    head = encoder.heads[material.objective.head]
    sequences = sum(len(sample.sequences) for sample in material.samples)
    read = sequences / sum(steps.lengths) if isinstance(head, Classifier) and head.reads_one else 1.0
    return Meter(steps.steps, 0.0 if frozen else 3 * flops_of_token(encoder.config, length, 0.0, read), rate)


def _finish(
    material: Material,
    started: Restored[Networks],
    settings: TuningSettings,
    output: Path,
    outcome: Outcome,
    metrics: dict[str, float],
) -> None:
    """Write the models and their cards; what the run needed only while it lasted goes."""

    def card(folder: Path, networks: Networks, at: Progress) -> None:
        found = metrics if networks is started.networks else held_out_at(output, at.step)
        write_tuning_card(folder, settings, material, networks, at, found, outcome.reading)

    leave(started, Networks.of, output, settings.run.keep, outcome.progress, card)
    States.remove(output)
