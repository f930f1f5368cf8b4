"""From labelled rows to a model that answers: `finetune` sets a run up or goes on with it, drives the loop, saves."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

from bothways.checkpoint.encoder import Encoder, tokenizer_of
from bothways.checkpoint.labels import LABEL_KEYS, labels_of, said_of
from bothways.data.batch import Batch, Numbers
from bothways.data.labelled import Labels
from bothways.engine.evaluation import Reading, evaluated
from bothways.engine.pipeline import Pipeline
from bothways.engine.streams import Streams
from bothways.errors import ConfigError, InputError, MissingExtraError, TruncationWarning
from bothways.nn.encoder import Pooler
from bothways.nn.layers import initialise
from bothways.objectives.objective import Model
from bothways.tasks import TASKS
from bothways.tasks.learning import Learnable, Sample, Supervised, Weighing
from bothways.tasks.task import Facts
from bothways.train.averaging import Average
from bothways.train.board import check_board
from bothways.train.curves import plot_curves
from bothways.train.folder import Lock, begin, check_run, described
from bothways.train.loop import Judged, Times, Trainer
from bothways.train.meter import Meter
from bothways.train.networks import Networks
from bothways.train.optim import OPTIMIZERS, parameter_groups
from bothways.train.plan import flops_of_token, matmul_rate
from bothways.train.progress import Progress
from bothways.train.rows import RowSteps
from bothways.train.run import Keeping, Outcome, Watch, average_of, device_of, drive, set_up
from bothways.train.start import fresh_head, set_dropout, warn_of_fresh, warn_of_left
from bothways.train.state import Restored, best, prune, restore
from bothways.train.tuning import LossSettings, TuningSettings

__all__ = ["Taught", "finetune", "steps_of"]

ROWS_AT_A_TIME = 4096
RATE_SECONDS = 0.2


@dataclass(frozen=True, eq=False)
class Taught:
    """What a run came to. labels: what was learnt.    metrics: of the last evaluation, by name; none if there was none.

    best: the metric that decided which checkpoint is the best one.
    """

    folder: Path
    outcome: Outcome
    labels: Labels
    metrics: dict[str, float]
    best: str


@dataclass(frozen=True, eq=False)
class Material:
    """What a run is taught with: a task, its labels, rows as tokens, and rows to evaluate on."""

    name: str
    task: Learnable[Any]
    labels: Labels
    samples: Sequence[Sample]
    held: Sequence[Any]
    objective: Supervised
    identity: str


def finetune(
    task: str,
    rows: Sequence[Any],
    held: Sequence[Any],
    settings: TuningSettings,
    output: Path,
    *,
    labels: Labels | None = None,
    resume: bool = False,
    device: torch.device | str = "cpu",
    watch: Watch = lambda event, reading: None,
) -> Taught:
    """Train an encoder, with a head for the task, on labelled rows; or go on from the newest checkpoint in `output`.

    A finished run leaves two folders, each a model like any other, which transformers loads too: `model`, and `best`,
    which did best on the rows held out.

    task: a name in TASKS of one that can be learnt.    rows, held: as the task reads them; none held: no evaluation.
    labels: in the order to number them; None: those of the rows.
    watch: is told of every event.    SIGINT and SIGTERM end the run after the step at hand, with a checkpoint.

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
        encoder = _encoder(settings)
        labels = labels or _numbered(learnt.labels_of(rows), encoder, learnt)
        for some in (rows, *([held] if held else [])):
            learnt.labels_of(some, labels)
        _check_heeded(learnt, labels, settings)
        encoder = _with_head(encoder, learnt, labels, settings)
        material = _material(task, learnt, labels, rows, held, encoder, settings)
        steps = _steps(material, settings)
        started = _started(encoder, material, steps, settings, output, resume, device)
        begin(output, settings, started, material.identity, lock, resume)
        outcome, metrics = _run(material, started, steps, settings, output, watch, device)
        if outcome.finished:
            _finish(started, settings, output, outcome)
        return Taught(output, outcome, labels, metrics, learnt.best(labels))


def _learnable(name: str) -> Learnable[Any]:
    task: Any = TASKS.get(name)
    if task is None or not hasattr(task, "samples"):
        known = ", ".join(one for one, value in TASKS.items() if hasattr(value, "samples"))
        raise InputError(f"{name!r} is no task that can be learnt; known: {known}")
    return task


def _encoder(settings: TuningSettings) -> Encoder:
    if not settings.adapt.model:
        raise ConfigError("model is missing: say which encoder to begin with, a folder or an id on the hub")
    encoder = Encoder.from_pretrained(settings.adapt.model)
    tokenizer_of(encoder, settings.adapt.model)
    return encoder


def _numbered(labels: Labels, encoder: Encoder, task: Learnable[Any]) -> Labels:
    """The labels in the order in which the encoder's head has the same ones, so that it is kept."""
    known = labels_of(encoder.extras).names if task.head in encoder.heads else ()
    return replace(labels, names=known) if sorted(known) == sorted(labels.names) else labels


