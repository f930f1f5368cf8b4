"""What a user does who trains an encoder on a file of rows at the prompt, and what happens when that is stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from prompt import run
from small_rows import ROWS, WRITERS, asked, scores, several, texts, write_lines, write_squad, write_table

import bothways

Save = Callable[..., Path]
SHORT = {"--precision": "fp32", "--lr": "1e-3", "--batch-size": "8", "--log-every": "1"}
MODEL_FILES = ("model.safetensors", "config.json", "tokenizer.json")

pytestmark = pytest.mark.usefixtures("unmeasured")


@pytest.fixture(scope="module")
def encoder(save_bert: Save) -> Path:
    return save_bert(std=0.05, seed=4)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """For each word of a task, a file to learn from and one to evaluate on."""
    folder = tmp_path_factory.mktemp("rows")
    return {
        kind: (write(folder / f"train.{ending}", make(30, 0)), write(folder / f"held.{ending}", make(10, 1)))
        for kind, (ending, write) in WRITERS.items()
        for make in [ROWS[kind][2]]
    }


@pytest.fixture
def tune(encoder: Path, files: dict[str, tuple[Path, Path]], tmp_path: Path) -> Callable[..., tuple[int, Path]]:
    """(kind, flags …) → the exit code, and the folder of the run; of the kind's own files if none is named."""
    numbers = count()

    def tuning(kind: str, *flags: str | Path, output: Path | None = None) -> tuple[int, Path]:
        output = output or tmp_path / f"run{next(numbers)}"
        train, held = files[kind]
        rows = [] if "--train" in flags else ["--train", train, "--eval", held]
        usual = [part for flag, value in SHORT.items() if flag not in flags for part in (flag, value)]
        return run("finetune", kind, "--model", encoder, *rows, "--output", output, *usual, *flags), output

    return tuning


