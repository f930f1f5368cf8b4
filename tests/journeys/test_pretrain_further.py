"""What a user does who trains an encoder that is there already, or wants to see more of a run."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import warnings
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from prompt import run

from bothways.checkpoint.encoder import Encoder
from bothways.data.corpus import sha256
from bothways.errors import ConfigError, FreshWeightsWarning, UnusedWeightsWarning
from bothways.families.presets import PRESETS, Preset
from bothways.train import compiling

pytestmark = pytest.mark.usefixtures("at_once")


@pytest.fixture(scope="session")
def bare(config: Path) -> Path:
    """The settings, without a preset."""
    path = config.with_name("bare.toml")
    path.write_text(config.read_text().replace('preset = "bert-tiny"\n', "steps = 6\n"))
    return path


@pytest.fixture(scope="session")
def first(config: Path) -> Path:
    """A finished run's model."""
    output = config.parent / "first"
    assert run("pretrain", config, "--output", output, "--steps", "4") == 0
    return output / "model"


def losses(output: Path) -> list[float]:
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def test_a_finished_run_goes_on_in_another(first: Path, bare: Path, tmp_path: Path) -> None:
    """Its first loss is near where the other run ended, since its weights and its head are those of that run."""
    assert run("pretrain", bare, "--start", first, "--output", tmp_path, "--lr", "0", "--dropout", "0") == 0
    before, after = Encoder.from_pretrained(first), Encoder.from_pretrained(tmp_path / "model")
    for name, weight in before.network.named_parameters():
        assert weight.equal(after.network.get_parameter(name)), name
    for name, weight in before.heads["mlm"].named_parameters():
        assert weight.equal(after.heads["mlm"].get_parameter(name)), name
    assert before.config.dropout == 0.1
    assert after.config == replace(before.config, dropout=0.0, attention_dropout=0.0)
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"# {first.name}, pretrained further" in card
    assert str(first.parent) not in card
    assert f"| start | {first.name} |" in card


def test_resumed_it_is_the_same_and_needs_no_start_any_more(
    first: Path, bare: Path, tmp_path: Path, stop_at: Callable[[int], None]
) -> None:
    start = Path(shutil.copytree(first, tmp_path / "start"))
    command = ["pretrain", bare, "--start", start, "--dropout", "0.2"]
    assert run(*command, "--output", tmp_path / "whole") == 0
    stop_at(2)
    assert run(*command, "--output", tmp_path / "run") == 130
    shutil.rmtree(start)
    stop_at(5)
    assert run(*command, "--output", tmp_path / "run", "--resume") == 130
    assert run(*command, "--output", tmp_path / "run", "--resume") == 0
    for name in ("metrics.jsonl", "model/model.safetensors", "model/config.json", "model/tokenizer.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_an_encoder_without_the_head_gets_a_fresh_one(
    first: Path, bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = Encoder.from_pretrained(first)
    replace(encoder, heads={}, tokenizer=None).save_pretrained(tmp_path / "bare")
    command = ["pretrain", bare, "--start", tmp_path / "bare", "--output"]
    with warnings.catch_warnings():
        warnings.simplefilter("always", FreshWeightsWarning)
        assert run(*command, tmp_path / "one") == run(*command, tmp_path / "two") == 0
    assert f"warning: {tmp_path / 'bare'}: has no head mlm: fresh weights\n" in capsys.readouterr().err
    assert losses(tmp_path / "one") == losses(tmp_path / "two")
    found = Encoder.from_pretrained(tmp_path / "one" / "model")
    assert list(found.heads) == ["mlm"]
    assert found.unused == ()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FreshWeightsWarning)
        assert run("plan", bare, "--start", tmp_path / "bare", "--json") == 0
    plan = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert plan["parameters"] == sum(p.numel() for p in {*found.network.parameters(), *found.heads["mlm"].parameters()})
    assert plan["warmup"] == 2


