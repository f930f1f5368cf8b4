"""What a user does who has several runs and wants to know which is the best."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prompt import fails_with_one_line, run
from rich.cells import cell_len


def write_run(folder: Path, *objectives: str, best: float = 3.0, rate: float = 0.15) -> Path:
    """A run that got worse in its last 10 of 40 steps, of 50 that were planned."""
    rows: list[dict[str, Any]] = []
    for step in range(10, 50, 10):
        losses = {name: best + abs(step - 30) / 10 for name in objectives}
        means = losses | {"accuracy": 1 / sum(losses.values())}
        rows.append({"step": step, "tokens": step * 100, "loss": sum(losses.values()), "lr": 0.1, **means})
        rows.append({"step": step, "tokens": step * 100, "held_out": means | {"perplexity": math.exp(5 * best)}})
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "model": {"preset": None, "start": "somewhere/bert-base-uncased"},
        "objective": {"objectives": objectives},
        "step": {"steps": 50},
        "masking": {"rate": rate},
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    first, second = write_run(tmp_path / "a" / "run", "mlm"), write_run(tmp_path / "b" / "run", "mlm", "nsp", best=2.0)
    return [first, second, write_run(tmp_path / "a-run-with-a-name-of-more-than-thirty-letters", "causal")]


def test_runs_stand_side_by_side_in_80_columns(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run("compare", *runs) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert max(map(cell_len, lines)) <= 80
    assert "mlm,nsp     from bert-base-u…       –     40   4,000  b/run" in captured.out
    values = [line.split() for line in lines if "/run" in line]
    assert ["mlm", "4.0000", "3.0000", "30", "a/run"] in values
    assert ["nsp", "3.0000", "2.0000", "30", "b/run"] in values
    assert any(one[0] == "mlm_accuracy" for one in values)
    assert any("causal_accuracy" in line for line in lines)
    assert captured.err.splitlines()[0] == "bothways: a/run: 40 of 50 steps so far"
    assert not list(tmp_path.glob("*.png"))


def test_machines_get_everything(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    other = write_run(runs[0].with_name("other"), "mlm", rate=0.4)
    assert run("compare", *runs, other, "--json") == 0
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert [one["run"] for one in told["runs"]] == ["a/run", "b/run", runs[2].name, "other"]
    assert told["differ"] == {"rate": [0.15, 0.4], "sequences": ["single", "pairs"]}
    assert "rate 0.15, 0.4" in captured.err
    mlm = told["runs"][0]["held_out"]["mlm"]
    assert mlm == {
        **{"last": 4.0, "best": 3.0, "best_step": 30},
        **{"steps": [10, 20, 30, 40], "tokens": [1000, 2000, 3000, 4000], "values": [5.0, 4.0, 3.0, 4.0]},
    }


def test_their_curves_are_one_picture(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "curves.png"
    assert run("compare", *runs, "--output", picture, "--by", "tokens") == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().err.splitlines()[-1] == f"{picture}: mlm, nsp, causal, mlm_accuracy"
    monkeypatch.setattr("bothways.pictures.find_spec", lambda name: None)
    assert run("compare", *runs, "--output", tmp_path / "none.png") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert 'pip install "bothways[plot]"' in captured.err.splitlines()[-1]
    assert not (tmp_path / "none.png").exists()


def test_what_cannot_be_compared_is_one_line(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: str | Path) -> str:
        return fails_with_one_line(capsys, "compare", *arguments)

    assert "name the folders of the runs" in said()
    assert f"{tmp_path / 'metrics.jsonl'}: no such file" in said(runs[0], tmp_path)
    assert "given twice" in said(runs[0], runs[1], runs[0] / ".." / "run")
    assert "end the name in .png" in said(runs[0], "--output", tmp_path / "curves.jpg")
    assert "there is no folder" in said(runs[0], "--output", tmp_path / "nowhere" / "curves.png")
    assert "--by" in said(runs[0], "--by", "hour")
    (runs[1] / "metrics.jsonl").write_text("")
    assert f"{runs[1] / 'metrics.jsonl'}: no step is logged yet" in said(*runs)
    (runs[1] / "metrics.jsonl").write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    assert "line 2 is not JSON" in said(*runs)


def test_runs_are_looked_at_without_torch(runs: list[Path]) -> None:
    code = "import sys; from bothways.cli.main import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, "compare", *runs], check=True, capture_output=True)
