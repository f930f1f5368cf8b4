"""The rows of tasks: which files they are in, which of their columns, and what reads them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bothways.data.choices import ChoiceColumns, choices
from bothways.data.columns import Columns
from bothways.data.labelled import labelled
from bothways.data.questions import QuestionColumns, questions
from bothways.data.table import TableSource
from bothways.data.tagged import tagged
from bothways.errors import InputError
from bothways.files import read_lines

__all__ = ["KINDS", "Kind", "RowFlags", "rows_of"]


@dataclass(frozen=True)
class RowFlags:
    """text, text_pair, label: columns of the text, of a second one, and of the label; what is not said is guessed, and
    printed. Without names in the file, columns are numbered from 1. Of tags, text and label are words and tags.
    kind: what labels of texts are: single, multi (several) or regression (numbers); guessed.
    question, context, answers, choices: columns of questions; choices may be several, one for each choice.
    format: csv, tsv, jsonl, parquet, json or conll, where the names of files do not say.
    header: whether the first row of csv or tsv holds the names of columns; guessed.
    quoted: whether quotation marks around cells of csv or tsv are no part of the text; guessed.
    surplus: pass over cells beyond those of the first row.
    separator: what stands between several labels in one cell.
    label_names: a file of names, a line each, for labels that are whole numbers from 0.
    scheme: how tags say where entities are: IOB1, IOB2, BIOES …; guessed.
    skip_misplaced: pass over answers that are not in their context where they are said to be.
    dataset, split, eval_split: a data set of the datasets library in place of files, its split of rows, and that to
    evaluate on.
    """

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    question: str | None = None
    context: str | None = None
    answers: str | None = None
    choices: tuple[str, ...] = ()
    format: str | None = None
    header: bool | None = None
    quoted: bool | None = None
    surplus: bool = False
    separator: str | None = None
    label_names: Path | None = None
    scheme: str | None = None
    skip_misplaced: bool = False
    dataset: str | None = None
    split: str = "train"
    eval_split: str | None = None
    kind: str | None = None

    def source(self, path: str | None) -> TableSource:
        """Of a file, or of the data set. Raises InputError where neither or both are said."""
        if (path is None) == (self.dataset is None):
            raise InputError("say where the rows are: a file, or a data set with --dataset")
        if path is None:
            return TableSource(dataset=self.dataset, split=self.split)
        return TableSource(path, None, "", self.format, self.header, self.quoted, self.surplus)

    def names(self) -> list[str]:
        """Those of labels that are numbers. Raises InputError on a blank line, since each line counts."""
        names = [] if self.label_names is None else [line.strip() for line in read_lines(self.label_names)]
        while names and not names[-1]:
            names.pop()
        if "" in names:
            raise InputError(f"{self.label_names}: line {names.index('') + 1} is blank: the label {names.index('')}")
        return names


Rows = AbstractContextManager[tuple[str, Iterator[Any]]]
"""What was found out about the file, and the rows in order, once."""


@dataclass(frozen=True)
class Kind:
    """A task as commands know it.

    task: its name in TASKS.    title: what people call it.    read: its rows; with labels, or if need be without.
    """

    task: str
    title: str
    read: Callable[[TableSource, RowFlags, bool], Rows]


@contextmanager
def _labelled(source: TableSource, flags: RowFlags, needed: bool) -> Iterator[tuple[str, Iterator[Any]]]:
    columns = Columns(flags.text, flags.text_pair, flags.label)
    with labelled(source, columns, separator=flags.separator, unlabelled=not needed, names=flags.names()) as found:
        yield found.said, found.examples


@contextmanager
def _tagged(source: TableSource, flags: RowFlags, needed: bool) -> Iterator[tuple[str, Iterator[Any]]]:
    columns = Columns(flags.text, None, flags.label)
    with tagged(source, columns, scheme=flags.scheme, names=flags.names(), labelled=needed) as found:
        yield found.said, found.sentences


@contextmanager
def _questions(source: TableSource, flags: RowFlags, needed: bool) -> Iterator[tuple[str, Iterator[Any]]]:
    columns = QuestionColumns(flags.question, flags.context, flags.answers)
    with questions(source, columns, labelled=needed, skip_misplaced=flags.skip_misplaced) as found:
        yield found.said, found.questions
        if found.misplaced:
            told = f"{found.misplaced:,} answers are not where they are said to be, and were passed over"
            print(f"bothways: {source.name}: {told}", file=sys.stderr)


@contextmanager
def _choices(source: TableSource, flags: RowFlags, needed: bool) -> Iterator[tuple[str, Iterator[Any]]]:
    columns = ChoiceColumns(flags.question, flags.choices, flags.label)
    with choices(source, columns, labelled=needed) as found:
        yield found.said, found.choices


KINDS: Mapping[str, Kind] = {
    "classify": Kind("text-classification", "labels of texts and of pairs", _labelled),
    "tag": Kind("token-classification", "tags of words", _tagged),
    "answer": Kind("question-answering", "answers to questions", _questions),
    "choose": Kind("multiple-choice", "the right one of several choices", _choices),
}
"""The tasks that are learnt from files, by the word that commands have for them."""


@contextmanager
def rows_of(kind: str, source: TableSource, flags: RowFlags, *, labels: bool = True) -> Iterator[Iterator[Any]]:
    """The rows of a file as a task reads them, one by one as long as the context lasts; what was guessed is printed."""
    with KINDS[kind].read(source, flags, labels) as (said, rows):
        print(f"bothways: {said}", file=sys.stderr)
        yield rows
