"""What a user does who wants to see what pretraining asks of a text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from prompt import fails_with_one_line, run
from rich.cells import cell_len

from bothways import Encoder

TEXT = "The cat sat on the mat. A dog ran to the house. The house is 猫. The dog was unable."


@pytest.fixture(scope="module")
def paired(save_bert: Callable[..., Path]) -> Path:
    return save_bert(kind="BertForPreTraining", max_position_embeddings=64)


@pytest.mark.parametrize(
    ("objective", "flags", "says"),
    [
        (
            "mlm",
            ["--rate", "0.4", "--unit", "word", "--seed", "3"],
            ["tokens, ", "of them chosen", "mask", "Mean loss"],
        ),
        ("nsp", ["--pair", "A red dog. A blue house."], ["1 of 2", "the model says ", "A the cat sat on the mat."]),
        ("sop", [], ["1 of 1", "next"]),
        ("causal", [], ["followed by one that is asked for", "next"]),
    ],
)
def test_each_objective_is_shown_in_80_columns(
    objective: str,
    flags: list[str],
    says: list[str],
    paired: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run("inspect", paired, TEXT, "--objective", objective, *flags) == 0
    captured = capsys.readouterr()
    assert max(map(cell_len, captured.out.splitlines())) <= 80
    assert all(one in captured.out for one in says if objective != "sop")
    headless = objective == "causal"
    assert captured.err == (f"bothways: the model has no head for {objective}, so it answers nothing\n" * headless)
    assert ("p: the probability" in captured.out) == (objective == "mlm")


def test_a_long_text_is_cut_short_on_the_screen_but_not_for_machines(
    paired: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bothways.cli.lesson.MOST_ASKED", 3)
    monkeypatch.setattr("bothways.cli.lesson.MOST_WORDS", 5)
    monkeypatch.setattr("bothways.cli.lesson.MOST_PAIRS", 1)
    words = ["inspect", paired, "cat dog " * 12, "--objective", "mlm", "--rate", "0.6"]
    assert run(*words) == 0
    out = capsys.readouterr().out
    assert "The first 3 (--json has all)" in out
    assert " …\n" in out
    assert run(*words, "--json") == 0
    (one,) = json.loads(capsys.readouterr().out)["sequences"]
    assert len(one["tokens"]) == len(one["seen"]) == 26
    assert len(one["asked"]) > 3
    assert one["asked"][0].keys() == {"row", "answer", "how", "loss", "guess", "probability"}
    assert run("inspect", paired, TEXT, "--objective", "nsp", "--pair", TEXT) == 0
    assert "… and 1 more (--json has all)." in capsys.readouterr().out


def test_replaced_tokens_are_shown_with_what_is_said_of_them(
    save_family: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    sizes = {"max_position_embeddings": 64, "initializer_range": 0.5}
    folder = save_family("electra", kind="ForPreTraining", **sizes)
    words = ["inspect", folder, TEXT, "--objective", "rtd", "--rate", "0.4", "--seed", "3"]
    assert run(*words) == 0
    alone = capsys.readouterr()
    assert alone.err == "bothways: the model's folder has no generator/, so no token is replaced and none judged\n"
    assert "of them chosen" in alone.out
    Encoder.from_pretrained(save_family("electra", kind="ForMaskedLM", **sizes)).save_pretrained(folder / "generator")
    assert run(*words) == 0
    both = capsys.readouterr()
    assert both.err == ""
    assert max(map(cell_len, both.out.splitlines())) <= 80
    assert all(one in both.out for one in ("filled in by the generator", "p replaced", "(missed: ", "(found: "))
    assert run(*words, "--json") == 0
    (one,) = json.loads(capsys.readouterr().out)["sequences"]
    said = [(judged["replaced"], judged["probability"] > 0.5) for judged in one["judged"]]
    found, replaced, flagged = said.count((True, True)), *(sum(pair[i] for pair in said) for i in (0, 1))
    assert f"Precision {found / flagged:.4f} ({found} of {flagged}), recall {found / replaced:.4f}" in both.out
    rows = [line for line in both.out.splitlines() if line.split()[-2:-1] in (["replaced"], ["original"])]
    hidden = {asked["row"] for asked in one["asked"]}
    assert len(rows) == sum(row in hidden or flag for row, (_, flag) in enumerate(said))
    tagger = save_family("bert", **sizes)
    Encoder.from_pretrained(save_family("bert", kind="ForMaskedLM", **sizes)).save_pretrained(tagger / "generator")
    assert run("inspect", tagger, TEXT, "--objective", "rtd") == 0
    headless = capsys.readouterr()
    assert headless.err == "bothways: the model has no head for rtd, so it answers nothing\n"
    assert "(replaced: " in headless.out
    assert "Precision" not in headless.out


def test_flags_that_say_nothing_are_one_line(tiny_masked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*flags: str) -> str:
        return fails_with_one_line(capsys, "inspect", tiny_masked, TEXT, *flags)

    assert "--rate says nothing without --objective" in said("--rate", "0.2")
    assert "--seed says nothing without --objective" in said("--seed", "0")
    assert "--unit goes with --objective mlm or rtd, not sop" in said("--objective", "sop", "--unit", "word")
    assert "--language goes with --objective nsp or sop, not mlm" in said("--objective", "mlm", "--language", "de")
    assert "--layer says nothing with --objective" in said("--objective", "mlm", "--layer", "0")
    assert "a second text says nothing with --objective" in said("a dog", "--objective", "nsp")
    assert "did you mean causal?" in said("--objective", "casual")
    assert "rate must be a share" in said("--objective", "mlm", "--rate", "2")
    assert "--unit" in said("--objective", "mlm", "--unit", "letter")
