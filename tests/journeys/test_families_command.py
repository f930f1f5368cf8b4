"""`bothways families`: the table of sizes, and how fast they run on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bothways.cli.main import main
from bothways.engine import measure
from bothways.families.presets import PRESETS


def run(*arguments: str) -> int:
    """The exit code of the command in this process."""
    try:
        main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_every_preset_has_a_row_that_fits_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("families") == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines if line.split()} >= set(PRESETS)
    assert max(map(len, lines)) <= 80
    (base,) = (line.split() for line in lines if line.split()[:1] == ["bert-base"])
    assert base == ["bert-base", "bert", "12", "12", "768", "30,522", "512", "109.5", "M"]
    marked = {line.split()[0] for line in lines if "* " in line and line.split()[0] in PRESETS}
    assert marked == {name for name, preset in PRESETS.items() if preset.ours}


def test_json_has_the_bare_numbers_of_the_presets_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("families", "albert-base", "modernbert-base", "--json") == 0
    albert, modern = json.loads(capsys.readouterr().out)
    assert albert["parameters"] == 11_683_584
    assert (modern["preset"], modern["family"], modern["positions"]) == ("modernbert-base", "modernbert", 8192)
    assert modern["released"]
    assert run("families", "gpt2-tiny", "--json") == 0
    assert not json.loads(capsys.readouterr().out)[0]["released"]


def test_measuring_adds_speeds_and_peak_memory_and_imports_nothing_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "random.py").write_text(f"import os; os.mkdir({str(tmp_path / 'boom')!r})")
    monkeypatch.chdir(tmp_path)
    assert run("families", "bert-tiny", "--measure", "--seconds", "0.0001", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert tuple(row["tokens_per_second"]) == measure.precisions()
    assert all(speed > 0 for speed in row["tokens_per_second"].values())
    assert row["peak_bytes"] > 4 * row["parameters"]
    assert not (tmp_path / "boom").exists()


def test_the_table_of_speeds_fits_the_terminal_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    speed = measure.Speed({"fp32": 123456.7, "bf16": 234567.8}, 12_345_678_901)
    monkeypatch.setattr(measure, "measure_apart", lambda name, seconds: speed)
    assert run("families", "--measure") == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("123,457" in line and "234,568" in line and "12,346" in line for line in lines) == len(PRESETS)


def test_what_does_not_fit_into_memory_is_left_out_with_a_note(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "free_bytes", lambda: 10**9)
    assert run("families", "deberta-v2-xlarge", "bert-tiny", "--measure", "--seconds", "0.0001") == 0
    captured = capsys.readouterr()
    assert "–" in captured.out
    assert captured.err == (
        "bothways: measuring deberta-v2-xlarge (1 of 2) …\nbothways: measuring bert-tiny (2 of 2) …\n"
        "bothways: left out: deberta-v2-xlarge needs 7.7 GB of memory, of which 1.0 are free\n"
    )


@pytest.mark.parametrize("json", [[], ["--json"]])
def test_nothing_measured_is_a_failure(
    json: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "free_bytes", lambda: 10**8)
    assert run("families", "bert-tiny", "bert-base", "--measure", *json) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "bothways: nothing could be measured: bert-tiny needs 0.6 GB" in captured.err


def test_a_preset_named_twice_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("families", "bert-tiny", "bert-base", "bert-tiny", "--json") == 0
    assert [row["preset"] for row in json.loads(capsys.readouterr().out)] == ["bert-tiny", "bert-base"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bert-huge"], "unknown preset 'bert-huge'; known: bert-tiny"),
        (["--measure", "--seconds", "0"], "--seconds"),
        (["--measure", "--seconds", "nan"], "--seconds"),
        (["--measure", "--seconds", "inf"], "--seconds"),
    ],
)
def test_wrong_usage_gives_one_line_and_exit_code_2(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("families", *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("bothways: ")
    assert says in error
    assert error.count("\n") == 1
