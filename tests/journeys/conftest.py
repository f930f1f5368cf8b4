"""What journeys start from: a tiny model that fills masks, one with the sizes of bert-base, and a corpus."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics as pages

import pytest
import torch
from prompt import run

from bothways.train.loop import Event
from bothways.train.plan import matmul_rate
from bothways.train.report import MetricsLog

SETTINGS = """\
preset = "bert-tiny"
corpus = "{corpus}"
longest = 64
precision = "fp32"

[how]  # tables group keys as one likes
batch-tokens = 256
step_tokens = 512
warmup = 2
lr = 1e-3
evaluate_every = 4
evaluate_tokens = 2000
save_every = 3
log_every = 1
"""


@pytest.fixture(scope="session")
def tiny_masked(save_bert: Callable[..., Path]) -> Path:
    return save_bert(kind="BertForMaskedLM")


@pytest.fixture(scope="session")
def tiny_tagger(save_bert: Callable[..., Path]) -> Path:
    names = dict(enumerate(("O", "B-PER", "I-PER", "B-LOC", "I-LOC")))
    return save_bert(
        kind="BertForTokenClassification", id2label=names, label2id={n: i for i, n in names.items()}, seed=1
    )


@pytest.fixture(scope="session")
def base_sized_masked(save_bert: Callable[..., Path], vocab: list[str]) -> Path:
    """12 layers of width 768 as bert-base has, but a small vocabulary and feed-forward part, stored in fp16."""
    folder = save_bert(
        kind="BertForMaskedLM",
        dtype=torch.float16,
        std=0.02,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=16,
        vocab_size=len(vocab) + 2,
        max_position_embeddings=512,
    )
    with (folder / "vocab.txt").open("a", encoding="utf-8") as file:
        file.write("hello\nworld\n")
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for i, name in enumerate(sorted(pages)[:30]):
        (folder / f"{i:02}.txt").write_text(pages[name], encoding="utf-8")
    train = ["tokenizer", "train", "--input", folder, "--vocab-size", "700", "--output", folder / "tokenizer"]
    build = ["corpus", "build", "--input", folder, "--tokenizer", folder / "tokenizer", "--output", folder / "shards"]
    assert run(*train) == 0
    assert run(*build, "--held-out", "0.2", "--workers", "1") == 0
    return folder / "shards"


@pytest.fixture(scope="session")
def config(corpus: Path) -> Path:
    path = corpus.parent / "tiny.toml"
    path.write_text(SETTINGS.format(corpus=corpus))
    return path


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str], config: Path, tmp_path: Path) -> Callable[..., str]:
    """(flags …) → the one line that a run with them ends with."""

    def failing(*flags: str | Path, config: Path = config) -> str:
        capsys.readouterr()
        output = () if "--output" in flags else ("--output", tmp_path / "run")
        assert run("pretrain", config, *output, *flags) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        *before, last = captured.err.splitlines()
        assert last.startswith("bothways: ")
        assert all(line.startswith(("step ", "bothways: there is no run in")) for line in before), before
        return last

    return failing


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The matrix-product rate is measured by a single, small product."""

    def rate(dtype: torch.dtype, device: torch.device, seconds: float = 0.0, size: int = 64) -> float:
        return matmul_rate(dtype, device, seconds=0.0, size=64)

    monkeypatch.setattr("bothways.train.plan.matmul_rate", rate)


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """(step, signal): the process gets the signal, SIGTERM if none is named, while it is at that step."""
    add = MetricsLog.add

    def arm(step: int, number: int = signal.SIGTERM) -> None:
        def adding(self: MetricsLog, event: Event) -> None:
            add(self, event)
            if event.kind == "step" and event.progress.step == step:
                signal.raise_signal(number)

        monkeypatch.setattr(MetricsLog, "add", adding)

    yield arm
    monkeypatch.undo()
