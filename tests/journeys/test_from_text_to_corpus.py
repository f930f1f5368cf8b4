"""What a user does who has text and wants to pretrain: a tokenizer, then a corpus, at the prompt."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from pydoc_data.topics import topics as pages

import pytest
import transformers
from prompt import fails_with_one_line, run

from bothways.data.corpus import Corpus
from bothways.text.training import KINDS


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python manual's paragraphs in files of two kinds."""
    folder = tmp_path_factory.mktemp("texts")
    paragraphs = [text for name in sorted(pages)[:50] for text in pages[name].split("\n\n") if text.strip()]
    half = len(paragraphs) // 2
    (folder / "one.txt").write_text("\n\n".join(paragraphs[:half]), encoding="utf-8")
    rows = "".join(json.dumps({"text": text}) + "\n" for text in paragraphs[half:])
    (folder / "two.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    return folder


@pytest.fixture(scope="module")
def tokenizer(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer") / "new"
    assert run("tokenizer", "train", "--input", texts, "--vocab-size", "1200", "--output", folder) == 0
    return folder


def test_a_tokenizer_is_trained_and_judged_by_text_it_has_not_seen(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [texts / "one.txt", texts / "two.jsonl.gz"]
    command = ["tokenizer", "train", "--input", *files, "--kind", "bpe", "--vocab-size", "900", "--lowercase", "--json"]
    assert run(*command, "--output", tmp_path, "--held-out", "0.1", "--limit-bytes", "100000", "--special", "<a>") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["vocab_size"] == 900
    assert report["judged_on"] == "held-out documents"
    assert report["trained_on"]["share"] == pytest.approx(100_000 / report["bytes"], rel=0.2)
    assert report["bytes"] > 150_000
    assert 1 < report["fertility"] < 3
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.tokenize("<a>The") == ["<a>", *loaded.tokenize("the")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]


def test_of_more_text_than_a_kind_needs_a_sample_is_trained_on(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, "unigram", replace(KINDS["unigram"], bytes=100_000))
    command = ["tokenizer", "train", "--input", texts, "--vocab-size", "600", "--json", "--output", tmp_path]
    for kind, most in (("unigram", 100_000), ("bpe", 1 << 30)):
        assert run(*command, "--kind", kind) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["trained_on"]["bytes"] == pytest.approx(min(most, report["bytes"]), rel=0.2)


def test_the_report_is_a_table(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tokenizer", "train", "--input", texts, "--vocab-size", "600", "--output", tmp_path, "--cased") == 0
    captured = capsys.readouterr()
    assert "kept whole" in captured.out
    assert "latin" in captured.out
    assert captured.err == f"{tmp_path}: 600 entries\n"


def test_a_corpus_is_built_shown_and_left_alone_when_complete(
    texts: Path, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "corpus"
    command = ["corpus", "build", "--input", texts, "--tokenizer", tokenizer, "--output", folder, "--held-out", "0.1"]
    assert run(*command, "--workers", "2") == 0
    first = capsys.readouterr()
    assert first.err == f"{folder}: complete\n"
    assert run(*command) == 0
    assert capsys.readouterr() == (first.out, f"{folder}: was complete already\n")
    assert run("corpus", "show", folder, "--verify", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    corpus = Corpus.open(folder)
    assert shown["splits"]["train"]["documents"] == corpus.splits["train"].documents > 100
    assert shown["splits"]["held_out"]["tokens"] == corpus.splits["held_out"].tokens > 100
    assert shown["sample"][0] == 'the " assert " statement'
    assert run("corpus", "show", folder) == 0
    assert 'the " assert " statement' in capsys.readouterr().out
    (folder / "train-00000.tokens").write_bytes(bytes((folder / "train-00000.tokens").stat().st_size))
    assert "train-00000.tokens: damaged" in fails_with_one_line(capsys, "corpus", "show", folder, "--verify")


def test_interrupted_a_build_says_so_and_goes_on_the_next_time(texts: Path, tokenizer: Path, tmp_path: Path) -> None:
    folder, small = tmp_path / "corpus", "import bothways.data.build as b, time; b.BLOCK_CHARACTERS = 2000"
    slow = "from bothways.data.shards import _Open as o; f = o.append; o.append = lambda *a: (time.sleep(.05), f(*a))"
    heeds = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    start = "if __name__ == '__main__':\n from bothways.__main__ import run; run()"
    command = ["corpus", "build", "--input", texts, "--tokenizer", tokenizer, "--output", folder]
    options = ["--shard-tokens", "5000", "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-c", "\n".join([small, slow, heeds, start]), *command, *options],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(folder.glob("train-*.json")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, "bothways: interrupted\n")
    assert run(*command, *options) == 0
    Corpus.open(folder).verify()


def test_bad_input_is_one_line(
    texts: Path, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["tokenizer", "train", "--output", tmp_path / "new"]
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"body": "b"}\n')
    assert "--input" in fails_with_one_line(capsys, *train)
    (tmp_path / "none.jsonl").touch()
    none = (tmp_path / "empty.txt", tmp_path / "none.jsonl")
    assert f"{none[0]}: there is no text" in fails_with_one_line(capsys, *train, "--input", none[0])
    assert f"{none[0]}, {none[1]}: there is no text" in fails_with_one_line(capsys, *train, "--input", *none)
    assert "line 2" in fails_with_one_line(capsys, *train, "--input", tmp_path / "bad.jsonl")
    assert "twice" in fails_with_one_line(capsys, *train, "--input=-")
    assert "'char'" in fails_with_one_line(capsys, *train, "--input", texts, "--kind", "char")
    assert "is the least" in fails_with_one_line(capsys, *train, "--input", texts, "--vocab-size", "20")
    assert "limit-bytes" in fails_with_one_line(capsys, *train, "--input", texts, "--limit-bytes", "0")
    assert not (tmp_path / "new").exists()
    build = ["corpus", "build", "--tokenizer", tokenizer, "--output", tmp_path / "new"]
    before = sorted(tmp_path.rglob("*"))
    assert f"{none[0]}: there is no text" in fails_with_one_line(capsys, *build, "--input", none[0])
    assert sorted(tmp_path.rglob("*")) == before
    assert "line 2" in fails_with_one_line(capsys, *build, "--input", tmp_path / "bad.jsonl", "--workers", "2")
    assert "not empty" in fails_with_one_line(capsys, *build[:-1], texts, "--input", texts)
    assert "corpus.json: no such file" in fails_with_one_line(capsys, "corpus", "show", tmp_path)
