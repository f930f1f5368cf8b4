"""Questions and their choices come out of tables as they went in, however the right one is named."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pyarrow import parquet

from bothways import InputError
from bothways.data.choices import Choice, ChoiceColumns, choices
from bothways.data.table import TableSource

ANY = ChoiceColumns()
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=2, max_size=12)
CHOICE = TEXT.filter(lambda text: bool(text.strip()) and not text.strip().isdigit() and len(text.strip()) > 1)
ROWS = st.lists(st.tuples(TEXT, st.lists(CHOICE, min_size=2, max_size=5), st.integers(0, 4)), min_size=1, max_size=4)


def read(name: str, data: bytes, columns: ChoiceColumns = ANY, **options: Any) -> list[Choice]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        try:
            with choices(TableSource(str(path)), columns, **options) as found:
                return list(found.choices)
        except InputError as error:
            raise InputError(str(error).replace(f"{folder}/", "")) from None


def lines(*rows: dict[str, Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def table(rows: list[list[Any]]) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue().encode()


def said(found: list[Choice]) -> list[tuple[str, list[str], int | None]]:
    return [(one.question, list(one.choices), one.label) for one in found]


@given(drawn=ROWS, how=st.sampled_from(["number", "letter", "text", "hub", "objects"]))
def test_lists_are_read_back_however_the_right_one_is_named(drawn: list[tuple[str, list[str], int]], how: str) -> None:
    wanted = [(question, texts, place % len(texts)) for question, texts, place in drawn]
    rows = []
    for question, texts, place in wanted:
        own = ["w", "x", "y", "z", "1"][: len(texts)]
        assume(how != "text" or sum(text.strip() == texts[place].strip() for text in texts) == 1)
        answers = {"number": place, "letter": "ABCDE"[place], "text": texts[place]}
        lists = {"hub": {"text": texts, "label": own}, "objects": [{"text": t, "label": o} for t, o in zip(texts, own)]}
        rows.append({"question": question, "choices": lists.get(how, texts), "answerKey": answers.get(how, own[place])})
    assert said(read("a.jsonl", lines(*rows))) == wanted


@given(drawn=ROWS, letters=st.booleans())
def test_columns_are_read_back_where_rows_have_fewer_choices_than_others(
    drawn: list[tuple[str, list[str], int]], letters: bool
) -> None:
    wanted = [(question, texts, place % len(texts)) for question, texts, place in drawn]
    names = list("ABCDE") if letters else [f"choice{i}" for i in range(1, 6)]
    rows = [[q, *texts, *[""] * (5 - len(texts)), "abcde"[place] if letters else place] for q, texts, place in wanted]
    assert said(read("a.csv", table([["question", *names, "answer"], *rows]))) == wanted


def test_endings_of_swag_go_on_from_their_beginning() -> None:
    rows = [["", "sent1", "sent2", "ending0", "ending1", "label"], [0, "He ran.", "Then he", "fell.", "sat.", 1]]
    assert said(read("a.csv", table(rows))) == [("He ran.", ["Then he fell.", "Then he sat."], 1)]


def test_the_hubs_parquet_is_read(tmp_path: Path) -> None:
    columns = {"id": ["a"], "question": ["Why?"], "choices": [{"text": ["x", "y"], "label": ["1", "2"]}]}
    parquet.write_table(pyarrow.table({**columns, "answerKey": ["2"]}), tmp_path / "a.parquet")
    assert said(read("a.parquet", (tmp_path / "a.parquet").read_bytes())) == [("Why?", ["x", "y"], 1)]


def test_columns_can_be_said_and_numbers_begin_where_they_do() -> None:
    row = {"q": "?", "good": "x", "bad": "y", "third": "z", "n": 3}
    columns = ChoiceColumns("q", ("good", "bad", "third"), "n")
    assert said(read("a.jsonl", lines(row), columns, first=1)) == [("?", ["x", "y", "z"], 2)]
    with pytest.raises(InputError, match=r"a\.jsonl has no column 'goood'.* did you mean 'good'"):
        read("a.jsonl", lines(row), ChoiceColumns("q", ("goood", "bad"), "n"))


def test_whether_numbers_are_texts_goes_by_all_rows() -> None:
    row = {"question": "?", "choices": ["2", "3", "4"]}
    assert [one.label for one in read("a.jsonl", lines({**row, "label": "2"}, {**row, "label": "1"}))] == [2, 1]
    assert [one.label for one in read("a.jsonl", lines({**row, "label": "2"}, {**row, "label": "4"}))] == [0, 2]
    assert [one.label for one in read("a.jsonl", lines({**row, "label": 2}, {**row, "label": "4"}))] == [2, 2]


def test_labels_need_not_be_known() -> None:
    row = {"question": "?", "choices": ["x", "y"]}
    assert [one.label for one in read("a.jsonl", lines(row), labelled=False)] == [None]
    some = [{**row, "label": label} for label in (-1, None, "", 1)]
    assert [one.label for one in read("a.jsonl", lines(*some), labelled=False)] == [None, None, None, 1]


ROW: dict[str, Any] = {"question": "?", "choices": ["x", "y"], "label": 0}
NASTY: dict[str, tuple[bytes, str]] = {
    "one choice": (lines(ROW, {**ROW, "choices": ["x"]}), "a.jsonl: line 2: 1 choice, where two are needed"),
    "none": (lines({**ROW, "choices": []}), "a.jsonl: line 1: 0 choices, where two"),
    "beyond": (lines({**ROW, "label": 2}), "a.jsonl: line 1, column 'label': 2 is none of 2 choices: 0 to 1, A to B"),
    "before": (lines({**ROW, "label": -1}), "a.jsonl: line 1, column 'label': -1 is none of"),
    "letter": (lines({**ROW, "label": "C"}), "line 1, column 'label': 'C' is none of 2 choices"),
    "twice": (lines({**ROW, "choices": ["x", "x"], "label": "x "}), "'x ' is the text of 2 choices"),
    "own label": (
        lines({**ROW, "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "label": "3"}),
        "'3' is none of 2 choices: 0 to 1, 1, 2, or a text",
    ),
    "no label": (lines(ROW, {**ROW, "label": None}), "a.jsonl: line 2, column 'label': no label"),
    "no label column": (lines({"question": "?", "choices": ["x", "y"]}), "which column is the label; say --label"),
    "no choices": (lines({"question": "?", "label": 0}), "a.jsonl: cannot tell which column is the choices"),
    "no list": (lines({**ROW, "choices": "x"}), "a.jsonl: line 1: 'choices' is not a list but str"),
    "a gap": (lines({**ROW, "choices": ["x", "", "y"]}), "a.jsonl: line 1: choice 2 is empty"),
    "number": (lines({**ROW, "choices": ["x", 3]}), "a.jsonl: line 1: 'choices' is not a text but int"),
    "truth": (lines({**ROW, "label": True}), "line 1, column 'label': a label was expected, not bool"),
    "half": (lines({**ROW, "choices": {"text": ["x", "y"]}}), "line 1, 'choices' has no field 'label'"),
    "lengths": (lines({**ROW, "choices": {"text": ["x"], "label": []}}), "1 choices in 'text', but 0 in 'label'"),
    "missing": (lines(ROW, {"question": "?", "label": 0}), "a.jsonl: line 2 has no field 'choices'"),
}


@pytest.mark.parametrize(("data", "words"), NASTY.values(), ids=NASTY)
def test_what_is_wrong_is_named_with_file_and_line(data: bytes, words: str) -> None:
    with pytest.raises(InputError) as caught:
        read("a.jsonl", data)
    assert words in str(caught.value)
    assert str(caught.value).startswith("a.jsonl: ")
