"""Fine-tuning that cannot be: one line that names file, row, column or key and what to do; and nothing is written."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from prompt import run
from small_rows import (
    KINDS,
    asked,
    chosen,
    scores,
    sentences,
    several,
    texts,
    write_choices,
    write_columns,
    write_lines,
    write_squad,
    write_table,
)

Save = Callable[..., Path]
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def models(save_bert: Save, save_family: Callable[..., Path]) -> dict[str, Path]:
    return {
        "bert": save_bert(seed=4),
        "gpt2": save_family("gpt2"),
        "modernbert": save_family("modernbert"),
        "without a tokenizer": save_bert(tokenizer=False),
    }


@pytest.fixture
def refused(models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """(kind, flags …, model=…) → the one line that a run ends with. It leaves no folder."""

    def failing(kind: str, *flags: str | Path, model: str = "bert") -> str:
        output = tmp_path / "run"
        assert run("finetune", kind, "--model", models[model], "--output", output, *flags) == 2
        assert not output.exists()
        captured = capsys.readouterr()
        assert captured.out == ""
        lines = captured.err.splitlines()
        assert all(line.startswith("bothways: ") for line in lines), lines
        return lines[-1]

    return failing


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    """(name, lines) → a file."""
    return lambda name, lines: write_lines(tmp_path / name, lines)


GOOD = [f"a {word} sat,{label}" for word, label in KINDS.items()] * 2
SQUAD = {"context": "the cat sat", "question": "a cat ?", "answers": {"text": ["cat"], "answer_start": [4]}}


def text(label: object) -> str:
    return json.dumps({"text": f"a cat {label}", "label": label})


# What is wrong with files: the kind, the name of one, its lines, flags, and what is said.
FILES: dict[str, tuple[str, str, Sequence[str], Sequence[str], str]] = {
    "a column that is not there": (
        "classify",
        "rows.csv",
        ["text,label", *GOOD],
        ["--label", "lable"],
        r"rows\.csv.*'lable'.*label",
    ),
    "no column of labels": ("classify", "rows.csv", ["text", "a cat", "a dog"], [], r"rows\.csv.*--label"),
    "a row without label": ("classify", "rows.csv", ["text,label", *GOOD, "a cat,"], [], r"rows\.csv: line 14.*label"),
    "a row with too few cells": ("classify", "rows.csv", ["text,label", *GOOD, "a cat"], [], r"rows\.csv: line 14"),
    "one label": (
        "classify",
        "rows.csv",
        ["text,label", "a cat,x", "a dog,x", "the dog,x", "the red,x"],
        [],
        r"rows\.csv: line \d, column 'label': all \d rows have the label 'x'",
    ),
    "one row": ("classify", "rows.csv", ["text,label", "a cat,x"], [], r"rows to evaluate on"),
    "equal texts": ("classify", "rows.csv", ["text,label", "a cat,x", "a cat,y"], [], r"rows to evaluate on"),
    "no row": ("classify", "rows.csv", ["text,label"], ["--header"], r"rows\.csv"),
    "a line that is no JSON": (
        "classify",
        "rows.jsonl",
        [text("x"), text("y"), '{"text": "a cat", "label": '],
        [],
        r"rows\.jsonl: line 3",
    ),
    "a number that is none": (
        "classify",
        "rows.jsonl",
        [text(0.5), text(1.5), '{"text": "a dog", "label": NaN}', text(2.5)],
        [],
        r"rows\.jsonl: line 3, column 'label': nan is not a number that can be learnt",
    ),
    "a number among names": (
        "classify",
        "rows.jsonl",
        ['{"text": "a cat", "label": 7}', text("x"), text("y"), text("z")],
        ["--label-names", "names.txt"],
        r"line 1, column 'label': label 7, but there are 2 names, from 0",
    ),
    "a blank line among names": (
        "classify",
        "rows.jsonl",
        [text(0), text(1), text(0)],
        ["--label-names", "blank.txt"],
        r"blank\.txt: line 2 is blank",
    ),
    "a line of another width": (
        "tag",
        "rows.conll",
        ["a O", "cat B-X", "", "the O", "dog B-X extra", "", "a O"],
        [],
        r"rows\.conll: line 5 has 3 columns, but most lines have 2",
    ),
    "tags that contradict their scheme": (
        "tag",
        "rows.conll",
        ["a O", "cat B-X", "", *["the O", "dog B-X", ""] * 40, "a O", "cat I-X"],
        ["--scheme", "iob2"],
        r"rows\.conll: line 125, column 2: the tag 'I-X'",
    ),
    "one tag": ("tag", "rows.conll", ["a O", "cat O", "", "the O", "dog O"], [], r"rows\.conll: line \d.*'O'"),
    "more words than tags": (
        "tag",
        "rows.jsonl",
        [json.dumps({"tokens": ["a", "cat"], "tags": ["O", "B-X"]}), json.dumps({"tokens": ["a"], "tags": []})],
        [],
        r"rows\.jsonl: line 2: 1 words in 'tokens', but 0 tags in 'tags'",
    ),
    "an answer that is elsewhere": (
        "answer",
        "rows.jsonl",
        [json.dumps(SQUAD), json.dumps({**SQUAD, "answers": {"text": ["cat"], "answer_start": [5]}})],
        [],
        r"rows\.jsonl: line 2.*skip_misplaced",
    ),
    "questions without an answer": (
        "answer",
        "rows.jsonl",
        [json.dumps({**SQUAD, "context": f"a dog {i}", "answers": {"text": [], "answer_start": []}}) for i in "abc"],
        [],
        r"rows\.jsonl: line \d: none of 3 questions has an answer",
    ),
    "a question that is no object": ("answer", "rows.json", ['{"data": [3]}'], [], r"rows\.json"),
    "a choice that is not there": (
        "choose",
        "rows.jsonl",
        [json.dumps({"question": "a", "choices": ["x", "y"], "label": label}) for label in (0, 1, 2)],
        [],
        r"rows\.jsonl: line 3.*2",
    ),
    "a single choice": (
        "choose",
        "rows.jsonl",
        [json.dumps({"question": "a", "choices": choices, "label": 0}) for choices in (["x", "y"], ["x"])],
        [],
        r"rows\.jsonl: line 2",
    ),
    "a scheme that is none": ("tag", "rows.conll", ["a O", "cat B-X"], ["--scheme", "iob"], r"scheme.*'iob'"),
}


@pytest.mark.parametrize("what", FILES)
def test_files_that_cannot_be_learnt_from_are_named(
    what: str, refused: Refused, file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, name, lines, flags, said = FILES[what]
    monkeypatch.chdir(tmp_path)
    file("names.txt", ["x", "y"])
    file("blank.txt", ["x", "", "y"])
    found = refused(kind, "--train", file(name, lines), *flags)
    assert re.search(said, found), found


def test_a_file_that_is_not_there_is_named(refused: Refused, tmp_path: Path) -> None:
    assert "absent.csv" in refused("classify", "--train", tmp_path / "absent.csv")
    assert "say where the rows are" in refused("classify")


def test_labels_that_are_met_at_evaluation_alone_are_named(
    refused: Refused, tmp_path: Path, file: Callable[..., Path]
) -> None:
    """With the row, and the label that may be meant."""
    train = file("train.csv", ["text,label", *GOOD])
    held = file("held.csv", ["text,label", "a cat,animal", "a house,plase"])
    found = refused("classify", "--train", train, "--eval", held)
    assert re.search(r"held\.csv: line 3, column 'label': unknown label 'plase'; did you mean 'place'\?", found), found
    train = file("train.conll", ["a O", "cat B-X", "", "the O", "dog B-X"])
    held = file("held.conll", ["a O", "cat B-X", "", "the O", "dog B-Y"])
    found = refused("tag", "--train", train, "--eval", held)
    assert re.search(r"held\.conll: line 4: unknown tag 'B-Y'", found), found


# What is wrong with settings: the kind, flags, the model, and what is said.
SETTINGS: dict[str, tuple[str, Sequence[str], str, str]] = {
    "an unknown key": ("classify", ["--epoch", "3"], "bert", r"--epoch\b.*epochs"),
    "a key of another command": ("classify", ["--steps", "3"], "bert", r"--steps"),
    "no rows in a step": ("classify", ["--batch-size", "0"], "bert", r"batch_size must be at least 1, got 0"),
    "no epochs": ("classify", ["--epochs", "0"], "bert", r"epochs must be more than 0, got 0"),
    "what is no number": ("classify", ["--epochs", "few"], "bert", r"epochs"),
    "layers and low ranks": ("classify", ["--layers", "1", "--lora-rank", "2"], "bert", r"lora_rank and layers"),
    "nothing held out": ("classify", ["--held-out", "0"], "bert", r"held_out must be more than 0"),
    "a warmup of more steps than there are": (
        "classify",
        ["--warmup", "7", "--epochs", "2"],
        "bert",
        r"warmup must be between 0 and the 2 steps, got 7",
    ),
    "no seeds": ("classify", ["--seeds", "0"], "bert", r"seeds must be at least 1, got 0"),
    "texts that are too long": ("classify", ["--max-length", "25"], "bert", r"max_length.*24"),
    "windows that are too long": ("tag", ["--max-length", "25"], "bert", r"25 tokens.*24"),
    "windows without room": (
        "classify",
        ["--windows", "mean", "--max-length", "5", "--stride", "4"],
        "bert",
        r"stride|room|shared?",
    ),
    "a stride without windows": ("classify", ["--stride", "2"], "bert", r"stride is for windows"),
    "windows of tags": ("tag", ["--windows", "mean"], "bert", r"windows = mean is for labels of whole texts"),
    "windows of answers": ("answer", ["--windows", "max"], "bert", r"windows = max is for labels of whole texts"),
    "windows of choices": ("choose", ["--windows", "max"], "bert", r"windows"),
    "pooled tags": ("tag", ["--pooling", "mean"], "bert", r"pooling is for labels of whole texts"),
    "pooled answers": ("answer", ["--pooling", "mean"], "bert", r"pooling is for labels of whole texts"),
    "more layers than there are": ("classify", ["--layers", "9"], "bert", r"bothways: layers must be .* 0 to 2, got 9"),
    "smoothed numbers": ("scores", ["--smoothing", "0.1"], "bert", r"smoothing is for rows that have"),
    "smoothed answers": ("answer", ["--smoothing", "0.1"], "bert", r"smoothing is for rows that have"),
    "smoothed choices": ("choose", ["--smoothing", "0.1"], "bert", r"smoothing is for rows that have"),
    "weighed numbers": ("scores", ["--class-weights", "balanced"], "bert", r"class_weights is for rows that have"),
    "weighed answers": ("answer", ["--class-weights", "balanced"], "bert", r"class_weights is for rows that have"),
    "weighed choices": ("choose", ["--class-weights", "balanced"], "bert", r"class_weights is for rows that have"),
    "weighed labels of several": ("several", ["--class-weights", "balanced"], "bert", r"class_weights is for rows"),
    "momentum of no one": ("classify", ["--momentum", "0.5"], "bert", r"momentum says something only with muon"),
    "weights that are none": ("classify", ["--class-weights", "even"], "bert", r"even.*class.weights"),
    "a model without a tokenizer": ("classify", [], "without a tokenizer", r"tokenizer"),
    "a family without such a head": ("choose", [], "gpt2", r"gpt2 models have no head for it"),
    "a device that is not here": ("classify", ["--device", "cuda:7"], "bert", r"cuda:7"),
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A good file of each kind."""
    folder = tmp_path_factory.mktemp("rows")
    return {
        "classify": write_table(folder / "rows.csv", texts(12)),
        "several": write_table(folder / "several.jsonl", several(12)),
        "scores": write_table(folder / "scores.jsonl", scores(12)),
        "tag": write_columns(folder / "rows.conll", sentences(12)),
        "answer": write_squad(folder / "rows.json", asked(12)),
        "choose": write_choices(folder / "choices.jsonl", chosen(12)),
    }


