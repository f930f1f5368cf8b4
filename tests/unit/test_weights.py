"""Weights in one file or in several: what transformers wrote is read, what is written transformers reads."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from bothways import BothwaysError, CheckpointError, Encoder, InputError
from bothways.checkpoint import weights as module
from bothways.checkpoint.weights import INDEX, WEIGHTS, read_weights, write_weights

ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def tensors(seed: int = 0, count: int = 6) -> dict[str, Tensor]:
    """Each of 40 bytes."""
    generator = torch.Generator().manual_seed(seed)
    return {f"t{i}": torch.randn(2, 5, generator=generator) for i in range(count)}


def read_all(folder: Path) -> dict[str, Tensor]:
    weights = read_weights(folder)
    return {name: weights.read(name) for name in weights.shapes}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Against transformers


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_shards_of_transformers_are_the_model_of_one_file(
    save_bert: Callable[..., Path], tmp_path: Path, dtype: torch.dtype
) -> None:
    whole = save_bert(dtype=dtype)
    transformers.BertModel.from_pretrained(whole).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len([name for name in names(tmp_path) if name.endswith(".safetensors")]) > 2
    ours, expected = Encoder.from_pretrained(tmp_path), Encoder.from_pretrained(whole)
    assert same(dict(ours.network.state_dict()), dict(expected.network.state_dict()))
    assert read_weights(tmp_path).path == tmp_path / INDEX
    assert set(read_weights(tmp_path).dtypes.values()) == {"F32" if dtype == torch.float32 else "F16"}


def test_transformers_reads_the_shards(save_bert: Callable[..., Path], tmp_path: Path) -> None:
    whole = save_bert()
    theirs = transformers.BertModel.from_pretrained(whole)
    write_weights(tmp_path / WEIGHTS, {name: p.detach() for name, p in theirs.named_parameters()}, 20_000)
    (tmp_path / "config.json").write_bytes((whole / "config.json").read_bytes())
    again = transformers.BertModel.from_pretrained(tmp_path)
    assert same(dict(again.named_parameters()), dict(theirs.named_parameters()))
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size=20_000)
    index, expected = (json.loads((folder / INDEX).read_text()) for folder in (tmp_path, tmp_path / "theirs"))
    assert index["weight_map"].keys() == expected["weight_map"].keys()
    assert index["metadata"]["total_size"] == expected["metadata"]["total_size"]


def test_a_whole_file_goes_before_an_index_as_in_transformers(save_bert: Callable[..., Path], tmp_path: Path) -> None:
    first, second = (transformers.BertModel.from_pretrained(save_bert(seed=seed)) for seed in (1, 2))
    first.save_pretrained(tmp_path, max_shard_size="20KB")
    save_file({name: p.detach() for name, p in second.named_parameters()}, tmp_path / WEIGHTS, {"format": "pt"})
    words = Encoder.from_pretrained(tmp_path).network.embeddings.words.weight
    theirs = transformers.BertModel.from_pretrained(tmp_path).embeddings.word_embeddings.weight
    assert torch.equal(words, theirs)
    assert torch.equal(words, second.embeddings.word_embeddings.weight)


def test_a_tensor_that_the_index_forgets_is_read_with_its_shard_as_in_transformers(
    save_bert: Callable[..., Path], tmp_path: Path
) -> None:
    transformers.BertModel.from_pretrained(save_bert()).save_pretrained(tmp_path, max_shard_size="20KB")
    index = json.loads((tmp_path / INDEX).read_text())
    name = "embeddings.LayerNorm.weight"
    del index["weight_map"][name]
    (tmp_path / INDEX).write_text(json.dumps(index))
    expected = transformers.BertModel.from_pretrained(tmp_path).get_parameter(name)
    assert torch.equal(Encoder.from_pretrained(tmp_path).network.embeddings.norm.weight, expected)


# Writing


@pytest.mark.parametrize(
    ("most", "counts"), [(240, [6]), (239, [5, 1]), (120, [3, 3]), (119, [2, 2, 2]), (40, [1] * 6), (1, [1] * 6)]
)
def test_a_shard_is_full_when_the_next_tensor_would_not_fit(tmp_path: Path, most: int, counts: list[int]) -> None:
    write_weights(tmp_path / WEIGHTS, tensors(), most)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert [len(load_file(file)) for file in files] == counts
    assert (tmp_path / INDEX).exists() == (len(counts) > 1)
    assert same(read_all(tmp_path), tensors())


def test_a_model_without_tensors_is_one_file(tmp_path: Path) -> None:
    write_weights(tmp_path / WEIGHTS, {})
    assert names(tmp_path) == [WEIGHTS]


def test_files_may_be_read_by_whom_other_files_may(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    write_weights(tmp_path / WEIGHTS, tensors())
    assert (tmp_path / WEIGHTS).stat().st_mode == (tmp_path / "other").stat().st_mode


SIZES = [240, 120, 119, 40]


@pytest.mark.parametrize("new", SIZES)
@pytest.mark.parametrize("old", SIZES)
def test_nothing_of_an_earlier_save_stays(tmp_path: Path, old: int, new: int) -> None:
    write_weights(tmp_path / WEIGHTS, tensors(1), old)
    write_weights(tmp_path / WEIGHTS, tensors(2), new)
    (tmp_path / "fresh").mkdir()
    write_weights(tmp_path / "fresh" / WEIGHTS, tensors(2), new)
    assert same(read_all(tmp_path), tensors(2))
    assert [name for name in names(tmp_path) if name != "fresh"] == names(tmp_path / "fresh")


def test_other_files_stay(tmp_path: Path) -> None:
    others = ["model.fp16.safetensors", "model-1-of-2.safetensors", "optimizer.safetensors", "README.md"]
    for name in others:
        (tmp_path / name).write_text("mine")
    write_weights(tmp_path / WEIGHTS, tensors(), 120)
    write_weights(tmp_path / WEIGHTS, tensors())
    assert names(tmp_path) == sorted([WEIGHTS, *others])


class Crash(BaseException):
    """The process ends here: nothing catches it."""


@pytest.mark.parametrize("new", SIZES)
@pytest.mark.parametrize("old", SIZES)
def test_a_crash_at_any_step_leaves_the_old_weights_the_new_ones_or_a_clear_error(
    tmp_path: Path, old: int, new: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    for step in range(100):
        folder = tmp_path / str(step)
        folder.mkdir()
        write_weights(folder / WEIGHTS, tensors(1), old)
        with monkeypatch.context() as patch:
            crash_at(patch, step)
            try:
                write_weights(folder / WEIGHTS, tensors(2), new)
                finished = True
            except Crash:
                finished = False
        seen.add(outcome(folder))
        if finished:
            break
    assert finished
    assert outcome(folder) == "new"
    assert seen <= {"old", "new", "none"}
    assert ("none" in seen) <= (old < 240 and new < 240)


def crash_at(patch: pytest.MonkeyPatch, step: int) -> None:
    """Crash before the file operation of that number."""
    left = [step]

    def before(operation: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            if left[0] == 0:
                raise Crash
            left[0] -= 1
            return operation(*args, **kwargs)

        return run

    patch.setattr(os, "replace", before(os.replace))
    patch.setattr(module, "save_file", before(save_file))
    patch.setattr(Path, "unlink", before(Path.unlink))
    patch.setattr(Path, "write_bytes", before(Path.write_bytes))


def outcome(folder: Path) -> str:
    if not {WEIGHTS, INDEX} & set(names(folder)):
        refused(folder, f"no {WEIGHTS} in this folder")
        return "none"
    found = read_all(folder)
    return next(("old", "new")[seed - 1] for seed in (1, 2) if same(found, tensors(seed)))


def test_a_full_disk_is_one_line_and_leaves_the_old_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    write_weights(tmp_path / WEIGHTS, tensors(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        for most in (10**9, 10_000):
            with pytest.raises(InputError, match="too large") as caught:
                write_weights(tmp_path / WEIGHTS, {f"t{i}": torch.zeros(2000) for i in range(3)}, most)
            assert "\n" not in str(caught.value)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == [WEIGHTS]
    assert same(read_all(tmp_path), tensors(1))


# Reading what is wrong


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards of three tensors each."""
    write_weights(tmp_path / WEIGHTS, tensors(), 120)
    assert names(tmp_path) == [ONE, TWO, INDEX]
    return tmp_path


