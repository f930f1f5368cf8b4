"""Words with tags: columns of CoNLL's kind, a word a line; rows with lists of words and tags; texts with entities.

Sentences come one at a time, their tags in IOB2 whatever scheme the file has (see `data.tags`).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from bothways.data.columns import Columns, NoColumn, Row, cell, find_column, plain
from bothways.data.records import STANDARD_INPUT, numbered_lines, opened, some, text_of
from bothways.data.table import TABLES, Table, TableSource, format_of, open_table, suffix
from bothways.data.tags import OUTSIDE, check_scheme, find_scheme, first_fault, is_span_tag, to_iob2
from bothways.errors import InputError

__all__ = ["COLUMN_FILES", "Tagged", "TaggedRows", "form_of", "holds_tags", "split_words", "tagged"]

COLUMN_FILES = (".conll", ".conllu", ".iob", ".iob2", ".bio", ".bioes", ".bmes", ".txt")
# What guesses are made from.
SAMPLE_SENTENCES = 1000
SAMPLE_LINES = 1000
# A longer sentence is a file without blank lines.
MOST_WORDS = 100_000
# Names of columns as `find_column` takes them.
WORDS = ("tokens", "words", "token", "word", "sentence")
TAGS = ("nertags", "tags", "labels", "ner", "postags", "chunktags", "wordlabels", "label")
TEXTS = ("text", "sentence")
ENTITIES = ("entities", "spans", "label", "labels")
BLANK = " \t"
# CoNLL-U (universaldependencies.org/format): the columns of words and parts of speech; lines of other numbers than
# whole ones are no words of their own.
CONLLU = Columns("2", label="4")


@dataclass(frozen=True)
class Tagged:
    """A sentence.

    text: its words, joined by spaces, or the text as the file has it.    words: the characters of each, from and to.
    tags: one for each word, in IOB2 or plain; None where the file has none.    place: file and line, for messages.
    """

    text: str
    words: tuple[tuple[int, int], ...]
    tags: tuple[str, ...] | None
    place: str


@dataclass(frozen=True, eq=False)
class TaggedRows:
    """Sentences being read. said: what was found out about the file, for people; sentences: in order, once.

    scheme: of the tags in the file, a name in `data.tags.SCHEMES`; None as long as all are O, or there are none.
    """

    said: str
    scheme: str | None
    sentences: Iterator[Tagged]


@dataclass(frozen=True, eq=False)
class _Read:
    """A sentence with its tags as they are written. where: the place of each tag, for messages."""

    text: str
    words: tuple[tuple[int, int], ...]
    tags: Sequence[str] | None
    place: str
    where: Callable[[int], str]

    @classmethod
    def of(cls, words: Sequence[str], tags: Sequence[str] | None, place: str, where: Callable[[int], str]) -> _Read:
        ends, end = [], -1
        for word in words:
            end += 1 + len(word)
            ends.append(end)
        spans = tuple((end - len(word), end) for word, end in zip(words, ends))
        return cls(" ".join(words), spans, tags, place, where)


@contextmanager
def tagged(
    source: TableSource,
    columns: Columns = Columns(),  # noqa: B008 (frozen)
    *,
    scheme: str | None = None,
    names: Sequence[str] = (),
    labelled: bool = True,
) -> Iterator[TaggedRows]:
    """Read sentences one by one, as long as the context lasts.

    source: a file of columns (format "conll", or a suffix of `COLUMN_FILES`, or one that nothing is known of and lines
    that do not begin with a brace), or a table with columns such as tokens and ner_tags, or text and entities.
    columns: those of the words (or the text) and the tags (or the entities); in files of columns their numbers, from 1,
    by default the first and the last. The others are guessed (`TaggedRows.said` tells how).
    scheme: how tags say where spans are, a name in `data.tags.SCHEMES`; by default what fits most sentences among the
    first. names: of tags that are given as whole numbers.    labelled: whether there must be tags.

    Raises InputError, naming file, line and column, on what cannot be read, and on a tag that contradicts the scheme.
    """
    check_scheme(scheme)
    with ExitStack() as stack:
        kind = form_of(source)
        if kind == "conll":
            said, read = _column_file(opened(cast(str, source.path), stack), source, columns, labelled)
        else:
            table = stack.enter_context(open_table(replace(source, format=kind)))
            said, read = _table(table, source.name, columns, labelled)
        read = map(_named(names), read)
        first = list(islice(read, SAMPLE_SENTENCES))
        if not first:
            raise InputError(f"{source.name}: no sentences")
        found = scheme or find_scheme([one.tags for one in first if one.tags is not None])
        told = f"{source.name}: {said}" + (f" ({found})" if found else "")
        yield TaggedRows(told, found, _converted(chain(first, read), found, said=scheme is not None))


def split_words(text: str) -> tuple[tuple[int, int], ...]:
    """The words of a text, as characters from and to: runs of letters, digits and marks; others one by one."""
    return tuple(_split(text, 0, len(text)))


def _split(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    for kind, run in groupby(range(start, end), key=lambda i: _character(text[i])):
        places = list(run)
        if kind == "word":
            yield places[0], places[-1] + 1
        elif kind == "other":
            yield from ((i, i + 1) for i in places)


@lru_cache(maxsize=1 << 14)
def _character(character: str) -> str:
    if character.isspace():
        return "space"
    joined = character.isalnum() or character == "_" or unicodedata.category(character) in ("Mn", "Mc", "Me", "Cf")
    return "word" if joined else "other"


def _converted(read: Iterator[_Read], scheme: str | None, *, said: bool) -> Iterator[Tagged]:
    """The sentences with their tags in IOB2. said: whether the scheme is not a guess."""
    for one in read:
        tags = one.tags
        if tags is not None:
            scheme = scheme or find_scheme([tags])
            if scheme is not None and not (said and scheme == "plain"):
                _check(one, tags, scheme)
            tags = to_iob2(tags, scheme or "plain")
        yield Tagged(one.text, one.words, tags, one.place)


def _check(one: _Read, tags: Sequence[str], scheme: str) -> None:
    fault = first_fault(tags, scheme)
    if fault is None:
        return
    i, why = fault
    after = f" after {tags[i - 1]!r:.40}" if i else ""
    known = "say --scheme iob1 to take it for the beginning of one" if scheme == "iob2" else "say --scheme"
    hint = known if "-" in tags[i] and scheme != "plain" else "say --scheme plain to take tags as they are"
    raise InputError(f"{one.where(i)}: the tag {tags[i]!r:.60}{after} {why} ({scheme}); correct it, or {hint}")


def _named(names: Sequence[str]) -> Callable[[_Read], _Read]:
    """What puts names in the place of whole numbers."""

    def name(tag: str, i: int, one: _Read) -> str:
        if not tag.isdecimal():
            return tag
        if int(tag) >= len(names):
            raise InputError(f"{one.where(i)}: tag {tag[:40]}, but there are {len(names)} names, from 0")
        return names[int(tag)]

    def all_named(one: _Read) -> _Read:
        if not names or one.tags is None:
            return one
        return replace(one, tags=[name(tag, i, one) for i, tag in enumerate(one.tags)])

    return all_named


def form_of(source: TableSource) -> str | None:
    """What a file is: "conll", or the form of a table, by its name or its content; None where that is not to be seen.

    Raises InputError on standard input of which it is not said.
    """
    if source.format is not None or source.path is None:
        return source.format
    if suffix(source.path) in COLUMN_FILES:
        return "conll"
    known = format_of(source)
    if known in ("jsonl", "parquet", "csv"):
        return known
    if source.path == STANDARD_INPUT:
        raise InputError(f"{source.path}: say what it is with --format conll|{'|'.join(TABLES)}")
    if not Path(source.path).is_file():
        return None  # which `open_table` refuses
    return _kind_by_content(source.path, known)


def _kind_by_content(path: str, known: str | None) -> str:
    """By its beginning. known: the form of a table that its name says, which has no blank lines."""
    with ExitStack() as stack:
        head = cast(Any, opened(path, stack)).peek(1 << 13).removeprefix(b"\xef\xbb\xbf").lstrip()
    if known is None:
        return "jsonl" if head[:1] == b"{" else "conll"
    blank = re.search(rb"\S[^\n]*\n[ \t\r]*\n\s*\S", head)
    return "conll" if blank or head.startswith(b"-DOCSTART-") else known


# Files of columns


@dataclass(frozen=True)
class _Form:
    """How the lines of a file of columns are divided. spans: whether tags are those of spans, in most lines."""

    tabs: bool
    width: int
    spans: bool

    def cells(self, line: str) -> list[str]:
        if self.tabs:
            return [part.strip(BLANK) for part in line.rstrip(BLANK).split("\t")]
        return [part for part in re.split(r"[ \t]+", line.strip(BLANK)) if part]

    def is_comment(self, line: str) -> bool:
        """Of a line before a sentence's first word: whether it is clearly none. "#" may be a word."""
        if not line.startswith("#"):
            return False
        cells = self.cells(line)
        if self.spans:
            return not is_span_tag(cells[-1])
        return len(cells) != self.width and line[1:2] in ("", " ")