def logged(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def same(output: Path, whole: Path) -> None:
    """The run left what an uninterrupted one leaves, byte for byte."""
    for name in ("metrics.jsonl", *(f"{kind}/{file}" for kind in ("model", "best") for file in MODEL_FILES)):
        assert (output / name).read_bytes() == (whole / name).read_bytes(), name


# From a file to a model


@pytest.mark.parametrize("kind", ROWS)
def test_a_run_leaves_a_model_that_transformers_loads(
    kind: str, tune: Any, agree: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    code, output = tune(kind, "--epochs", "2", "--json")
    assert code == 0
    told = json.loads(capsys.readouterr().out)
    names = {"classify": ["animal", "colour", "place"], "tag": ["O", "B-ANIMAL", "B-PLACE", "I-PLACE"]}.get(kind, [])
    assert told["labels"] == names
    metric = {"classify": "accuracy", "tag": "f1", "answer": "f1", "choose": "accuracy"}[kind]
    assert told["best_metric"] == metric
    assert told["runs"][0]["steps"] == 8
    steps = [row["step"] for row in logged(output) if "loss" in row]
    assert steps == list(range(1, 9))
    held = [(row["step"], row["held_out"][metric]) for row in logged(output) if "held_out" in row]
    assert [step for step, _ in held] == [4, 8]
    assert held[-1][1] == told["metrics"][metric]
    assert told["runs"][0]["best"][metric] == max(value for _, value in held)
    for name in ("model", "best"):
        ours = bothways.Encoder.from_pretrained(output / name)
        theirs = getattr(transformers, f"AutoModel{ROWS[kind][1]}").from_pretrained(output / name).eval()
        agree(ours, theirs)
        if names:
            assert list(theirs.config.id2label.values()) == names


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("pairs", [False, True])
def test_texts_and_pairs_are_read_from_tables(ending: str, pairs: bool, tune: Any, tmp_path: Path) -> None:
    """And the pipeline gives the logits that transformers gives."""
    rows = texts(20, pairs=pairs)
    file = write_table(tmp_path / f"rows.{ending}", rows)
    code, output = tune("classify", "--train", file, "--epochs", "1")
    assert code == 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(output / "model")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(output / "model").eval()
    first, second = [row.text for row in rows], [row.text_pair for row in rows] if pairs else None
    with torch.inference_mode():
        expected = model(**tokenizer(first, second, padding=True, return_tensors="pt")).logits
    pipe = bothways.pipeline("text-classification", output / "model", device="cpu")
    found = pipe(first, text_pair=second, top_k=None, function_to_apply="none")
    for answer, logits in zip(found, expected):
        said = {one["label"]: one["score"] for one in answer}
        for number, name in model.config.id2label.items():
            assert said[name] == pytest.approx(float(logits[number]), abs=1e-4)


def test_numbers_and_several_labels_are_learnt_from_json_lines(tune: Any, tmp_path: Path) -> None:
    for name, rows, problem in (
        ("several", several(24), "multi_label_classification"),
        ("scores", scores(24), "regression"),
    ):
        code, output = tune("classify", "--train", write_table(tmp_path / f"{name}.jsonl", rows), "--epochs", "1")
        assert code == 0
        assert json.loads((output / "model" / "config.json").read_text())["problem_type"] == problem


def test_rows_are_kept_apart_where_none_are_given(
    tune: Any, files: dict[str, tuple[Path, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    code, output = tune("classify", "--train", files["classify"][0], "--held-out", "0.2", "--epochs", "1")
    assert code == 0
    captured = capsys.readouterr()
    assert "6 rows are kept apart to evaluate on" in captured.err
    assert "text 'text', label 'label'" in captured.err  # what was guessed
    assert captured.out.split("\n")[1].split() == ["value", "metric"]
    assert f"{output / 'model'}: 3 steps" in captured.out


def test_several_seeds_give_a_mean_and_a_spread(tune: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Of one run each; and what is said is said again where nothing is left to do."""
    flags = ["--seeds", "2", "--seed", "5", "--epochs", "1"]
    assert tune("classify", *flags)[0] == 0
    assert "±" in capsys.readouterr().out
    code, output = tune("classify", *flags, "--json")
    assert code == 0
    told = json.loads(capsys.readouterr().out)
    assert [Path(one["folder"]).name for one in told["runs"]] == ["seed-5", "seed-6"]
    values = [one["metrics"]["accuracy"] for one in told["runs"]]
    assert told["metrics"]["accuracy"] == pytest.approx(sum(values) / 2)
    assert told["spreads"]["accuracy"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    weights = [(output / f"seed-{seed}" / "model" / "model.safetensors").read_bytes() for seed in (5, 6)]
    assert weights[0] != weights[1]
    assert tune("classify", *flags, "--json", "--resume", output=output)[0] == 0
    again = json.loads(capsys.readouterr().out)
    assert again["metrics"] == told["metrics"]


def test_a_file_of_keys_is_heeded_and_flags_win(
    encoder: Path, files: dict[str, tuple[Path, Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.toml"
    train, held = files["classify"]
    config.write_text(
        f'model = "{encoder}"\ntrain = "{train}"\neval = "{held}"\noutput = "{tmp_path / "run"}"\n'
        'precision = "fp32"\n[steps]\nepochs = 9\nbatch-size = 8\nmax_train_samples = 11\n'
    )
    assert run("finetune", "classify", "--config", config, "--epochs", "1", "--json") == 0
    (one,) = json.loads(capsys.readouterr().out)["runs"]
    assert one["steps"] == 2  # 11 rows in steps of 8
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert settings["rows"]["epochs"] == 1


def test_evaluating_on_the_rows_that_are_learnt_from_is_told(
    tune: Any, files: dict[str, tuple[Path, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    train, _ = files["classify"]
    code, _ = tune("classify", "--train", train, "--eval", train, "--epochs", "0.2")
    assert code == 0
    assert f"warning: {train}: evaluated on the rows that are learnt from" in capsys.readouterr().err


def test_misplaced_answers_are_passed_over_where_that_is_asked_for(
    tune: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_squad(tmp_path / "rows.json", asked(12))
    said = json.loads(file.read_text())
    said["data"][0]["paragraphs"][3]["qas"][0]["answers"][0]["answer_start"] += 1
    file.write_text(json.dumps(said))
    code, _ = tune("answer", "--train", file, "--skip-misplaced", "--epochs", "0.5")
    assert code == 0
    assert "1 answers are not where they are said to be, and were passed over" in capsys.readouterr().err


# Stopped and resumed


# The task, and how it is learnt.
WAYS: dict[str, tuple[str, list[str]]] = {
    "as usual": ("classify", []),
    "an average": ("tag", ["--ema", "0.5"]),
    "many parts": ("answer", ["--batch-tokens", "20"]),
    "dropout": ("choose", ["--dropout", "0.2", "--save-every", "3"]),
    "a frozen encoder": ("classify", ["--layers", "0", "--dropout", "0.1"]),
    "low ranks": ("tag", ["--lora-rank", "2", "--lora-dropout", "0.1"]),
    "another optimizer": ("answer", ["--optimizer", "muon", "--layer-decay", "0.9", "--layers", "1"]),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_is_interrupted_and_resumed_is_as_if_it_had_not_been(
    way: str, tune: Any, stop_at: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """By Ctrl-C in the middle of an epoch, and at the end of one."""
    kind, flags = WAYS[way][0], ["--epochs", "2", *WAYS[way][1]]
    code, whole = tune(kind, *flags)
    assert code == 0
    stop_at(3, signal.SIGINT)
    code, output = tune(kind, *flags)
    assert code == 130
    assert "stopped and saved after step 3; go on with --resume" in capsys.readouterr().err
    assert not (output / "model").exists()
    stop_at(4, signal.SIGTERM)
    assert tune(kind, *flags, "--resume", output=output)[0] == 130
    stop_at(0)
    assert tune(kind, *flags, "--resume", output=output)[0] == 0
    same(output, whole)
    before = (output / "metrics.jsonl").read_bytes()
    shutil.rmtree(output / "best")
    assert tune(kind, *flags, "--resume", output=output)[0] == 0  # there is nothing left to do but that
    assert (output / "metrics.jsonl").read_bytes() == before
    same(output, whole)


KILLED = """
import os, signal, sys
from bothways.train.report import MetricsLog
add = MetricsLog.add
def adding(self, event):
    add(self, event)
    if event.kind == "step" and event.progress.step == 6:
        os.kill(os.getpid(), signal.SIGKILL)
MetricsLog.add = adding
from bothways.cli.main import main
main(sys.argv[1:])
"""


def test_a_run_that_is_killed_goes_on_from_its_checkpoint(
    tune: Any, encoder: Path, files: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    flags = ["--epochs", "2", "--save-every", "3", "--ema", "0.9"]
    code, whole = tune("tag", *flags)
    assert code == 0
    train, held = files["tag"]
    command = ["finetune", "tag", "--model", encoder, "--train", train, "--eval", held, "--output", tmp_path / "killed"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *command, *sum(SHORT.items(), ()), *flags], env=environment, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert tune("tag", *flags, "--resume", output=tmp_path / "killed")[0] == 0
    same(tmp_path / "killed", whole)


def test_a_run_that_gets_no_better_ends_and_stays_ended(tune: Any, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--epochs", "50", "--lr", "0", "--patience", "2", "--json"]
    code, output = tune("classify", *flags)
    assert code == 0
    told = json.loads(capsys.readouterr().out)
    assert told["runs"][0]["steps"] == 12  # the first of three evaluations was the best
    assert tune("classify", *flags, "--resume", output=output)[0] == 0
    again = json.loads(capsys.readouterr().out)
    assert again["runs"][0]["steps"] == 12
    assert again["metrics"] == told["metrics"]


def test_a_run_is_not_resumed_with_other_rows_or_settings(
    tune: Any, stop_at: Callable[..., None], files: dict[str, tuple[Path, Path]], tmp_path: Path, refused: Any
) -> None:
    stop_at(2)
    code, output = tune("classify", "--epochs", "1")
    assert code == 130
    stop_at(0)
    train, held = files["classify"]
    lines = train.read_text().splitlines()
    fewer = write_lines(tmp_path / "fewer.csv", lines[:-1])
    other = write_lines(tmp_path / "other.csv", [*held.read_text().splitlines()[:-1], "a red cat,animal"])
    assert "has other settings: lr was 0.001, now 0.002" in refused(
        lambda: tune("classify", "--epochs", "1", "--lr", "2e-3", "--resume", output=output)
    )
    for some in ((fewer, held), (train, other)):
        rows = ["--train", some[0], "--eval", some[1]]
        assert "its rows were others than these" in refused(
            lambda rows=rows: tune("classify", *rows, "--epochs", "1", "--resume", output=output)
        )
    assert "holds a run already; say --resume" in refused(lambda: tune("classify", "--epochs", "1", output=output))
    moved = Path(shutil.copy(train, tmp_path / "moved.csv"))  # the same rows, wherever they are
    rows = ["--train", moved, "--eval", held]
    assert tune("classify", *rows, "--epochs", "1", "--resume", output=output)[0] == 0


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[[Callable[[], tuple[int, Path]]], str]:
    """(run) → the line that it ends with, where it exits with 2 and prints no result."""

    def failing(tuned: Callable[[], tuple[int, Path]]) -> str:
        capsys.readouterr()
        code, _ = tuned()
        captured = capsys.readouterr()
        assert code == 2
        assert captured.out == ""
        lines: list[str] = captured.err.splitlines()
        assert all(line.startswith("bothways: ") for line in lines), lines
        return lines[-1]

    return failing


def test_whole_numbers_are_scores_where_it_is_said(
    tmp_path: Path, save_bert: Callable[..., Path], unmeasured: None
) -> None:
    rows = tmp_path / "rows.tsv"
    rows.write_text(
        "text\tlabel\n"
        + "".join(f"the cat {word}\t{i % 4}\n" for i, word in enumerate(["sat", "ran", "is", "was"] * 5))
    )
    model = save_bert()
    said = ("--model", model, "--train", rows, "--epochs", "1", "--log-every", "1")
    assert run("finetune", "classify", *said, "--kind", "regression", "--output", tmp_path / "run") == 0
    config = json.loads((tmp_path / "run/model/config.json").read_text())
    assert (config["problem_type"], len(config["id2label"])) == ("regression", 1)
    assert run("finetune", "choose", *said, "--kind", "regression", "--output", tmp_path / "other") == 2


def test_a_label_that_is_only_among_rows_kept_apart_is_a_label(tune: Any, tmp_path: Path, capsys: Any) -> None:
    """As a rare tag may be, or any label of few rows that are picked."""
    lines = [f"a cat {number},{'ab'[number % 2]}" for number in range(30)] + ["a dog,rare"]
    file = write_lines(tmp_path / "rows.csv", ["text,label", *lines])
    for flags in (["--max-train-samples", "4"], []):
        code, _ = tune("classify", "--train", file, "--epochs", "1", "--held-out", "0.5", "--json", *flags)
        assert code == 0
        assert json.loads(capsys.readouterr().out)["labels"] == ["a", "b", "rare"]
    tagged = [json.dumps({"text": line.split(",")[0], "labels": ["x"]}) for line in lines]
    several = write_lines(
        tmp_path / "several.jsonl",
        [*tagged[:5], *(line.replace('"x"', f'"l{i}"') for i, line in enumerate(tagged[5:]))],
    )
    code, _ = tune("classify", "--train", several, "--label", "labels", "--epochs", "1", "--held-out", "0.5", "--json")
    assert code == 0


def test_labels_are_numbered_as_a_file_names_them(tune: Any, tmp_path: Path) -> None:
    """Also those that no row has."""
    file = write_lines(tmp_path / "rows.csv", ["text,label", *(f"a cat {i},{(2, 0)[i % 2]}" for i in range(12))])
    names = write_lines(tmp_path / "names.txt", ["zebra", "ant", "cat"])
    code, output = tune("classify", "--train", file, "--label-names", names, "--epochs", "1")
    assert code == 0
    config = json.loads((output / "model" / "config.json").read_text())
    assert config["id2label"] == {"0": "zebra", "1": "ant", "2": "cat"}


def test_a_sample_keeps_as_few_rows_apart(tune: Any, tmp_path: Path, capsys: Any) -> None:
    lines = [f"a cat {number},{'ab'[number % 2]}" for number in range(200)]
    file = write_lines(tmp_path / "rows.csv", ["text,label", *lines])
    code, _ = tune("classify", "--train", file, "--max-train-samples", "30", "--epochs", "1")
    assert code == 0
    assert "3 rows are kept apart" in capsys.readouterr().err