@pytest.mark.parametrize("what", SETTINGS)
def test_settings_that_cannot_be_are_named(what: str, refused: Refused, rows: dict[str, Path]) -> None:
    kind, flags, model, said = SETTINGS[what]
    word = "classify" if kind in ("several", "scores") else kind
    found = refused(word, "--train", rows[kind], *flags, model=model)
    assert re.search(said, found), found


def test_a_task_that_is_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("finetune", "clasify", "--model", "x") == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "clasify" in captured.err
    assert "classify" in captured.err.replace("clasify", "")


def test_a_model_must_be_said_and_be_there(
    rows: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["finetune", "classify", "--train", rows["classify"], "--output", tmp_path / "run"]
    assert run(*command) == 2
    assert "model is missing: say --model" in capsys.readouterr().err
    assert run(*command, "--model", tmp_path / "absent") == 2
    assert str(tmp_path / "absent") in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_keys_of_a_file_are_checked_as_flags_are(
    refused: Refused, rows: dict[str, Path], file: Callable[..., Path]
) -> None:
    config = file("run.toml", ["batch_sise = 8"])
    found = refused("classify", "--config", config, "--train", rows["classify"])
    assert "batch_sise" in found
    assert "batch_size" in found
    assert "run.toml" in found
    found = refused("classify", "--config", file("other.toml", ["batch_size = 0"]), "--train", rows["classify"])
    assert "batch_size must be at least 1, got 0" in found
    assert "other.toml" in found


def test_what_is_in_the_way_is_named(
    models: dict[str, Path], rows: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model without checkpoints, or a file, where the run's folder would be."""
    command = ["finetune", "classify", "--model", models["bert"], "--train", rows["classify"], "--output"]
    shutil.copytree(models["bert"], tmp_path / "run" / "model")
    assert run(*command, tmp_path / "run") == 2
    assert "move it away" in capsys.readouterr().err.splitlines()[-1]
    (tmp_path / "file").touch()
    assert run(*command, tmp_path / "file") == 2
    assert str(tmp_path / "file") in capsys.readouterr().err.splitlines()[-1]