def _form(lines: Sequence[tuple[int, str]]) -> _Form:
    words = [line for _, line in lines if line.strip(BLANK) and not line.startswith(("#", "-DOCSTART-"))]
    words = words or [line for _, line in lines if line.strip(BLANK)]
    tabs = bool(words) and 2 * sum("\t" in line for line in words) > len(words)
    cells = [_Form(tabs, 0, False).cells(line) for line in words]
    width = max(Counter(map(len, cells)).items(), key=lambda item: item[1], default=(0, 0))[0]
    spans = 2 * sum(is_span_tag(one[-1]) for one in cells if one) > len(cells)
    return _Form(tabs, width, spans)


def _column_file(file: BinaryIO, source: TableSource, columns: Columns, labelled: bool) -> tuple[str, Iterator[_Read]]:
    name = source.name
    lines = numbered_lines(file, name)
    first = list(islice(lines, SAMPLE_LINES))
    form = _form(first)
    treebank = source.path is not None and suffix(source.path) == ".conllu"
    if treebank:
        columns = Columns(columns.text or CONLLU.text, None, columns.label or CONLLU.label)
    word = _column(columns.text or "1", form, name, "--text")
    tag = None
    if form.width > 1 or columns.label is not None:
        tag = _column(columns.label or str(form.width), form, name, "--label")
    elif labelled and form.width:
        number = next(number for number, line in first if line.strip(BLANK))
        raise InputError(f"{name}: line {number} has a word, but no column with its tag")
    said = f"words in column {word + 1}" + ("" if tag is None else f", tags in column {tag + 1}")
    return said, _sentences(chain(first, lines), form, name, word, tag, treebank)


