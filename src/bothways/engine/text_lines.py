"""Texts that a model writes for rows of any number, some at a time: as they come, or as the lines of a file that a
killed run goes on with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from bothways.data.parallel import Parallel
from bothways.engine.lines import PartialLines
from bothways.engine.prediction import FORMS, Form, add_lines, in_form
from bothways.engine.writing import WRITES, Asking, Names, WritingPipeline
from bothways.errors import InputError
from bothways.text.tokenizer import Cuts, Encoded

__all__ = ["Scribe", "add_texts", "told"]

# Rows that are written at a time: few at first, so that there is something to be seen, then enough to fill steps.
FIRST, MOST = 16, {"cpu": 256, "cuda": 4096}


@dataclass(eq=False)
class Scribe:
    """Writes for rows that come some at a time what it would write if they came at once."""

    write: WritingPipeline
    asking: Asking
    cuts: Cuts = field(default_factory=Cuts)
    names: Names = field(default_factory=Names)

    def answers(self, rows: Sequence[Parallel]) -> list[list[dict[str, Any]]]:
        """What is written for the source of each row. Raises InputError, naming its place, on what cannot be."""
        sources, places = [row.source for row in rows], [row.place for row in rows]
        return self.write.answers(sources, self.asking, places=places, cuts=self.cuts, names=self.names)

    def passed(self, row: Parallel) -> None:
        """Heed a row that was written for before: draws for the same source are others after it."""
        if self.asking.decoding.do_sample:
            self.names.of(self.read(row))

    def read(self, row: Parallel) -> Encoded:
        """The tokens that are read of a row, without a word on a source that is cut. Raises InputError as `answers`."""
        one = self.asking
        (encoded,) = self.write.read([row.source], one.prefix, one.truncation, one.separator, [row.place], Cuts())
        return encoded

    def at_a_time(self, done: int) -> int:
        """How many rows come next after so many; by that number alone, so that a run that goes on has the same."""
        most = MOST[self.write.placement.device.type] // self.asking.decoding.rows
        return max(FIRST, min(done, most))


def told(scribe: Scribe, rows: Iterable[Parallel]) -> Iterator[tuple[Parallel, list[dict[str, Any]]]]:
    """Each row with what is written for it, in order. Warns once, at the end, of sources that were cut."""
    rows, done = iter(rows), 0
    while some := list(islice(rows, scribe.at_a_time(done))):
        yield from zip(some, scribe.answers(some))
        done += len(some)
    scribe.cuts.warn()


@dataclass(frozen=True)
class TextLines:
    """`text`; of several results `texts`, best first; with log-probabilities, what the pipeline tells of each.

    several: whether several results were asked for; there may be fewer.
    """

    several: bool

    def line(self, row: Parallel, answer: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        named = [{"text" if key in WRITES.values() else key: value for key, value in one.items()} for one in answer]
        return {**named[0], "texts": named} if self.several else named[0]

    def cells(self, said: Mapping[str, Any]) -> dict[str, Any]:
        if list(said) != ["text"]:
            raise InputError("more of a row than one text is written as JSON lines: end the name of --output in .jsonl")
        return dict(said)


def add_texts(scribe: Scribe, rows: Iterable[Parallel], output: PartialLines, form: Form) -> Iterator[int]:
    """Write for the rows that `output` does not have yet, a line each; yields how many were done at a time.

    Warns once, at the end, of sources that were cut.
    Raises InputError where the rows that are done already were others.
    """
    lines = TextLines(scribe.asking.decoding.num_return_sequences > 1)

    def tell(some: Sequence[Parallel], first: int) -> list[bytes]:
        told = enumerate(zip(some, scribe.answers(some)), start=first)
        return [in_form(FORMS[form], lines, number, row, answer) for number, (row, answer) in told]

    yield from add_lines(rows, tell, output, scribe.at_a_time, scribe.passed)
    scribe.cuts.warn()
