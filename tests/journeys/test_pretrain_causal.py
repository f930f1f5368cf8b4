"""What a user does who pretrains a GPT-2 on next tokens, with a tokenizer that has neither [CLS] nor [MASK]."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from prompt import run
from tokenizers import ByteLevelBPETokenizer

import bothways
from bothways.train.material import material_of
from bothways.train.report import MetricsLog
from bothways.train.settings import CorpusSettings, ObjectiveSettings, PretrainSettings, StepSettings

pytestmark = pytest.mark.usefixtures("at_once")

END = "<|endoftext|>"
CAUSAL = ["--objectives", "causal", "--preset", "gpt2-tiny", "--steps", "6"]


@pytest.fixture(scope="module")
def shards(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus in ids of a tokenizer as GPT-2 has it."""
    folder, texts = tmp_path_factory.mktemp("causal"), corpus.parent
    trained = ByteLevelBPETokenizer()
    files = [str(path) for path in sorted(texts.glob("*.txt"))]
    trained.train(files, vocab_size=600, show_progress=False, special_tokens=[END])
    (folder / "tokenizer").mkdir()
    trained.save_model(str(folder / "tokenizer"))
    (folder / "tokenizer" / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    inputs = [word for file in files for word in ("--input", file)]
    build = ["corpus", "build", *inputs, "--tokenizer", folder / "tokenizer", "--output", folder / "shards"]
    assert run(*build, "--held-out", "0.2", "--workers", "1") == 0
    return folder / "shards"


def test_transformers_goes_on_from_a_prompt_that_nothing_closes(config: Path, corpus: Path, tmp_path: Path) -> None:
    """Also with a tokenizer that says of other models' texts that they are over."""
    assert run("pretrain", config, *CAUSAL, "--corpus", corpus, "--output", tmp_path / "run") == 0
    folder = tmp_path / "run" / "model"
    text, ours = "the cat sat", bothways.Encoder.from_pretrained(folder).tokenizer
    closed = transformers.AutoTokenizer.from_pretrained(corpus / "tokenizer")(text)["input_ids"]
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs(text)["input_ids"] == list(ours.encode([text])[0].ids) == closed[:-1]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert (model.config.bos_token_id, model.config.eos_token_id) == (closed[0], closed[-1])
    (written,) = bothways.pipeline("text-generation", folder)(text, max_new_tokens=4)
    found = model.generate(**theirs(text, return_tensors="pt"), max_new_tokens=4, do_sample=False)
    assert written["generated_text"].split() == theirs.decode(found[0], skip_special_tokens=True).split()


def rows(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def test_stopped_and_resumed_it_ends_in_the_same_bytes_and_transformers_goes_on(
    config: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["pretrain", config, *CAUSAL, "--corpus", shards, "--output"]
    assert run(*command, tmp_path / "whole") == 0
    add = MetricsLog.add

    def adding(self: MetricsLog, event: Any) -> None:
        add(self, event)
        if event.kind == "step" and event.progress.step == 2:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(MetricsLog, "add", adding)
        assert run(*command, tmp_path / "run") == 130
    assert run(*command, tmp_path / "run", "--resume") == 0
    for file in ("metrics.jsonl", "model/model.safetensors", "model/config.json", "model/tokenizer.json"):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file
    steps = [row for row in rows(tmp_path / "whole") if "loss" in row]
    assert all(row["loss"] == row["causal"] for row in steps)
    assert steps[-1]["loss"] < steps[0]["loss"]
    held = [row["held_out"] for row in rows(tmp_path / "whole") if "held_out" in row]
    assert set(held[0]) == {"causal", "accuracy", "perplexity"}
    assert_loaded(tmp_path / "whole" / "model")


def test_texts_end_as_often_as_there_are_documents(shards: Path) -> None:
    """Also where documents are cut into sequences, and sequences at the ends of batches."""
    corpus, step = CorpusSettings(shards, longest=24), StepSettings(step_tokens=100, batch_tokens=100)
    settings = PretrainSettings(corpus=corpus, objective=ObjectiveSettings(("causal",)), step=step)
    found = material_of(settings)
    end = found.tokenizer.id_of("eos")
    for packing, split in ((found.train, "train"), (found.held, "held_out")):
        batches = [packing(0, number) for number in range(packing.batches(0))]
        asked = [found.objective.corrupt(one, np.random.default_rng(0)).labels["causal"].values for one in batches]
        documents = found.corpus.splits[split].documents
        assert sum(len(one.lengths) for one in batches) > 2 * documents
        assert sum(int((values == end).sum()) for values in asked) == documents


def assert_loaded(folder: Path) -> None:
    """transformers finds every weight, and none too many, gives the same scores, and knows where texts end."""
    model, told = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert {key: list(value) for key, value in told.items() if value} == {}
    assert model.config.bos_token_id == model.config.eos_token_id == tokenizer.convert_tokens_to_ids(END)
    encoder = bothways.Encoder.from_pretrained(folder)
    assert (list(encoder.heads), encoder.unused) == (["causal"], ())
    assert encoder.tokenizer is not None
    (text,) = encoder.tokenizer.encode(["The value of an expression is a number."])
    assert text.ids == tokenizer("The value of an expression is a number.")["input_ids"]
    with torch.inference_mode():
        ours = encoder.heads["causal"](encoder.network(bothways.Ragged.of([text.ids])).last.data)
        torch.testing.assert_close(ours, model.eval()(torch.tensor([text.ids])).logits[0], atol=1e-5, rtol=0)
    card = (folder / "README.md").read_text()
    assert "Trained by causal language modelling" in card
    assert "pipeline_tag: text-generation" in card
    assert "AutoModelForCausalLM" in card
    assert "fill" not in card


def test_a_run_goes_on_from_a_model_without_the_head(config: Path, shards: Path, tmp_path: Path) -> None:
    assert run("pretrain", config, *CAUSAL, "--corpus", shards, "--output", tmp_path / "first") == 0
    transformers.GPT2Model.from_pretrained(tmp_path / "first" / "model").save_pretrained(tmp_path / "bare")
    bare = tmp_path / "bare.toml"
    bare.write_text(config.read_text().replace('preset = "bert-tiny"\n', 'objectives = ["causal"]\nsteps = 2\n'))
    command = ["pretrain", bare, "--start", tmp_path / "bare", "--corpus", shards, "--output", tmp_path / "second"]
    assert run(*command, "--lr", "1e-9") == 0
    ended = [row["held_out"]["causal"] for row in rows(tmp_path / "first") if "held_out" in row][-1]
    goes_on = next(row["held_out"]["causal"] for row in rows(tmp_path / "second") if "held_out" in row)
    assert goes_on == pytest.approx(ended, rel=1e-3)
    assert_loaded(tmp_path / "second" / "model")


def test_its_operations_count_every_row_that_is_predicted(
    config: Path, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("plan", config, *CAUSAL, "--corpus", shards, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    vocab, width = 600, 128
    layers = 2 * 2 * 12 * width**2
    least, most = (3 * (layers + 2 * share * vocab * width) for share in (0.95, 1.0))
    attention = 3 * 2 * 4 * 64 * width
    assert least < found["flops"] / found["tokens"] < most + attention


def test_masked_words_need_a_mask_token(fails: Callable[..., str], shards: Path) -> None:
    line = fails("--steps", "2", "--corpus", shards)
    assert f"{shards}/tokenizer: the tokenizer has no cls, sep, mask token" in line
