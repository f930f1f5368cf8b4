"""What is in a file of labelled rows: how many, their labels, how long they are, and what comes twice or is empty.

One pass, row by row; what is held of each row is a digest of what it says.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from bothways.data.choices import Choice, ChoiceColumns, choices, holds_choices
from bothways.data.columns import Columns, is_integer, is_number
from bothways.data.labelled import Example, labelled
from bothways.data.questions import Question, QuestionColumns, holds_questions, questions
from bothways.data.records import STANDARD_INPUT
from bothways.data.table import TableSource, format_of, open_table, suffix
from bothways.data.tagged import Tagged, form_of, holds_tags, tagged
from bothways.data.tags import OUTSIDE
from bothways.errors import InputError

__all__ = ["KINDS", "Asked", "Lengths", "Survey", "survey"]

KINDS = ("classification", "pairs", "regression", "multi-label", "tagging", "questions", "choices")
FIRST_ROWS = 3
BATCH = 256
# Of more labels than this, the further ones are only counted.
MOST_LABELS = 100_000

Measure = Callable[[Sequence[tuple[str, str | None]]], Sequence[int]]
"""Texts, and second texts, as a model reads them → their tokens."""


@dataclass(frozen=True)
class Asked:
    """What is said of a file; the rest is guessed. kind: a name in `KINDS`.    labelled: whether there must be labels.

    Other arguments as for `labelled`, `tagged`, `questions` and `choices`.
    """

    kind: str | None = None
    columns: Columns = field(default_factory=Columns)
    separator: str | None = None
    names: tuple[str, ...] = ()
    scheme: str | None = None
    question: QuestionColumns = field(default_factory=QuestionColumns)
    choice: ChoiceColumns = field(default_factory=ChoiceColumns)
    labelled: bool = True

    def __post_init__(self) -> None:
        if self.kind is not None and self.kind not in KINDS:
            raise InputError(f"unknown kind {self.kind!r}; known: {', '.join(KINDS)}")


@dataclass(frozen=True)
class Lengths:
    """Of rows, in words or tokens: the mean, what half and 95 % of them have at most, and the longest."""

    mean: float
    median: int
    most_95: int
    longest: int

    @classmethod
    def of(cls, counts: Counter[int]) -> Lengths:
        """counts: how many rows have each length."""
        rows = sum(counts.values())
        return cls(
            sum(length * count for length, count in counts.items()) / rows,
            _quantile(counts, 0.5 * rows),
            _quantile(counts, 0.95 * rows),
            max(counts),
        )


def _quantile(counts: Counter[int], rows: float) -> int:
    """The shortest length that so many rows do not exceed."""
    seen = 0
    for length in sorted(counts):
        seen += counts[length]
        if seen >= rows:
            return length
    return max(counts)


@dataclass(frozen=True, eq=False)
class Survey:
    """What was found.

    said: what was found out about the file's form.    labels: how often each comes, the most frequent first; of tags,
    spans by their type; of choices, the right one's letter; {"": …} are rows without one; none of regression.
    scores: least, mean and greatest, of regression.
    duplicates: rows whose texts came before;    contradictions: those of them that had another label then.
    empty: rows in which some text has no word.    misplaced: answers that are not where they are said to be.
    tokens, cut: lengths as a model reads the rows, and how many have more than its limit; None where none was asked.
    first: the first rows, as texts and label.
    """

    kind: str
    said: str
    rows: int
    labels: dict[str, int]
    scores: tuple[float, float, float] | None
    words: Lengths
    tokens: Lengths | None
    cut: int | None
    duplicates: int
    contradictions: int
    empty: int
    misplaced: int
    first: tuple[tuple[tuple[str, ...], str], ...]


@dataclass(frozen=True)
class _Row:
    """texts: its parts.    inputs: what a model reads; of choices, several.    labels: what is counted of it."""

    texts: tuple[str, ...]
    inputs: tuple[tuple[str, str | None], ...]
    words: int
    labels: tuple[str, ...]
    label: Any


def survey(
    source: TableSource,
    asked: Asked = Asked(),
    *,
    measure: Measure | None = None,
    max_length: int | None = None,
) -> Survey:
    """Read a whole file and tell what is in it.

    measure, max_length: counts the tokens of what a model reads, and how many it takes.
    Raises InputError as the readers do.
    """
    with ExitStack() as stack:
        kind, said, rows, misplaced = stack.enter_context(_opened(source, asked))
        count = _Count(measure)
        for batch in _batches(rows):
            count.add(batch)
        if not count.rows:
            raise InputError(f"{source.name}: no rows")
        kind = asked.kind or (count.kind(pairs=kind == "pairs") if kind in ("pairs", "labelled") else kind)
        return count.survey(kind, said, misplaced(), max_length)


def _batches(rows: Iterable[_Row]) -> Iterator[list[_Row]]:
    batch: list[_Row] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    yield batch


@dataclass(eq=False)
class _Count:
    """What is known of the rows that were read so far."""

    measure: Measure | None
    rows: int = 0
    words: Counter[int] = field(default_factory=Counter)
    tokens: Counter[int] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    seen: dict[bytes, bytes] = field(default_factory=dict)
    first: list[tuple[tuple[str, ...], str]] = field(default_factory=list)
    duplicates: int = 0
    contradictions: int = 0
    empty: int = 0
    several: bool = False
    numbers: int = 0
    whole: int = 0
    total: float = 0.0
    least: float = math.inf
    greatest: float = -math.inf

    def add(self, rows: Sequence[_Row]) -> None:
        for row in rows:
            self._add(row)
        if self.measure is not None and rows:
            lengths = iter(self.measure([one for row in rows for one in row.inputs]))
            self.tokens.update(max((next(lengths) for _ in row.inputs), default=0) for row in rows)

    def _add(self, row: _Row) -> None:
        self.rows += 1
        self.words[row.words] += 1
        self.empty += any(not text.strip() for text in row.texts)
        for label in row.labels:
            if label in self.labels or len(self.labels) < MOST_LABELS:
                self.labels[label] += 1
        if len(self.first) < FIRST_ROWS:
            self.first.append((row.texts, _told(row.label)))
        self._compare(row)
        self._weigh(row.label)

    def _compare(self, row: _Row) -> None:
        texts, label = _digest(row.texts), _digest(row.label)
        before = self.seen.setdefault(texts, label)
        if self.rows > len(self.seen) + self.duplicates:
            self.duplicates += 1
            self.contradictions += before != label

    def _weigh(self, label: Any) -> None:
        """Whether labels are numbers, and which."""
        self.several |= isinstance(label, tuple)
        if not is_number(label):
            return
        self.numbers += 1
        self.whole += is_integer(label)
        score = float(label)
        if math.isfinite(score):
            self.total += score
            self.least, self.greatest = min(self.least, score), max(self.greatest, score)

    def kind(self, *, pairs: bool) -> str:
        """Of rows with one text or two, by their labels, as `Labels.of` tells it."""
        if self.several:
            return "multi-label"
        if self.numbers == self.rows > self.whole:
            return "regression"
        return "pairs" if pairs else "classification"

    def survey(self, kind: str, said: str, misplaced: int, max_length: int | None) -> Survey:
        scores = (self.least, self.total / max(self.numbers, 1), self.greatest)
        many = None if max_length is None or self.measure is None else max_length
        return Survey(
            kind=kind,
            said=said,
            rows=self.rows,
            labels={} if kind == "regression" else dict(sorted(self.labels.items(), key=lambda one: (-one[1], one[0]))),
            scores=scores if kind == "regression" and self.numbers else None,
            words=Lengths.of(self.words),
            tokens=Lengths.of(self.tokens) if self.measure is not None else None,
            cut=None if many is None else sum(n for length, n in self.tokens.items() if length > many),
            duplicates=self.duplicates,
            contradictions=self.contradictions,
            empty=self.empty,
            misplaced=misplaced,
            first=tuple(self.first),
        )


def _digest(value: object) -> bytes:
    return blake2b(repr(value).encode("utf-8"), digest_size=16).digest()


def _told(label: Any) -> str:
    if label is None:
        return ""
    return ", ".join(map(str, label)) if isinstance(label, tuple) else str(label)


_Opened = tuple[str, str, Iterator[_Row], Callable[[], int]]


@contextmanager
def _opened(source: TableSource, asked: Asked) -> Iterator[_Opened]:
    """The kind ("pairs" and "labelled" are still open), what is said of the file, its rows, and misplaced answers."""
    kind = asked.kind or _kind(source)
    if kind == "tagging":
        with tagged(
            source, asked.columns, scheme=asked.scheme, names=asked.names, labelled=asked.labelled
        ) as sentences:
            yield kind, sentences.said, map(_of_tagged, sentences.sentences), lambda: 0
    elif kind == "questions":
        with questions(source, asked.question, labelled=asked.labelled, skip_misplaced=True) as rows:
            yield kind, rows.said, map(_of_question, rows.questions), lambda: rows.misplaced
    elif kind == "choices":
        with choices(source, asked.choice, labelled=asked.labelled) as found:
            yield kind, found.said, map(_of_choice, found.choices), lambda: 0
    else:
        with labelled(
            source, asked.columns, separator=asked.separator, names=asked.names, unlabelled=not asked.labelled
        ) as read:
            pairs = "labelled" if read.columns.text_pair is None else "pairs"
            yield pairs, read.said, map(_of_example, read.examples), lambda: 0


def _kind(source: TableSource) -> str:
    """By the file's form, or by the names and first values of its columns."""
    if source.path is not None and (source.path == STANDARD_INPUT or _is_pipe(Path(source.path))):
        raise InputError(f"{source.path}: what it holds is not to be seen before it is read; say --kind")
    if source.path is not None and "json" in (format_of(source), suffix(source.path).lstrip(".")):
        return "questions"
    if form_of(source) == "conll":
        return "tagging"
    with open_table(source) as table:
        kinds = {"questions": holds_questions, "choices": holds_choices, "tagging": holds_tags}
        return next((kind for kind, holds in kinds.items() if holds(table)), "labelled")


