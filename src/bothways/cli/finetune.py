"""`bothways finetune`: an encoder and labelled rows to a model that answers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from os.path import samefile
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from bothways.cli.output import print_json, print_table
from bothways.cli.rows import KINDS, RowFlags, rows_of
from bothways.errors import ConfigError, InputError

if TYPE_CHECKING:
    from bothways.data.labelled import Labels
    from bothways.train.finetune import Taught
    from bothways.train.tuning import TuningRun, TuningSettings

__all__ = ["TuningFlags", "app", "ended", "in_turn", "show_runs", "warn_of_one_file"]

Switch = Annotated[bool, Parameter(negative="")]
Rest = Annotated[str, Parameter(allow_leading_hyphen=True, show=False)]


@dataclass(frozen=True)
class TuningFlags:
    """train, eval: files of rows to learn from, and to evaluate on; without the latter a part is kept apart.
    output: the folder of the run.    resume: go on with the run in it; without one, begin.
    device: cpu, or a GPU: cuda, cuda:1.    seeds: so many runs, each with a seed of its own, and mean and spread.
    """

    train: str | None = None
    eval: str | None = None
    output: Path = Path("run")
    resume: bool = False
    device: str = "cpu"
    seeds: int = 1


def _parts() -> dict[str, type[Any]]:
    """The parts of a run's settings, and what is said beside them."""
    from dataclasses import fields
    from typing import get_type_hints

    from bothways.train.tuning import TuningSettings

    kinds = get_type_hints(TuningSettings)
    return {**{one.name: kinds[one.name] for one in fields(TuningSettings)}, "flags": RowFlags, "where": TuningFlags}


def _told_keys() -> str:
    from bothways.cli.keys import keys_told

    return keys_told(list(_parts().values()))


app = App(
    name="finetune",
    help_epilogue="Each command has keys of its own, and tells them: bothways finetune classify --help",
    help_format="plaintext",
)


def _command(kind: str, keys: str) -> None:
    def finetune(
        *flags: Rest, config: Path | None = None, json: Annotated[bool, Parameter(negative="")] = False
    ) -> None:
        _finetune(kind, flags, config, json)

    finetune.__doc__ = f"""Train an encoder on {KINDS[kind].title}.

    At the end `run/model` is the model and `run/best` the one that did best on the rows to evaluate on. Interrupted
    (Ctrl-C, SIGTERM), it saves and exits with 130; say --resume to go on.

    Parameters
    ----------
    flags
        Keys as flags: --model M --train F --eval F --output DIR --epochs 3 --lr 5e-5.
    config
        A TOML file of keys; flags win.
    json
        Print at the end what the run came to, as a JSON object.
    """
    app.command(finetune, name=kind, help_epilogue=keys, help_format="plaintext")


_keys = _told_keys()
for _kind in KINDS:
    _command(_kind, _keys)
app.command("bothways.cli.finetune_generate:app", name="generate", help="Train a model to write one text from another.")


def _finetune(kind: str, flags: Sequence[str], config: Path | None, json: bool) -> None:
    from bothways.cli.settings import read_parts
    from bothways.train.tuning import TuningSettings

    parts = read_parts(config, flags, _parts(), f"finetune {kind}")
    row_flags, where = parts.pop("flags"), parts.pop("where")
    settings = TuningSettings(**parts)
    if not settings.adapt.model:
        raise ConfigError("model is missing: say --model, a folder or an id on the hub, the encoder to begin with")
    rows = _rows(kind, settings, row_flags, where)
    labels = _labels(kind, rows.every, row_flags)

    def run(seeded: TuningRun, output: Path) -> Taught:
        return _run(kind, rows, labels, replace(settings, run=seeded), output, where)

    show_runs(in_turn(run, settings.run, where), where, json)


@dataclass(frozen=True)
class _Rows:
    """The rows to learn from, those to evaluate on, and all that the file to learn from has, whose labels count."""

    train: Sequence[Any]
    held: Sequence[Any]
    every: Sequence[Any]


def _rows(kind: str, settings: TuningSettings, flags: RowFlags, where: TuningFlags) -> _Rows:
    from bothways.data.split import held_apart, picked

    warn_of_one_file(where)
    with rows_of(kind, flags.source(where.train), flags) as rows:
        train: Sequence[Any] = list(rows)
    every = train
    if where.eval is not None or flags.eval_split is not None:
        other = replace(flags, split=flags.eval_split or flags.split)
        with rows_of(kind, other.source(where.eval), other) as rows:
            held: Sequence[Any] = list(rows)
    else:
        train, held = held_apart(train, settings.text.held_out)
        if (most := settings.text.max_train_samples) is not None:  # as many beside a sample as beside all rows
            held = picked(held, max(1, round(most * settings.text.held_out)))
        counted = "1 row is" if len(held) == 1 else f"{len(held):,} rows are"
        print(f"bothways: {counted} kept apart to evaluate on", file=sys.stderr)
    return _Rows(train, held, every)