def _column(said: str, form: _Form, name: str, flag: str) -> int:
    if not said.isdecimal() or not 1 <= int(said) <= max(form.width, 1):
        raise InputError(f"{name} has {form.width} columns, numbered from 1; {flag} {said!r:.40} is none of them")
    return int(said) - 1


def _sentences(
    lines: Iterator[tuple[int, str]], form: _Form, name: str, word: int, tag: int | None, treebank: bool
) -> Iterator[_Read]:
    rows: list[tuple[int, list[str]]] = []
    for number, line in lines:
        cells = form.cells(line)
        if not line.strip(BLANK) or cells[0] == "-DOCSTART-":
            if rows:
                yield _sentence(rows, name, word, tag)
            rows = []
            continue
        if (not rows and form.is_comment(line)) or (treebank and not cells[0].isdecimal()):
            continue
        _check_line(cells, form, f"{name}: line {number}", word, tag, len(rows))
        rows.append((number, cells))
    if rows:
        yield _sentence(rows, name, word, tag)


def _check_line(cells: Sequence[str], form: _Form, place: str, word: int, tag: int | None, before: int) -> None:
    if len(cells) != form.width:
        has = f"{len(cells)} {'column' if len(cells) == 1 else 'columns'}"
        raise InputError(f"{place} has {has}, but most lines have {form.width}: {' '.join(cells)!r:.60}")
    for column, what in ((word, "word"), (tag, "tag")):
        if column is not None and not cells[column]:
            raise InputError(f"{place}, column {column + 1}: no {what}")
    if before >= MOST_WORDS:
        raise InputError(f"{place}: a sentence of more than {MOST_WORDS:,} words; put blank lines between sentences")


