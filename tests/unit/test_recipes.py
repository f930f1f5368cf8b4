"""Recipes: each is a run that could begin, and says nothing twice."""

from __future__ import annotations

import json
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
from prompt import run

from bothways.cli.settings import read_settings
from bothways.errors import ConfigError
from bothways.families import FAMILIES
from bothways.families.presets import PRESETS
from bothways.objectives.choice import check_heads
from bothways.train.recipe import RECIPES, recipe

NAMES = [name for names in RECIPES.values() for name in names]


def test_the_files_and_the_table_are_the_same() -> None:
    found = {path.name.removesuffix(".toml"): path for path in (files("bothways.train") / "recipes").iterdir()}
    assert found.keys() == RECIPES.keys()
    for file, path in found.items():
        tables = {key: value for key, value in tomllib.loads(path.read_text()).items() if isinstance(value, dict)}
        assert tuple(tables) == RECIPES[file]


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_settings_that_go_together(name: str) -> None:
    settings, _ = read_settings(Path(name), [])
    preset = PRESETS[settings.model.preset or ""]
    check_heads(settings.objective.objectives, FAMILIES[preset.family])
    assert settings.corpus.longest <= preset.config.longest
    assert settings.step.batch_tokens >= settings.corpus.longest
    keys = tomllib.loads(recipe(name))  # which fails on a key that is given twice
    assert not any(isinstance(value, dict) for value in keys.values())


@pytest.mark.parametrize("family", [family for family in RECIPES if family != "bothways"])
def test_families_have_recipes_from_tiny_to_large(family: str) -> None:
    found = {tomllib.loads(recipe(name))["preset"] for name in RECIPES[family]}
    assert {f"{family}-tiny", f"{family}-mini", f"{family}-large"} <= found
    released = {name for name, one in PRESETS.items() if name.startswith(family) and not one.ours}
    assert found >= released


# (learning rate, tokens a step, steps, tokens until the rate is highest; weight decay times the highest rate, beta2,
# the longest gradient, the share that is predicted) as the papers, and what was released with them, have them.
PAPERS = {
    "bert-base": (1e-4, 131_072, 1_000_000, 1.31e9, 1e-6, 0.999, 1.0, 0.15),
    "roberta-large": (4e-4, 4_194_304, 500_000, 126e9, 4e-6, 0.98, 0.0, 0.15),
    "electra-base": (2e-4, 131_072, 766_000, 1.31e9, 2e-6, 0.999, 1.0, 0.15),
    "electra-large": (2e-4, 1_048_576, 400_000, 10.5e9, 2e-6, 0.999, 1.0, 0.25),
    "deberta-v3-base": (6e-4, 4_194_304, 500_000, 42e9, 6e-6, 0.98, 1.0, 0.15),
    "modernbert-base": (8e-4, 4_718_592, 368_000, 3e9, 1e-5, 0.98, 0.0, 0.3),
    "modernbert-large": (5e-4, 5_046_272, 180_000, 2e9, 1e-5, 0.98, 0.0, 0.3),
}


@pytest.mark.parametrize("name", PAPERS)
def test_a_recipe_is_that_of_its_paper(name: str) -> None:
    settings, _ = read_settings(Path(name), [])
    lr, tokens, steps, rising, decay, beta2, clip, rate = PAPERS[name]
    step, adam = settings.step, settings.adam
    assert (adam.lr, step.step_tokens, step.steps) == (lr, tokens, steps)
    assert adam.lr * adam.weight_decay == pytest.approx(decay)
    assert (adam.beta2, settings.update.clip, settings.masking.rate) == (beta2, clip, rate)
    risen = sum(step.batches(number) for number in range(settings.update.rising(step.steps))) * step.batch
    assert risen == pytest.approx(rising, rel=0.05)


def test_a_folder_with_a_recipe_s_name_is_in_nobody_s_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bert-tiny").mkdir()
    Path("runs").mkdir()
    assert read_settings(Path("bert-tiny"), [])[0].model.preset == "bert-tiny"
    with pytest.raises(ConfigError, match="runs: cannot be read: Is a directory"):
        read_settings(Path("runs"), [])


def test_a_generator_beyond_all_measure_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"generator_width must be at most 1024 times the encoder's, got 1e\+308"):
        read_settings(Path("electra-tiny"), ["--generator-width", "1e308"])


def test_a_recipe_printed_to_a_file_is_the_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("recipes", "bert-base") == 0
    (tmp_path / "own.toml").write_text(capsys.readouterr().out)
    assert read_settings(tmp_path / "own.toml", [])[0] == read_settings(Path("bert-base"), [])[0]
    assert read_settings(Path("bert-base"), ["--lr", "3e-4"])[0].adam.lr == 3e-4
    assert run("recipes", "bert-base", "--json") == 0
    assert json.loads(capsys.readouterr().out)["step_tokens"] == 131_072


def test_a_recipe_has_other_objectives_or_another_beginning_if_flags_say_so() -> None:
    settings, _ = read_settings(Path("electra-tiny"), ["--objectives", "mlm"])
    assert settings.objective.objectives == ("mlm",)
    assert settings.masking == read_settings(Path("electra-tiny"), [])[0].masking
    causal, _ = read_settings(Path("bert-tiny"), ["--objectives=causal", "--preset", "gpt2-tiny"])
    assert causal.objective.objectives == ("causal",)
    further, _ = read_settings(Path("bert-tiny"), ["--start", "some/model"])
    assert (further.model.preset, further.model.start) == (None, "some/model")
    with pytest.raises(ConfigError, match="sharing says something only with rtd, and objectives is mlm; leave it out"):
        read_settings(Path("electra-tiny"), ["--objectives", "mlm", "--sharing", "tied"])


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("recipes") == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(any(line.startswith(f"{name} ") for name in NAMES) for line in lines) == len(NAMES)
    assert max(map(len, lines)) <= 80
    assert run("recipes", "--json") == 0
    assert [row["recipe"] for row in json.loads(capsys.readouterr().out)] == NAMES


def test_a_name_that_is_neither_file_nor_recipe_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"bert-bas: no such file, and recipe 'bert-bas' is not known.*bert-base"):
        read_settings(Path("bert-bas"), [])
    (tmp_path / "bad.toml").write_text("steps = \n")
    with pytest.raises(ConfigError, match=r"bad\.toml: not TOML: .*line 1"):
        read_settings(tmp_path / "bad.toml", [])
    (tmp_path / "twice.toml").write_text("steps = 1\n[step]\nsteps = 2\n")
    with pytest.raises(ConfigError, match=r"twice\.toml: steps is given twice"):
        read_settings(tmp_path / "twice.toml", [])
