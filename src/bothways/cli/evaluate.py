"""`bothways evaluate`: how good a model's answers are; with --probe, how well labels can be read off an encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from bothways.cli.evaluate_writing import WritingFlags, evaluate_writing
from bothways.cli.labelled import SWITCH, FormRows, LabelledRows
from bothways.errors import InputError

if TYPE_CHECKING:
    from bothways.checkpoint.encoder import Encoder
    from bothways.engine.judging import Report
    from bothways.engine.pipeline import Pipeline

__all__ = ["evaluate"]


@dataclass(frozen=True)
class ProbeFlags:
    """What only a probe has.

    Parameters
    ----------
    max_rows
        With --probe: learn from, and evaluate on, at most so many rows each, picked from all over the file.
    seeds
        With --probe: so many divisions of the training rows; the mean and the spread are shown. Without rows to
        evaluate on, each keeps other ones aside for it; with them, all training rows are learnt from each time, and
        only those that the regularisation is chosen on differ.
    layer
        With --probe: whose hidden states: last; a number, 0 for the embeddings; mean, of all of them; or best, that
        which does best on the fifth of the training rows that the regularisation is chosen on.
    pooling
        With --probe: what makes a vector of a text's hidden states: mean, cls, max, lasttoken, weightedmean,
        mean_sqrt_len_tokens.
    pairs
        With --probe: how a pair is read: together as one input, apart (the default), or both.
    batch_tokens
        With --probe: tokens computed at a time: memory against speed; the result does not depend on it.
    """

    max_rows: int | None = None
    seeds: int = 1
    layer: int | str = "last"
    pooling: str = "mean"
    pairs: str | None = None
    batch_tokens: int | None = None


@dataclass(frozen=True)
class TaskFlags:
    """What only the evaluation of a task has.

    Parameters
    ----------
    output
        A folder for metrics.json, per_label.csv, mistakes.jsonl and pictures (extra plot): confusion.png of labels,
        reliability.png of scores; of a model that writes, metrics.json and texts.jsonl.
    max_samples
        Evaluate on at most so many rows, picked from all over the file.
    mistakes
        How many mistakes mistakes.jsonl has at most: those that the model was surest of.
    windows
        Of classification: read a text that is too long in windows, and take the mean or the max of their scores; by
        default it is cut. Tags and answers are read in windows anyway.
    stride
        Tokens that a window shares with the one before.
    tune_thresholds
        Where a row may have several labels, and of two labels: with --save, the thresholds that have the best F1 here
        become the model's.
    tune_null_threshold
        Of questions: with --save, the odds of no answer from which on answers are held back, best here, become the
        model's.
    save
        Write what was tuned into the model's config.json, which evaluate, predict and later pipelines heed.
    """

    output: Path | None = None
    max_samples: int | None = None
    mistakes: int = 200
    windows: Literal["mean", "max"] | None = None
    stride: int | None = None
    tune_thresholds: Annotated[bool, SWITCH] = False
    tune_null_threshold: Annotated[bool, SWITCH] = False
    save: Annotated[bool, SWITCH] = False


def evaluate(
    model: str,
    /,
    *,
    probe: Annotated[bool, SWITCH] = False,
    rows: Annotated[LabelledRows, Parameter(name="*")] = LabelledRows(),  # noqa: B008 (frozen)
    form: Annotated[FormRows, Parameter(name="*")] = FormRows(),  # noqa: B008
    kind: str | None = None,
    task: Annotated[TaskFlags, Parameter(name="*")] = TaskFlags(),
    writing: Annotated[WritingFlags, Parameter(name="*")] = WritingFlags(),  # noqa: B008
    probing: Annotated[ProbeFlags, Parameter(name="*")] = ProbeFlags(),
    max_length: int | None = None,
    precision: str = "auto",
    device: str = "auto",
    json: Annotated[bool, SWITCH] = False,
) -> None:
    """How good a model's answers are on labelled rows: metrics, each label, calibration, thresholds, mistakes.

    The model's head says what is asked: labels of texts, tags of words, answers to questions, or the right one of
    several choices; of a model with a decoder, how likely the right texts are, and how near to them is what it writes,
    as on the rows held out of `bothways finetune generate`. Files of any size are read a part at a time.

    With --probe, what an encoder knows without being trained for it: a linear model on its frozen hidden states,
    logistic regression for labels, ridge regression for numbers, its regularisation chosen on a fifth of the training
    rows. The result does not depend on the order of the rows.

    Parameters
    ----------
    model
        A folder or a hub id.
    probe
        Freeze the encoder and learn a linear model.
    kind
        Of a model with several heads, which task: classify, tag, answer, choose or generate. With --probe, single (a
        label) or regression (a number); by default regression where labels are numbers and not all whole.
    max_length
        Tokens a text, or a window of it, may have (by default, what the model takes).
    precision
        fp32, bf16, or fp16 on a GPU. By default fp32 on a CPU, half on a GPU.
    device
        auto, cpu or cuda.
    json
        Print JSON.
    """
    if probe:
        from bothways.cli.probe import Asked
        from bothways.cli.probe import probe as ask

        _refuse(task, TaskFlags(), "is for the evaluation of a task, not for --probe")
        _refuse(form, FormRows(), "is for the evaluation of a task, not for --probe")
        _refuse(writing, WritingFlags(), "is for the evaluation of a model that writes, not for --probe")
        one = probing
        pooled = one.max_rows, one.seeds, one.layer, one.pooling, one.pairs
        ask(model, rows, Asked(kind, *pooled, max_length, one.batch_tokens, precision, device), json)
        return
    _refuse(probing, ProbeFlags(), "goes with --probe")
    if rows.eval is not None or rows.eval_split is not None:
        raise InputError("--eval and --eval-split go with --probe; rows to evaluate a model on are --data")
    if task.save and not (task.tune_thresholds or task.tune_null_threshold):
        raise InputError("--save goes with --tune-thresholds or --tune-null-threshold")
    for name in ("max_samples", "mistakes"):
        value = getattr(task, name)
        if value is not None and value < (name == "max_samples"):
            raise InputError(f"--{name.replace('_', '-')} must not be {value}")
    from bothways.checkpoint.encoder import Encoder
    from bothways.cli.heads import WRITE, loaded_as

    kind, loaded = loaded_as(model, kind)
    if kind == WRITE or not isinstance(loaded, Encoder):
        _check_writing(form, task, max_length)
        about = task.output, task.max_samples, precision, device, json
        evaluate_writing(loaded, model, rows, form, writing, *about)
        return
    _refuse(writing, WritingFlags(), "is for a model that writes")
    form.check_none_of_writing()
    _evaluate(loaded, model, rows, form, kind, task, max_length, precision, device, json)


def _check_writing(form: FormRows, task: TaskFlags, max_length: int | None) -> None:
    """Raise InputError on flags of tasks that have labels or answers."""
    form.check_only_of_writing()
    _refuse(task, TaskFlags(output=task.output, max_samples=task.max_samples), "is not for a model that writes")
    if max_length is not None:
        raise InputError("--max-length is not for a model that writes; say --max-source-length, --max-target-length")


def _refuse(given: Any, usual: Any, why: str) -> None:
    """Raise InputError on a flag that has not its default."""
    from dataclasses import fields

    for one in fields(given):
        if getattr(given, one.name) != getattr(usual, one.name):
            raise InputError(f"--{one.name.replace('_', '-')} {why}")


def _evaluate(
    encoder: Encoder,
    model: str,
    rows: LabelledRows,
    form: FormRows,
    kind: str,
    task: TaskFlags,
    max_length: int | None,
    precision: str,
    device: str,
    json: bool,
) -> None:
    from bothways.cli.heads import asked_of, reading_of
    from bothways.cli.judgement import as_dict, print_report, write_report
    from bothways.cli.rows import rows_of
    from bothways.data.split import sampled
    from bothways.engine.judging import judged

    flags = form.flags(rows)
    source = flags.source(rows.data)
    pipeline = asked_of(encoder, model, kind, precision, device)
    reading = reading_of(kind, task.windows, task.stride, max_length)
    _check_tuning(kind, pipeline, model, task)
    with rows_of(kind, source, flags) as found:
        some = found if task.max_samples is None else sampled(found, task.max_samples)
        report = judged(pipeline, some, reading, most=0 if task.output is None else task.mistakes)
    saved = _save(Path(model), report, task) if task.save else {}
    if task.output is not None:
        write_report(report, task.output, kind, model, source.name)
    if json:
        from bothways.cli.output import print_json

        print_json(as_dict(report, kind, model, source.name))
    else:
        print_report(report, kind, task.output, saved)


def _check_tuning(kind: str, pipeline: Pipeline, model: str, task: TaskFlags) -> None:
    """Raise InputError, before anything is computed, where there is nothing to tune or nowhere to save it."""
    if task.tune_null_threshold and kind != "answer":
        raise InputError("--tune-null-threshold is for questions, some of which have no answer")
    if task.tune_thresholds:
        labels = pipeline.labels if kind == "classify" else None
        if labels is None or not (labels.kind == "multi" or (labels.kind == "single" and len(labels.names) == 2)):
            raise InputError("--tune-thresholds is for models whose texts may have several labels, or one of two")
    if task.save and not Path(model).is_dir():
        raise InputError(f"{model}: --save writes into a model's folder; download it into one and name that")


def _save(folder: Path, report: Report, task: TaskFlags) -> dict[str, Any]:
    """Write what was tuned into the model's config. Raises InputError where nothing could be tuned."""
    from bothways.checkpoint.labels import THRESHOLDS
    from bothways.files import read_object, write_json
    from bothways.tasks.answer import NULL_THRESHOLD

    if task.tune_null_threshold and "best_threshold" not in report.metrics:
        raise InputError("every question has an answer, or the model cannot say that there is none: nothing is saved")
    found: dict[str, Any] = {}
    if task.tune_thresholds:
        found[THRESHOLDS] = list(report.thresholds)
    if task.tune_null_threshold:
        found[NULL_THRESHOLD] = report.metrics["best_threshold"]
    config = folder / "config.json"
    write_json(config, {**read_object(config), **found})
    return found
