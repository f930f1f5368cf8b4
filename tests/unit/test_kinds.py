"""Keys and flags of a run take what they say they take, and nothing is rounded or guessed."""

from __future__ import annotations

from pathlib import Path

import pytest
from prompt import fails_with_one_line

from bothways.cli.settings import read_settings
from bothways.errors import BothwaysError, ConfigError
from bothways.train.settings import CorpusSettings, RunSettings, StepSettings

WRONG = {
    "steps = 3.5": "steps must be a whole number, got 3.5",
    "steps = true": "steps must be a whole number, got true",
    'steps = "3"': 'steps must be a whole number, got "3"',
    "keep = 1.5": "keep must be a whole number, got 1.5",
    "dropout = false": "dropout must be a number, got false",
    'lr = "fast"': 'lr must be a number, got "fast"',
    "checkpointing = 1": "checkpointing must be true or false, got 1",
    "corpus = 3": "corpus must be a text, got 3",
    "unit = 3": "unit must be a text, got 3",
    "preset = 1979-05-27": 'preset must be a text, got "1979-05-27"',
    'objectives = ["mlm", 1]': 'objectives must be a text or a list of texts, got ["mlm", 1]',
}


@pytest.mark.parametrize("line", WRONG)
def test_a_value_of_another_kind_is_said_with_its_key(line: str, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(f"[some.table]\n{line}\n")
    with pytest.raises(ConfigError) as caught:
        read_settings(path, [])
    assert str(caught.value) == f"{WRONG[line]} ({path})"


WRONG_FLAGS = {
    "--steps=3.5": "--steps must be a whole number, got '3.5'",
    "--steps=3.0": "--steps must be a whole number, got '3.0'",
    "--keep=1.5": "--keep must be a whole number, got '1.5'",
    "--seed=1e3": "--seed must be a whole number, got '1e3'",
    "--steps=": "--steps must be a whole number, got ''",
    "--lr=fast": "--lr must be a number, got 'fast'",
    "--dropout=much": "--dropout must be a number, got 'much'",
    "--checkpointing=perhaps": "--checkpointing must be true or false, got 'perhaps'",
}


@pytest.mark.parametrize("flag", WRONG_FLAGS)
def test_so_is_the_text_of_a_flag(flag: str, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("")
    with pytest.raises(BothwaysError) as caught:
        read_settings(path, [flag])
    assert str(caught.value) == WRONG_FLAGS[flag]


def test_what_is_right_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('lr = 1\nobjectives = ["mlm"]\nresume = true\nwarmup = 3\ncorpus = "some"\n')
    settings, where = read_settings(path, ["--warmup=none", "--checkpointing", "--steps", "1_000", "--spike", "2"])
    found = settings.adam.lr, settings.update.warmup, settings.step.steps, settings.update.spike
    assert found == (1.0, None, 1000, 2.0)
    assert (settings.update.checkpointing, where.resume, settings.corpus.corpus) == (True, True, Path("some"))


def test_other_commands_round_nothing_either(capsys: pytest.CaptureFixture[str]) -> None:
    said = fails_with_one_line(capsys, "embed", "model", "text", "--batch-tokens", "3.5")
    assert said == "bothways: --batch-tokens must be a whole number, got '3.5'\n"
    said = fails_with_one_line(capsys, "embed", "model", "text", "--json=perhaps")
    assert said == "bothways: --json must be true or false, got 'perhaps'\n"


@pytest.mark.parametrize("command", ["pretrain", "plan"])
def test_a_missing_file_of_settings_is_said_with_the_usage(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    usage = f"usage: bothways {command} CONFIG"
    said = fails_with_one_line(capsys, command, "--steps", "3")
    assert said.startswith(
        "bothways: CONFIG is missing: a TOML file or a recipe, before --steps and all other flags; " + usage
    )
    assert f"CONFIG is missing; {usage} " in fails_with_one_line(capsys, command)


@pytest.mark.parametrize(
    ("part", "key"),
    [
        *((CorpusSettings, key) for key in ("longest_start", "longest_warmup", "workers")),
        *((StepSettings, key) for key in ("step_tokens_start", "step_tokens_warmup")),
        (RunSettings, "seed"),
    ],
)
def test_what_may_be_0_says_so(part: type, key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} must be 0 or more.*, got -1"):
        part(**{key: -1})