def _check_heeded(task: Learnable[Any], labels: Labels, settings: TuningSettings) -> None:
    """Raises ConfigError on a setting that says nothing of such rows."""
    loss, text, usual = settings.loss, settings.text, LossSettings()
    for key in ("smoothing", "class_weights"):
        if getattr(loss, key) != getattr(usual, key) and key not in task.weighs(labels):
            raise ConfigError(f"{key} is for rows that have one of several labels each; leave it out")
    if task.head == "classify" and text.windows == "cut" and text.stride is not None:
        raise ConfigError("stride is for windows: say windows = mean or max with it, or leave it out")
    if task.head in ("tag", "answer") and text.windows != "cut":
        raise ConfigError(f"windows = {text.windows} is for labels of whole texts; tags and answers are always read so")


def _with_head(encoder: Encoder, task: Learnable[Any], labels: Labels, settings: TuningSettings) -> Encoder:
    """The encoder with the task's head alone: its own, if it has one for these labels, or a fresh one."""
    name, head = settings.adapt.model, task.head or ""
    family = encoder.family
    if head not in family.heads:
        raise ConfigError(f"{name}: {family.model_type} models have no head for it, only {', '.join(family.heads)}")
    generator = torch.Generator().manual_seed(settings.run.seed)
    named = bool(labels.names) or labels.kind == "regression"
    kept = head in encoder.heads and (not named or labels_of(encoder.extras).names == said_names(labels))
    extras = {key: value for key, value in encoder.extras.items() if key not in LABEL_KEYS}
    extras |= said_of(labels) if named else {}
    if settings.adapt.pooling is not None:
        extras["classifier_pooling"] = settings.adapt.pooling
        kept = False
    pools = encoder.network.pooler is None and family.heads[head].pools
    if pools:
        encoder.network.pooler = Pooler(encoder.config)
        initialise(encoder.network.pooler, encoder.config.init_std, generator)
    module = encoder.heads[head] if kept else fresh_head(head, encoder.network, family, extras, generator)
    left = [f"head {one}" for one in encoder.heads if one != head or not kept] + list(encoder.lost)
    warn_of_left(name, left)
    warn_of_fresh(name, [*([] if kept else [f"head {head} for these labels"]), *(["pooler"] if pools else [])])
    adapted = replace(encoder, heads={head: module}, extras=extras, unused=())
    set_dropout(adapted.network, settings.adapt.dropout, adapted.heads)
    return adapted


def said_names(labels: Labels) -> tuple[str, ...]:
    """The names that a config has for labels."""
    return labels.names or ("LABEL_0",)


def _material(
    name: str,
    task: Learnable[Any],
    labels: Labels,
    rows: Sequence[Any],
    held: Sequence[Any],
    encoder: Encoder,
    settings: TuningSettings,
) -> Material:
    """The rows as tokens. Warns of texts that are cut."""
    facts = Facts(tokenizer_of(encoder), encoder.extras, encoder.config.longest)
    samples = list(_samples(task, rows, labels, facts, settings))
    cut = [len(sample) + sample.cut for sample in samples if sample.cut]
    if cut:
        limit = settings.text.max_length or facts.longest
        told = f"{len(cut):,} of {len(samples):,} rows were cut to {limit} tokens (the longest had {max(cut):,})"
        warnings.warn(told, TruncationWarning, stacklevel=3)
    reduce = "mean" if settings.text.windows == "cut" else settings.text.windows
    objective = Supervised(task, task.head or "", Weighing(settings.loss.smoothing, reduce=reduce))
    if settings.loss.class_weights == "balanced":
        weighing = replace(objective.weighing, classes=_balanced(objective, samples, labels))
        objective = replace(objective, weighing=weighing)
    return Material(name, task, labels, samples, held, objective, _identity([*rows, None, *held]))


def _samples(
    task: Learnable[Any], rows: Sequence[Any], labels: Labels, facts: Facts, settings: TuningSettings
) -> Iterator[Sample]:
    """Some at a time, since a tokenizer's results are many times as large as their numbers."""
    reading = _reading(settings)
    for start in range(0, len(rows), ROWS_AT_A_TIME):
        some = rows[start : start + ROWS_AT_A_TIME]
        for sample in task.samples(some, labels, facts, reading.windows, reading.max_length):
            yield replace(sample, sequences=tuple(map(Numbers.of, sample.sequences)))


def _reading(settings: TuningSettings) -> Reading:
    return Reading(settings.text.reading(), settings.text.max_length)