def test_other_heads_stay_behind_with_a_warning(
    bare: Path, tmp_path: Path, save_bert: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_bert(kind="BertForTokenClassification", tokenizer=False, vocab_size=700)
    with warnings.catch_warnings():
        warnings.simplefilter("always", UnusedWeightsWarning)
        warnings.simplefilter("always", FreshWeightsWarning)
        assert run("pretrain", bare, "--start", folder, "--longest", "24", "--output", tmp_path) == 0
    assert capsys.readouterr().err.startswith(
        f"bothways: warning: {folder}: trained without head tag\n"
        f"bothways: warning: {folder}: has no head mlm: fresh weights\n"
    )
    assert list(Encoder.from_pretrained(tmp_path / "model").heads) == ["mlm"]


def test_an_encoder_that_does_not_go_with_the_corpus_is_one_line(
    first: Path, bare: Path, config: Path, tmp_path: Path, fails: Callable[..., str], save_bert: Callable[..., Path]
) -> None:
    other = Path(shutil.copytree(first, tmp_path / "other"))
    path = other / "tokenizer.json"
    text = path.read_text()
    path.write_text(text.replace('"the":', '"eht":'))
    said = fails("--start", other, config=bare)
    assert f"{other}: its vocabulary is another one: 'eht' has the id" in said
    assert "None in the corpus" in said
    small = save_bert(kind="BertForMaskedLM", tokenizer=False, vocab_size=400)
    assert "has 400 rows, the corpus's tokenizer 700 entries" in fails("--start", small, config=bare)
    assert "/nowhere: no such folder" in fails("--start", "/nowhere", config=bare)
    assert "start must be a folder" in fails("--start", "", config=bare)
    assert "longest 600 is more than the 512 tokens" in fails(
        "--start", first, "--longest", "600", "--batch-tokens", "600", "--step-tokens", "600", config=bare
    )
    said = fails("--start", first)
    assert f"preset 'bert-tiny' and start '{first}' are both given" in said
    assert not (tmp_path / "run").exists()


def test_a_card_says_who_loads_what(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(PRESETS["deberta-v3-xsmall"].config, depth=2, width=32, heads=2, ffn=48)
    monkeypatch.setitem(PRESETS, "small", Preset("deberta-v2", small))
    for preset in ("small", "bert-tiny"):
        command = ["pretrain", config, "--preset", preset, "--steps", "2", "--seed", "7"]
        assert run(*command, "--output", tmp_path / preset) == 0
        card = (tmp_path / preset / "model" / "README.md").read_text()
        assert ("Only bothways predicts words with it." in card) == (preset == "small")
        assert ('`AutoModelForMaskedLM.from_pretrained("FOLDER")`' in card) == (preset == "bert-tiny")
        for said in (
            "| seed | 7 |",
            "| torch | ",
            "| bothways | ",
            "| held_out split | 1",
            "best held-out loss",
            "| built with tokenizer | ",
        ):
            assert said in card, said
        speed = card.partition("## Speed")[2]
        assert "| tokens a second |" in speed
        assert "%" in speed


def test_a_disk_that_is_too_full_is_said_before_anything_is_done(
    tmp_path: Path, fails: Callable[..., str], config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")

    def free(bytes: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1 << 40, 0, bytes))

    free(1_000_000)
    said = fails("--steps", "2", "--output", tmp_path / "deep" / "run")
    assert "the disk has 1 MB free, but 4 checkpoints of 7 MB take 27 MB" in said
    assert not (tmp_path / "deep").exists()
    assert "4 checkpoints of 9 MB take 36 MB" in fails("--steps", "2", "--ema", "0.9")
    assert "4 checkpoints of 5 MB take 21 MB" in fails("--steps", "2", "--optimizer", "muon")
    free(21_000_000)
    fails("--steps", "2")
    assert run("pretrain", config, "--steps", "2", "--keep", "1", "--output", tmp_path / "run") == 0
    free(14_000_000)  # there are checkpoints already
    resumed = ["pretrain", config, "--steps", "2", "--keep", "1", "--output", tmp_path / "run", "--resume"]
    assert run(*resumed) == 0


def written(corpus: Path, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    folder = Path(shutil.copytree(corpus, tmp_path / "damaged"))
    return folder, json.loads((folder / "corpus.json").read_text())


def test_damaged_shards_are_named(corpus: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    folder, index = written(corpus, tmp_path)
    path = folder / "train-00000.tokens"
    tokens = np.fromfile(path, "<u2")
    tokens[7] ^= 1
    tokens.tofile(path)
    flags = ["--steps", "2", "--corpus", folder]
    assert "train-00000.tokens: damaged: its checksum is not that of the index" in fails(*flags)
    tokens[7] = 700
    tokens.tofile(path)
    index["splits"]["train"][0]["sha256"]["tokens"] = sha256(path)
    (folder / "corpus.json").write_text(json.dumps(index))
    said = fails(*flags)
    assert "train-00000.tokens: has the id 700, but the tokenizer has 700 entries; build the corpus again" in said
    path.write_bytes(path.read_bytes()[:-2])
    assert "bytes where the index says" in fails(*flags)
    path.unlink()
    assert "train-00000.tokens: no such file, though the index names it" in fails(*flags)
    assert not (tmp_path / "run").exists()


def test_a_run_without_warmup_said_may_be_as_short_as_one_likes(config: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.toml"
    path.write_text(config.read_text().replace("warmup = 2\n", ""))
    assert run("pretrain", path, "--steps", "3", "--output", tmp_path / "run") == 0
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert row["lr"] == pytest.approx(1e-3)


class Writer:
    """Stands in for TensorBoard's."""

    made: list[Writer]

    def __init__(self, folder: str, purge_step: int | None = None) -> None:
        self.folder, self.purge_step, self.points = Path(folder), purge_step, dict[str, dict[int, float]]()
        self.closed = False
        Writer.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.points.setdefault(name, {})[step] = value

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def board() -> list[Writer]:
    Writer.made = []
    return Writer.made


def test_tensorboard_gets_what_the_log_has_and_the_speed(
    config: Path, tmp_path: Path, board: list[Writer], monkeypatch: pytest.MonkeyPatch, stop_at: Callable[[int], None]
) -> None:
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    command = ["pretrain", config, "--steps", "5", "--tensorboard", "--output", tmp_path]
    stop_at(2)
    assert run(*command) == 130
    assert run(*command, "--resume") == 0
    before, after = board
    assert (before.folder, before.purge_step, after.purge_step) == (tmp_path / "tensorboard", 1, 3)
    assert before.closed
    assert after.closed
    assert list(before.points["training/loss"]) == [1, 2]
    assert [*before.points["training/loss"].values(), *after.points["training/loss"].values()] == losses(tmp_path)
    names = {"training/accuracy", "training/learning rate", "training/gradient", "training/mlm", "held out/mlm"}
    assert {*names, "held out/accuracy", "speed/tokens a second"} <= after.points.keys()
    assert list(after.points["held out/mlm"]) == [4, 5]
    assert all(value > 0 for value in after.points["speed/tokens a second"].values())


def test_without_tensorboard_nothing_is_begun(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fails: Callable[..., str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, package=None: None if name == "tensorboard" else find(name, package)
    )
    said = fails("--steps", "2", "--tensorboard")
    assert 'tensorboard = true needs TensorBoard: pip install "bothways[tensorboard]"' in said
    assert not (tmp_path / "run").exists()


def test_tensorboard_reads_each_step_once(config: Path, tmp_path: Path, stop_at: Callable[[int], None]) -> None:
    from tensorboard.backend.event_processing import event_accumulator

    command = ["pretrain", config, "--steps", "5", "--tensorboard", "--save-every", "2", "--keep", "3"]
    command += ["--output", tmp_path]
    assert run(*command) == 0
    for gone in ("checkpoints/step-00000005", "checkpoints/step-00000004", "model", "best"):
        shutil.rmtree(tmp_path / gone)
    assert run(*command, "--resume") == 0
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = {point.step: point.value for point in events.Scalars("training/loss")}
    assert len(events.Scalars("training/loss")) == 5
    assert list(found.values()) == pytest.approx(losses(tmp_path))


def test_what_cannot_be_compiled_is_one_line(fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    said = fails("--steps", "2", "--compile")
    assert "compile with dropout makes a CPU slower; say dropout = 0, or compile = false" in said

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(ConfigError, match=r"does not work here \(no compiler\); install a C\+\+ compiler"):
        compiling._check(torch.device("cpu"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what torch's compiler has to say
def test_compiled_a_run_learns_the_same(config: Path, tmp_path: Path) -> None:
    command = ["pretrain", config, "--steps", "4", "--dropout", "0"]
    assert run(*command, "--output", tmp_path / "plain") == 0
    assert run(*command, "--output", tmp_path / "compiled", "--compile") == 0
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=1e-4)
