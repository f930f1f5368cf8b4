"""A corpus on disk holds each sentence's own ids, however many processes built it and however often it was killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from pydoc_data.topics import topics as pages

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from bothways import BothwaysError, ConfigError, InputError, MissingExtraError
from bothways.data import build as building
from bothways.data.build import Settings, as_text, build
from bothways.data.corpus import PARTS, SPLITS, Corpus, token_dtype
from bothways.data.processes import in_order
from bothways.data.readers import Source
from bothways.data.sampling import digest, draw, measure
from bothways.data.sentences import SENTENCES, sentences
from bothways.data.shards import Block, _Part
from bothways.errors import BorrowedRulesWarning
from bothways.text.formats import load_tokenizer, save_tokenizer
from bothways.text.training import KINDS, train

SMALL = Settings(held_out=0.2, shard_tokens=3000)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Real documents, two of them twice, one without a letter, one that names special tokens."""
    found = [pages[name] for name in sorted(pages)[:40]]
    return [
        *found[:30],
        found[3],
        "[MASK] is not a mask. [SEP] Nor is this </s> an end.",
        *found[30:],
        found[0],
        "\x07",
    ]


@pytest.fixture(scope="module")
def source(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Source:
    path = tmp_path_factory.mktemp("input") / "topics.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return Source((str(path),))


@pytest.fixture(scope="module")
def tokenizers(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for kind in KINDS:
        folders[kind] = tmp_path_factory.mktemp(kind)
        save_tokenizer(train(texts, kind, 800, characters=measure(texts).characters), folders[kind])
    return folders


@pytest.fixture(scope="module")
def whole(source: Source, tokenizers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "corpus"
    build(source, tokenizers["wordpiece"], folder, SMALL)
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "corpus"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stored(corpus: Corpus, split: str) -> Iterator[list[tuple[list[int], list[int]]]]:
    """The documents of a split, each as its sentences' ids and beginnings of words."""
    for shard in corpus.splits[split].shards:
        for first, last in pairwise(shard.documents):
            bounds = shard.sentences[first : last + 1]
            yield [(shard.tokens[a:b].tolist(), shard.words[a:b].tolist()) for a, b in pairwise(bounds)]


def one_by_one(backend: Backend, text: str) -> list[tuple[list[int], list[int]]]:
    """The slow and obvious way: sentence by sentence, token by token."""
    rows = []
    for i, sentence in enumerate(sentences(text, "split", "en")):
        encoding = backend.encode(" " * (i > 0) + sentence, add_special_tokens=False)
        words = encoding.word_ids
        begins = [int(j == 0 or words[j] is None or words[j] != words[j - 1]) for j in range(len(words))]
        rows.append((encoding.ids, begins))
    return [row for row in rows if row[0]]


@pytest.mark.parametrize("kind", KINDS)
def test_shards_hold_the_ids_of_each_sentence_in_order(
    kind: str, source: Source, tokenizers: dict[str, Path], texts: list[str], tmp_path: Path
) -> None:
    corpus = build(source, tokenizers[kind], tmp_path / "corpus", SMALL)
    tokenizer = load_tokenizer(tokenizers[kind])
    backend = as_text(tokenizer)
    expected: dict[str, list[object]] = {split: [] for split in SPLITS}
    for text in dict.fromkeys(texts):
        rows = one_by_one(backend, text)
        if rows:
            expected["held_out" if draw(digest(text), 0) < 0.2 else "train"].append(rows)
    assert {split: list(stored(corpus, split)) for split in SPLITS} == expected
    assert all(expected.values())
    assert corpus.counts["duplicates"] == 2
    assert corpus.counts["empty"] == (kind == "wordpiece" or kind == "unigram")
    special = {tokenizer.id_of(role) for role in ("cls", "sep", "pad", "mask")}
    assert not special & {int(i) for split in SPLITS for shard in corpus.splits[split].shards for i in shard.tokens}
    corpus.verify()


@pytest.mark.parametrize("kind", KINDS)
def test_text_without_special_tokens_has_its_usual_ids(
    kind: str, tokenizers: dict[str, Path], texts: list[str]
) -> None:
    tokenizer = load_tokenizer(tokenizers[kind])
    plain, backend = tokenizer.backend, as_text(tokenizer)
    for text in (*texts, "naïve 你好 \x07 zero\u200bwidth"):
        if "[MASK]" not in text:
            assert backend.encode(text).ids == plain.encode(text).ids


def test_what_is_stored_decodes_to_the_text(
    source: Source, tokenizers: dict[str, Path], texts: list[str], tmp_path: Path
) -> None:
    corpus = build(source, tokenizers["bpe"], tmp_path / "corpus", replace(SMALL, held_out=0.0, sentences="none"))
    tokenizer = load_tokenizer(corpus.tokenizer_folder)
    (one, *_), *_ = stored(corpus, "train")
    assert tokenizer.decode(one[0]) == texts[0].strip()


def test_a_shard_ends_with_the_document_that_fills_it(whole: Path) -> None:
    corpus = Corpus.open(whole)
    shards = corpus.splits["train"].shards
    assert len(shards) > 3
    for shard in shards[:-1]:
        last = shard.sentences[shard.documents[-2]]
        assert last < 3000 <= len(shard.tokens)


def test_counts_types_and_files_are_those_of_the_description(whole: Path, texts: list[str]) -> None:
    corpus = Corpus.open(whole)
    assert corpus.vocab_size == 800
    assert corpus.tokenizer_folder == whole / "tokenizer"
    assert sum(split.documents for split in corpus.splits.values()) + sum(corpus.counts.values()) == len(texts)
    shard = corpus.splits["train"].shards[0]
    assert [getattr(shard, part).dtype.str for part in PARTS] == ["<u2", "|u1", "<i8", "<i8"]
    assert not any(getattr(shard, part).flags.writeable for part in PARTS)
    assert corpus.splits["train"].tokens == sum(len(shard.tokens) for shard in corpus.splits["train"].shards)
    assert corpus.splits["train"].sentences == sum(len(s.sentences) - 1 for s in corpus.splits["train"].shards)
    names = {f"{shard.name}.{part}" for split in corpus.splits.values() for shard in split.shards for part in PARTS}
    assert set(contents(whole)) == {
        "corpus.json",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        *names,
    }


def test_ids_of_a_large_vocabulary_take_four_bytes() -> None:
    assert (token_dtype(1 << 16), token_dtype((1 << 16) + 1)) == ("uint16", "uint32")


@pytest.mark.parametrize("workers", [2, 3])
def test_the_number_of_processes_changes_no_byte(
    workers: int,
    whole: Path,
    source: Source,
    tokenizers: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(building, "BLOCK_CHARACTERS", 5000)
    build(source, tokenizers["wordpiece"], tmp_path / "corpus", SMALL, workers=workers)
    assert contents(tmp_path / "corpus") == contents(whole)


def test_the_order_of_documents_does_not_change_what_is_held_out(
    source: Source, texts: list[str], whole: Path, tokenizers: dict[str, Path], tmp_path: Path
) -> None:
    shuffled = random.Random(0).sample(texts, len(texts))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in shuffled))
    corpus = build(Source((str(tmp_path / "a.jsonl"),)), tokenizers["wordpiece"], tmp_path / "corpus", SMALL)
    for split in SPLITS:
        assert sorted(stored(corpus, split)) == sorted(stored(Corpus.open(whole), split))


class Stopped(Exception):
    pass


@settings(max_examples=8)
@given(stops=st.lists(st.integers(0, 9), max_size=4))
def test_stopped_anywhere_and_begun_again_a_build_gives_the_same_bytes(
    stops: list[int], whole: Path, source: Source, tokenizers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("stopped") / "corpus"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "BLOCK_CHARACTERS", 20_000)
        patch.setattr(_Part, "discard", lambda part: part.file.close())  # what is begun stays, as if killed
        for stop in stops:
            calls = iter(range(stop))

            def report(_: object, calls: Iterator[int] = calls) -> None:
                if next(calls, None) is None:
                    raise Stopped

            try:
                build(source, tokenizers["wordpiece"], folder, SMALL, report=report)
            except Stopped:
                assert not (folder / "corpus.json").exists()
        build(source, tokenizers["wordpiece"], folder, SMALL)
    assert contents(folder) == contents(whole)


def test_killed_and_begun_again_a_build_gives_the_same_bytes(
    whole: Path, source: Source, tokenizers: dict[str, Path], tmp_path: Path
) -> None:
    """A subprocess with two workers is killed once it has written a shard or more."""
    options = ["--held-out", "0.2", "--shard-tokens", "3000", "--workers", "2"]
    command = ["corpus", "build", "--input", *source.inputs, "--tokenizer", tokenizers["wordpiece"], *options]
    slow = (
        "import time; from bothways.data.shards import _Open as o; f = o.append; o.append = lambda *a: (wait(), f(*a))"
    )
    slow += "; wait = lambda: time.sleep(0.05)"
    small = "import bothways.data.build as b; b.BLOCK_CHARACTERS = 5000"
    script = f"{slow}\n{small}\nfrom bothways.cli.main import main\nif __name__ == '__main__': main()"
    folder = tmp_path / "corpus"
    for shards in (1, 3):
        process = subprocess.Popen([sys.executable, "-c", script, *command, "--output", folder])
        deadline = time.monotonic() + 60
        while len(list(folder.glob("train-*.json"))) < shards and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (folder / "corpus.json").exists()
    begun = set(folder.glob("train-*.json"))
    assert len(begun) >= 3
    skipped = []
    build(source, tokenizers["wordpiece"], folder, SMALL, report=lambda progress: skipped.append(progress.skipped))
    assert skipped[-1] > 0
    assert contents(folder) == contents(whole)


def test_workers_end_when_the_process_that_started_them_is_killed(tmp_path: Path) -> None:
    script = f"""
import itertools, os, pathlib, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from bothways.data.processes import in_order
from test_corpus import note_pid
if __name__ == "__main__":
    for _ in in_order(note_pid, itertools.repeat({str(tmp_path)!r}), 2):
        pass
"""
    (tmp_path / "main.py").write_text(script)
    process = subprocess.Popen([sys.executable, tmp_path / "main.py"])
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("*.pid"))) < 2 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    pids = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert len(pids) == 2
    while any(running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(running(pid) for pid in pids)


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")


def note_pid() -> Callable[[str], None]:
    return lambda folder: (Path(folder) / f"{os.getpid()}.pid").touch()


def squares() -> Callable[[int], int]:
    return square


def square(number: int) -> int:
    if number == 13:
        raise InputError("13 is refused")
    if number == 17:
        raise ValueError("17 is a bug")
    if number == 19:
        os._exit(1)
    return number * number


@pytest.mark.parametrize(("workers", "jobs"), [(1, 0), (1, 4), (2, 0), (3, 2), (3, 10)])
def test_results_come_in_the_order_of_the_jobs(workers: int, jobs: int) -> None:
    assert list(in_order(squares, range(jobs), workers)) == [(i, i * i) for i in range(jobs)]


@pytest.mark.parametrize(
    ("job", "kind", "message"),
    [(13, InputError, "13 is refused"), (17, RuntimeError, "17 is a bug"), (19, BothwaysError, "worker process died")],
)
def test_what_goes_wrong_in_a_process_is_raised_here(job: int, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        list(in_order(squares, [1, job, 2, 3], 2))


def test_a_finished_build_is_left_as_it_is(source: Source, tokenizers: dict[str, Path], copy: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    corpus = build(source, tokenizers["wordpiece"], copy, SMALL)
    assert corpus.vocab_size == 800
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


@pytest.fixture
def half(source: Source, tokenizers: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A build that was stopped after some shards."""

    def report(progress: object) -> None:
        if len(list((tmp_path / "half").glob("train-*.json"))) >= 3:
            raise Stopped

    monkeypatch.setattr(building, "BLOCK_CHARACTERS", 5000)
    with pytest.raises(Stopped):
        build(source, tokenizers["wordpiece"], tmp_path / "half", SMALL, report=report)
    return tmp_path / "half"


def test_a_shard_damaged_since_is_made_again(
    half: Path, whole: Path, source: Source, tokenizers: dict[str, Path]
) -> None:
    (half / "train-00001.words").write_bytes(b"\0" * (half / "train-00001.words").stat().st_size)
    build(source, tokenizers["wordpiece"], half, SMALL)
    assert contents(half) == contents(whole)


def test_a_record_that_makes_no_sense_is_made_again(
    half: Path, whole: Path, source: Source, tokenizers: dict[str, Path]
) -> None:
    for number, nonsense in enumerate(['{"tokens": "many"}', "[", "{}"]):
        (half / f"train-{number:05d}.json").write_text(nonsense)
    build(source, tokenizers["wordpiece"], half, SMALL)
    assert contents(half) == contents(whole)


def test_other_settings_or_another_input_do_not_go_on(
    half: Path, copy: Path, source: Source, tokenizers: dict[str, Path], texts: list[str]
) -> None:
    for folder in (half, copy):
        with pytest.raises(InputError, match=r"other settings .shard_tokens was 3000, now 3001"):
            build(source, tokenizers["wordpiece"], folder, replace(SMALL, shard_tokens=3001))
        with pytest.raises(InputError, match=r"other settings .tokenizer was"):
            build(source, tokenizers["bpe"], folder, SMALL)
    path = Path(source.inputs[0])
    data = path.read_bytes()
    try:
        for other in (data.replace(b"the", b"teh"), data[:2000].rpartition(b"\n")[0] or b'{"text": "short"}\n'):
            path.write_bytes(other)
            with pytest.raises(InputError, match="not what this build began with"):
                build(source, tokenizers["wordpiece"], half, SMALL)
    finally:
        path.write_bytes(data)


def test_what_was_begun_without_a_finished_shard_stands_in_nobodys_way(
    whole: Path, source: Source, tokenizers: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(tokenizers["bpe"], tmp_path / "corpus" / "tokenizer")
    (tmp_path / "corpus" / "tokenizer" / "special_tokens_map.json").write_text("{}")
    (tmp_path / "corpus" / "build.json").write_text('{"tokenizer": "another"}')
    (tmp_path / "corpus" / "train-00007.tokens").write_bytes(b"without a record")
    build(source, tokenizers["wordpiece"], tmp_path / "corpus", SMALL)
    assert contents(tmp_path / "corpus") == contents(whole)


def test_a_folder_with_other_things_is_not_written_to(
    source: Source, tokenizers: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "thesis.doc").write_text("")
    with pytest.raises(InputError, match=r"not empty .thesis.doc"):
        build(source, tokenizers["wordpiece"], tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.doc"]
    shutil.copytree(tokenizers["bpe"], tmp_path / "work" / "tokenizer")
    with pytest.raises(InputError, match=r"not empty .tokenizer"):
        build(source, tokenizers["wordpiece"], tmp_path / "work", SMALL)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        build(source, tokenizers["wordpiece"], tmp_path / "file", SMALL)


@pytest.mark.parametrize("text", ["", "\n\n \n", "\x07"])
def test_an_input_without_text_is_refused(text: str, tokenizers: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(InputError, match="no text"):
        build(Source((str(tmp_path / "a.txt"),)), tokenizers["wordpiece"], tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()


def test_an_input_that_cannot_be_read_leaves_nothing(tokenizers: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("One document.\n\nÜber".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        build(Source((str(tmp_path / "a.txt"),)), tokenizers["wordpiece"], tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sentences": "words"}, "split, wrapped, line, none"),
        ({"held_out": 1.0}, "held_out"),
        ({"held_out": -0.1}, "held_out"),
        ({"shard_tokens": 0}, "shard_tokens"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Settings(**wrong)


def test_no_workers_and_no_tokenizer_are_refused(source: Source, tokenizers: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="workers"):
        build(source, tokenizers["bpe"], tmp_path / "corpus", workers=0)
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match="tokenizer train"):
            build(source, folder, tmp_path / "corpus")


def spoil(change: Callable[[dict[str, object]], object]) -> Callable[[Path], object]:
    def spoilt(folder: Path) -> None:
        index = json.loads((folder / "corpus.json").read_text())
        change(index)
        (folder / "corpus.json").write_text(json.dumps(index))

    return spoilt


SPOILT: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "no index": (lambda f: (f / "corpus.json").unlink(), ["corpus.json", "corpus build"]),
    "not JSON": (lambda f: (f / "corpus.json").write_text("{"), ["corpus.json", "not JSON"]),
    "a later version": (spoil(lambda i: i.update(version=2)), ["corpus.json", "version 2"]),
    "another dtype": (spoil(lambda i: i.update(dtype="float16")), ["dtype 'float16'"]),
    "no vocabulary": (spoil(lambda i: i.pop("vocab_size")), ["vocab_size", "whole number"]),
    "another split": (spoil(lambda i: i["splits"].update(test=[])), ["splits must be"]),
    "a list": (spoil(lambda i: i.update(splits=[])), ["splits must be a dict"]),
    "a shard's name": (spoil(lambda i: i["splits"]["train"].insert(0, "../../x")), ["train-00000", "object"]),
    "more shards": (spoil(lambda i: i["splits"]["train"].append(i["splits"]["train"][0])), ["no such file"]),
    "negative": (spoil(lambda i: i["splits"]["train"][0].update(tokens=-1)), ["tokens", "whole number"]),
    "too many": (spoil(lambda i: i["splits"]["train"][0].update(tokens=1 << 50)), ["train-00000.tokens", "bytes"]),
    "no order": (spoil(lambda i: i["splits"]["train"][0].update(documents=10**6)), ["train-00000", "counts"]),
    "no checksum": (spoil(lambda i: i["splits"]["train"][0]["sha256"].pop("words")), ["words must be a str"]),
    "missing file": (lambda f: (f / "train-00001.words").unlink(), ["train-00001.words", "no such file"]),
    "short file": (lambda f: os.truncate(f / "train-00001.tokens", 10), ["train-00001.tokens", "10 bytes"]),
    "no tokenizer": (lambda f: (f / "tokenizer" / "tokenizer.json").unlink(), ["tokenizer.json", "no such file"]),
}


@pytest.mark.parametrize(("change", "words"), SPOILT.values(), ids=SPOILT)
def test_a_damaged_folder_is_refused_in_one_line(
    change: Callable[[Path], object], words: list[str], copy: Path
) -> None:
    change(copy)
    with pytest.raises((ConfigError, InputError)) as caught:
        Corpus.open(copy)
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)


@pytest.mark.parametrize("name", ["train-00001.tokens", "held_out-00000.documents", "tokenizer/tokenizer.json"])
def test_verifying_names_the_damaged_file(name: str, copy: Path) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(InputError, match=name):
        Corpus.open(copy).verify()


def block_of(documents: list[list[int]]) -> Block:
    lengths = [length for document in documents for length in document]
    tokens = np.arange(sum(lengths), dtype=np.uint16)
    counts = np.array([len(document) for document in documents], np.int64)
    return Block(tokens, (tokens % 2).astype(np.uint8), np.array(lengths, np.int64), counts)


@given(st.lists(st.lists(st.integers(1, 5), max_size=4), max_size=8), st.data())
def test_a_block_divides_where_documents_do(documents: list[list[int]], data: st.DataObject) -> None:
    block, count = block_of(documents), data.draw(st.integers(0, len(documents)))
    assert block.document_tokens().tolist() == [sum(document) for document in documents]
    for part in ("tokens", "words", "sentences", "documents"):
        halves = [getattr(half, part) for half in (block.until(count), block.after(count))]
        np.testing.assert_array_equal(np.concatenate(halves), getattr(block, part))
    assert len(block.until(count).tokens) == sum(map(sum, documents[:count]))


def test_documents_are_divided_as_asked() -> None:
    text = "Dr. Smith left. He ran.\n\nA title\nwrapped words, e.g. these.  "
    assert sentences(text, "split", "en") == ["Dr. Smith left.", "He ran.", "A title", "wrapped words, e.g. these."]
    assert sentences(text, "wrapped", "en") == ["Dr. Smith left.", "He ran.", "A title wrapped words, e.g. these."]
    assert sentences(text, "line", "en") == ["Dr. Smith left. He ran.", "A title", "wrapped words, e.g. these."]
    assert sentences(text, "none", "en") == [text.strip()]
    assert [sentences(" \n", how, "en") for how in SENTENCES] == [[]] * 4


def test_without_sentencex_the_line_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencex", None)
    with pytest.raises(MissingExtraError, match=r"bothways\[corpus\]"):
        sentences("A. B.", "split", "en")
    assert sentences("A. B.", "none", "en") == ["A. B."]


@pytest.mark.parametrize(
    ("language", "hint"),
    [("DE", "; did you mean de?"), ("german", "; there are rules for am, ar"), ("de_DE", "; there"), ("", "; there")],
)
def test_what_is_no_code_of_a_language_is_refused(language: str, hint: str) -> None:
    """sentencex takes it for one that it has no rules for, and gives English sentences."""
    text = "Am 3. Mai kam Dr. Müller."
    assert sentences(text, "split", language) == sentences(text, "split", "en") != sentences(text, "split", "de")
    with pytest.raises(InputError, match=r"language must be a code in small letters") as caught:
        Settings(language=language)
    assert f"got {language!r}{hint}" in str(caught.value)


def test_rules_of_another_language_are_taken_and_said(
    source: Source, tokenizers: dict[str, Path], tmp_path: Path
) -> None:
    def built(language: str, how: str = "split") -> Corpus:
        settings = Settings(how, language, shard_tokens=5000)
        return build(source, tokenizers["wordpiece"], tmp_path / f"{language}-{how}", settings)

    with pytest.warns(BorrowedRulesWarning, match=r"no rules of its own for the language sv: .* for am, ar, .* te, uk"):
        borrowed = built("sv")
    assert borrowed.identity == built("en").identity
    with pytest.warns(BorrowedRulesWarning):
        assert built("de-at").identity == built("de").identity
    built("sv", "none")