def _is_pipe(path: Path) -> bool:
    """Whether what is there can perhaps be read only once."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _words(*texts: str) -> int:
    return sum(len(text.split()) for text in texts)


def _of_example(example: Example) -> _Row:
    texts = (example.text,) if example.text_pair is None else (example.text, example.text_pair)
    label = example.label
    labels = tuple(map(str, label)) if isinstance(label, tuple) else ("" if label is None else str(label),)
    return _Row(texts, ((example.text, example.text_pair),), _words(*texts), labels, label)


def _of_tagged(one: Tagged) -> _Row:
    tags = one.tags or ()
    spans = tuple(tag.removeprefix("B-") for tag in tags if tag != OUTSIDE and not tag.startswith("I-"))
    label = None if one.tags is None else " ".join(tags)
    return _Row((one.text,), ((one.text, None),), len(one.words), spans, label)


def _of_question(asked: Question) -> _Row:
    answers = asked.answers
    label = "" if answers is None else ("answer" if answers else "no answer")
    told = None if answers is None else tuple(dict.fromkeys(text for _, text in answers))
    texts = (asked.question, asked.context)
    return _Row(texts, (texts,), _words(*texts), (label,), told)


def _of_choice(asked: Choice) -> _Row:
    label = "" if asked.label is None else _letter(asked.label)
    texts = (asked.question, *asked.choices)
    inputs = tuple((asked.question, choice) for choice in asked.choices)
    words = _words(asked.question) + max(map(_words, asked.choices))
    return _Row(texts, inputs, words, (label,), label or None)


def _letter(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else str(number)
