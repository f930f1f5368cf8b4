"""What a user does who has an encoder find the tokens that a generator replaced."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from prompt import run
from safetensors.torch import load_file

import bothways
from bothways.families.presets import PRESETS, Preset
from bothways.nn.config import EmbeddingMap

pytestmark = pytest.mark.usefixtures("at_once")

RTD = ["--objectives", "rtd", "--steps", "4", "--save-every", "2", "--step-tokens", "256", "--evaluate-tokens", "500"]
SIZES = {"depth": 2, "width": 32, "heads": 4, "ffn": 48}
SMALL = {
    "small-electra": ("electra-small", {"embedding": EmbeddingMap(16)}),
    "small-bert": ("bert-tiny", {}),
    "small-deberta": ("deberta-v3-xsmall", {}),
}
# preset → flags, transformers' classes of both, and how embeddings are shared.
RUNS: dict[str, tuple[list[str], Any, Any, str]] = {
    "small-electra": ([], transformers.ElectraForPreTraining, transformers.ElectraForMaskedLM, "tied"),
    "small-deberta": (
        ["--ema", "0.8"],
        transformers.DebertaV2ForTokenClassification,
        transformers.DebertaV2Model,
        "disentangled",
    ),
    "small-bert": (
        ["--sharing", "none", "--generator-width", "0.5", "--checkpointing"],
        transformers.BertForTokenClassification,
        transformers.BertForMaskedLM,
        "none",
    ),
}
FILES = ("model.safetensors", "config.json", "tokenizer.json")
EVERY = ("metrics.jsonl", *(f"model/{place}{name}" for place in ("", "generator/") for name in FILES))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, (preset, sizes) in SMALL.items():
        known = PRESETS[preset]
        config = replace(known.config, **{**SIZES, **sizes})
        monkeypatch.setitem(PRESETS, name, Preset(known.family, config, generator=known.generator))


@pytest.fixture(scope="module")
def tied(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of ELECTRA."""
    output = tmp_path_factory.mktemp("rtd") / "run"
    with pytest.MonkeyPatch.context() as patch:
        shape = replace(PRESETS["electra-small"].config, **SIZES, embedding=EmbeddingMap(16))
        patch.setitem(PRESETS, "small-electra", replace(PRESETS["electra-small"], config=shape))
        patch.setattr("bothways.train.plan.RATE_SECONDS", 0.0)
        assert run("pretrain", config, *RTD, "--preset", "small-electra", "--output", output) == 0
    return output


@pytest.fixture(scope="module")
def bare(config: Path) -> Path:
    """The settings, without a preset."""
    path = config.with_name("bare-rtd.toml")
    path.write_text(config.read_text().replace('preset = "bert-tiny"\n', "steps = 2\nevaluate_tokens = 500\n"))
    path.write_text(path.read_text().replace("evaluate_tokens = 2000\n", ""))
    return path


