"""What a user does who has an encoder learn more than masked words: next sentences, or their order."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from prompt import run

import bothways
from bothways.errors import FreshWeightsWarning
from bothways.families.presets import PRESETS, Preset
from bothways.nn.config import EmbeddingMap
from bothways.objectives import choice
from bothways.objectives.choice import OBJECTIVES, Entry, check_objectives

pytestmark = pytest.mark.usefixtures("at_once")

STEPS = "6"
# objectives → the preset, what else is said, and transformers' class.
RUNS: dict[str, tuple[str, list[str], Any]] = {
    "mlm,nsp": ("bert-tiny", [], transformers.BertForPreTraining),
    "nsp,mlm": ("bert-tiny", ["--negatives", "same"], transformers.BertForPreTraining),
    "mlm,sop": ("small-albert", [], transformers.AlbertForPreTraining),
    "sop,mlm": ("bert-tiny", [], transformers.BertForPreTraining),
}


@pytest.fixture(autouse=True)
def small_albert(monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(
        PRESETS["albert-base"].config, depth=2, width=64, heads=2, ffn=96, embedding=EmbeddingMap(32, always=True)
    )
    monkeypatch.setitem(PRESETS, "small-albert", Preset("albert", replace(small, dropout=0.1)))


@pytest.fixture(params=RUNS)
def command(request: pytest.FixtureRequest, config: Path) -> tuple[list[str | Path], str, Any]:
    """The command but for its output; the loss beside MLM's; transformers' class."""
    preset, flags, kind = RUNS[request.param]
    command: list[str | Path] = ["pretrain", config, "--objectives", request.param, "--preset", preset, *flags]
    name = "sop" if "sop" in request.param else "nsp"
    return [*command, "--steps", STEPS], name, kind


def rows(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def test_stopped_and_resumed_it_ends_in_the_same_bytes_and_transformers_loads_it_all(
    command: tuple[list[str | Path], str, Any], tmp_path: Path, stop_at: Callable[[int], None]
) -> None:
    words, name, kind = command
    assert run(*words, "--output", tmp_path / "whole") == 0
    for step in (1, 3, 4):
        stop_at(step)
        assert run(*words, "--output", tmp_path / "run", "--resume") == 130
    assert run(*words, "--output", tmp_path / "run", "--resume") == 0
    for file in ("metrics.jsonl", "model/model.safetensors", "model/config.json", "model/tokenizer.json"):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file
    steps = [row for row in rows(tmp_path / "whole") if "loss" in row]
    assert all(row["loss"] == pytest.approx(row["mlm"] + row[name]) for row in steps)
    assert all(0 <= row[f"{name}_accuracy"] <= 1 and 0 <= row["accuracy"] <= 1 for row in steps)
    held = [row["held_out"] for row in rows(tmp_path / "whole") if "held_out" in row]
    assert set(held[0]) == {"mlm", name, "accuracy", f"{name}_accuracy", "pseudo_perplexity"}
    head = "sop" if kind is transformers.AlbertForPreTraining else "nsp"  # BERT has one head for both
    assert_loaded(tmp_path / "whole" / "model", name, head, kind)


def assert_loaded(folder: Path, name: str, head: str, kind: Any) -> None:
    """transformers finds every weight, and none too many, and gives the same scores of a pair."""
    model, told = kind.from_pretrained(folder, output_loading_info=True)
    assert {key: list(value) for key, value in told.items() if value} == {}
    encoder = bothways.Encoder.from_pretrained(folder)
    assert (list(encoder.heads), encoder.unused) == (["mlm", head], ())
    assert encoder.tokenizer is not None
    (pair,) = encoder.tokenizer.encode(["The value of an expression."], ["It is a number."])
    assert 1 in pair.types
    types = torch.tensor(pair.types)
    with torch.inference_mode():
        output = encoder.network(bothways.Ragged.of([pair.ids]), types)
        theirs = model.eval()(torch.tensor([pair.ids]), token_type_ids=types[None])
        expected = theirs.seq_relationship_logits if head == "nsp" else theirs.sop_logits
        torch.testing.assert_close(encoder.heads[head](output.last), expected, atol=1e-5, rtol=0)
    title = "next-sentence prediction" if name == "nsp" else "sentence-order prediction"
    card = (folder / "README.md").read_text()
    assert title in card
    assert "masked language modelling" in card


def test_an_encoder_that_knew_no_pairs_gets_the_same_pooler_and_head_each_time(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its pooler and its head are fresh, which is said, and the same each time."""
    assert run("pretrain", config, "--steps", "2", "--output", tmp_path / "first") == 0
    bare = tmp_path / "bare.toml"
    bare.write_text(config.read_text().replace('preset = "bert-tiny"\n', 'steps = 2\nobjectives = ["mlm", "nsp"]\n'))
    start = ["pretrain", bare, "--start", tmp_path / "first" / "model", "--output"]
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("always", FreshWeightsWarning)
        assert run(*start, tmp_path / "one") == run(*start, tmp_path / "two") == 0
    assert f"{tmp_path / 'first' / 'model'}: has no head nsp and no pooler: fresh weights\n" in capsys.readouterr().err
    assert rows(tmp_path / "one") == rows(tmp_path / "two")
    assert_loaded(tmp_path / "one" / "model", "nsp", "nsp", transformers.BertForPreTraining)