def _labels(kind: str, rows: Sequence[Any], flags: RowFlags) -> Labels | None:
    """The labels of rows, where it is said what they are; else those that the task finds."""
    if flags.kind is not None and kind != "classify":
        raise ConfigError(f"kind is for labels of texts, not for {KINDS[kind].title}; leave it out")
    names = flags.names() if kind in ("classify", "tag") else []
    if flags.kind is None and not names:
        return None
    from bothways.data.labelled import Labels

    if kind == "tag":
        return Labels("single", tuple(names), flags.label or "tag")
    return Labels.of(rows, flags.label or "label", kind=flags.kind, names=names)


def warn_of_one_file(where: TuningFlags) -> None:
    """Say on stderr where the same rows are learnt from and evaluated on."""
    with suppress(OSError):
        if where.train is not None and where.eval is not None and samefile(where.train, where.eval):
            print(f"bothways: warning: {where.eval}: evaluated on the rows that are learnt from", file=sys.stderr)


def _run(
    kind: str,
    rows: _Rows,
    labels: Labels | None,
    settings: TuningSettings,
    output: Path,
    where: TuningFlags,
) -> Taught:
    from bothways.cli.training import show, tell_of_no_run
    from bothways.train.finetune import finetune, steps_of

    if where.resume:
        tell_of_no_run(output)
    with show(steps_of(len(rows.train), settings)) as watch:
        taught = finetune(
            KINDS[kind].task,
            rows.train,
            rows.held,
            settings,
            output,
            labels=labels,
            every=rows.every,
            resume=where.resume,
            device=where.device,
            watch=watch,
            told=lambda line: print(f"bothways: {line}", file=sys.stderr),
        )
    return ended(taught, output)


def ended(taught: Taught, output: Path) -> Taught:
    """What a run came to, if it came to its end. Raises InputError where a number was not finite."""
    outcome = taught.outcome
    if outcome.stopped:
        raise InputError(
            f"{output}: the loss or gradient of step {outcome.progress.step} is not a finite number; its rows are in "
            "nonfinite.json; go on with --resume --nonfinite skip, or start anew with a lower --lr"
        )
    if not outcome.finished:
        print(
            f"bothways: stopped and saved after step {outcome.progress.step}; go on with --resume and the same flags",
            file=sys.stderr,
        )
        raise KeyboardInterrupt
    return taught


def in_turn(run: Callable[[TuningRun, Path], Taught], settings: TuningRun, where: TuningFlags) -> list[Taught]:
    """One run after the other, each with a seed and a folder of its own where they are several."""
    if where.seeds < 1:
        raise ConfigError(f"seeds must be at least 1, got {where.seeds}")
    if where.seeds == 1:
        return [run(settings, where.output)]
    seeds = range(settings.seed, settings.seed + where.seeds)
    return [run(replace(settings, seed=seed), where.output / f"seed-{seed}") for seed in seeds]


def show_runs(runs: Sequence[Taught], where: TuningFlags, json: bool) -> None:
    """Print what runs came to: a table, or a JSON object."""
    names = list(runs[0].metrics)
    values = {name: [run.metrics[name] for run in runs if name in run.metrics] for name in names}
    if json:
        print_json(
            {
                "folder": str(where.output),
                "labels": list(runs[0].labels.names),
                "best_metric": runs[0].best,
                "metrics": {name: fmean(found) for name, found in values.items()},
                "spreads": {name: _spread(found) for name, found in values.items()},
                "runs": [_told(run) for run in runs],
            }
        )
        return
    several = len(runs) > 1
    if names:
        rows = [
            [f"{fmean(found):.4f}", *([f"{_spread(found):.4f}"] if several else []), name]
            for name, found in values.items()
            if "/" not in name  # those of each label are in what `bothways evaluate` shows
        ]
        print_table(["value", *(["±"] if several else []), "metric"], rows)
    for run in runs:
        at = run.outcome.progress
        best = (
            ""
            if at.best_step is None
            else f"; {run.best} was best at step {at.best_step:,}: {run.best_value or 0.0:.4f}"
        )
        print(f"{run.folder / 'model'}: {at.step:,} steps, {at.tokens:,} tokens{best}")


def _spread(found: Sequence[float]) -> float:
    """Of several runs, the standard deviation of the runs that they are a sample of."""
    return stdev(found) if len(found) > 1 else 0.0


def _told(run: Taught) -> dict[str, Any]:
    at, speed = run.outcome.progress, run.outcome.reading
    return {
        "folder": str(run.folder),
        "steps": at.step,
        "tokens": at.tokens,
        "metrics": run.metrics,
        "best": None if at.best_loss is None else {"step": at.best_step, run.best: run.best_value},
        "tokens_per_second": None if speed is None else speed.tokens_per_second,
    }
