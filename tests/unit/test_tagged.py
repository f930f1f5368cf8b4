"""Words and tags come out of files as they went in, whatever scheme they are written in; what is wrong is named."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from seqeval.metrics.sequence_labeling import get_entities

from bothways import InputError
from bothways.data.columns import Columns
from bothways.data.table import TableSource
from bothways.data.tagged import Tagged, split_words, tagged
from bothways.data.tags import SCHEMES, first_fault, to_iob2

Span = tuple[int, int, str]  # of words, the end exclusive


def read(name: str, data: str | bytes, columns: Columns = Columns(), **options: Any) -> list[Tagged]:  # noqa: B008
    form = options.pop("format", None)
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        try:
            with tagged(TableSource(str(path), format=form), columns, **options) as found:
                return list(found.sentences)
        except InputError as error:
            raise InputError(str(error).replace(f"{folder}/", "")) from None


def tags_of(name: str, data: str, **options: Any) -> list[tuple[str, ...] | None]:
    return [one.tags for one in read(name, data, **options)]


def words_of(one: Tagged) -> list[str]:
    return [one.text[start:end] for start, end in one.words]


def spans_of(tags: Sequence[str]) -> list[Span]:
    return sorted((start, end + 1, kind) for kind, start, end in get_entities(list(tags)))


def write(spans: Sequence[Span], length: int, scheme: str) -> list[str]:
    """A sentence's tags as the scheme's own description says."""
    tags = ["O"] * length
    single, first, middle, last = {
        "iob1": "IIII",
        "iob2": "BBII",
        "bioes": "SBIE",
        "bilou": "UBIL",
        "bmes": "SBME",
    }[scheme]
    for start, end, kind in spans:
        letters = single if end - start == 1 else first + middle * (end - start - 2) + last
        tags[start:end] = [f"{letter}-{kind}" for letter in letters]
        if scheme == "iob1" and any(other[1:] == (start, kind) for other in spans):
            tags[start] = f"B-{kind}"
    return tags


@st.composite
def sentences(draw: st.DrawFn) -> tuple[list[Span], int]:
    spans, place = [], 0
    for gap, length, kind in draw(
        st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), st.sampled_from(["PER", "a-b"])), max_size=5)
    ):
        spans.append((place + gap, place + gap + length, kind))
        place += gap + length
    return spans, place + draw(st.integers(0 if place else 1, 2))


@pytest.mark.parametrize("scheme", ["iob1", "iob2", "bioes", "bilou", "bmes"])
@given(drawn=st.lists(sentences(), min_size=1, max_size=4), said=st.booleans(), spaced=st.booleans())
def test_spans_come_back_from_every_scheme(
    scheme: str, drawn: list[tuple[list[Span], int]], said: bool, spaced: bool
) -> None:
    written = [write(spans, length, scheme) for spans, length in drawn]
    between = " " if spaced else "\t"
    data = "\n\n".join("\n".join(f"w{between}X{between}{tag}" for tag in tags) for tags in written)
    found = read("a.conll", data, scheme=scheme if said else None)
    assert [spans_of(one.tags or ()) for one in found] == [spans for spans, _ in drawn]
    assert all(one.tags is not None and first_fault(one.tags, "iob2") is None for one in found)


@given(drawn=sentences())
def test_what_fits_iob2_stays_as_it_is(drawn: tuple[list[Span], int]) -> None:
    tags = write(*drawn, "iob2")
    assert list(to_iob2(tags, "iob2")) == tags
    assert list(to_iob2(tags, "iob1")) == tags


@given(tags=st.lists(st.sampled_from(["O", "B-X", "I-X", "B-Y", "I-Y"]), min_size=1, max_size=8))
def test_whatever_stands_behind_whatever_is_read_as_conlleval_reads_it(tags: list[str]) -> None:
    assert spans_of(to_iob2(tags, "iob1")) == spans_of(tags)


def lines(*tags: str) -> str:
    return "".join(f"w {tag}\n" if tag else "\n" for tag in tags)


OUTSIDE = ["O", ""] * 1100


def test_a_scheme_is_seen_however_late_the_first_span_comes() -> None:
    assert tags_of("a.conll", lines(*OUTSIDE, "I-X", "B-X", "I-X"))[-1] == ("B-X", "B-X", "I-X")
    assert tags_of("a.conll", lines(*OUTSIDE, "B-X", "E-X", "S-X"))[-1] == ("B-X", "I-X", "B-X")
    with pytest.raises(InputError, match="line 2203, column 2: the tag 'I-Y' after 'B-X' continues a span"):
        tags_of("a.conll", lines(*OUTSIDE, "B-X", "", "B-X", "I-Y")[4:])


def test_the_needless_b_of_conll_2003_is_read() -> None:
    assert tags_of("a.conll", lines("I-X", "I-X", "", "I-Y", "", "O", "B-X", "I-X")) == [
        ("B-X", "I-X"),
        ("B-Y",),
        ("O", "B-X", "I-X"),
    ]


def test_tags_that_are_none_of_spans_stay() -> None:
    assert tags_of("a.conll", lines("NN", "I", "O", "-LRB-", "")) == [("NN", "I", "O", "-LRB-")]
    assert tags_of("a.conll", lines("B", "I", "O"), scheme="plain") == [("B", "I", "O")]
    assert tags_of("a.conll", lines("B-X", "odd"), scheme="plain") == [("B-X", "odd")]


CONLL = """\
-DOCSTART- -X- O