def write_index(folder: Path, **changes: Any) -> None:
    index = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps({**index, **changes}))


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(BothwaysError) as caught:
        read_all(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000
    assert [word for word in words if word not in message] == [], message


@pytest.mark.parametrize("value", [None, [], {}, 3, "model", [["t0", ONE]]], ids=str)
def test_a_weight_map_that_is_none(folder: Path, value: Any) -> None:
    write_index(folder, weight_map=value)
    refused(folder, INDEX, "weight_map")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "[" * 100_000, "\ud800"], ids=lambda text: text[:5])
def test_an_index_that_is_no_object(folder: Path, text: str) -> None:
    (folder / INDEX).write_bytes(text.encode("utf-8", "surrogatepass"))
    refused(folder, INDEX)


PLACES = [
    "../model.safetensors",
    "/etc/passwd",
    "sub/x.safetensors",
    "",
    ".",
    "..",
    "a\\b.safetensors",
    "x\0.safetensors",
]
PLACES += [
    "pytorch_model.bin",
    "\ud800.safetensors",
    "C:x.safetensors",
    "a\nb.safetensors",
    "x" * 5000 + ".safetensors",
]


@pytest.mark.parametrize("place", [*PLACES, None, 3, [ONE], {"a": ONE}, True], ids=lambda place: repr(place)[:20])
def test_a_place_that_is_no_file_of_the_folder(folder: Path, place: Any) -> None:
    write_index(folder, weight_map={"t0": place})
    refused(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / TWO).unlink()
    refused(folder, str(folder / TWO), "no such file")


