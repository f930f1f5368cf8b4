"""`bothways finetune generate`: an encoder and parallel texts to a model that writes one from the other."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from bothways.cli.finetune import TuningFlags, ended, in_turn, show_runs, warn_of_one_file
from bothways.cli.parallel import file_of_sources, parallel_rows
from bothways.data.parallel import Parallel, ParallelColumns
from bothways.data.table import TableSource
from bothways.errors import ConfigError, InputError

if TYPE_CHECKING:
    from bothways.train.finetune import Taught
    from bothways.train.seq2seq_settings import Seq2SeqSettings
    from bothways.train.tuning import TuningRun

__all__ = ["app"]

Rest = Annotated[str, Parameter(allow_leading_hyphen=True, show=False)]


@dataclass(frozen=True)
class ParallelFlags:
    """train_target, eval_target: files of targets, where train and eval are plain texts; line by line they go together.
    source, target: columns of tables; what is not said is guessed, and printed.
    skip_empty: pass over rows of which a side is empty.
    format: csv, tsv, jsonl or parquet, where the names of files do not say.
    header: whether the first row of csv or tsv holds the names of columns; guessed.
    quoted: whether quotation marks around cells of csv or tsv are no part of the text; guessed.
    surplus: pass over cells beyond those of the first row.
    dataset, split, eval_split: a data set of the datasets library in place of files, its split of rows, and that to
    evaluate on.
    """

    train_target: str | None = None
    eval_target: str | None = None
    source: str | None = None
    target: str | None = None
    skip_empty: bool = False
    format: str | None = None
    header: bool | None = None
    quoted: bool | None = None
    surplus: bool = False
    dataset: str | None = None
    split: str = "train"
    eval_split: str | None = None

    def read(self, path: str | None, target: str | None, split: str, flag: str) -> list[Parallel]:
        """The rows of a table, of two files, or of a data set's split. flag: how a file of targets is said.

        Raises InputError where none are said, and where there are none.
        """
        if target is not None:
            path = file_of_sources(path, target)
        elif (path is None) == (self.dataset is None):
            raise InputError("say where the rows are: a file, or a data set with --dataset")
        form = (self.format, self.header, self.quoted, self.surplus)
        where = TableSource(path, None, "", *form) if path is not None else TableSource(None, self.dataset, split)
        columns = ParallelColumns(self.source, self.target)
        lines = f"name the file of their targets with {flag}"
        with parallel_rows(where, target, columns, lines=lines, skip_empty=self.skip_empty) as found:
            rows = list(found)
        if not rows:
            raise InputError(f"{where.name}: no rows")
        return rows


def _parts() -> dict[str, type[Any]]:
    """The parts of a run's settings, and what is said beside them."""
    from dataclasses import fields
    from typing import get_type_hints

    from bothways.train.seq2seq_settings import Seq2SeqSettings

    kinds = get_type_hints(Seq2SeqSettings)
    settings = {f"{one.name}_settings": kinds[one.name] for one in fields(Seq2SeqSettings)}
    return {**settings, "flags": ParallelFlags, "where": TuningFlags}


def _told_keys() -> str:
    from bothways.cli.keys import keys_told

    return keys_told(list(_parts().values()))


app = App(name="generate", help_epilogue=_told_keys(), help_format="plaintext")


@app.default
def generate(*flags: Rest, config: Path | None = None, json: Annotated[bool, Parameter(negative="")] = False) -> None:
    """Train a model to write one text from another: translations, summaries, answers.

    At the end `run/model` is the model and `run/best` the one that did best on the rows to evaluate on. Interrupted
    (Ctrl-C, SIGTERM), it saves and exits with 130; say --resume to go on.

    Parameters
    ----------
    flags
        Keys as flags: --model M --train F --eval F --output DIR --decoder fresh --depth 4 --lr 3e-4.
    config
        A TOML file of keys; flags win.
    json
        Print at the end what the run came to, as a JSON object.
    """
    from bothways.cli.settings import read_parts
    from bothways.train.seq2seq_settings import Seq2SeqSettings

    parts = read_parts(config, flags, _parts(), "finetune generate")
    row_flags, where = parts.pop("flags"), parts.pop("where")
    settings = Seq2SeqSettings(**{name.removesuffix("_settings"): part for name, part in parts.items()})
    if not settings.source.model:
        raise ConfigError("model is missing: say --model, a folder or an id on the hub, what to begin with")
    train, held = _rows(settings, row_flags, where)

    def run(seeded: TuningRun, output: Path) -> Taught:
        return _run(train, held, replace(settings, run=seeded), output, where)

    show_runs(in_turn(run, settings.run, where), where, json)


def _rows(
    settings: Seq2SeqSettings, flags: ParallelFlags, where: TuningFlags
) -> tuple[Sequence[Parallel], Sequence[Parallel]]:
    """Those to learn from, and those to evaluate on."""
    from bothways.data.split import held_apart, picked

    warn_of_one_file(where)
    train = flags.read(where.train, flags.train_target, flags.split, "--train-target")
    if where.eval is not None or flags.eval_split is not None:
        return train, flags.read(where.eval, flags.eval_target, flags.eval_split or flags.split, "--eval-target")
    if flags.eval_target is not None:
        raise InputError(f"{flags.eval_target} has targets to evaluate on; name the file of their sources with --eval")
    learnt, apart = held_apart(train, settings.sides.held_out)
    held: Sequence[Parallel] = apart
    if (most := settings.sides.max_train_samples) is not None:  # as many beside a sample as beside all rows
        held = picked(apart, max(1, round(most * settings.sides.held_out)))
    counted = "1 row is" if len(held) == 1 else f"{len(held):,} rows are"
    print(f"bothways: {counted} kept apart to evaluate on", file=sys.stderr)
    return learnt, held


def _run(
    train: Sequence[Parallel],
    held: Sequence[Parallel],
    settings: Seq2SeqSettings,
    output: Path,
    where: TuningFlags,
) -> Taught:
    from bothways.cli.training import show, tell_of_no_run
    from bothways.train.seq2seq import finetune_generate, steps_of

    if where.resume:
        tell_of_no_run(output)
    with show(steps_of(train, settings)) as watch:
        taught = finetune_generate(
            train,
            held,
            settings,
            output,
            resume=where.resume,
            device=where.device,
            watch=watch,
            told=lambda line: print(f"bothways: {line}", file=sys.stderr),
        )
    return ended(taught, output)
