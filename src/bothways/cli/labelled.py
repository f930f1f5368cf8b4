"""The options of commands that read labelled rows."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from os.path import samefile
from typing import Annotated

from cyclopts import Parameter

from bothways.data.columns import Columns
from bothways.data.table import TableSource
from bothways.errors import InputError

__all__ = ["LabelledRows"]

SWITCH = Parameter(negative="")


@dataclass(frozen=True)
class LabelledRows:
    """Where labelled rows are.

    Parameters
    ----------
    data
        The rows to learn from: csv, tsv, JSON lines or Parquet, also .gz or .zst.
    eval
        The rows to evaluate on, in such a file too; by default a fifth of --data is kept aside.
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
        Its split to learn from.
    eval_split
        Its split to evaluate on.
    """

    data: str | None = None
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