@pytest.mark.parametrize("kind", ["cut", "folder", "pipe", "pickle"])
def test_a_shard_that_is_no_weight_file_is_named(folder: Path, kind: str) -> None:
    data = (folder / TWO).read_bytes()
    (folder / TWO).unlink()
    make = {
        "cut": lambda path: path.write_bytes(data[:-1]),
        "folder": Path.mkdir,
        "pipe": os.mkfifo,
        "pickle": lambda path: path.write_bytes(b"\x80\x04."),
    }
    make[kind](folder / TWO)
    refused(folder, str(folder / TWO), "not a whole safetensors file")


def test_a_pipe_in_place_of_the_weights_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / WEIGHTS)
    refused(tmp_path, WEIGHTS, "not a regular file")


def test_a_tensor_that_is_not_where_the_index_says_is_named(folder: Path) -> None:
    places = json.loads((folder / INDEX).read_text())["weight_map"]
    write_index(folder, weight_map={**places, "t0": TWO})
    refused(folder, str(folder / TWO), "t0")
    write_index(folder, weight_map={**places, "t9": ONE})
    refused(folder, str(folder / ONE), "t9")


def test_the_same_tensor_in_two_shards_is_refused(folder: Path) -> None:
    save_file({**load_file(folder / TWO), "t0": torch.ones(2, 5)}, folder / TWO)
    refused(folder, str(folder / TWO), ONE, "t0")


def test_a_value_that_is_not_finite_is_named_with_its_shard(folder: Path) -> None:
    save_file({**load_file(folder / TWO), "t5": torch.full((2, 5), torch.nan)}, folder / TWO)
    refused(folder, str(folder / TWO), "t5", "NaN")


def test_a_shard_that_changes_after_it_was_opened_is_not_read(folder: Path) -> None:
    weights = read_weights(folder)
    save_file({name: tensor + 1 for name, tensor in load_file(folder / TWO).items()}, folder / TWO)
    assert torch.equal(weights.read("t0"), tensors()["t0"])
    with pytest.raises(CheckpointError, match="changed while it was read"):
        weights.read("t5")


@pytest.mark.parametrize(
    "metadata", [None, 3, [], {"total_size": -1}, {"total_size": 10**30}, {"total_size": "x"}], ids=str
)
def test_what_else_an_index_says_is_not_believed(folder: Path, metadata: Any) -> None:
    write_index(folder, metadata=metadata)
    assert same(read_all(folder), tensors())


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model.bin.index.json"])
def test_a_pickle_alone_is_refused_with_the_way_on(tmp_path: Path, name: str) -> None:
    (tmp_path / "part").mkdir()
    for folder in (tmp_path, tmp_path / "part"):
        (folder / name).write_text("{}")
    refused(tmp_path, str(tmp_path / name), f"bothways convert {tmp_path} --output DIR")
    with pytest.raises(CheckpointError, match=f"bothways convert {tmp_path} --output DIR"):
        read_weights(tmp_path / "part", tmp_path)