def test_objectives_that_cannot_be_are_one_line(
    fails: Callable[..., str], config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(*flags: str) -> str:
        return fails("--steps", "2", *flags)

    assert "got 'nps'; did you mean nsp?" in said("--objectives", "mlm,nps")
    assert "objectives has nsp and sop, which want different pairs" in said("--objectives", "mlm,nsp,sop")
    assert "objectives has mlm twice" in said("--objectives", "mlm,mlm")
    assert "objectives has nsp without mlm, beside which it is learnt; say mlm,nsp" in said("--objectives", "nsp")
    assert "must have one of mlm, nsp, sop, causal, rtd, got none" in said("--objectives", "")
    line = said("--objectives", "mlm,nsp", "--preset", "roberta-base")
    assert (
        "objectives has nsp, but roberta models have no head for it, only for mlm, rtd; families with one: bert" in line
    )
    line = said("--objectives", "mlm,sop", "--preset", "roberta-base")
    assert "families with one: bert, albert" in line or "families with one: albert, bert" in line
    assert "objectives has causal and mlm, but causal is learnt alone" in said("--objectives", "mlm,causal")
    assert "objectives has causal, but bert models have no head for it" in said("--objectives", "causal")
    line = said("--objectives", "mlm,nsp", "--longest-start", "3", "--longest-warmup", "2")
    assert "train split: sequences of 3 tokens leave no room beside 3 special ones" in line
    assert "negatives" in said("--objectives", "mlm,nsp", "--negatives", "none")
    toml = tmp_path / "wrong.toml"
    toml.write_text('objectives = ["mlm", "sopp"]\n' + config.read_text())
    assert "did you mean sop? (" in fails("--steps", "2", config=toml)
    monkeypatch.setitem(choice.OBJECTIVES, "alone", Entry("", (), OBJECTIVES["mlm"].build, alone=True))
    with pytest.raises(bothways.ConfigError, match="objectives has alone and mlm, but alone is learnt alone"):
        check_objectives(["mlm", "alone"])
    assert not (tmp_path / "run").exists()


def test_a_corpus_without_documents_or_sentences_has_no_pairs(
    corpus: Path, config: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    def built(*flags: str) -> Path:
        folder = tmp_path / "-".join(flags)
        build = ["corpus", "build", "--input", text, "--tokenizer", corpus.parent / "tokenizer", "--held-out", "0.5"]
        assert run(*build, "--workers", "1", "--output", folder, *flags) == 0
        return folder

    text = tmp_path / "two.txt"
    text.write_text("One is a number. Two is one, too.\nAnd so on.\n\nWords are not. They are of letters.\n")
    pairs = ["--steps", "2", "--objectives", "mlm,nsp"]
    single = built("--seed", "1")
    line = fails(*pairs, "--corpus", single)
    assert f"{single}: train split: a single document has sequences of two sentences: there is no other one" in line
    assert (
        run(
            "pretrain",
            config,
            *pairs[:2],
            "--objectives",
            "mlm,sop",
            "--preset",
            "small-albert",
            "--corpus",
            single,
            "--output",
            tmp_path / "sop",
        )
        == 0
    )
    whole = built("--sentences", "none", "--seed", "1")
    line = fails("--steps", "2", "--objectives", "mlm,nsp", "--corpus", whole)
    assert "tokens has two sentences to make a pair of; build the corpus with --sentences split" in line
    small = ["--longest", "4", "--batch-tokens", "64"]
    assert "no sequence of at most 4 tokens has two sentences" in fails(*pairs, *small)


def test_that_few_sequences_are_pairs_is_told(
    corpus: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    alone = [f"{number} is a number." for number in range(30)]
    together = [f"Words are {number}. They are of letters." for number in range(10)]
    text.write_text("\n\n".join([*alone, *together]))
    folder = tmp_path / "corpus"
    build = ["corpus", "build", "--input", text, "--tokenizer", corpus.parent / "tokenizer", "--output", folder]
    assert run(*build, "--held-out", "0.5") == 0
    told = {}
    for objectives in ("mlm,nsp", "mlm"):
        flags = ["--objectives", objectives, "--corpus", folder, "--steps", "2", "--output", tmp_path / objectives]
        capsys.readouterr()
        assert run("pretrain", config, *flags) == 0
        told[objectives] = capsys.readouterr().err
    assert re.search(r"bothways: \d+% of the sequences are pairs with a label", told["mlm,nsp"])
    assert "pairs" not in told["mlm"]


def test_a_family_without_types_cannot_tell_pairs_apart(
    fails: Callable[..., str], config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "untyped", Preset("bert", replace(PRESETS["bert-tiny"].config, types=1)))
    line = fails("--steps", "2", "--objectives", "mlm,nsp", "--preset", "untyped")
    assert "untyped has no types to tell them apart by" in line


def test_a_run_that_is_resumed_keeps_its_objectives(fails: Callable[..., str], config: Path, tmp_path: Path) -> None:
    output = tmp_path / "kept"
    assert run("pretrain", config, "--objectives", "mlm,nsp", "--steps", "2", "--output", output) == 0
    line = fails("--steps", "2", "--resume", "--output", output)
    assert "objectives was ['mlm', 'nsp'], now ['mlm']" in line
    settings = json.loads((output / "settings.json").read_text())
    assert settings["objective"]["objectives"] == ["mlm", "nsp"]
    assert settings["objective"]["negatives"] == "other"
