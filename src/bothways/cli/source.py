"""The options of commands that read documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from bothways.data.readers import Source

__all__ = ["Documents"]


@dataclass(frozen=True)
class Documents:
    """Where the documents are.

    Parameters
    ----------
    input
        Files (text, JSON lines, Parquet; also .gz, .zst), folders, patterns; /dev/stdin for standard input.
    dataset
        The id or folder of a data set for the datasets library, in place of --input.
    split
        The split of the data set.
    column
        The field of JSON lines, or the column of Parquet or of the data set, that holds the text.
    lines
        Each line of a text file is a document (else blank lines stand between them).
    format
        txt, jsonl or parquet, where the names of the files do not say.
    """

    input: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = ()
    dataset: str | None = None
    split: str = "train"
    column: str = "text"
    lines: Annotated[bool, Parameter(negative="")] = False
    format: str | None = None

    def source(self) -> Source:
        """Raises InputError unless there is either input or a data set."""
        return Source(self.input, self.dataset, self.split, self.column, self.lines, self.format)