def rows(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("preset", RUNS)
def test_stopped_and_resumed_it_ends_in_the_same_bytes_and_transformers_loads_both(
    preset: str, config: Path, tmp_path: Path, tied: Path, stop_at: Callable[[int], None]
) -> None:
    flags, kind, kind_of_generator, sharing = RUNS[preset]
    words = ["pretrain", config, *RTD, "--preset", preset, *flags]
    whole = tied if preset == "small-electra" else tmp_path / "whole"
    if whole != tied:
        assert run(*words, "--output", whole) == 0
    for step in (1, 3):
        stop_at(step)
        assert run(*words, "--output", tmp_path / "run", "--resume") == 130
    assert run(*words, "--output", tmp_path / "run", "--resume") == 0
    last = [path.name for path in (whole / "checkpoints/step-00000004").rglob("*.safetensors")]
    assert ("shifts.safetensors" in last) == (sharing == "disentangled")
    kept = [f"checkpoints/step-00000004/{name}" for name in last if name != "model.safetensors"]
    for name in (*EVERY, *kept):
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes(), name
    assert_told(whole)
    assert_loaded(whole / "model", kind, kind_of_generator, sharing)


def assert_told(output: Path) -> None:
    steps = [row for row in rows(output) if "loss" in row]
    assert all(row["loss"] == pytest.approx(row["mlm"] + 50 * row["rtd"]) for row in steps)
    held = [row["held_out"] for row in rows(output) if "held_out" in row][-1]
    assert {"mlm", "rtd", "accuracy", "rtd_accuracy", "replaced", "rtd_recall", "pseudo_perplexity"} <= held.keys()
    assert 0.1 < held["replaced"] < 0.2
    assert (output / "curves.png").stat().st_size > 0


def assert_loaded(folder: Path, kind: Any, kind_of_generator: Any, sharing: str) -> None:
    """transformers finds every weight, and none too many, and the same tokens replaced; shared tables are the same."""
    encoder, generator = (bothways.Encoder.from_pretrained(place) for place in (folder, folder / "generator"))
    assert (encoder.unused, generator.unused) == ((), ())
    assert list(generator.heads) == ["mlm"]
    (head,) = encoder.heads.values()
    model, told = kind.from_pretrained(folder, output_loading_info=True)
    assert {key: list(value) for key, value in told.items() if value} == {}
    ids = [2, 30, 40, 4, 51, 3]
    with torch.inference_mode():
        ours = head(encoder.network(bothways.Ragged.of([ids])).last)[:, 0]
        theirs = model.eval()(input_ids=torch.tensor([ids])).logits.flatten()
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
        hidden = generator.network(bothways.Ragged.of([ids])).last.data
        model, told = kind_of_generator.from_pretrained(
            folder / "generator", output_hidden_states=True, output_loading_info=True
        )
        assert not told["missing_keys"]
        theirs = model.eval()(input_ids=torch.tensor([ids])).hidden_states[-1][0]
        torch.testing.assert_close(hidden, theirs, atol=1e-5, rtol=0)
    words = [one.network.embeddings.words.weight for one in (encoder, generator)]
    assert words[0].equal(words[1]) == (sharing == "tied")
    config = json.loads((folder / "config.json").read_text())
    assert config.get("id2label", {"0": "replaced"}) == {"0": "replaced"}
    card = (folder / "README.md").read_text()
    assert "Trained by replaced-token detection" in card
    assert f"`{kind.__name__}.from_pretrained" in card
    assert f"| sharing | {sharing} |" in card
    assert "| objectives | rtd |" in card
    assert re.search(r"\| held out: rtd_accuracy \| 0\.\d+ \|", card)
    for one in (encoder, generator):
        assert f"| parameters | {sum(p.numel() for p in one.network.parameters()):,} |" in card


def test_a_plan_counts_both_networks(
    config: Path, tied: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parameters that are shared once, operations of both by hand, and the room of both files."""
    capsys.readouterr()
    assert run("plan", config, *RTD, "--preset", "small-electra", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    folder = tied / "checkpoints/step-00000004"
    both = [load_file(folder / place / "model.safetensors") for place in (".", "generator")]
    tables = [tensor for name, tensor in both[0].items() if name.endswith("_embeddings.weight")]
    sizes = [sum(tensor.numel() for tensor in tensors) for tensors in (*(one.values() for one in both), tables)]
    assert found["parameters"] == sizes[0] + sizes[1] - sizes[2]
    widths = [(32, 48, 16), (8, 12, 16)]
    maps = [2 * 2 * (4 * w * w + 2 * w * f) + 2 * w * e for w, f, e in widths]
    head = 0.15 * 2 * 16 * (700 + 8)
    least, most = (3 * (sum(maps) + 2 * 4 * length * (32 + 8)) + 4 * head for length in (30, 64))
    assert least < found["flops"] / found["tokens"] < most
    free = shutil.disk_usage(tied)._replace(free=1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    assert run("pretrain", config, *RTD, "--preset", "small-electra", "--output", tied.parent / "full") == 2
    weights = 4 * (sizes[0] + sizes[1]) + 8 * found["parameters"]
    assert f"4 checkpoints of {weights / 1e6:,.0f} MB" in capsys.readouterr().err


@pytest.mark.filterwarnings("always::bothways.errors.DamagedCheckpointWarning")
@pytest.mark.parametrize("damage", ["cut short", "gone"])
def test_a_checkpoint_with_a_damaged_generator_is_passed_over(
    damage: str, tied: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = Path(shutil.copytree(tied, tmp_path / "run"))
    path = output / "checkpoints/step-00000004/generator/model.safetensors"
    if damage == "gone":
        shutil.rmtree(path.parent)
    else:
        path.write_bytes(path.read_bytes()[:-1])
    shutil.rmtree(output / "model")
    assert run("pretrain", config, *RTD, "--preset", "small-electra", "--output", output, "--resume") == 0
    assert "step-00000004 cannot be used" in capsys.readouterr().err
    for name in EVERY:
        assert (output / name).read_bytes() == (tied / name).read_bytes(), name


def said_of(capsys: pytest.CaptureFixture[str], *words: str | Path, command: str = "pretrain") -> str:
    """What a run that ends well says of what it begins with."""
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run(command, *words) == 0
    return capsys.readouterr().err


def test_a_finished_run_goes_on_with_its_generator_or_a_fresh_one(
    tied: Path, bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = Path(shutil.copytree(tied / "model", tmp_path / "start"))
    words = [bare, "--objectives", "rtd", "--start", start, "--lr", "0", "--output"]
    assert "warning" not in said_of(capsys, *words, tmp_path / "one")
    for place in (".", "generator"):
        before, after = (load_file(one / place / "model.safetensors") for one in (start, tmp_path / "one" / "model"))
        assert all(after[name].equal(tensor) for name, tensor in before.items())
    shutil.rmtree(start / "generator")
    assert f"{start}: has no generator: fresh weights" in said_of(capsys, *words, tmp_path / "two")
    before, after = (load_file(one / "model.safetensors") for one in (start, tmp_path / "two" / "model"))
    assert all(after[name].equal(tensor) for name, tensor in before.items())


def test_what_goes_on_with_masked_words_says_what_is_fresh(
    tied: Path, bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], save_bert: Callable[..., Path]
) -> None:
    said = said_of(capsys, bare, "--start", tied / "model", "--output", tmp_path / "words")
    assert "model: trained without head rtd\n" in said
    assert "model: has no head mlm: fresh weights\n" in said
    tagger = save_bert(kind="BertForTokenClassification", tokenizer=False, vocab_size=700, num_labels=5)
    rtd = ["--objectives", "rtd", "--longest", "24"]
    said = said_of(capsys, bare, *rtd, "--start", tagger, "--output", tmp_path / "tags")
    assert f"{tagger}: trained without head tag\n" in said  # that knows other labels
    assert f"{tagger}: has no head tag: fresh weights\n" in said
    assert bothways.Encoder.from_pretrained(tmp_path / "tags/model").extras["id2label"] == {"0": "replaced"}


def test_a_generator_larger_than_its_discriminator_is_warned_of(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--objectives", "rtd", "--steps", "2", "--preset", "small-bert", "--generator-depth", "2"]
    said = said_of(capsys, config, *flags, command="plan")
    assert "warning: the generator is larger than the discriminator: its layers have 30,016 parameters, " in said


WRONG = {
    "rtd-weight": (["--objectives", "rtd"], "0", "rtd_weight must be more than 0, got 0"),
    "generator-width": (["--objectives", "rtd"], "-1", "generator_width must be more than 0, got -1"),
    "generator-depth": (["--objectives", "rtd"], "inf", "generator_depth must be more than 0, got inf"),
    "sharing": (["--objectives", "rtd"], "tide", "tied"),
    "preset": (["--objectives", "rtd"], "gpt2-tiny", "gpt2 models have no head for it, only for causal"),
    "objectives": ([], "rtd,mlm", "objectives has rtd and mlm, but rtd is learnt alone"),
}


@pytest.mark.parametrize("key", WRONG)
def test_wrong_values_are_one_line_that_names_them(key: str, fails: Callable[..., str]) -> None:
    beside, value, expected = WRONG[key]
    said = fails("--steps", "2", *beside, f"--{key}", value)
    assert expected in said
    assert key.replace("-", "_") in said.replace("-", "_") or key == "preset"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--rtd-weight", "9"], "rtd_weight says something only with rtd, and objectives is mlm; leave it out"),
        (["--sharing", "tied"], "sharing says something only with rtd"),
        (["--generator-width", "0.5"], "generator_width says something only with rtd"),
        (["--generator-depth", "0.5"], "generator_depth says something only with rtd"),
        (["--negatives", "same"], "negatives says something only with nsp, and objectives is mlm"),
        (["--rate", "0.3", "--objectives", "causal"], "rate says something only with mlm or rtd, and objectives is"),
    ],
)
def test_a_key_that_no_objective_heeds_is_refused(flags: list[str], expected: str, fails: Callable[..., str]) -> None:
    assert expected in fails("--steps", "2", *flags)


def test_a_generator_that_cannot_be_is_one_line(
    tied: Path, bare: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    rtd = ["--steps", "2", "--objectives", "rtd"]
    for preset in ("small-bert", "small-deberta"):
        said = fails(*rtd, "--preset", preset, "--generator-width", "0.5")
        assert "generator_width 0.5" in said
        assert "say generator_width = 1 and a lower generator_depth, or sharing = none" in said
    assert "generator_depth 1000: depth must be between 1 and 1,024" in fails(*rtd, "--generator-depth", "1000")
    start = Path(shutil.copytree(tied / "model", tmp_path / "start"))
    said = fails(*rtd, "--start", start, "--generator-width", "0.5", config=bare)
    assert f"generator_width is given, but {start / 'generator'} has a size already; leave it out" in said
    shutil.rmtree(start / "generator")
    shutil.copytree(tied / "model", start / "generator")
    said = fails(*rtd, "--start", start, config=bare)
    assert f"{start / 'generator'}: no electra model with a head mlm" in said
