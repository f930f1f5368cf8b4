"""Documents come out of files as they went in, whatever the form; what cannot be read is named in one line."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from types import SimpleNamespace

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from bothways import InputError, MissingExtraError
from bothways.data import readers, records
from bothways.data.readers import Source, documents

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: not text.isspace())
LINE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\ufeff"), min_size=1).filter(str.strip)
PARAGRAPHS = st.lists(LINE, min_size=1, max_size=4).map("\n".join)


def zstd(data: bytes) -> bytes:
    return pyarrow.Codec("zstd").compress(data, asbytes=True)


def plain(data: bytes) -> bytes:
    return data


PACKED: dict[str, Callable[[bytes], bytes]] = {"": plain, ".gz": gzip.compress, ".zst": zstd}


def as_txt(texts: list[str]) -> bytes:
    return "\n\n".join(texts).encode()


def as_lines(texts: list[str]) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()


def as_jsonl(texts: list[str]) -> bytes:
    return "\n".join(json.dumps({"id": 1, "text": text}) for text in texts).encode()


def as_parquet(texts: list[str], group: int = 2) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(pyarrow.table({"id": range(len(texts)), "text": texts}), sink, row_group_size=group)
    return sink.getvalue()


def read(name: str, data: bytes, **options: str | bool) -> list[str]:
    with TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(data)
        return list(documents([Path(folder) / name], **options))


@pytest.mark.parametrize("packed", PACKED)
@given(texts=st.lists(PARAGRAPHS, min_size=1))
def test_text_comes_back_from_between_blank_lines(texts: list[str], packed: str) -> None:
    assert read(f"a.txt{packed}", PACKED[packed](as_txt(texts))) == texts


@given(texts=st.lists(LINE, min_size=1))
def test_text_comes_back_from_lines(texts: list[str]) -> None:
    assert read("a.txt", as_lines(texts), lines=True) == texts


@pytest.mark.parametrize("packed", PACKED)
@given(texts=st.lists(TEXT, min_size=1))
def test_any_text_comes_back_from_json_lines(texts: list[str], packed: str) -> None:
    assert read(f"a.jsonl{packed}", PACKED[packed](as_jsonl(texts))) == texts


@pytest.mark.parametrize("packed", PACKED)
@given(texts=st.lists(TEXT, min_size=1))
def test_any_text_comes_back_from_parquet(texts: list[str], packed: str) -> None:
    assert read(f"a.parquet{packed}", PACKED[packed](as_parquet(texts))) == texts


@contextmanager
def suppress_one_line_about(name: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        if name not in str(error) or "\n" in str(error):
            raise


@given(data=st.binary(max_size=200), name=st.sampled_from(["a.txt", "a.jsonl", "a.parquet", "a.txt.gz", "a.zst.txt"]))
def test_whatever_is_in_a_file_it_is_read_or_refused_in_one_line(data: bytes, name: str) -> None:
    with suppress_one_line_about(name):
        assert all(isinstance(text, str) and text.strip() for text in read(name, data))


@given(cut=st.integers(1, 200), packed=st.sampled_from([".gz", ".zst"]))
def test_half_a_compressed_file_is_never_taken_for_a_whole_one(cut: int, packed: str) -> None:
    data = PACKED[packed](as_txt([f"{i} {i * 7919 % 1009} some text" for i in range(200)]))
    with pytest.raises(InputError, match=f"a.txt{packed}"):
        read(f"a.txt{packed}", data[:-cut])


def test_compressed_files_put_end_to_end_are_read_through() -> None:
    for pack in (gzip.compress, zstd):
        assert read("a.txt.gz", pack(b"one\n\n") + pack(b"two\n")) == ["one", "two"]


def test_line_ends_of_windows_byte_order_marks_and_blank_documents_are_no_text() -> None:
    assert read("a.txt", "\ufeffone\r\nmore\r\n\r\n \r\n\r\ntwo\r\n".encode()) == ["one\nmore", "two"]
    assert read("a.jsonl", b'\xef\xbb\xbf{"text": "one"}\r\n\r\n{"text": " "}\r\n{"text": ""}\r\n') == ["one"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "b" / "c.jsonl.gz").write_bytes(gzip.compress(as_jsonl(["three"])))
    (tmp_path / "b" / "d.parquet").write_bytes(as_parquet(["four", "five", "six"]))
    (tmp_path / "b" / "notes.md").write_text("not for reading")
    (tmp_path / ".hidden.txt").write_text("not for reading")
    return tmp_path


def test_files_folders_and_patterns_are_read_in_order(folder: Path) -> None:
    assert list(documents([folder])) == ["one", "two", "three", "four", "five", "six"]
    assert list(documents([folder / "b" / "d.parquet", folder / "a.txt"])) == ["four", "five", "six", "one", "two"]
    assert list(documents([str(folder / "b" / "*.jsonl*"), str(folder / "**" / "*.txt")])) == ["three", "one", "two"]
    assert list(documents([folder / "b" / "notes.md"], format="txt")) == ["not for reading"]


def test_standard_input_is_read_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for pack in PACKED.values():
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BufferedReader(io.BytesIO(pack(b"one\n\ntwo")))))
        assert list(documents(["-"])) == ["one", "two"]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BufferedReader(io.BytesIO(as_parquet(["one"])))))
    assert list(documents(["-"], format="parquet")) == ["one"]
    assert not Source(("-",)).repeatable


def test_a_pipe_is_read_like_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = Thread(target=(tmp_path / "pipe").write_bytes, args=[as_parquet(["one"])])
    writer.start()
    assert list(documents([tmp_path / "pipe"], format="parquet")) == ["one"]
    writer.join()


BAD = {
    "bad UTF-8": ("a.txt", b"fine\n\xff\n", ["a.txt", "line 2", "UTF-8"]),
    "bad JSON": ("a.jsonl", b'{"text": "a"}\n{"text": \n', ["a.jsonl", "line 2", "not JSON"]),
    "not an object": ("a.jsonl", b"[1]\n", ["a.jsonl", "line 1", "list"]),
    "another field": ("a.jsonl", b'{"body": "a"}\n', ["line 1", "'text'", "body", "--column"]),
    "a number": ("a.jsonl", b'{"text": 5}\n', ["line 1", "int"]),
    "nothing": ("a.jsonl", b'{"text": null}\n', ["line 1", "NoneType"]),
    "half a character": ("a.jsonl", rb'{"text": "\ud83d"}', ["line 1", "surrogate"]),
    "nested too deep": ("a.jsonl", b"[" * 100_000, ["line 1", "not JSON"]),
    "a huge number": ("a.jsonl", b"9" * 10_000, ["line 1", "not JSON"]),
    "broken gzip": ("a.txt.gz", gzip.compress(b"a" * 1000)[:-9] + b"123456789", ["a.txt.gz"]),
    "broken zstd": ("a.txt.zst", zstd(b"abcdefgh")[:-4] + b"\xff" * 40, ["a.txt.zst"]),
    "no Parquet": ("a.parquet", b"PAR1 but no more", ["a.parquet", "Parquet"]),
    "another column": ("a.parquet", as_parquet(["a"]).replace(b"text", b"tixt"), ["a.parquet", "tixt", "--column"]),
    "another name": ("a.docx", b"text", ["a.docx", "--format"]),
}


@pytest.mark.parametrize(("name", "data", "words"), BAD.values(), ids=BAD)
def test_what_cannot_be_read_is_named_with_its_place(name: str, data: bytes, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        read(name, data)
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_row_of_parquet_without_text_is_named(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"text": ["a", None]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"row 2.*NoneType"):
        list(documents([tmp_path / "a.parquet"]))
    parquet.write_table(pyarrow.table({"text": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"row 1.*int"):
        list(documents([tmp_path / "a.parquet"]))


def test_files_that_are_not_there_and_folders_without_text_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path / "*.txt", tmp_path):
        with pytest.raises(InputError, match=r"no (such )?file"):
            documents([path])
    with pytest.raises(InputError, match="format 'csv'"):
        documents([tmp_path], format="csv")
    for source in ({}, {"inputs": ("a",), "dataset": "b"}):
        with pytest.raises(InputError, match="--input"):
            Source(**source)


def test_a_line_without_end_is_refused_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (readers, records):
        monkeypatch.setattr(module, "MOST_BYTES", 1000)
    with pytest.raises(InputError, match="line 1 is longer"):
        read("a.txt.gz", gzip.compress(b"a" * 50_000_000))
    with pytest.raises(InputError, match=r"line .*--lines"):
        read("a.txt", b"a few words\n" * 200)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet", "a.txt.gz", "a.txt.zst"])
def test_a_long_file_takes_no_more_memory_than_a_short_one(name: str, tmp_path: Path) -> None:
    texts = [f"document {i} " + "word " * 400 for i in range(5_000)]
    _, form, *packed = name.split(".")
    data = {"txt": as_txt, "jsonl": as_jsonl, "parquet": partial(as_parquet, group=2500)}[form](texts)
    (tmp_path / name).write_bytes(PACKED[f".{packed[0]}" if packed else ""](data))
    tracemalloc.start()
    assert sum(1 for _ in documents([tmp_path / name])) == 5_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6_000_000 < sum(map(len, texts))


def test_missing_libraries_are_named_with_the_line_that_installs_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    for name, data in (("a.parquet", as_parquet(["a"])), ("a.txt.zst", zstd(b"a"))):
        with pytest.raises(MissingExtraError, match=r"bothways\[corpus\]"):
            read(name, data)
    with pytest.raises(MissingExtraError, match=r"bothways\[datasets\]"):
        list(Source(dataset="a/b").documents())


def test_data_sets_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def load_dataset(name: str, *, split: str, streaming: bool) -> list[dict[str, str]]:
        calls.append((name, split, streaming))
        if name == "bad":
            raise ValueError("no such\ndata set")
        return [{"body": "one"}, {"body": " "}, {"body": "two"}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert list(Source(dataset="some/set", split="test", column="body").documents()) == ["one", "two"]
    assert calls == [("some/set", "test", True)]
    with pytest.raises(InputError, match="row 1 has no column 'text'; it has body"):
        list(Source(dataset="some/set").documents())
    with pytest.raises(InputError, match="bad: cannot be read as a data set: ValueError: no such data set"):
        list(Source(dataset="bad").documents())
