"""Questions come out of SQuAD's files and of tables as they went in; an answer elsewhere is named or counted."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from bothways import InputError
from bothways.data import questions as module
from bothways.data.questions import Question, QuestionColumns, questions
from bothways.data.table import TableSource

ANY = QuestionColumns()
CONTEXT = "Anna met Bo in Rome. Bo left."
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def read(name: str, data: Any, columns: QuestionColumns = ANY, **options: Any) -> list[Question]:
    found, _ = read_and_count(name, data, columns, **options)
    return found


def read_and_count(name: str, data: Any, columns: QuestionColumns = ANY, **options: Any) -> tuple[list[Question], int]:
    form = options.pop("format", None)
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
        try:
            with questions(TableSource(str(path), format=form), columns, **options) as rows:
                return list(rows.questions), rows.misplaced
        except InputError as error:
            raise InputError(str(error).replace(f"{folder}/", "")) from None


def squad(*asked: dict[str, Any], context: str = CONTEXT) -> dict[str, Any]:
    return {"version": "v2.0", "data": [{"title": "t", "paragraphs": [{"context": context, "qas": list(asked)}]}]}


def at(text: str, start: int) -> dict[str, Any]:
    return {"text": text, "answer_start": start}


def asked(*answers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "q1", "question": "Who?", "answers": list(answers), **more}


@st.composite
def rows(draw: st.DrawFn) -> dict[str, Any]:
    context = draw(TEXT.filter(bool))
    spans = draw(st.lists(st.tuples(st.integers(0, len(context) - 1), st.integers(1, 9)), max_size=3))
    answers = [at(context[start : start + length], start) for start, length in spans]
    return {"id": draw(TEXT), "question": draw(TEXT), "context": context, "answers": answers}


def expected(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["id"], row["question"], row["context"], tuple((a["answer_start"], a["text"]) for a in row["answers"])


def said(question: Question) -> tuple[Any, ...]:
    return question.id, question.question, question.context, question.answers


@given(some=st.lists(rows(), min_size=1, max_size=4), packed=st.booleans())
def test_what_is_written_in_any_form_is_read_back(some: list[dict[str, Any]], packed: bool) -> None:
    nested = {
        "data": [{"paragraphs": [{"context": row["context"], "qas": [row], "document_id": 3}]} for row in some],
        "more": None,
    }
    pack = gzip.compress if packed else bytes
    end = ".gz" if packed else ""
    lists = [{**row, "answers": {k: [a[k] for a in row["answers"]] for k in ("text", "answer_start")}} for row in some]
    lines = "".join(json.dumps(row) + "\n" for row in some).encode()
    wanted = [expected(row) for row in some]
    assert list(map(said, read(f"a.json{end}", pack(json.dumps(nested).encode())))) == wanted
    assert list(map(said, read("a.json", some))) == wanted
    assert list(map(said, read("a.json", {"data": some}))) == wanted
    assert list(map(said, read(f"a.json{end}", pack(lines)))) == wanted
    assert list(map(said, read(f"a.jsonl{end}", pack(lines)))) == wanted
    assert list(map(said, read("dev", json.dumps(lists).encode(), format="json"))) == wanted


def test_parquet_as_the_hub_has_it_is_read(tmp_path: Path) -> None:
    answers = [{"text": ["Bo", "Bo"], "answer_start": [9, 21]}, {"text": [], "answer_start": []}]
    rows = {"id": ["a", "b"], "title": ["", ""], "context": [CONTEXT] * 2, "question": ["Who?", "Why?"]}
    parquet.write_table(pyarrow.table({**rows, "answers": answers}), tmp_path / "a.parquet")
    found = read("a.parquet", (tmp_path / "a.parquet").read_bytes())
    assert [question.answers for question in found] == [((9, "Bo"), (21, "Bo")), ()]


def test_a_question_that_is_impossible_has_no_answers() -> None:
    (one,) = read("a.json", squad(asked(is_impossible=True, plausible_answers=[at("Bo", 9)])))
    assert one.answers == ()
    (one,) = read("a.json", squad({"id": 5, "question": "Who?", "is_impossible": True}))
    assert (one.id, one.answers) == ("5", ())
    row = {"question": "Who?", "context": CONTEXT, "answers": [at("Bo", 9)]}
    assert [q.answers for q in read("a.json", [row, {**row, "is_impossible": True}])] == [((9, "Bo"),), ()]


def test_answers_need_not_be_known() -> None:
    row = {"question": "Who?", "context": CONTEXT}
    (first, second) = read("a.json", [row, {**row, "answers": [at("Bo", 9)]}], labelled=False)
    assert (first.id, first.answers, second.id, second.answers) == ("1", None, "2", ((9, "Bo"),))
    (one,) = read("a.json", squad({"id": "x", "question": "Who?"}), labelled=False)
    assert (one.id, one.answers) == ("x", None)
    with pytest.raises(InputError, match=r"a\.json: no column with the answers; say --answers"):
        read("a.json", [row])
    with pytest.raises(InputError, match=r"paragraph 1, question 'x' has no field 'answers'"):
        read("a.json", squad({"id": "x", "question": "Who?"}))


def test_columns_can_be_said() -> None:
    row = {"q": "Who?", "context": "other", "c": CONTEXT, "a": [at("Bo", 9)], "key": "k"}
    (one,) = read("a.json", [row], QuestionColumns("q", "c", "a", "key"))
    assert said(one) == ("k", "Who?", CONTEXT, ((9, "Bo"),))
    with pytest.raises(InputError, match=r"no column 'quest'; it has q, context, c, a, key"):
        read("a.json", [row], QuestionColumns("quest"))


def test_misplaced_answers_are_passed_over_and_counted_if_asked() -> None:
    data = squad(asked(at("Bo", 8), at("Bo", 21)), asked(at("Rome", 0)), asked(), asked(at("Anna", 0)))
    found, misplaced = read_and_count("a.json", data, skip_misplaced=True)
    assert [question.answers for question in found] == [((21, "Bo"),), (), ((0, "Anna"),)]
    assert misplaced == 2


PLACE = "a.json: article 1, paragraph 1, question 'q1'"
NASTY: dict[str, tuple[Any, str]] = {
    "elsewhere": (squad(asked(at("Bo", 8))), f"{PLACE}: the answer 'Bo' is not at character 8: there is ' Bo in"),
    "elsewhere too": (squad(asked(at("Bo", 8))), "; its first place is 9"),
    "before": (squad(asked(at("Bo", -3))), f"{PLACE}: the answer 'Bo' is not at character -3"),
    "behind": (squad(asked(at("Bo", 99))), "at character 99: the context ends before it"),
    "cut": (squad(asked(at("left. Then", 24))), "is not at character 24: there is 'left.'"),
    "no start": (squad(asked({"text": "Bo"})), f"{PLACE}, answer 1 has no field 'answer_start'"),
    "a fraction": (squad(asked(at("Bo", 9.0))), f"{PLACE}, answer 1: 'answer_start' is not a whole number but 9.0"),  # type: ignore[arg-type]
    "empty": (squad(asked(at("", 9))), f"{PLACE}, answer 1: an empty answer"),
    "no list": (squad(asked(answers="Bo")), f"{PLACE}: 'answers' is not a list but str: 'Bo'"),
    "no objects": (squad(asked(answers=["Bo"])), f"{PLACE}, answer 1: "),
    "lengths": (squad(asked(answers={"text": ["Bo"], "answer_start": []})), f"{PLACE}: 1 answers in 'text', but 0"),
    "no text": (squad(asked(question=3)), f"{PLACE}: 'question' is not a text but int"),
    "no context": ({"data": [{"paragraphs": [{"qas": []}]}]}, "a.json: article 1, paragraph 1 has no field 'context'"),
    "no paragraphs": ({"data": [{}]}, "a.json: article 1 has no field 'paragraphs'; it has none"),
    "no articles": ({"data": 3}, "a.json: 'data' is not a list but int"),
    "numbers": ({"data": [3]}, "a.json: 'data' has a int as number 1, not an object"),
    "rows": ([3], "a.json: row 1: an object was expected, not int"),
    "nothing": ([], "a.json: no rows"),
    "no question": ([{"context": CONTEXT}], "a.json: no column with the question; say --question; it has context"),
    "a list as id": (squad(asked(id=[])), "article 1, paragraph 1: 'id' is not a text but list"),
    "no JSON": (b"{\n 3", "a.json: line 2 is not JSON"),
    "not UTF-8": (b'{"\xff', "a.json: not UTF-8"),
    "half a line": (b'{"question": "a"}\n{"question', "a.json: line 2 is not JSON"),
    "cut off": (gzip.compress(b"{}" * 99)[:-12], "a.json: cannot be read to its end"),
}


@pytest.mark.parametrize(("data", "words"), NASTY.values(), ids=NASTY)
def test_what_is_wrong_is_named_with_file_and_place(data: Any, words: str) -> None:
    with pytest.raises(InputError) as caught:
        read("a.json", data)
    assert words in str(caught.value)
    assert str(caught.value).startswith("a.json: ")


def test_an_answer_in_a_table_is_named_with_its_line() -> None:
    row = {"id": "x", "question": "Who?", "context": CONTEXT, "answers": [at("Anna", 1)]}
    with pytest.raises(InputError, match=r"a\.jsonl: line 1, question 'x': the answer 'Anna' is not at character 1"):
        read("a.jsonl", row)


def test_a_file_too_large_for_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_JSON_BYTES", 50)
    with pytest.raises(InputError, match=r"a\.json: more than 50 bytes"):
        read("a.json", gzip.compress(json.dumps(squad()).encode()))
