"""The README's examples, run as they stand, with the hub's cache holding the models they name."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics

import huggingface_hub
import pytest
import torch
from prompt import run
from safetensors.torch import load_file
from small_models import write_bert_tokenizer
from small_pairs import made

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
COMMANDS = [
    line.removeprefix("$ ").partition("    #")[0]
    for language, code in BLOCKS
    if language == "console"
    for line in code.splitlines()
    if line.startswith("$ bothways")
]


TASKS = {
    "my-classifier": "SequenceClassification",
    "my-tagger": "TokenClassification",
    "my-answerer": "QuestionAnswering",
    "my-chooser": "MultipleChoice",
}
PRETRAIN = """
preset = "bert-tiny"
corpus = "shards"
steps = 2
warmup = 1
batch_tokens = 512
step_tokens = 512
evaluate_tokens = 512
"""


def in_cache(cache: Path, name: str, folder: Path) -> None:
    """Put a folder where huggingface_hub looks for a downloaded snapshot."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / ("0" * 40)).symlink_to(folder, target_is_directory=True)


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    minilm: Path,
    base_sized_masked: Path,
    save_bert: Callable[..., Path],
    save_family: Callable[..., Path],
) -> Path:
    """A working folder, with a cache of the hub in it that has both models."""
    folder = tmp_path_factory.mktemp("readme")
    in_cache(folder / "cache", "sentence-transformers/all-MiniLM-L6-v2", minilm)
    in_cache(folder / "cache", "bert-base-uncased", base_sized_masked)
    in_cache(folder / "cache", "gpt2", save_family("gpt2", kind="ForMaskedLM", max_position_embeddings=64))
    (folder / "my-translator").mkdir()
    made("bert, bert", folder / "my-translator")
    write_bert_tokenizer(folder / "my-translator", 24)
    for name, kind in TASKS.items():
        (folder / name).symlink_to(save_bert(kind=f"BertFor{kind}"), target_is_directory=True)
    (folder / "lines.txt").write_text("one\ntwo\n", encoding="utf-8")
    paragraphs = [text for name in sorted(topics)[:40] for text in topics[name].split("\n\n")]
    rows = "".join(json.dumps({"text": text}) + "\n" for text in paragraphs)
    (folder / "corpus.jsonl").write_text(rows, encoding="utf-8")
    labelled = "".join(f"{text[:60].split(chr(10))[0]}\t{len(text) > 400}\n" for text in paragraphs[:80])
    for name in ("train.tsv", "dev.tsv"):
        (folder / name).write_text(f"text\tlabel\n{labelled}", encoding="utf-8")
    (folder / "train.en").write_text("A dog runs.\nTwo cats sleep.\n" * 4, encoding="utf-8")
    (folder / "train.de").write_text("Ein Hund rennt.\nZwei Katzen schlafen.\n" * 4, encoding="utf-8")
    (folder / "pretrain.toml").write_text(PRETRAIN)
    (folder / "other-run").mkdir()
    (folder / "other-run" / "metrics.jsonl").write_text('{"step": 1, "tokens": 9, "loss": 7.5, "mlm": 7.5}\n')
    shutil.copytree(base_sized_masked, folder / "old-bert")
    weights = folder / "old-bert" / "model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    return folder


@pytest.fixture(autouse=True)
def _place(folder: Path, monkeypatch: pytest.MonkeyPatch, at_once: None) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "cache"))


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_the_python_examples_run_and_say_what_their_comments_say(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    checks = re.sub(r"^(?!print)(.*?)\s+# (\(\d[\d, ]*\)).*$", r"assert \1 == \2", code, flags=re.MULTILINE)
    exec(checks, {})
    out = capsys.readouterr().out
    for expected in re.findall(r"^print.*# (.*)$", code, flags=re.MULTILINE):
        assert expected in out


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_run(command: str) -> None:
    assert len(COMMANDS) >= 5
    assert run(*shlex.split(command)[1:]) == 0