# NN O
tag NN I-MISC

# text = Two words
# newdoc
Anna NNP I-PER
Lee NNP I-PER
"""


def test_comments_are_told_from_the_word() -> None:
    found = read("eng.train", CONLL.replace("\n", "\r\n"), format="conll")
    assert [words_of(one) for one in found] == [["#", "tag"], ["Anna", "Lee"]]
    assert [one.tags for one in found] == [("O", "B-MISC"), ("B-PER", "I-PER")]
    assert [one.place.rpartition("/")[2] for one in found] == ["eng.train: line 3", "eng.train: line 8"]
    assert read("eng.train", CONLL)[0].text == "# tag"


def test_a_comment_may_have_as_many_parts_as_a_line() -> None:
    multiconer = "# id 5239d808\tdomain=en\nanna _ _ B-PER\n# _ _ O\n\n# id 1\tdomain=en\n# _ _ O\n"
    assert [words_of(one) for one in read("a.conll", multiconer)] == [["anna", "#"], ["#"]]


def test_treebanks_are_read_by_their_own_columns() -> None:
    row = "{}\t{}\tlemma\t{}\t_\t_\t0\t_\t_\t_\n"
    data = "# text = Vámonos al mar\n" + "".join(
        row.format(*one)
        for one in [("1-2", "Vámonos", "_"), (1, "Vamos", "VERB"), (2, "nos", "PRON"), ("2.1", "x", "X")]
    )
    (one,) = read("a.conllu", data)
    assert (one.text, one.tags) == ("Vamos nos", ("VERB", "PRON"))
    (one,) = read("a.conllu", data, Columns(label="3"))
    assert one.tags == ("lemma", "lemma")


def test_columns_can_be_said_and_words_may_have_blanks_between_tabs() -> None:
    (one,) = read("a.tsv", "NN\tNew York\tB-LOC\nVB\tsleeps\tO\n", Columns("2", label="1"), format="conll")
    assert (words_of(one), one.tags) == (["New York", "sleeps"], ("NN", "VB"))
    with pytest.raises(InputError, match=r"a\.conll has 2 columns, numbered from 1; --label '3' is none of them"):
        read("a.conll", "a O\n", Columns(label="3"))
    with pytest.raises(InputError, match="--text 'word' is none"):
        read("a.conll", "a O\n", Columns("word"))


def test_what_a_file_is_goes_by_its_content_where_its_name_does_not_say() -> None:
    rows = '{"tokens": ["a", "b"], "ner_tags": ["B-X", "I-X"]}\n'
    conll = "a\tB-X\nb\tI-X\n\nc\tO\n"
    assert tags_of("set.dev", rows) == tags_of("a.jsonl", rows) == [("B-X", "I-X")]
    assert tags_of("set.dev", conll) == tags_of("a.tsv", conll) == [("B-X", "I-X"), ("O",)]
    assert tags_of("a.csv", "sentence,word_labels\na b,B-X I-X\nc,O\n") == [("B-X", "I-X"), ("O",)]


def test_a_file_without_tags_is_read_where_none_are_needed() -> None:
    (first, second) = read("a.txt", "Anna\n#\n\nLee\n", labelled=False)
    assert (words_of(first), first.tags, second.text) == (["Anna", "#"], None, "Lee")
    assert [one.tags for one in read("a.jsonl", '{"tokens": ["a", "b"]}', labelled=False)] == [None]
    assert [words_of(one) for one in read("a.jsonl", '{"text": "It\'s  on."}', labelled=False)] == [
        ["It", "'", "s", "on", "."]
    ]
    some = '{"tokens": ["a"], "tags": ["O"]}\n{"tokens": ["b"]}\n'
    assert [one.tags for one in read("a.jsonl", some, labelled=False)] == [("O",), None]
    with pytest.raises(InputError, match=r"a\.jsonl: line 2 has no field 'tags'"):
        read("a.jsonl", some)


def test_numbers_are_named_or_stay_numbers(tmp_path: Path) -> None:
    rows = '{"tokens": ["a", "b"], "ner_tags": [1, 2]}\n'
    assert tags_of("a.jsonl", rows) == [("1", "2")]
    assert tags_of("a.jsonl", rows, names=("O", "B-X", "I-X")) == [("B-X", "I-X")]
    with pytest.raises(InputError, match=r"line 1, column 'ner_tags', tag 2: tag 2, but there are 2 names"):
        tags_of("a.jsonl", rows, names=("O", "B-X"))
    parquet.write_table(
        pyarrow.table({"words": [["a"], ["b", "c"]], "labels": [["O"], ["B-X", "I-X"]]}), tmp_path / "a"
    )
    assert tags_of("a.parquet", (tmp_path / "a").read_bytes()) == [("O",), ("B-X", "I-X")]  # type: ignore[arg-type]


WORDY = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@given(parts=st.lists(st.tuples(WORDY, WORDY.filter(lambda text: bool(text.strip()))), max_size=4), end=WORDY)
def test_entities_begin_and_end_with_words(parts: list[tuple[str, str]], end: str) -> None:
    text, entities = "", []
    for before, inside in parts:
        text += before
        entities.append({"start": len(text), "end": len(text) + len(inside), "label": "X"})
        text += inside
    (one,) = read("a.jsonl", json.dumps({"text": text + end, "entities": entities[::-1]}))
    assert one.text == text + end
    assert sorted("".join(words_of(one))) == sorted("".join(one.text.split()))
    assert one.tags is not None
    found = [(one.words[first][0], one.words[last - 1][1]) for first, last, _ in spans_of(one.tags)]
    trimmed = []
    for entity in entities:
        inside = text[entity["start"] : entity["end"]]
        start = entity["start"] + len(inside) - len(inside.lstrip())
        trimmed.append((start, start + len(inside.strip())))
    assert found == trimmed


def test_words_are_kept_together_with_their_marks() -> None:
    for text, words in {"हिन्दी में।": 3, "re\u0301sume\u0301!": 2, "don't": 3, "a_b 3.5": 4, "": 0}.items():
        assert len(split_words(text)) == words


def entities(*some: Any) -> str:
    return json.dumps({"text": "Anna met Bo.", "entities": list(some)})


NASTY: dict[str, tuple[str, str, str]] = {
    "ragged": ("a.conll", "a NN O\nb O\nc NN O\n", "a.conll: line 2 has 2 columns, but most lines have 3: 'b O'"),
    "no tags": ("a.conll", "\na\nb\n", "a.conll: line 2 has a word, but no column with its tag"),
    "prose": ("a.txt", "It was late when\nwe came\nto the house at last\n", "a.txt: line"),
    "bare": ("a.conll", lines("B-X", "I"), "a.conll: line 2, column 2: the tag 'I' after 'B-X' has no type"),
    "bare all": ("a.conll", lines("O", "B", "I"), "a.conll: line 2, column 2: the tag 'B' after 'O' has no type"),
    "no type": ("a.conll", lines("B-X", "", "B-"), "line 3, column 2: the tag 'B-' has no type"),
    "mixed": ("a.conll", lines("B-X", "NN"), "line 2, column 2: the tag 'NN' after 'B-X' is neither O nor"),
    "late span": ("a.conll", lines(*["NN", ""] * 1000, "B-X"), "line 2001, column 2: the tag 'B-X' says that"),
    "iob2 broken": ("a.conll", lines("B-X", "", "B-X", "O", "I-X"), "line 5, column 2: the tag 'I-X' after 'O'"),
    "bioes open": ("a.conll", lines("S-X", "", "B-X", "E-X", "", "B-X"), "line 6, column 2: the tag 'B-X' begins"),
    "bioes cut": (
        "a.conll",
        lines("S-X", "", "S-X", "", "B-X", "O"),
        "line 6, column 2: the tag 'O' after 'B-X' comes",
    ),
    "two schemes": ("a.conll", lines("S-X", "", "S-X", "", "U-X"), "line 5, column 2: the tag 'U-X' is none of"),
    "no word": ("a.conll", "a\tO\n\tO\n", "a.conll: line 2, column 1: no word"),
    "empty": ("a.conll", "\n\n", "a.conll: no sentences"),
    "not UTF-8": ("a.conll", "a O\n\udcff O\n", "a.conll: line 2 is not UTF-8"),
    "lengths": ("a.jsonl", '{"tokens": ["a"], "tags": ["O", "O"]}', "a.jsonl: line 1: 1 words in 'tokens', but 2 tags"),
    "no list": ("a.jsonl", '{"tokens": ["a"], "tags": 3}', "a.jsonl: line 1: 'tags' is not a list but int"),
    "no text": ("a.jsonl", '{"tokens": [3], "tags": ["O"]}', "a.jsonl: line 1, word 1: 'tokens' is not a text"),
    "empty word": ("a.jsonl", '{"tokens": ["a", " "], "tags": ["O", "O"]}', "line 1: word 2 in 'tokens' is empty"),
    "null tag": ("a.jsonl", '{"tokens": ["a"], "tags": [null]}', "line 1, column 'tags', tag 1: a tag was expected"),
    "no columns": ("a.jsonl", '{"a": 1}', "a.jsonl: no column of words or of texts; say --text; it has a"),
    "no tag column": ("a.jsonl", '{"tokens": ["a"]}', "a.jsonl: no column of tags or entities; say --label"),
    "outside": ("a.jsonl", entities({"start": 9, "end": 13, "label": "P"}), "line 1, entity 1: characters 9 to 13"),
    "turned": ("a.jsonl", entities({"start": 3, "end": 1, "label": "P"}), "entity 1: characters 3 to 1 are not in"),
    "empty entity": ("a.jsonl", entities([0, 4, "P"], [4, 5, "P"]), "entity 2: characters 4 to 5 are an empty"),
    "overlap": ("a.jsonl", entities([5, 11, "P"], [0, 6, "P"]), "line 1: 'met Bo' overlaps the entity before it"),
    "no kind": ("a.jsonl", entities({"start": 0, "end": 4}), "line 1, entity 1 has no field 'label'"),
    "no number": ("a.jsonl", entities([0.0, 4, "P"]), "start and end must be whole numbers, got 0.0 and 4"),
}


@pytest.mark.parametrize(("name", "data", "words"), NASTY.values(), ids=NASTY)
def test_what_is_wrong_is_named_with_file_and_line(name: str, data: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        read(name, data.encode("utf-8", "surrogateescape"))
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"{name}: ")


def test_unknown_schemes_are_refused() -> None:
    with pytest.raises(InputError, match=f"unknown scheme 'bio'; known: {', '.join(SCHEMES)}"):
        read("a.conll", "a O\n", scheme="bio")


@given(data=st.text("ab#-O BI\t\nX", max_size=60), labelled=st.booleans())
def test_whatever_the_lines_are_they_are_read_or_refused_in_one_line(data: str, labelled: bool) -> None:
    try:
        found = read("a.conll", data, labelled=labelled)
    except InputError as error:
        if "a.conll" not in str(error) or "\n" in str(error):
            raise
        return
    assert all(one.words and (one.tags is None or len(one.tags) == len(one.words)) for one in found)
    assert all(one.text == " ".join(words_of(one)) for one in found)
