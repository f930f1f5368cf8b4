"""What a user does who pretrains an encoder at the prompt, and what happens when that goes wrong or is stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from prompt import run
from safetensors.torch import load_file

import bothways
from bothways.cli.settings import read_settings
from bothways.engine.streams import Streams
from bothways.families import FAMILIES
from bothways.families.presets import GLOBAL, LOCAL, PRESETS, Preset
from bothways.nn.config import LocalAttention
from bothways.objectives.objective import Model
from bothways.text.formats import load_tokenizer
from bothways.train.feed import held_out
from bothways.train.folder import Lock
from bothways.train.material import Material, material_of
from bothways.train.optim import OPTIMIZERS
from bothways.train.settings import ModelSettings, PretrainSettings
from bothways.train.start import starting_encoder
from bothways.train.step import evaluate

STEPS = 12
MODEL_FILES = ("model.safetensors", "config.json", "tokenizer.json")

pytestmark = pytest.mark.usefixtures("at_once")


@pytest.fixture(scope="module")
def whole(config: Path) -> Path:
    """A run that nothing interrupted."""
    output = config.parent / "whole"
    assert run("pretrain", config, "--output", output, "--steps", str(STEPS)) == 0
    return output


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """A finished run, but for its model."""
    output = Path(shutil.copytree(whole, tmp_path / "copy"))
    shutil.rmtree(output / "model")
    return output


def rows(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def saved(output: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (output / "checkpoints").iterdir())


def same(output: Path, whole: Path, *, card: bool = True) -> None:
    """The run left what an uninterrupted one leaves, byte for byte; only its speed is another."""
    models = [f"{kind}/{file}" for kind in ("model", "best") for file in MODEL_FILES]
    for name in ("metrics.jsonl", *models):
        assert (output / name).read_bytes() == (whole / name).read_bytes(), name
    cards = [(folder / "model/README.md").read_text().partition("## Speed")[0].strip() for folder in (output, whole)]
    assert cards[0] == cards[1] or not card


def test_a_run_leaves_a_log_checkpoints_and_a_model_that_everyone_loads(whole: Path, corpus: Path) -> None:
    steps = [row for row in rows(whole) if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, STEPS + 1))
    assert all(row["loss"] > 0 and row["gradient"] > 0 and 0 <= row["accuracy"] <= 1 for row in steps)
    assert steps[0]["lr"] == pytest.approx(5e-4)
    assert steps[1]["lr"] == steps[2]["lr"] == pytest.approx(1e-3)
    assert steps[-1]["loss"] < steps[0]["loss"]
    held = [row for row in rows(whole) if "held_out" in row]
    assert [row["step"] for row in held] == [4, 8, 12]
    assert held[-1]["held_out"]["mlm"] < held[0]["held_out"]["mlm"]
    assert saved(whole) == [9, 12]
    assert not (whole / "nonfinite.json").exists()
    assert (whole / "curves.png").read_bytes().startswith(b"\x89PNG")
    card = (whole / "model" / "README.md").read_text()
    assert "| steps | 12 |" in card
    assert "| preset | bert-tiny |" in card
    assert "documents" in card


def test_the_model_is_transformers_too(whole: Path) -> None:
    folder, text = whole / "model", "The value of an expression is [MASK] ."
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder)
    theirs = transformers.pipeline("fill-mask", model=model, tokenizer=tokenizer)(text)
    (ours,) = bothways.pipeline("fill-mask", folder)([text])
    assert [one["token"] for one in theirs] == [one["token"] for one in ours]
    for one, other in zip(theirs, ours):
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)


@pytest.fixture
def nan_memory() -> Iterator[None]:
    """What is allocated and never written to is NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    "preset", ["bert-tiny", "albert-base", "deberta-v3-xsmall", "electra-small", "modernbert-base"]
)
def test_fresh_weights_leave_nothing_to_chance(
    preset: str, corpus: Path, nan_memory: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_convolution = replace(PRESETS["deberta-v2-xlarge"].config, depth=2, width=48, heads=2, ffn=48)
    monkeypatch.setitem(PRESETS, "convolution", Preset("deberta-v2", with_convolution))
    tokenizer = load_tokenizer(corpus / "tokenizer")
    assert tokenizer is not None
    settings = PretrainSettings(ModelSettings(preset))
    one, other = (starting_encoder(settings, tokenizer) for _ in range(2))
    for first, second in [(one.network, other.network), (one.heads["mlm"], other.heads["mlm"])]:
        for (name, p), q in zip(first.named_parameters(), second.parameters(), strict=True):
            assert torch.isfinite(p).all(), name
            assert torch.equal(p, q), name


FAMILIES_OF_PRESETS = {
    preset.family: name for name, preset in reversed(PRESETS.items()) if "mlm" in FAMILIES[preset.family].heads
}


@pytest.mark.parametrize("family", FAMILIES_OF_PRESETS)
def test_every_family_can_be_pretrained(
    family: str, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a vocabulary whose padding and unknown tokens have other ids than the released one's.

    DeBERTa's mask decoder is one that transformers does not have; its hidden states can be compared.
    """
    shape = PRESETS[FAMILIES_OF_PRESETS[family]].config
    sizes: dict[str, Any] = {"depth": 2, "width": 32, "heads": 2, "ffn": 48}
    sizes |= {"embedding": replace(shape.embedding, words=16)} if shape.embedding.words else {}
    sizes |= {"local": LocalAttention(16, (GLOBAL, LOCAL))} if family == "modernbert" else {}
    small = replace(shape, **sizes)
    monkeypatch.setitem(PRESETS, "small", Preset(family, small))
    trained: list[bothways.Encoder] = []

    def started(*arguments: Any) -> bothways.Encoder:
        trained.append(starting_encoder(*arguments))
        return trained[-1]

    monkeypatch.setattr("bothways.train.generator.starting_encoder", started)
    command = ["pretrain", config, "--preset", "small", "--steps", "2", "--precision", "fp32", "--output", tmp_path]
    assert run(*command) == 0
    encoder = bothways.Encoder.from_pretrained(tmp_path / "model")
    assert encoder.unused == ()
    assert encoder.config == trained[0].config
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "model").eval()
    assert encoder.tokenizer is not None
    ids = [2, 1, 30, 40, 1, 0, 50, 3]  # with [UNK] and [PAD] in the middle
    with torch.inference_mode():
        output = encoder.network(bothways.Ragged.of([ids]))
        before = trained[0].network.eval()(bothways.Ragged.of([ids]))
        torch.testing.assert_close(output.last.data, before.last.data, atol=1e-6, rtol=0)
        theirs = model(input_ids=torch.tensor([ids]), output_hidden_states=True)
        torch.testing.assert_close(output.last.data, theirs.hidden_states[-1][0], atol=1e-4, rtol=0)
        if family != "deberta-v2":
            head = encoder.heads["mlm"]
            torch.testing.assert_close(head(head.states(output)), theirs.logits[0], atol=1e-4, rtol=0)


def test_steps_have_the_tokens_that_were_asked_for(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In equal batches; the plan says the same. And a folder without a run is one to begin in, which is said."""
    flags = ["--steps", "5", "--step-tokens", "300", "--batch-tokens", "256"]
    assert run("pretrain", config, *flags, "--output", tmp_path, "--resume") == 0
    assert f"there is no run in {tmp_path} to go on with; a new one begins" in capsys.readouterr().err
    tokens = rows(tmp_path)[-2]["tokens"]
    assert 5 * 296 <= tokens <= 5 * 300
    assert run("plan", config, *flags, "--json") == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 1500


def test_the_best_checkpoint_stays_wherever_evaluations_fall(config: Path, tmp_path: Path) -> None:
    """With a learning rate that ruins what was learnt, the best step is an early one, at which no save is due."""
    often = ["--evaluate-every", "1", "--save-every", "50", "--keep", "1", "--steps", "8", "--warmup", "0"]
    assert run("pretrain", config, *often, "--lr", "0.05", "--output", tmp_path) == 0
    held = {row["step"]: row["held_out"]["mlm"] for row in rows(tmp_path) if "held_out" in row}
    best = min(held, key=lambda step: held[step])
    assert best < 8
    assert saved(tmp_path) == [best, 8]
    checkpoint = tmp_path / "checkpoints" / f"step-{best:08}" / "model.safetensors"
    assert (tmp_path / "best" / "model.safetensors").read_bytes() == checkpoint.read_bytes()


def test_the_best_average_is_left_as_a_model(config: Path, tmp_path: Path) -> None:
    """With a learning rate that ruins what was learnt. Evaluated again, it has the loss that was the lowest."""
    flags = ["--evaluate-every", "1", "--steps", "4", "--schedule", "constant", "--lr", "0.02", "--ema", "0.5"]
    assert run("pretrain", config, *flags, "--output", tmp_path) == 0
    held = {row["step"]: row["held_out"]["mlm"] for row in rows(tmp_path) if "held_out" in row}
    step = min(held, key=lambda step: held[step])
    assert step < 4
    encoder = bothways.Encoder.from_pretrained(tmp_path / "best")
    average = load_file(tmp_path / "checkpoints" / f"step-{step:08}" / "average.safetensors")
    model = Model(encoder.network, encoder.heads)
    assert all(parameter.equal(average[name]) for name, parameter in model.named_parameters())
    settings, _ = read_settings(config, flags)
    material = material_of(settings)
    batches = held_out(material.held, material.objective, settings.run.evaluate_tokens)
    assert evaluate(model, material.objective, batches, Streams(torch.device("cpu")))["mlm"] == held[step]
    assert f"| steps | {step} |" in (tmp_path / "best" / "README.md").read_text()


@pytest.mark.filterwarnings("always::bothways.errors.DamagedCheckpointWarning")
def test_a_damaged_best_checkpoint_costs_nothing_but_itself(
    copy: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(copy / "best")
    state = json.loads((copy / "checkpoints" / "step-00000012" / "state.json").read_text())
    state["progress"]["best_step"] = 9
    (copy / "checkpoints" / "step-00000012" / "state.json").write_text(json.dumps(state))
    damage(copy / "checkpoints" / "step-00000009", "model.safetensors")
    assert run("pretrain", config, "--output", copy, "--steps", str(STEPS), "--resume") == 0
    assert "step-00000009 cannot be used" in capsys.readouterr().err
    assert (copy / "model").is_dir()
    assert not (copy / "best").exists()


def test_another_corpus_is_not_gone_on_with(
    corpus: Path, config: Path, tmp_path: Path, fails: Callable[..., str], stop_at: Callable[[int, int], None]
) -> None:
    command = ["--steps", "4", "--output", tmp_path / "run"]
    stop_at(2, signal.SIGTERM)
    assert run("pretrain", config, *command) == 130
    build = ["corpus", "build", "--tokenizer", corpus.parent / "tokenizer", "--held-out", "0.3", "--workers", "1"]
    files = [
        "--input",
        corpus.parent / "00.txt",
        "--input",
        corpus.parent / "01.txt",
        "--input",
        corpus.parent / "02.txt",
    ]
    assert run(*build, *files, "--output", tmp_path / "other") == 0
    said = fails(*command, "--resume", "--corpus", tmp_path / "other")
    assert "not the corpus that" in said
    assert "step-00000002 was trained on; name that one with --corpus" in said
    moved = shutil.copytree(corpus, tmp_path / "moved")
    assert run("pretrain", config, *command, "--resume", "--corpus", moved) == 0


def test_a_spike_stops_or_is_skipped_and_said(
    config: Path,
    tmp_path: Path,
    fails: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A limit that ordinary steps pass, once there is a mean."""
    monkeypatch.setattr("bothways.train.loop.SETTLED", 5)
    command = ["--steps", "16", "--spike", "1.0001", "--output", tmp_path, "--save-every", "5"]
    said = fails(*command)
    assert "is not a finite number, or a spike; its batches are in nonfinite.json" in said
    stopped = json.loads((tmp_path / "nonfinite.json").read_text())
    assert stopped["step"] > 5
    assert float(stopped["gradient"]) > 0
    assert run("pretrain", config, *command, "--resume", "--nonfinite", "skip") == 0
    assert "a gradient of unusual length; skip" in capsys.readouterr().err
    skipped = [row["step"] for row in rows(tmp_path) if row.get("skipped")]
    assert skipped[0] == stopped["step"]
    assert len(skipped) < 11


def test_a_second_run_in_the_same_folder_must_be_meant(
    whole: Path, fails: Callable[..., str], config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
    said = fails("--steps", str(STEPS), "--output", whole)
    assert "holds a run already; say --resume" in said
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()} == before
    said = fails("--steps", str(STEPS), "--output", whole, "--resume", "--lr", "2e-3", "--seed", "1")
    assert "lr was 0.001, now 0.002" in said
    assert "or begin another run" in said
    assert "seed was 0, now 1" in said
    assert run("pretrain", config, "--steps", str(STEPS), "--output", whole, "--resume") == 0  # nothing left to do


def test_two_processes_never_train_in_one_folder(
    copy: Path, config: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    """Whether there is a run in it already or not; the one that is late leaves everything as it is."""
    (tmp_path / "new").mkdir()
    for folder in (copy, tmp_path / "new"):
        flags = ["--output", folder, "--steps", str(STEPS), "--resume"]
        with Lock(folder) as lock:
            lock.take()
            before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
            said = fails(*flags)
            assert f"{folder}: another process is training in this folder; wait for its end" in said
            assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert run("pretrain", config, "--output", copy, "--steps", str(STEPS), "--resume") == 0


def test_of_two_that_begin_at_once_one_says_that_it_was_late(
    copy: Path, config: Path, tmp_path: Path, fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one has begun, or has even ended, while this one read its corpus."""

    def late(settings: PretrainSettings) -> Material:
        shutil.copytree(copy, tmp_path / "run")
        return material_of(settings)

    monkeypatch.setattr("bothways.train.pretrain.material_of", late)
    assert "holds a run already" in fails("--steps", "2", "--output", tmp_path / "run")
    assert saved(tmp_path / "run") == saved(copy)


KILLS = """
import contextlib, os, random, signal, sys, time
import torch
import bothways.train.pretrain
from bothways.cli.main import main
torch.set_num_threads(1)
bothways.train.plan.RATE_SECONDS = 0.0
seed, finished, output, *command = sys.argv[1:]
with contextlib.suppress(SystemExit):
    main([*command, "--output", finished])  # imports everything, and has nothing to do
source = random.Random(int(seed))

def saved():
    return sorted(os.listdir(output + "/checkpoints")) if os.path.isdir(output + "/checkpoints") else []

for attempt in range(100):
    before, end = saved(), None
    child = os.fork()
    if not child:
        main([*command, "--output", output, "--workers", str(attempt % 2)])
    while end is None or time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            print(attempt, file=sys.stderr)
            os._exit(os.waitstatus_to_exitcode(status))
        if end is None and (saved() != before or attempt % 4 == 1):
            end = time.monotonic() + source.uniform(0.0, 0.1 + 0.02 * attempt)  # more and more, if much else runs here
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
os._exit(1)
"""
"""Forks a run again and again and kills it, until one gets to the end: most while or after they save."""


def test_killed_at_any_moment_and_resumed_a_run_is_the_same_byte_for_byte(config: Path, tmp_path: Path) -> None:
    """With a thread that prepares batches, and without one, in turn."""
    output, whole = tmp_path / "run", tmp_path / "whole"
    command = ["pretrain", str(config), "--steps", "7", "--resume", "--save-every", "1"]
    assert run(*command, "--output", whole) == 0
    script = [sys.executable, "-W", "ignore", "-c", KILLS, "1", str(whole), str(output)]
    done = subprocess.run([*script, *command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stderr.split()[-1]) >= 3  # times killed
    assert (output / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert (output / "model/model.safetensors").read_bytes() == (whole / "model/model.safetensors").read_bytes()
    assert saved(output) == [6, 7]  # and nothing that a killed process began


def test_asked_to_stop_a_run_saves_says_so_and_goes_on(
    whole: Path,
    config: Path,
    tmp_path: Path,
    stop_at: Callable[[int, int], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also at steps where an evaluation (8) or a checkpoint (9) is due."""
    command = ["pretrain", config, "--output", tmp_path, "--steps", str(STEPS)]
    for step, number in [(1, signal.SIGTERM), (8, signal.SIGINT), (9, signal.SIGTERM), (11, signal.SIGINT)]:
        stop_at(step, number)
        assert run(*command, *(["--resume"] if step > 1 else [])) == 130
        captured = capsys.readouterr()
        said = f"bothways: stopped and saved after step {step}; go on with --resume and the same flags\n"
        assert captured.err.endswith(f"{said}bothways: interrupted\n")
        assert saved(tmp_path)[-1] == step
        assert not (tmp_path / "model").exists()
    stop_at(STEPS, signal.SIGTERM)  # too late to stop anything
    assert run(*command, "--resume") == 0
    same(tmp_path, whole)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


RISING = {
    "--ema": "0.9",
    **{"--longest-start": "16", "--longest-warmup": "7"},
    **{"--step-tokens-start": "256", "--step-tokens-warmup": "8"},
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_stopped_anywhere_a_run_goes_on_to_the_same_bytes_with_every_optimizer(
    optimizer: str, config: Path, tmp_path: Path, stop_at: Callable[[int, int], None]
) -> None:
    """With an average of the weights, and while sequences and steps get larger: sequences do after steps 3 and 7."""
    flags = ["--steps", "9", "--optimizer", optimizer, *(word for flag in RISING.items() for word in flag)]
    assert run("pretrain", config, "--output", tmp_path / "whole", *flags) == 0
    command = ["pretrain", config, "--output", tmp_path / "run", *flags]
    for step in (3, 7):
        stop_at(step, signal.SIGTERM)
        assert run(*command, "--resume", "--workers", str(step // 7)) == 130
    assert run(*command, "--resume") == 0
    same(tmp_path / "run", tmp_path / "whole", card=False)  # which says how many workers there were
    for name in ("model.safetensors", "optimizer.safetensors", "average.safetensors"):
        files = [tmp_path / one / "checkpoints/step-00000009" / name for one in ("run", "whole")]
        assert files[0].read_bytes() == files[1].read_bytes(), name


def test_the_average_of_the_weights_is_what_is_evaluated_and_left(config: Path, tmp_path: Path) -> None:
    flags = ["--steps", "8", "--ema", "0.7", "--longest-start", "32", "--longest-warmup", "4"]
    assert run("pretrain", config, "--output", tmp_path, *flags) == 0
    checkpoint = tmp_path / "checkpoints/step-00000008"
    average, last = load_file(checkpoint / "average.safetensors"), load_file(checkpoint / "model.safetensors")
    left = bothways.Encoder.from_pretrained(tmp_path / "model")
    assert int(average["updates"]) == 8
    for name, parameter in left.network.named_parameters():
        assert parameter.equal(average[f"network.{name}"]), name
    assert not any(value.equal(load_file(tmp_path / "model/model.safetensors")[key]) for key, value in last.items())
    steps = [row for row in rows(tmp_path) if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, 9))
    held = [row["held_out"]["mlm"] for row in rows(tmp_path) if "held_out" in row]
    assert held[-1] < held[0]


def test_a_run_from_before_a_setting_was_there_goes_on(copy: Path, config: Path, whole: Path) -> None:
    settings = json.loads((copy / "settings.json").read_text())
    for part, key in (("model", "start"), ("corpus", "longest_start"), ("adam", "momentum"), ("update", "ema")):
        del settings[part][key]
    (copy / "settings.json").write_text(json.dumps(settings))
    assert run("pretrain", config, "--output", copy, "--steps", str(STEPS), "--resume") == 0
    same(copy, whole)


def damage(folder: Path, name: str) -> None:
    path = folder / name
    if name == "state.json":
        path.write_text('{"progress": {"steps": 9}, "sha256": {}}')
    elif path.suffix == ".safetensors":
        os.truncate(path, path.stat().st_size // 2)
    else:
        path.unlink()


@pytest.mark.filterwarnings("always::bothways.errors.DamagedCheckpointWarning")
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "config.json", "state.json"])
def test_a_damaged_checkpoint_is_passed_over_and_the_log_cut_back(
    name: str, whole: Path, copy: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(copy / "checkpoints" / "step-00000012", name)
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "lo')
    assert run("pretrain", config, "--output", copy, "--steps", str(STEPS), "--resume", "--keep", "1") == 0
    warning = next(line for line in capsys.readouterr().err.splitlines() if "warning" in line)
    assert "step-00000012 cannot be used" in warning
    assert (copy / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert (copy / "model/model.safetensors").read_bytes() == (whole / "model/model.safetensors").read_bytes()
    assert saved(copy) == [12]


@pytest.mark.filterwarnings("always::bothways.errors.DamagedCheckpointWarning")
def test_a_damaged_checkpoint_of_a_later_step_does_not_push_out_whole_ones(
    copy: Path, config: Path, stop_at: Callable[[int, int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    damage(copy / "checkpoints" / "step-00000012", "model.safetensors")
    stop_at(10, signal.SIGTERM)
    command = ["pretrain", config, "--output", copy, "--steps", str(STEPS), "--resume", "--keep", "1"]
    assert run(*command) == 130
    assert 10 in saved(copy)
    assert run(*command) == 0


INVENTED: dict[str, dict[str, Any]] = {
    "step is 2.0": {"step": 2.0},
    "step is 13": {"step": 13},
    "number is 1000000000, but epoch": {"number": 10**9},
    "number is -1": {"number": -1},
    "epoch is 1048576": {"epoch": 1 << 20},
    "tokens is True": {"tokens": True},
    "best_loss is 'x'": {"best_loss": "x"},
    "best_step is 13": {"best_step": 13},
    "gradient is [1]": {"gradient": [1]},
}


@pytest.mark.filterwarnings("always::bothways.errors.DamagedCheckpointWarning")
def test_a_state_that_no_run_comes_to_is_damaged(copy: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And one that knows no checksums, or not all of them."""
    path = copy / "checkpoints/step-00000012/state.json"
    for folder in path.parents[1].iterdir():
        if folder != path.parent:
            shutil.rmtree(folder)
    whole = json.loads(path.read_text())
    wrong = {said: {**whole, "progress": whole["progress"] | keys} for said, keys in INVENTED.items()}
    wrong["state.json does not know it"] = {**whole, "sha256": {}}
    for said, state in wrong.items():
        path.write_text(json.dumps(state))
        assert run("pretrain", config, "--output", copy, "--steps", str(STEPS), "--resume") > 0
        error = capsys.readouterr().err
        assert said in error
        assert "none of the 1 checkpoints is whole" in error
        assert "Traceback" not in error


def test_rows_of_a_log_without_a_number_of_steps_are_cut_off(copy: Path, whole: Path, config: Path) -> None:
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"step": null}\n{"step": "x"}\n')
    assert run("pretrain", config, "--output", copy, "--steps", str(STEPS), "--resume") == 0
    assert (copy / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_no_run_begins_over_a_model_or_a_log(copy: Path, whole: Path, fails: Callable[..., str]) -> None:
    shutil.rmtree(copy / "checkpoints")
    shutil.copytree(whole / "model", copy / "model")
    model = (copy / "model/model.safetensors").read_bytes()
    assert "holds a run already; say --resume" in fails("--output", copy, "--steps", "2")
    said = fails("--output", copy, "--steps", str(STEPS), "--resume")
    assert f"{copy}/model: a model without checkpoints to go on from; move it away, or name another folder" in said
    (copy / "metrics.jsonl").unlink()
    assert "a model without checkpoints" in fails("--output", copy, "--steps", "2")
    assert (copy / "model/model.safetensors").read_bytes() == model


@pytest.mark.filterwarnings("ignore::bothways.errors.DamagedCheckpointWarning")
def test_nothing_is_done_where_no_checkpoint_is_whole(copy: Path, fails: Callable[..., str]) -> None:
    log = (copy / "metrics.jsonl").read_bytes()
    for folder in (copy / "checkpoints").iterdir():
        damage(folder, "model.safetensors")
    said = fails("--output", copy, "--steps", str(STEPS), "--resume")
    assert "none of the 2 checkpoints is whole" in said
    assert (copy / "metrics.jsonl").read_bytes() == log


def test_a_damaged_log_or_settings_are_one_line(copy: Path, fails: Callable[..., str]) -> None:
    flags = ["--output", copy, "--steps", str(STEPS), "--resume"]
    (copy / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 2}\n')
    assert "metrics.jsonl: line 2" in fails(*flags)
    (copy / "settings.json").write_text("{")
    assert "settings.json: not JSON" in fails(*flags)


WRONG = {
    "preset": ("bert-huge", "preset 'bert-huge'"),
    "longest": ("600", "longest 600 is more than the 512 tokens bert-tiny takes"),
    "batch-tokens": ("63", "a budget of 63 tokens a batch is smaller than one sequence of 64"),
    "step-tokens": ("63", "step_tokens 63 is less than one sequence of 64; say more, or a lower longest"),
    "steps": ("many", "many"),
    "optimizer": ("moun", "optimizer must be one of adamw, muon, stable-adamw, got 'moun'; did you mean muon?"),
    "momentum": ("1", "momentum must be 0 or more and less than 1"),
    "ema": ("1", "ema must be 0 or more and less than 1"),
    "longest-start": ("65", "longest_start must be between 0 and longest 64"),
    "longest-warmup": ("3", "longest_warmup says nothing without longest_start"),
    "step-tokens-start": ("64", "step_tokens_start says nothing without step_tokens_warmup"),
    "step-tokens-warmup": ("13", "step_tokens_warmup says nothing without step_tokens_start"),
    "schedule": ("square", "schedule must be one of linear"),
    "precision": ("fp8", "fp8"),
    "warmup": ("13", "warmup must be between 0 and the 12 steps, got 13"),
    "lr": ("-1", "lr must be 0 or more"),
    "beta2": ("1", "beta2 must be 0 or more and less than 1"),
    "clip": ("-1", "clip must be 0 or more"),
    "dropout": ("1.5", "dropout must be"),
    "rate": ("0", "rate must be above 0"),
    "mask": ("0.95", "are more than all"),
    "unit": ("letter", "letter"),
    "save-every": ("0", "save_every must be at least 1"),
    "nonfinite": ("ignore", "ignore"),
    "device": ("abacus", "device 'abacus'"),
    "seed": ("-1", "seed must be"),
    "corpus": ("/nowhere", "/nowhere/corpus.json: no such file"),
    "workers": ("x", "workers"),
    "eps": ("0", "eps must be more than 0"),
    "spike": ("0.5", "spike must be more than 1, or 0 for none"),
    "batch-tokenz": ("1", "unknown flag --batch-tokenz; did you mean batch_tokens?"),
}


@pytest.mark.parametrize("key", WRONG)
def test_wrong_values_are_one_line_that_names_them(key: str, fails: Callable[..., str]) -> None:
    value, expected = WRONG[key]
    flags = {"--steps": "12", "--batch-tokens": "1024", "--step-tokens": "1024", f"--{key}": value}
    said = fails(*(word for flag in flags.items() for word in flag))
    assert expected in said, said
    assert key.replace("-", "_") in said.replace("-", "_") or key in ("mask", "corpus", "batch-tokens"), said


def test_wrong_files_are_one_line(fails: Callable[..., str], config: Path, tmp_path: Path) -> None:
    text = config.read_text()

    def with_lines(*lines: str) -> Path:
        path = tmp_path / "wrong.toml"
        path.write_text("\n".join(lines) + "\n" + text)
        return path

    assert "wrong.toml: unknown key stepz; did you mean steps?" in fails(config=with_lines("stepz = 3"))
    assert "unknown key zebra; known are preset, start, dropout, " in fails(config=with_lines("zebra = 3"))
    assert "wrong.toml" in fails(config=with_lines("steps = 'a'"))
    assert "wrong.toml" in fails(config=with_lines("steps = "))
    assert "wrong.toml" in fails(config=with_lines("steps = 0"))
    assert "lr is given twice" in fails(config=with_lines("lr = 1"))
    assert "nowhere.toml: no such file" in fails(config=tmp_path / "nowhere.toml")


def test_a_corpus_that_cannot_be_trained_on_is_one_line(
    corpus: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    flags = ["--steps", "12", "--corpus"]
    other = Path(shutil.copytree(corpus, tmp_path / "other"))
    path = other / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text().replace('"the"', '"eht"'))
    said = fails(*flags, other)
    assert "not the tokenizer that the shards were made with" in said
    bare = tmp_path / "bare"
    build = ["corpus", "build", "--input", corpus.parent / "00.txt", "--tokenizer", corpus.parent / "tokenizer"]
    assert run(*build, "--output", bare, "--held-out", "0", "--workers", "1") == 0
    assert "the held-out split is empty" in fails(*flags, bare)


def test_an_output_that_cannot_be_written_is_one_line(
    tmp_path: Path, fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "another").mkdir()
    (tmp_path / "another" / "tokenizer.json").write_text("{}")
    assert "another: holds a tokenizer (tokenizer.json); name another folder for the run" in fails(
        "--steps", "12", "--output", tmp_path / "another"
    )
    assert "cannot be made a folder" in fails("--steps", "12", "--output", tmp_path / "file")
    assert "cannot be made a folder" in fails("--steps", "12", "--output", "/proc/nowhere")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bothways.train.state.save_file", full)
    said = fails("--steps", "3", "--output", tmp_path / "run")
    assert "step-00000003: cannot be written" in said
    assert "No space left" in said
    assert saved(tmp_path / "run") == []


def test_a_wrong_first_try_does_not_stand_in_the_way(config: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    command = ["--steps", "2", "--output", tmp_path / "run", "--resume"]
    assert "preset" in fails(*command, "--preset", "bert-huge")
    assert run("pretrain", config, *command) == 0


def test_a_number_that_is_not_finite_stops_the_run_and_its_batch_is_kept(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["pretrain", config, "--output", tmp_path, "--steps", "8", "--lr", "1e30", "--save-every", "1"]
    assert run(*command) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    found = json.loads((tmp_path / "nonfinite.json").read_text())
    assert f"step {found['step']} is not a finite number" in said
    assert "--nonfinite skip" in said
    last = rows(tmp_path)[-1]
    assert (last["step"], last["loss"], last["skipped"]) == (found["step"], None, True)
    assert saved(tmp_path)[-1] == found["step"] - 1
    assert len(found["batches"]) == 2
    for batch in found["batches"]:
        ids = [token for sequence in batch["ids"] for token in sequence]
        assert 64 < len(ids) <= 256
        answers = batch["labels"]["mlm"]
        assert len(answers["rows"]) == len(answers["values"]) > 0
        assert max(answers["rows"]) < len(ids)
    assert run(*command, "--resume", "--nonfinite", "skip") == 0
    assert "not a finite number; skip" in capsys.readouterr().err
    skipped = [row["step"] for row in rows(tmp_path) if row.get("skipped")]
    assert skipped == list(range(found["step"], 9))


def test_half_precision_and_computing_again_train_too(whole: Path, config: Path, tmp_path: Path) -> None:
    flags = ["--steps", "12", "--checkpointing", "--unit", "span"]
    assert run("pretrain", config, "--output", tmp_path / "run", *flags, "--precision", "bf16") == 0
    losses = [row["loss"] for row in rows(tmp_path / "run") if "loss" in row]
    assert losses[-1] < losses[0]
    assert (
        torch.float32 == next(iter(bothways.Encoder.from_pretrained(tmp_path / "run/model").network.parameters())).dtype
    )
    assert "settings.json" in {path.name for path in (tmp_path / "run").iterdir()}


def test_machines_are_told_in_json_what_a_run_came_to(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], stop_at: Callable[[int, int], None]
) -> None:
    """One object on stdout, however the run ends; progress and what a person is told stay on stderr."""
    command = ["pretrain", config, "--steps", "5", "--json", "--output"]

    def told(*flags: str | Path) -> tuple[int, dict[str, Any], str]:
        code = run(*command, *flags)
        captured = capsys.readouterr()
        (line,) = captured.out.splitlines()
        return code, json.loads(line), captured.err

    stop_at(2, signal.SIGTERM)
    code, found, said = told(tmp_path / "run")
    assert (code, found["outcome"], found["steps"], found["held_out"]) == (130, "interrupted", 2, None)
    assert said.endswith("bothways: interrupted\n")
    code, found, said = told(tmp_path / "run", "--resume")
    held = [row for row in rows(tmp_path / "run") if "held_out" in row]
    assert (code, found["outcome"], found["steps"]) == (0, "finished", 5)
    assert found["held_out"] == {"step": 5, **held[-1]["held_out"]}
    assert found["best"]["loss"] == min(row["held_out"]["mlm"] for row in held)
    assert found["tokens"] == rows(tmp_path / "run")[-2]["tokens"]
    assert found["folder"] == str(tmp_path / "run")
    assert found["tokens_per_second"] > 0
    assert "held out mlm" in said
    code, found, said = told(tmp_path / "wild", "--lr", "1e30")
    assert (code, found["outcome"]) == (2, "not finite")
    assert "nonfinite.json" in said