def _sentence(rows: Sequence[tuple[int, list[str]]], name: str, word: int, tag: int | None) -> _Read:
    numbers = [number for number, _ in rows]
    words = [cells[word] for _, cells in rows]
    if tag is None:
        return _Read.of(words, None, f"{name}: line {numbers[0]}", lambda i: f"{name}: line {numbers[i]}")
    tags = [cells[tag] for _, cells in rows]
    where = f", column {tag + 1}"
    return _Read.of(words, tags, f"{name}: line {numbers[0]}", lambda i: f"{name}: line {numbers[i]}{where}")


# Tables


def holds_tags(table: Table) -> bool:
    """Whether a table looks like one of words and tags, or of texts and entities."""
    named = {plain(name): name for name in table.names}
    lists = [named[name] for name in WORDS if name in named and _lists(table.sample, named[name])]
    return bool(lists) or any(name in named and _marks(table.sample, named[name]) for name in ENTITIES)


def _table(table: Table, name: str, columns: Columns, labelled: bool) -> tuple[str, Iterator[_Read]]:
    """Rows of words and tags, or of texts and entities: what they are goes by the first of them."""
    words = find_column(columns.text, (*WORDS, *TEXTS), table.names, name, "--text")
    if words is None:
        raise NoColumn(f"{name}: no column of words or of texts; say --text; it has {some(table.names)}")
    likely = (*TAGS, *ENTITIES) if _lists(table.sample, words) else (*ENTITIES, *TAGS)
    tags = find_column(columns.label, likely, [one for one in table.names if one != words], name, "--label")
    if tags is None and labelled:
        raise NoColumn(f"{name}: no column of tags or entities; say --label; it has {some(table.names)}")
    rows = table.rows([words] if tags is None else [words, tags])
    placed = ((f"{name}: {table.unit} {number}", row) for number, row in rows)
    if not _lists(table.sample, words) and (tags is None or _marks(table.sample, tags)):
        said = f"text {words!r}" + ("" if tags is None else f", entities {tags!r}")
        return said, (_marked(row, words, tags, place, labelled) for place, row in placed)
    said = f"words {words!r}" + ("" if tags is None else f", tags {tags!r}")
    return said, (_listed(row, words, tags, place, labelled) for place, row in placed)


def _lists(sample: Sequence[Row], column: str) -> bool:
    return any(_is_list(row.get(column)) for row in sample)


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _marks(sample: Sequence[Row], column: str) -> bool:
    """Whether a column holds entities: lists of objects or of lists, or nothing but empty lists, so named."""
    values = [one for row in sample if _is_list(row.get(column)) for one in row[column]]
    return any(isinstance(one, dict) or _is_list(one) for one in values) or (not values and column in ENTITIES[:2])


def _answer(row: Row, column: str | None, place: str, labelled: bool) -> Any:
    """What a row has in the column of tags or entities; None if there need be nothing, and there is."""
    if column is None or (not labelled and row.get(column) is None):
        return None
    return cell(row, column, place)