def _balanced(objective: Supervised, samples: Sequence[Sample], labels: Labels) -> tuple[float, ...]:
    """How much rows of each label weigh, so that all labels weigh alike, and rows 1 on average."""
    (loss,) = objective.losses
    parts = [objective.batch(samples[i : i + ROWS_AT_A_TIME]) for i in range(0, len(samples), ROWS_AT_A_TIME)]
    values = torch.cat([part.labels[loss].values for part in parts])
    if labels.kind != "single" or values.is_floating_point() or not labels.names:
        raise ConfigError("class_weights = balanced is for rows that have one of several labels each")
    counts = values.bincount(minlength=len(labels.names)).tolist()
    there = sum(count > 0 for count in counts)
    return tuple(len(values) / (there * count) if count else 0.0 for count in counts)


def _identity(rows: Sequence[Any]) -> str:
    """What stands for the rows, wherever they are read from."""
    found = blake2b(digest_size=16)
    for row in rows:
        said = row and [getattr(row, one.name) for one in fields(row) if one.name != "place"]
        found.update(repr(said).encode("utf-8", errors="backslashreplace"))
    return found.hexdigest()


def _steps(material: Material, settings: TuningSettings) -> RowSteps:
    lengths, size = [len(sample) for sample in material.samples], settings.rows.batch_size
    steps = steps_of(len(lengths), settings)
    return RowSteps(lengths, partial(_batch, material), size, settings.rows.batch_tokens, steps, settings.run.seed)


def steps_of(rows: int, settings: TuningSettings) -> int:
    """How many steps a run over so many rows has."""
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
) -> Restored:
    """The newest whole checkpoint of a run that is resumed, or step 0."""

    def parts(model: Model) -> tuple[torch.optim.Optimizer, Average | None]:
        adam = settings.adam
        groups = parameter_groups(model.to(device), adam.weight_decay, adam.lr, adam.layer_decay, adam.head_lr)
        return OPTIMIZERS[settings.update.optimizer](groups, adam), average_of(model, settings.update)

    started = restore(output, parts, steps.check_place) if resume else None
    if started is None:
        networks = Networks(encoder)
        model = networks.model()
        started = Restored(networks, model, *parts(model), Progress(), output)
    elif started.corpus not in (None, material.identity):
        raise InputError(f"{output}: its rows were others than these; name those it was begun with, or another folder")
    else:
        restored = started.networks.encoder
        set_dropout(restored.network, settings.adapt.dropout, restored.heads)
    set_up(started.model, settings.update, device)
    return started


def _run(
    material: Material,
    started: Restored,
    steps: RowSteps,
    settings: TuningSettings,
    output: Path,
    watch: Watch,
    device: torch.device,
) -> tuple[Outcome, dict[str, float]]:
    """The loop, with everything that is told of it; and what the last evaluation found."""
    run, found = settings.run, dict[str, float]()

    def judged(streams: Streams) -> Judged:
        found.update(_metrics(material, started.networks.encoder, settings, device))
        whole = {name: value for name, value in found.items() if "/" not in name}  # not of each label
        return Judged(whole, -found[material.task.best(material.labels)])

    trainer = Trainer(
        started.model,
        material.objective,
        started.optimizer,
        steps,
        judged if material.held else None,
        device,
        settings.update,
        Times(
            steps.steps,
            run.seed,
            run.evaluate_every or steps.per_epoch,
            run.save_every or steps.per_epoch,
            run.patience if material.held else 0,
        ),
        started.average,
    )
    meter = _meter(started.networks.encoder, steps, device)
    keeping = Keeping(run.log_every, run.keep, run.tensorboard)
    outcome = drive(trainer, started, described(settings), material.identity, keeping, output, meter, watch)
    if outcome.finished and material.held and not found:  # resumed at its end
        with nullcontext() if started.average is None else started.average.swapped():
            judged(Streams(device))
    return outcome, found


def _metrics(material: Material, encoder: Encoder, settings: TuningSettings, device: torch.device) -> dict[str, float]:
    """How good the model is as it is now, on the rows held out."""
    precision = "fp32" if device.type == "cpu" else settings.update.precision
    pipeline = Pipeline(material.name, encoder, device=str(device), precision=precision, bar=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)  # told once, before the run
        return evaluated(pipeline, material.task, material.held, material.labels, _reading(settings))[0]


def _meter(encoder: Encoder, steps: RowSteps, device: torch.device) -> Meter:
    dtype = encoder.network.dtype or torch.float32
    rate = matmul_rate(dtype, device, RATE_SECONDS, 1024 if device.type == "cpu" else 4096)
    length = sum(steps.lengths) / len(steps.lengths)
    return Meter(steps.steps, 3 * flops_of_token(encoder.config, length, 0.0), rate)


def _finish(started: Restored, settings: TuningSettings, output: Path, outcome: Outcome) -> None:
    prune(output, settings.run.keep, outcome.progress)
    with nullcontext() if started.average is None else started.average.swapped():
        started.networks.save(output / "model")
    if (found := best(output, outcome.progress)) is not None:
        found[0].save(output / "best")
    with suppress(MissingExtraError, InputError):  # no picture without matplotlib, nor of fewer steps than are logged
        plot_curves(output)
