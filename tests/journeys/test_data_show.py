"""What a file of labelled rows holds is told before anything is learnt from it, whatever kind of rows they are."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from prompt import fails_with_one_line, run

from bothways.data.survey import KINDS

WORDS = {"question": "Who met Bo?", "context": "Anna met Bo."}
FILES: dict[str, tuple[str, str]] = {
    "classification": ("a.csv", "text,label\nthe cat,x\nthe dog,y\na bird,x\n"),
    "pairs": ("a.tsv", "premise\thypothesis\tlabel\nIt rains.\tIt is wet.\tyes\nIt snows.\tIt is hot.\tno\n"),
    "regression": ("a.jsonl", '{"text": "a b", "score": 0.5}\n{"text": "c", "score": 2}\n'),
    "multi-label": ("a.jsonl", '{"text": "a b", "labels": ["x", "y"]}\n{"text": "c", "labels": []}\n'),
    "tagging": ("eng.train", "-DOCSTART- O\n\nAnna I-PER\nLee I-PER\n\nmet O\nBo I-PER\n"),
    "questions": (
        "dev.json",
        json.dumps(
            {
                "data": [
                    {"paragraphs": [{**WORDS, "qas": [{**WORDS, "answers": [{"text": "Anna", "answer_start": 0}]}]}]}
                ]
            }
        ),
    ),
    "choices": ("a.jsonl", '{"question": "?", "choices": ["x", "y z"], "label": "B"}\n'),
}


@pytest.fixture
def shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def show(name: str, data: str, *flags: str | Path) -> dict[str, Any]:
        (tmp_path / name).write_text(data, encoding="utf-8")
        assert run("data", "show", tmp_path / name, *flags, "--json") == 0
        return json.loads(capsys.readouterr().out)

    return show


def test_every_kind_has_a_file() -> None:
    assert set(FILES) == set(KINDS)


@pytest.mark.parametrize("kind", FILES)
def test_the_kind_of_rows_is_seen_and_shown(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, data = FILES[kind]
    (tmp_path / name).write_text(data)
    assert run("data", "show", tmp_path / name) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{kind}: {tmp_path / name}: ")
    assert "words" in out
    assert "first rows" in out
    assert run("data", "show", tmp_path / name, "--kind", kind) == 0
    assert capsys.readouterr().out == out


def test_the_answer_for_machines_counts_what_is_there(shown: Any) -> None:
    rows = [("a b c", "x"), ("d", "y"), ("a b c", "x"), ("d", "x"), ("  ", "y"), ("e f", "x")]
    found = shown("a.jsonl", "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    assert found["labels"] == dict(Counter(label for _, label in rows).most_common())
    assert (found["rows"], found["duplicates"], found["contradictions"], found["empty"]) == (6, 2, 1, 1)
    assert found["words"] == {"mean": 10 / 6, "median": 1, "most_95": 3, "longest": 3}
    assert [row["texts"][0] for row in found["first"]] == ["a b c", "d", "a b c"]
    assert found["tokens"] is None


def test_spans_answers_and_choices_are_counted(shown: Any) -> None:
    assert shown(*FILES["tagging"])["labels"] == {"PER": 2}
    assert shown(*FILES["choices"])["labels"] == {"B": 1}
    row = '{"question": "?", "context": "a", "answers": []}\n'
    found = shown("a.jsonl", row + row.replace("[]", '[{"text": "a", "answer_start": 1}]'))
    assert (found["labels"], found["misplaced"]) == ({"no answer": 1}, 1)
    assert shown(*FILES["regression"])["scores"] == {"least": 0.5, "mean": 1.25, "greatest": 2.0}


def test_lengths_are_counted_in_a_models_tokens(shown: Any, tiny_masked: Path) -> None:
    data = "text\tlabel\n" + "".join(f"{'cat ' * n}\t{n % 2}\n" for n in range(1, 11))
    found = shown("a.tsv", data, "--model", tiny_masked, "--max-length", "8")
    assert found["tokens"] == {"mean": 7.5, "median": 7, "most_95": 12, "longest": 12}
    assert (found["cut"], found["max_length"]) == (4, 8)
    assert shown("a.tsv", data, "--tokenizer", tiny_masked)["tokens"] == found["tokens"]
    pairs = shown(*FILES["pairs"], "--model", tiny_masked)
    assert pairs["tokens"]["longest"] > pairs["words"]["longest"] + 2


def test_numbers_get_names_and_cells_several_labels(shown: Any, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("joy\nfear\n")
    flags = ("--label", "2", "--separator", ",", "--names", tmp_path / "names.txt")
    found = shown("a.tsv", "some words of text\t0,1\tab\nand some more words\t1\tcd\n", "--no-header", *flags)
    assert (found["kind"], found["labels"]) == ("multi-label", {"fear": 2, "joy": 1})


def test_rows_without_labels_are_shown_if_asked(shown: Any) -> None:
    assert shown("a.csv", "text\nSo it goes.\n", "--unlabelled")["labels"] == {"": 1}
    assert shown("a.txt", "So\nit\n", "--unlabelled")["kind"] == "tagging"


WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "kind": (("--kind", "ner"), "unknown kind 'ner'; known: classification, pairs"),
    "length": (("--max-length", "8"), "--max-length counts tokens; give --model or --tokenizer"),
    "column": (("--label", "mood"), "has no column 'mood'"),
    "both": (("--dataset", "a/b"), "say where the rows are: a file, or a data set"),
}


@pytest.mark.parametrize(("flags", "words"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_in_one_line(
    flags: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text(FILES["classification"][1])
    assert words in fails_with_one_line(capsys, "data", "show", tmp_path / "a.csv", *flags)


def test_a_file_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.csv", "a.json", "a.conll", "a"):
        assert f"{tmp_path / name}: " in fails_with_one_line(capsys, "data", "show", tmp_path / name)
    assert "say --kind" in fails_with_one_line(capsys, "data", "show", "/dev/null")