def _listed(row: Row, words: str, tags: str | None, place: str, labelled: bool) -> _Read:
    found = _parts(cell(row, words, place), place, words)
    for i, word in enumerate(found, start=1):
        if not text_of(word, f"{place}, word {i}", words).strip(BLANK):
            raise InputError(f"{place}: word {i} in {words!r} is empty")
    value = _answer(row, tags, place, labelled)
    where = partial(_tag_place, place, tags or "")
    if value is None:
        return _Read.of(found, None, place, where)
    said = [_tag(tag, where(i)) for i, tag in enumerate(_parts(value, place, tags or ""))]
    if len(said) != len(found):
        raise InputError(f"{place}: {len(found)} words in {words!r}, but {len(said)} tags in {tags!r}")
    return _Read.of(found, said, place, where)


def _tag_place(place: str, column: str, i: int) -> str:
    return f"{place}, column {column!r}, tag {i + 1}"


def _parts(value: Any, place: str, column: str) -> list[Any]:
    """A list, or the words of a text between blanks."""
    if isinstance(value, str):
        return text_of(value, place, column).split()
    if not _is_list(value):
        raise InputError(f"{place}: {column!r} is not a list but {type(value).__name__}: {value!r:.60}")
    return list(value)


def _tag(value: Any, place: str) -> str:
    if isinstance(value, str) and value.strip():
        return text_of(value.strip(), place, "tag")
    if type(value) is int:
        return str(value)
    raise InputError(f"{place}: a tag was expected, not {type(value).__name__}: {value!r:.60}")


def _marked(row: Row, column: str, entities: str | None, place: str, labelled: bool) -> _Read:
    text = text_of(cell(row, column, place), place, column)
    value = _answer(row, entities, place, labelled)
    if value is None:
        return _Read(text, split_words(text), None, place, lambda i: place)
    if not _is_list(value):
        raise InputError(f"{place}: {entities!r} is not a list but {type(value).__name__}: {value!r:.60}")
    found = [_entity(one, text, f"{place}, entity {i}") for i, one in enumerate(value, start=1)]
    words: list[tuple[int, int]] = []
    tags: list[str] = []
    done = 0
    for start, end, kind in sorted(found):
        if start < done:
            raise InputError(f"{place}: {text[start:end]!r:.60} overlaps the entity before it; a word has one tag")
        outside, inside = list(_split(text, done, start)), list(_split(text, start, end))
        words += outside + inside
        tags += [OUTSIDE] * len(outside) + [f"B-{kind}"] + [f"I-{kind}"] * (len(inside) - 1)
        done = end
    rest = list(_split(text, done, len(text)))
    return _Read(text, (*words, *rest), [*tags, *[OUTSIDE] * len(rest)], place, lambda i: place)


def _entity(value: Any, text: str, place: str) -> tuple[int, int, str]:
    """Characters from and to, and the kind: of {"start", "end", "label"}, or of a list of the three."""
    if isinstance(value, dict):
        start, end, kind = (cell(value, key, place) for key in ("start", "end", "label"))
    elif _is_list(value) and len(value) == 3:
        start, end, kind = value
    else:
        raise InputError(f'{place}: {{"start", "end", "label"}} was expected, not {value!r:.60}')
    if type(start) is not int or type(end) is not int:
        raise InputError(f"{place}: start and end must be whole numbers, got {start!r:.40} and {end!r:.40}")
    if not 0 <= start <= end <= len(text):
        raise InputError(f"{place}: characters {start} to {end} are not in the text, which has {len(text)}")
    if not text[start:end].strip():
        raise InputError(f"{place}: characters {start} to {end} are an empty entity")
    if not isinstance(kind, str) or not kind.strip():
        raise InputError(f"{place}: a label was expected, not {type(kind).__name__}: {kind!r:.60}")
    return start, end, text_of(kind.strip(), place, "label")
