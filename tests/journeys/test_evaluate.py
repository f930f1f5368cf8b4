"""What frozen encoders know, asked at the prompt: real text, a real encoder, and every mistake in one line."""

from __future__ import annotations

import csv
import json
import random
import shutil
from pathlib import Path
from pydoc_data.topics import topics

import pytest
from prompt import fails_with_one_line, run

from bothways.engine.probe import LAYERS, PAIRS
from bothways.nn.pooling import POOLINGS


@pytest.fixture(scope="module")
def sentences() -> list[tuple[str, str]]:
    """Sentences of the Python manual, labelled with what they are about."""
    about = {
        "strings": ("strings", "formatstrings", "string-methods"),
        "classes": ("specialnames", "class", "customization"),
    }
    found = [
        (" ".join(sentence.split())[:300], label)
        for label, pages in about.items()
        for page in pages
        for sentence in topics[page].replace("\n\n", ". ").split(". ")
    ]
    found = [(text, label) for text, label in dict.fromkeys(found) if len(text) > 30]
    return random.Random(0).sample(found, 160)


@pytest.fixture(scope="module")
def table(sentences: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labelled") / "pages.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("sentence", "page"), *sentences])
    return path


def test_a_real_encoder_knows_what_sentences_are_about(
    minilm: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", minilm, "--probe", "--data", table, "--seeds", "2", "--max-length", "64") == 0
    captured = capsys.readouterr()
    assert captured.err.startswith(f"bothways: guessed: {table}: text 'sentence', label 'page' (commas,")
    assert "2 labels (classes, strings)" in captured.out
    assert "accuracy" in captured.out
    assert "±" in captured.out


def test_the_answer_for_machines_has_every_number(
    tiny_masked: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--text", "sentence", "--label", "page", "--max-length", "24", "--json")
    assert run("evaluate", tiny_masked, "--probe", "--data", table, "--eval", table, "--max-rows", "100", *flags) == 0
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert (answer["rows"], answer["evaluated"], answer["width"]) == (100, 100, 32)
    assert answer["labels"] == ["classes", "strings"]
    assert set(answer["metrics"]) == {"accuracy", "macro_f1", "mcc"}
    assert answer["runs"][0]["accuracy"] == answer["metrics"]["accuracy"] > answer["majority"] - 0.1
    assert "guessed" not in captured.err
    assert "evaluated on the rows that are learnt from" in captured.err


def test_scores_of_pairs_are_learnt_from_what_others_export(
    tiny_masked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lengths = [(i % 9 + 1, i % 7 + 1) for i in range(80)]
    rows = [{"sentence1": "cat " * a, "sentence2": "dog " * b, "score": abs(a - b) + 0.5} for a, b in lengths]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("evaluate", tiny_masked, "--probe", "--data", tmp_path / "pairs.jsonl", "--pairs", "both", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["kind"] == "regression"
    assert answer["width"] == 5 * 32
    assert answer["majority"] is None
    assert answer["metrics"]["spearman"] > 0.5
    assert run("evaluate", tiny_masked, "--probe", "--data", tmp_path / "pairs.jsonl", "--pooling", "cls") == 0
    assert "Spearman" in capsys.readouterr().out


def test_a_checkpoint_that_pretraining_saved_is_probed(
    tiny_masked: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_masked, tmp_path / "model")
    flags = ("--probe", "--data", table, "--label", "page", "--max-length", "24", "--json")
    answers = []
    for model, more in ((tiny_masked, ()), (tmp_path / "model", ("--batch-tokens", "30"))):
        assert run("evaluate", model, *flags, *more) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0]["runs"] == answers[1]["runs"]


def test_any_layer_may_be_asked_and_the_best_one_is_said(
    tiny_masked: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--probe", "--data", table, "--label", "page", "--max-rows", "60", "--max-length", "24")
    assert run("evaluate", tiny_masked, *flags, "--layer", "best", "--json") == 0
    (best,) = json.loads(capsys.readouterr().out)["runs"]
    assert best["layer"] in {0, 1, 2}
    for layer, words in ((str(best["layer"]), f"layer {best['layer']},"), ("mean", "mean of all layers,")):
        assert run("evaluate", tiny_masked, *flags, "--layer", layer) == 0
        assert words in " ".join(capsys.readouterr().out.split())
    said = fails_with_one_line(capsys, "evaluate", tiny_masked, *flags, "--text", "sentence", "--layer", "3")
    assert "layer must be between 0" in said


def test_labels_without_rows_to_evaluate_on_are_said(
    tiny_masked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"cat number {i},{'often' if i else 'once'}" for i in range(20)] + [f"dog {i},twice" for i in range(2)]
    data = wrong(tmp_path, "\n".join(["text,label", *rows]))
    assert run("evaluate", tiny_masked, "--probe", "--data", data) == 0
    assert "3 labels (often, once, twice), 2 of them evaluated;" in " ".join(capsys.readouterr().out.split())


def test_the_help_names_every_pooling(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", "--help") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert all(name in said for name in (*POOLINGS, *PAIRS, *LAYERS))


def wrong(tmp_path: Path, text: str, name: str = "bad.csv") -> Path:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / name


def test_mistakes_are_one_line_with_file_row_and_column(
    tiny_masked: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*flags: str | Path) -> str:
        return fails_with_one_line(capsys, "evaluate", tiny_masked, *flags)

    assert "--probe" in said("--data", table)
    assert "--data" in said("--probe")
    assert "--eval-split with --dataset" in said("--probe", "--data", table, "--eval-split", "test")
    assert "--eval goes with --data" in said("--probe", "--dataset", "a/b", "--eval", table)
    assert "no such file" in said("--probe", "--data", tmp_path / "none.csv")
    assert "did you mean 'page'?" in said("--probe", "--data", table, "--label", "pages")
    columns = ("--text", "text", "--label", "label", "--probe", "--data")
    assert "line 3 has 3 cells" in said(*columns, wrong(tmp_path, "text,label\na,b\nc,d,e\n"))
    assert "all 2 rows have the label 'x'" in said(*columns, wrong(tmp_path, "text,label\na,x\nc,x\n"))
    nan = wrong(tmp_path, "text,label\na,0.5\nb,nan\n")
    assert "bad.csv: line 3, column 'label': nan is not a number" in said(*columns, nan)
    assert "unknown kind" in said(*columns, wrong(tmp_path, "text,label\na,x\nb,y\n"), "--kind", "many")
    assert "too few" in said(*columns, tmp_path / "bad.csv")
    assert "line 1 is not JSON" in said(*columns, wrong(tmp_path, '{"text": ', "bad.jsonl"))
    assert "pairs 'together' needs two texts a row" in said(
        "--probe", "--data", table, "--text", "sentence", "--label", "page", "--pairs", "together"
    )
    assert "max_rows" in said("--probe", "--data", table, "--text", "sentence", "--label", "page", "--max-rows", "0")


def test_a_label_that_was_not_learnt_is_refused_before_anything_is_computed(
    tiny_masked: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = wrong(tmp_path, "sentence,page\na,strings\nb,string\n")
    flags = ("--probe", "--data", table, "--eval", held, "--text", "sentence", "--label", "page")
    said = fails_with_one_line(capsys, "evaluate", tiny_masked, *flags)
    assert "bad.csv: line 3, column 'page': unknown label 'string'; did you mean 'strings'?" in said
