"""The options of commands that read rows, labelled or not."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from os.path import samefile
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from bothways.cli.rows import RowFlags
from bothways.data.columns import Columns
from bothways.data.table import TableSource
from bothways.errors import InputError

__all__ = ["FormRows", "LabelledRows", "PredictedRows"]

SWITCH = Parameter(negative="")


@dataclass(frozen=True)
class LabelledRows:
    """Where labelled rows are.

    Parameters
    ----------
    data
        The rows: csv, tsv, JSON lines, Parquet, columns of words with tags (.conll) or SQuAD's .json, also .gz or .zst.
        With --probe, those to learn from.
    eval
        With --probe, the rows to evaluate on, in such a file too; by default a fifth of --data is kept aside.
    text
        The column of the text; without names in the file, its number, from 1. What is not said is guessed, and printed.
    text_pair
        The column of the second text, for pairs.
    label
        The column of the label.
    format
        csv, tsv, jsonl or parquet, where the names of the files do not say.
    header
        Whether the first row of csv or tsv holds the names of columns (by default, guessed).
    quoted
        Whether quotation marks around the cells of csv or tsv are no part of the text (by default, guessed).
    surplus
        Pass over cells beyond those of the first row, instead of refusing the row.
    dataset
        The id or folder of a data set for the datasets library, in place of --data.
    split
        Its split (with --probe, the one to learn from).
    eval_split
        With --probe, its split to evaluate on.
    """

    data: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    eval: str | None = None
    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    format: str | None = None
    header: bool | None = None
    quoted: bool | None = None
    surplus: Annotated[bool, SWITCH] = False
    dataset: str | None = None
    split: str = "train"
    eval_split: str | None = None

    def sources(self) -> tuple[TableSource, TableSource | None]:
        """The table to learn from and the one to evaluate on, if there is one. Raises InputError if it is not said."""
        if (self.data is None) == (self.dataset is None):
            raise InputError("say where the rows are: a file with --data, or a data set with --dataset")
        if (self.eval if self.data is None else self.eval_split) is not None:
            raise InputError("--eval goes with --data, --eval-split with --dataset")
        if self.dataset is not None:
            train = TableSource(dataset=self.dataset, split=self.split)
            held = None if self.eval_split is None else replace(train, split=self.eval_split)
            return train, held
        train = TableSource(self.data, None, "", self.format, self.header, self.quoted, self.surplus)
        held = None if self.eval is None else replace(train, path=self.eval)
        self._warn_of_one_file()
        return train, held

    def columns(self) -> Columns:
        """Those that are said."""
        return Columns(self.text, self.text_pair, self.label)

    def _warn_of_one_file(self) -> None:
        with suppress(OSError):
            if self.data is not None and self.eval is not None and samefile(self.data, self.eval):
                print(f"bothways: warning: {self.eval}: evaluated on the rows that are learnt from", file=sys.stderr)


@dataclass(frozen=True)
class FormRows:
    """What rows of tasks may need said beside their columns of texts and labels.

    Parameters
    ----------
    question
        The column of the question.
    context
        The column of the context that the answer is in.
    answers
        The column of the answers.
    choices
        The column of the list of choices; or said several times, a column for each choice.
    separator
        What stands between several labels in one cell.
    label_names
        A file of names of labels, a line each, for labels that are whole numbers from 0.
    scheme
        How tags say where entities are: iob1, iob2, bioes, bilou, bmes or plain (by default, guessed).
    skip_misplaced
        Pass over answers that are not in their context where they are said to be.
    source
        Of a model that writes, the column of the source.
    target
        Of a model that writes, the column of the target, or of several that are right.
    skip_empty
        Of a model that writes, pass over rows of which a side is empty.
    """

    question: str | None = None
    context: str | None = None
    answers: str | None = None
    choices: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    separator: str | None = None
    label_names: Path | None = None
    scheme: str | None = None
    skip_misplaced: Annotated[bool, SWITCH] = False
    source: str | None = None
    target: str | None = None
    skip_empty: Annotated[bool, SWITCH] = False

    def check_none_of_writing(self) -> None:
        """Raise InputError on what is said of a model that writes."""
        for name in ("source", "target", "skip_empty"):
            if getattr(self, name):
                raise InputError(f"--{name.replace('_', '-')} is for a model that writes")

    def check_only_of_writing(self) -> None:
        """Raise InputError on what is said of other models than those that write."""
        usual = FormRows(source=self.source, target=self.target, skip_empty=self.skip_empty)
        for one in fields(self):
            if getattr(self, one.name) != getattr(usual, one.name):
                raise InputError(f"--{one.name.replace('_', '-')} is not for a model that writes")

    def flags(self, rows: LabelledRows | PredictedRows) -> RowFlags:
        """All that is said of the rows of a task."""
        return RowFlags(
            rows.text,
            rows.text_pair,
            rows.label,
            self.question,
            self.context,
            self.answers,
            self.choices,
            rows.format,
            rows.header,
            rows.quoted,
            rows.surplus,
            self.separator,
            self.label_names,
            self.scheme,
            self.skip_misplaced,
            rows.dataset,
            rows.split,
        )


@dataclass(frozen=True)
class PredictedRows:
    """Where rows to predict are; they need no labels.

    Parameters
    ----------
    data
        The rows: csv, tsv, JSON lines, Parquet, columns of words (.conll) or SQuAD's .json, also .gz or .zst; or - for
        standard input, with --format.
    text
        The column of the text; without names in the file, its number, from 1. What is not said is guessed, and printed.
    text_pair
        The column of the second text, for pairs.
    label
        The column of the label, where there is one, so that it is not taken for a text.
    format
        csv, tsv, jsonl, parquet, conll or json, where the name of the file does not say.
    header
        Whether the first row of csv or tsv holds the names of columns (by default, guessed).
    quoted
        Whether quotation marks around the cells of csv or tsv are no part of the text (by default, guessed).
    surplus
        Pass over cells beyond those of the first row, instead of refusing the row.
    dataset
        The id or folder of a data set for the datasets library, in place of --data.
    split
        Its split.
    """

    data: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    format: str | None = None
    header: bool | None = None
    quoted: bool | None = None
    surplus: Annotated[bool, SWITCH] = False
    dataset: str | None = None
    split: str = "train"
