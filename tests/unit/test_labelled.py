"""Labelled rows come out of tables as they went in; guesses are right; what is wrong is named in one line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import sys
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from bothways import InputError, MissingExtraError
from bothways.data import table
from bothways.data.columns import Columns
from bothways.data.labelled import Example, Labels, chosen, labelled
from bothways.data.table import TableSource

CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXT = st.text(CHARACTERS, max_size=30)
LABEL = st.text(CHARACTERS, min_size=1, max_size=8).filter(lambda text: text.strip() == text)
ROWS = st.lists(st.tuples(TEXT, LABEL), min_size=1, max_size=8)
PLAIN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters='\t\r\n"\ufeff'), max_size=30)


def read(name: str, data: bytes, columns: Columns = Columns(), **options: Any) -> list[Example]:  # noqa: B008
    how = {key: options.pop(key) for key in ("separator", "unlabelled", "names") if key in options}
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        with labelled(TableSource(str(path), **options), columns, **how) as found:
            return list(found.examples)


def pairs(examples: Sequence[Example]) -> list[tuple[str, Any]]:
    return [(example.text, example.label) for example in examples]


def said(name: str, data: bytes, columns: Columns = Columns()) -> str:  # noqa: B008 (frozen)
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        with labelled(TableSource(str(path)), columns) as found:
            return found.said.replace(f"{path}: ", "")


def written(rows: Sequence[Sequence[str]], delimiter: str) -> bytes:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows(rows)
    return out.getvalue().encode()


def plain(rows: Sequence[Sequence[str]]) -> bytes:
    return "".join("\t".join(row) + "\n" for row in rows).encode()


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t"), ("a.csv", ";")])
@given(rows=ROWS)
def test_what_the_csv_module_writes_is_read_back(rows: list[tuple[str, str]], name: str, delimiter: str) -> None:
    assert pairs(read(name, written([("text", "label"), *rows], delimiter), quoted=True)) == rows


@given(rows=ROWS)
def test_whether_cells_are_quoted_is_seen(rows: list[tuple[str, str]]) -> None:
    """Where nothing stands in quotation marks, or all that begins with one is written as the csv module writes it."""
    assert pairs(read("a.tsv", written([("text", "label"), *rows], "\t"))) == rows


@given(rows=st.lists(st.tuples(PLAIN, PLAIN.filter(lambda text: text.strip() == text != "")), min_size=1))
def test_plain_tab_separated_lines_are_read_back(rows: list[tuple[str, str]]) -> None:
    assert pairs(read("a.tsv", plain([("text", "label"), *rows]))) == rows


@pytest.mark.parametrize(
    "pack", [bytes, gzip.compress, lambda data: pyarrow.Codec("zstd").compress(data, asbytes=True)]
)
@given(rows=ROWS)
def test_json_lines_are_read_back_packed_or_not(rows: list[tuple[str, str]], pack: Any) -> None:
    data = "".join(json.dumps({"id": 7, "text": text, "label": label}) + "\n" for text, label in rows)
    assert pairs(read("a.jsonl", pack(data.encode()))) == rows


@given(rows=ROWS)
def test_parquet_is_read_back(rows: list[tuple[str, str]]) -> None:
    texts, labels = zip(*rows)
    out = io.BytesIO()
    parquet.write_table(pyarrow.table({"label": labels, "other": range(len(rows)), "text": texts}), out)
    assert pairs(read("a.parquet", out.getvalue())) == rows


@contextmanager
def only_one_line_about(name: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        if name not in str(error) or "\n" in str(error):
            raise


FORMS = ["a.csv", "a.tsv", "a.jsonl", "a.parquet", "a.tsv.gz"]


@given(data=st.binary(max_size=200), name=st.sampled_from(FORMS))
def test_whatever_is_in_a_file_it_is_read_or_refused_in_one_line(data: bytes, name: str) -> None:
    with only_one_line_about(name):
        assert all(isinstance(example.text, str) and example.label for example in read(name, data))


@given(data=st.text('ab"\t,;\n\r1', max_size=60), name=st.sampled_from(["a.csv", "a.tsv"]), header=st.booleans())
def test_whatever_the_cells_are_they_are_read_or_refused_in_one_line(data: str, name: str, header: bool) -> None:
    with only_one_line_about(name):
        read(name, data.encode(), Columns("1", label="2"), header=header)


# Files as GLUE has them: their columns, separators, quotation marks and byte-order marks, with other rows.
COLA = plain(
    [
        ("ab12", "1", "", "The lake was frozen when we arrived."),
        ("ab12", "0", "*", '"Frozen the lake when we arrived.'),
        ("cd34", "1", "", "She said that he would come."),
        ("cd34", "0", "*", "She said that would come he."),
    ]
)
MRPC = "\ufeff".encode() + plain(
    [
        ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"),
        ("1", "10", "20", '" We are pleased , " he said .', 'He said they were " pleased " .'),
        ("0", "11", "21", "Sales rose .", '" Sales fell .'),
    ]
)
SST = plain([("sentence", "label"), ("a warm film ", "1"), ("no wit , only gags ", "0")])
RTE = plain(
    [
        ("index", "sentence1", "sentence2", "label"),
        ("0", "The mayor of Lyon resigned.", "Lyon has a mayor.", "entailment"),
        ("1", "It rained.", 'The "sun" shone.', "not_entailment"),
    ]
)
STS = plain(
    [
        ("index", "genre", "year", "sentence1", "sentence2", "score"),
        ("0", "captions", "2012", "A dog runs.", "A dog is running.", "4.800"),
        ("1", "captions", "2012", "A dog runs.", "A plane lands.", "0.000"),
    ]
)
STS_TEST = plain(
    [
        ("captions", "f", "2012test", "0024", "2.500", "A girl is styling her hair.", "A girl is brushing her hair."),
        ("captions", "f", "2012test", "0033", "3.600", "Some men play soccer.", "A group of boys are playing soccer."),
        (
            "captions",
            "f",
            "2012test",
            "0045",
            "5.000",
            "One woman is measuring another.",
            "A woman measures another one.",
        ),
    ]
)
GUESSES = {
    "CoLA": (COLA, Columns("4", None, "2"), "single", ("0", "1")),
    "MRPC": (MRPC, Columns("#1 String", "#2 String", "Quality"), "single", ("0", "1")),
    "SST-2": (SST, Columns("sentence", None, "label"), "single", ("0", "1")),
    "RTE": (RTE, Columns("sentence1", "sentence2", "label"), "single", ("entailment", "not_entailment")),
    "STS-B": (STS, Columns("sentence1", "sentence2", "score"), "regression", ()),
    "STS-B test": (STS_TEST, Columns("6", "7", "5"), "regression", ()),
}


@pytest.mark.parametrize(("data", "columns", "kind", "names"), GUESSES.values(), ids=GUESSES)
def test_files_of_glue_are_read_as_they_are(
    data: bytes, columns: Columns, kind: str, names: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "train.tsv").write_bytes(data)
    with labelled(TableSource(str(tmp_path / "train.tsv"))) as found:
        assert found.columns == columns
        examples = list(found.examples)
    labels = Labels.of(examples, columns.label or "")
    assert (labels.kind, labels.names) == (kind, names)
    lines = data.decode("utf-8-sig").splitlines()
    assert all(example.text in lines[int(example.place.rpartition(" ")[2]) - 1].split("\t") for example in examples)


def test_what_was_guessed_is_said() -> None:
    assert said("a.tsv", SST) == (
        "text 'sentence', label 'label' (tabs, quotation marks as they are, names in the first row)"
    )
    rows = written([("Some words to read", "1"), ("Other words to read", "0")] * 3, ";")
    assert said("a.csv", rows, Columns("1", label="2")) == (
        "text '1', label '2' (semicolons, quotation marks around cells, no names, so columns are numbered from 1)"
    )
    assert said("a.jsonl", b'{"review": "so good", "stars": 5}\n') == "text 'review', label 'stars'"


def test_a_column_that_is_not_there_may_be_one_of_a_row_taken_for_names() -> None:
    rows = written([("Some words to read", "fine"), ("Other words to read", "bad"), ("And more to read", "so-so")], ",")
    with pytest.raises(
        InputError, match=r"no column '1'; it has .*; if its first row holds no names, say --no-header$"
    ):
        read("a.csv", rows, Columns("1", label="2"))
    assert len(read("a.csv", rows, Columns("1", label="2"), header=False)) == 3
    with pytest.raises(InputError, match=r"no column 'words'; it has sentence, label$"):  # names that are usual
        read("a.tsv", SST, Columns("words"))


def test_names_of_columns_are_found_whatever_their_case_and_marks() -> None:
    for text, pair, label in (("Premise", "Hypothesis", "Gold_Label"), ("Question 1", "Question 2", "is_duplicate")):
        rows = [{"id": 1, pair: "b", label: "x", text: "a"}]
        (example,) = read("a.jsonl", json.dumps(rows[0]).encode())
        assert (example.text, example.text_pair, example.label) == ("a", "b", "x")


def test_a_text_that_is_said_has_a_pair_only_if_that_is_said_too() -> None:
    (first, _) = read("a.tsv", RTE, Columns(text="sentence1"))
    assert first.text_pair is None
    (first, _) = read("a.tsv", RTE, Columns(text="sentence2", text_pair="sentence1"))
    assert (first.text, first.text_pair) == ("Lyon has a mayor.", "The mayor of Lyon resigned.")


def test_a_first_row_is_a_row_if_its_words_come_again() -> None:
    rows = [("It was wonderful from start to end.", "good"), ("What a waste of time.", "bad"), ("I liked it.", "good")]
    assert len(read("a.csv", written(rows, ","))) == 3
    assert len(read("a.csv", written([("what they wrote", "how it was meant"), *rows], ","))) == 3
    assert len(read("a.csv", written(rows, ","), Columns(label="good"), header=True)) == 2


def test_the_index_that_pandas_writes_is_no_matter() -> None:
    assert pairs(read("a.csv", b',text,label\n0,"a, b",x\n1,c,y\n')) == [("a, b", "x"), ("c", "y")]


def test_cells_over_several_lines_are_named_by_their_first_line() -> None:
    examples = read("a.csv", b'text,label\n"one\ntwo",x\n\nthree,y\n')
    assert [(e.text, e.place.rpartition(": ")[2]) for e in examples] == [("one\ntwo", "line 2"), ("three", "line 5")]


def test_quotation_marks_are_judged_by_the_beginning_of_a_large_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "SAMPLE_CHARACTERS", 2000)
    quoted = written([("text", "label"), *((f'"{i}"\nsaid he', "xy"[i % 2]) for i in range(400))], "\t")
    assert read("a.tsv", quoted)[-1].text == '"399"\nsaid he'
    stray = plain([("text", "label"), *((f'" {i} said he', "xy"[i % 2]) for i in range(400))])
    assert read("a.tsv", stray)[-1].text == '" 399 said he'


def test_a_cell_may_be_a_long_document() -> None:
    text = "word " * 60_000
    assert pairs(read("a.csv", written([("text", "label"), (text, "x"), ("b", "y")], ","))) == [(text, "x"), ("b", "y")]


def test_digits_that_are_no_numbers_are_names() -> None:
    names = ["007", "9" * 5000, "12"]
    assert Labels.of([example(name) for name in names]).names == ("007", "12", "9" * 5000)


def test_two_columns_of_a_name_are_no_matter_where_another_is_read() -> None:
    out = io.BytesIO()
    columns = [pyarrow.array(["a", "b"]), pyarrow.array(["x", "y"]), pyarrow.array([1, 2]), pyarrow.array([3, 4])]
    parquet.write_table(pyarrow.Table.from_arrays(columns, names=["text", "label", "n", "n"]), out)
    for name, data in (("a.csv", b"text,label,n,n\na,x,1,2\nb,y,3,4\n"), ("a.parquet", out.getvalue())):
        assert pairs(read(name, data)) == [("a", "x"), ("b", "y")]


def test_a_pipe_is_read_in_one_pass(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = Thread(target=(tmp_path / "pipe").write_bytes, args=[SST])
    writer.start()
    with labelled(TableSource(str(tmp_path / "pipe"), format="tsv")) as found:
        assert len(list(found.examples)) == 2
    writer.join()


BAD = {
    "another column": ("a.tsv", SST, {"columns": Columns("sentense")}, ["'sentense'", "did you mean 'sentence'"]),
    "no such field": ("a.jsonl", b'{"text": "a", "label": "x"}\n{"text": "b", "lable": "x"}', {}, ["line 2", "lable"]),
    "malformed JSON": ("a.jsonl", b'{"text": "a", "label": "x"}\n{"text": \n', {}, ["line 2", "not JSON"]),
    "ragged": ("a.csv", b"text,label\na,x\nb,c,y\n", {}, ["line 3", "3 cells", "2 columns", "--surplus"]),
    "ragged tsv": ("a.tsv", b"text\tlabel\na\tx\nb\n", {}, ["line 3", "1 cell,", "2 columns"]),
    "open quotation": ("a.csv", b'text,label\n"a,x\nb,y\n', {}, ["line 2", "--no-quoted"]),
    "stray quotation": ("a.csv", b'text,label\na,x\n"b"c,y\n', {}, ["line 3", "--no-quoted"]),
    "no label": ("a.csv", b"text,label\na,x\nb,\n", {}, ["line 3", "'label'", "no label"]),
    "null": ("a.jsonl", b'{"text": "a", "label": null}', {}, ["line 1", "'label'", "no label"]),
    "a text that is none": ("a.jsonl", b'{"text": 5, "label": "x"}', {}, ["line 1", "'text'", "int"]),
    "an object": ("a.jsonl", b'{"text": "a", "label": {}}', {}, ["line 1", "'label'", "dict"]),
    "empty": ("a.csv", b"", {}, ["no rows"]),
    "only names": ("a.csv", b"text,label\n", {}, ["no rows"]),
    "only blank lines": ("a.jsonl", b"\n\n", {}, ["no rows"]),
    "no text": ("a.csv", b"x,y\n1,2\n3,4\n", {}, ["--text", "x, y"]),
    "no labels": ("a.csv", b"text,x,y\na,1,2\nb,2,1\n", {}, ["--label", "x, y"]),
    "two of a name": ("a.csv", b"text,label,label\na,1,2\n", {}, ["2 columns", "'label'"]),
    "not UTF-8": ("a.csv", b"text,label\n\xff,x\n", {}, ["line 2", "UTF-8"]),
    "unknown format": ("a.docx", b"text", {}, ["--format"]),
    "broken gzip": ("a.csv.gz", gzip.compress(b"text,label\na,b\n")[:-4], {}, ["a.csv.gz"]),
    "no Parquet": ("a.parquet", b"PAR1", {}, ["Parquet"]),
}


@pytest.mark.parametrize(("name", "data", "options", "words"), BAD.values(), ids=BAD)
def test_what_cannot_be_read_is_named_with_its_place(
    name: str, data: bytes, options: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        read(name, data, **options)
    assert [word for word in [name, *words] if word not in str(caught.value)] == [], str(caught.value)
    assert "\n" not in str(caught.value)


def test_sources_that_are_none_are_refused(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "none.csv", "no such file"), (tmp_path, "a folder")):
        with pytest.raises(InputError, match=words), labelled(TableSource(str(path))):
            pass
    with pytest.raises(InputError, match="format 'doc'"):
        TableSource("a", format="doc")
    for keys in ({}, {"path": "a", "dataset": "b"}):
        with pytest.raises(InputError, match="a file, or a data set"):
            TableSource(**keys)


def test_surplus_cells_are_passed_over_if_asked() -> None:
    assert pairs(read("a.tsv", b"text\tlabel\na\tx\nb\ty\tmore\n", surplus=True)) == [("a", "x"), ("b", "y")]


def test_data_sets_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"sentence": "a b c", "label": 0, "idx": 0}, {"sentence": "d", "label": 1, "idx": 1}]
    fake = SimpleNamespace(load_dataset=lambda name, *, split, streaming: rows)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    with labelled(TableSource(dataset="some/set", split="test")) as found:
        assert pairs(list(found.examples)) == [("a b c", "0"), ("d", "1")]
        assert found.said == "some/set (test): text 'sentence', label 'label'"
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"bothways\[datasets\]"), labelled(TableSource(dataset="a/b")):
        pass


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet"])
def test_a_long_file_takes_no_more_memory_than_a_short_one(name: str, tmp_path: Path) -> None:
    rows = [(f"row {i} " + "word " * 300, "xy"[i % 2]) for i in range(10_000)]
    if name == "a.parquet":
        texts, labels = zip(*rows)
        parquet.write_table(pyarrow.table({"text": texts, "label": labels}), tmp_path / name, row_group_size=1000)
    else:
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
        forms = {"a.csv": written([("text", "label"), *rows], ","), "a.tsv": plain([("text", "label"), *rows])}
        (tmp_path / name).write_bytes(forms.get(name) or "\n".join(lines).encode())
    tracemalloc.start()
    with labelled(TableSource(str(tmp_path / name))) as found:
        assert sum(1 for _ in found.examples) == 10_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12_000_000 < sum(len(text) for text, _ in rows)


def example(label: Any, place: str = "a.csv: line 2") -> Example:
    return Example("a text", None, label, place)


@pytest.mark.parametrize(
    ("found", "kind", "names"),
    [
        (["b", "a", "b"], "single", ("a", "b")),
        (["10", "9", "-1"], "single", ("-1", "9", "10")),
        (["1", "0", "x"], "single", ("0", "1", "x")),
        (["0.5", "1.25"], "regression", ()),
        (["5", "4.75", "1e-3"], "regression", ()),
        ([0.0, 1.0], "regression", ()),
        ([("a", "b"), (), ("c",)], "multi", ("a", "b", "c")),
    ],
)
def test_the_kind_of_labels_is_discovered(found: list[Any], kind: str, names: tuple[str, ...]) -> None:
    labels = Labels.of([example(label) for label in found])
    assert (labels.kind, labels.names) == (kind, names)


def test_labels_are_numbered_in_the_order_that_is_given() -> None:
    labels = Labels.of([example("good"), example("bad")], names=("good", "so-so", "bad"))
    assert [labels.number(example(name)) for name in ("good", "so-so", "bad")] == [0, 1, 2]
    several = Labels.of([example(("a", "b")), example("b")], kind="multi")
    assert [several.number(example(label)) for label in (("b", "a"), "a", ())] == [[1, 0], [0], []]
    scores = Labels.of([example("1"), example("2")], kind="regression")
    assert scores.number(example("3")) == 3.0


def test_a_label_is_numbered_without_a_search_through_all() -> None:
    class Names(tuple[str, ...]):
        def index(self, *_: Any) -> int:
            raise AssertionError("searched")

        def __contains__(self, _: object) -> bool:
            raise AssertionError("searched")

    labels = Labels("single", Names(["a", "b"]))
    assert labels.number(Example("", None, "b", "")) == 1


def test_several_labels_come_from_one_cell_or_a_list() -> None:
    assert [e.label for e in read("a.csv", b'text,labels\na,"x, y"\nb,y\nc,\n', separator=",")] == [
        ("x", "y"),
        ("y",),
        (),
    ]
    assert read("a.jsonl", b'{"text": "a", "labels": ["x", 3]}')[0].label == ("x", "3")
    assert [e.label for e in read("a.jsonl", b'{"text": "a", "label": true}\n{"text": "a", "label": 2.5}')] == [
        "true",
        2.5,
    ]


UNLEARNABLE = {
    "one label": (["x", "x"], {}, "all 2 rows have the label 'x'"),
    "one score": ([1.5, 1.5], {}, "all 2 rows"),
    "NaN": (["0.5", "nan"], {}, "nan is not a number that can be learnt"),
    "infinite": ([0.5, float("inf")], {}, "inf is not a number"),
    "no number": (["0.5", "x"], {"kind": "regression"}, "'x' is not a number"),
    "unknown": (["x", "y"], {"names": ("x", "z")}, "unknown label 'y'"),
    "nearly known": (["good", "baad"], {"names": ("good", "bad")}, "unknown label 'baad'; did you mean 'bad'"),
    "an index": ([f"row {i}" for i in range(20)], {}, "each of 20 rows has a label of its own; say --label"),
    "several of one": ([("x", "y"), ("x",)], {"kind": "single"}, "several labels"),
}


@pytest.mark.parametrize(("found", "options", "words"), UNLEARNABLE.values(), ids=UNLEARNABLE)
def test_labels_that_cannot_be_learnt_are_named_with_row_and_column(
    found: list[Any], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError) as caught:
        Labels.of([example(label) for label in found], "mood", **options)
    assert str(caught.value).startswith("a.csv: line 2, column 'mood': ")
    assert words in str(caught.value)


def test_no_rows_and_no_kind_are_refused() -> None:
    with pytest.raises(InputError, match="no rows"):
        Labels.of([])
    with pytest.raises(InputError, match="unknown kind of labels 'several'"):
        Labels.of([example("x"), example("y")], kind="several")


@given(rows=st.lists(LABEL, min_size=1, max_size=20, unique=True), most=st.integers(1, 25), order=st.randoms())
def test_which_rows_are_chosen_does_not_depend_on_their_order(rows: list[str], most: int, order: Any) -> None:
    examples = [Example(row, None, row, str(i)) for i, row in enumerate(rows)]
    shuffled = order.sample(examples, len(examples))
    assert len(chosen(examples, most)) == min(most, len(rows))
    if most < len(rows):
        assert chosen(examples, most) == chosen(shuffled, most)
    with pytest.raises(InputError, match="at least 1"):
        chosen(examples, 0)


def test_rows_to_predict_for_need_no_label() -> None:
    said = Columns("sentence", label="mood")
    assert read("a.csv", b"sentence\nSo it goes, he said.\n", said, unlabelled=True)[0].label is None
    assert [e.text for e in read("a.csv", b"What\nSo it goes, he said.\n", header=False, unlabelled=True)][1][
        :2
    ] == "So"
    data = b'{"sentence": "a", "mood": "x"}\n{"sentence": "b"}\n{"sentence": "c", "mood": null}\n'
    assert [e.label for e in read("a.jsonl", data, said, unlabelled=True)] == ["x", None, None]
    with pytest.raises(InputError, match="line 2 has no field 'mood'"):
        read("a.jsonl", data, said)
    with pytest.raises(InputError, match="has no column 'mood'"):
        read("a.csv", b"sentence\nSo it goes, he said.\n", said)
    with pytest.raises(InputError, match=r"a\.csv: line 2, column 'label': no label"):
        Labels.of([example("x"), Example("b", None, None, "a.csv: line 2")])


def test_labels_that_are_numbers_get_names() -> None:
    data = b"some words of text\t2,0\tab\nand some more words\t1\tcd\n"
    columns = Columns("1", label="2")
    found = read("a.tsv", data, columns, header=False, separator=",", names=("joy", "fear", "love"))
    assert [e.label for e in found] == [("love", "joy"), ("fear",)]
    assert read("a.jsonl", b'{"text": "a", "label": 1}', names=("no", "yes"))[0].label == "yes"
    for label in ("2", "-1"):
        with pytest.raises(InputError, match=f"line 1, column 'label': label {label}, but there are 2 names, from 0"):
            read("a.jsonl", f'{{"text": "a", "label": {label}}}'.encode(), names=("no", "yes"))
    with pytest.raises(InputError, match=r"line 1, column 'label': 0\.5 is no whole number"):
        read("a.jsonl", b'{"text": "a", "label": 0.5}', names=("no", "yes"))
