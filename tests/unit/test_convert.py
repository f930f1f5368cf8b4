"""Pickles become safetensors in a process of its own: all names they come under, nothing run, nothing half written."""

from __future__ import annotations

import json
import os
import pickle
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bothways import CheckpointError, Encoder, InputError, SentenceEncoder
from bothways.checkpoint import convert
from bothways.checkpoint.convert import SCRIPT, convert_folder
from bothways.checkpoint.weights import INDEX, PICKLE, PICKLE_INDEX, WEIGHTS
from bothways.cli.main import main

ONE, TWO = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"


@pytest.fixture
def own_process() -> None:
    """For tests of the process itself."""


@pytest.fixture(autouse=True)
def _without_a_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs in a process of its own runs in this one, to save its start, where that process is not the subject."""

    def here(command: list[Any], **_: Any) -> SimpleNamespace:
        assert command[:4] == [sys.executable, "-I", "-c", SCRIPT]
        with monkeypatch.context() as patched, warnings.catch_warnings():
            patched.setattr(sys, "argv", ["-c", *map(os.fspath, command[4:])])
            try:
                exec(SCRIPT, {})
            except SystemExit as stop:
                return SimpleNamespace(returncode=1, stderr=f"{stop.code}\n")
        return SimpleNamespace(returncode=0, stderr="")

    if "own_process" not in request.fixturenames:
        monkeypatch.setattr(convert, "subprocess", SimpleNamespace(run=here))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def pickled(folder: Path, parts: int = 1) -> Path:
    """The same folder with its safetensors turned to pickles, as they were before 2023."""
    for path in list(folder.rglob(WEIGHTS)):
        tensors = load_file(path)
        path.unlink()
        names = [f"pytorch_model-{i + 1:05d}-of-{parts:05d}.bin" for i in range(parts)] if parts > 1 else [PICKLE]
        places = {name: names[i * parts // len(tensors)] for i, name in enumerate(tensors)}
        for file in names:
            torch.save({name: tensors[name] for name in tensors if places[name] == file}, path.with_name(file))
        if parts > 1:
            path.with_name(PICKLE_INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def refused(folder: Path, output: Path, *words: str, kind: type[Exception] = CheckpointError) -> None:
    with pytest.raises(kind) as caught:
        convert_folder(folder, output)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    assert [word for word in words if word not in message] == [], message
    assert not output.exists() or files(output) == []
    assert [name for name in os.listdir(output.parent) if "partial" in name] == []


@pytest.mark.parametrize(
    ("parts", "dtype"),
    [
        (1, torch.bfloat16),
        (3, torch.float32),
        (3, torch.float16),
    ],
    ids=str,
)
def test_the_converted_model_is_the_same_in_the_precision_it_had(
    save_bert: Callable[..., Path], tmp_path: Path, parts: int, dtype: torch.dtype
) -> None:
    folder = save_bert(dtype=dtype, kind="BertForMaskedLM")
    before = Encoder.from_pretrained(folder).network.state_dict()
    count = convert_folder(pickled(folder, parts), tmp_path / "new")
    after = Encoder.from_pretrained(tmp_path / "new").network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    written = [load_file(path) for path in sorted((tmp_path / "new").glob("*.safetensors"))]
    assert [len(tensors) > 0 for tensors in written] == [True] * parts
    assert sum(map(len, written)) == count
    assert {tensor.dtype for tensors in written for tensor in tensors.values()} == {dtype}
    assert (tmp_path / "new" / INDEX).exists() == (parts > 1)
    assert not (tmp_path / "new" / PICKLE_INDEX).exists()


@pytest.mark.parametrize("transformer", ["", "0_Transformer"])
def test_the_modules_of_sentence_transformers_are_converted_too(
    save_bert: Callable[..., Path], new_folder: Callable[[], Path], tmp_path: Path, transformer: str
) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    folder = new_folder()
    parts = [modules.Transformer(str(save_bert())), modules.Pooling(32), modules.Dense(32, 7)]
    SentenceTransformer(modules=parts, device="cpu").save_pretrained(str(folder))
    expected = SentenceEncoder(folder, device="cpu").encode(["the cat", "a dog"])
    if transformer:
        (folder / transformer).mkdir()
        for path in [path for path in folder.iterdir() if path.is_file() and path.name != "modules.json"]:
            path.rename(folder / transformer / path.name)
        entries = json.loads((folder / "modules.json").read_text())
        entries[0]["path"] = transformer
        (folder / "modules.json").write_text(json.dumps(entries))
    pickled(folder)
    (folder / "checkpoint-5").mkdir()
    (folder / "checkpoint-5" / PICKLE).write_bytes(b"of no module")
    with pytest.raises(CheckpointError, match=f"bothways convert {folder} --output DIR"):
        SentenceEncoder(folder)
    convert_folder(folder, tmp_path / "new")
    assert np.array_equal(SentenceEncoder(tmp_path / "new", device="cpu").encode(["the cat", "a dog"]), expected)
    assert not [name for name in files(tmp_path / "new") if name.endswith((".bin", ".py", ".md"))]


def test_safetensors_beside_pickles_are_taken_as_they_are(save_bert: Callable[..., Path], tmp_path: Path) -> None:
    folder = pickled(save_bert())
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / WEIGHTS).write_bytes(b"as it is")
    (folder / "2_Dense" / PICKLE).write_bytes(b"older")
    (folder / "modules.json").write_text(
        '[{"type": "x.Transformer", "path": ""}, {"type": "x.Dense", "path": "2_Dense"}]'
    )
    convert_folder(folder, tmp_path / "new")
    assert (tmp_path / "new" / "2_Dense" / WEIGHTS).read_bytes() == b"as it is"


def save(folder: Path, state: Any, name: str = PICKLE, **options: Any) -> Path:
    torch.save(state, folder / name, **options)
    return folder


def converted(state: Any, folder: Path, **options: Any) -> dict[str, Tensor]:
    (folder / "old").mkdir()
    assert convert_folder(save(folder / "old", state, **options), folder / "new") > 0
    return load_file(folder / "new" / WEIGHTS)


def test_tensors_that_share_memory_each_keep_their_values(tmp_path: Path) -> None:
    table = torch.arange(12.0).reshape(3, 4)
    state = {"a": table, "tied": table, "row": table[1], "turned": table.T, "end": table[2:]}
    found = converted(state, tmp_path)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


@pytest.mark.parametrize("zipped", [True, False])
def test_both_formats_of_torch_are_read(tmp_path: Path, zipped: bool) -> None:
    state = {"a": torch.ones(2), "count": 3, "name": "x", "p": torch.nn.Parameter(torch.zeros(1))}
    assert converted(state, tmp_path, _use_new_zipfile_serialization=zipped).keys() == {"a", "p"}


def test_a_state_that_is_wrapped_by_a_trainer_is_found(tmp_path: Path) -> None:
    assert converted({"epoch": 3, "state_dict": {"a": torch.ones(2)}}, tmp_path).keys() == {"a"}


# Nothing runs


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def plain(value: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(value, protocol=2))


@pytest.mark.parametrize(
    ("write", "name"),
    [(plain, PICKLE), (torch.save, f"2_Dense/{PICKLE}"), (torch.save, TWO)],
    ids=["plain", "2", "3"],
)
def test_a_pickle_with_code_is_refused_in_one_line_and_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, write: Callable[[Any, Path], None]
) -> None:
    folder = tmp_path / "old"
    (folder / "2_Dense").mkdir(parents=True)
    (folder / "modules.json").write_text(
        '[{"type": "x.Transformer", "path": ""}, {"type": "x.Dense", "path": "2_Dense"}]'
    )
    if name == TWO:
        save(folder, {"a": torch.ones(2)}, ONE)
        (folder / PICKLE_INDEX).write_text(json.dumps({"weight_map": {"a": ONE, "b": TWO}}))
    write({"b": Bomb(tmp_path / "boom")}, folder / name)
    with pytest.raises(SystemExit) as stop:
        main(["convert", str(folder), "--output", str(tmp_path / "new")])
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert str(folder / name) in said.err
    assert "mkdir, which is code; none was run" in said.err
    assert sorted(os.listdir(tmp_path)) == ["old"]


def test_in_a_process_of_its_own_it_does_the_same(
    own_process: None, save_bert: Callable[..., Path], tmp_path: Path
) -> None:
    folder = save_bert(dtype=torch.float16)
    before = load_file(folder / WEIGHTS)
    assert convert_folder(pickled(folder, 3), tmp_path / "new") == len(before)
    written = [load_file(path) for path in sorted((tmp_path / "new").glob("*.safetensors"))]
    after = {name: tensor for tensors in written for name, tensor in tensors.items()}
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    first = folder / "pytorch_model-00001-of-00003.bin"
    plain({"b": Bomb(tmp_path / "boom")}, first)
    refused(folder, tmp_path / "again", str(first), "mkdir, which is code; none was run")
    assert not (tmp_path / "boom").exists()


JUNK = {
    "empty": b"",
    "cut": pickle.dumps({"a": 1}, protocol=2)[:-3],
    "zip": b"PK\x05\x06" + bytes(18),
}


@pytest.mark.parametrize("data", JUNK.values(), ids=JUNK)
def test_what_is_no_pickle_is_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / PICKLE).write_bytes(data)
    refused(tmp_path, tmp_path / "new", str(tmp_path / PICKLE), "not a checkpoint of weights alone")


@pytest.mark.parametrize("state", [[torch.ones(2)], {"a": 1}], ids=str)
def test_a_pickle_of_something_else_is_refused_in_one_line(tmp_path: Path, state: Any) -> None:
    refused(save(tmp_path, state), tmp_path / "new", str(tmp_path / PICKLE), "it holds")


# Folders


def test_a_folder_without_pickles_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, tmp_path / "new", PICKLE, PICKLE_INDEX)
    refused(tmp_path / "missing", tmp_path / "new", PICKLE)
    (tmp_path / WEIGHTS).touch()
    save(tmp_path, {"a": torch.ones(1)})
    refused(tmp_path, tmp_path / "new", "nothing to convert")


@pytest.mark.parametrize("place", ["../x.bin", "/etc/x.bin", "a.safetensors", 3, "sub/x.bin"])
def test_an_index_that_leads_out_is_refused(tmp_path: Path, place: Any) -> None:
    (tmp_path / PICKLE_INDEX).write_text(json.dumps({"weight_map": {"a": place}}))
    refused(tmp_path, tmp_path / "new", PICKLE_INDEX, "a is placed in")


def test_modules_that_lead_out_are_refused(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text('[{"type": "x.Dense", "path": "../other"}]')
    with pytest.raises(ValueError, match="leads out"):
        convert_folder(tmp_path, tmp_path / "new")


def test_parts_that_are_not_what_their_index_says_are_refused(tmp_path: Path) -> None:
    places = {"a": ONE, "b": TWO}
    (tmp_path / PICKLE_INDEX).write_text(json.dumps({"weight_map": places}))
    save(tmp_path, {"a": torch.ones(1)}, ONE)
    refused(tmp_path, tmp_path / "new", str(tmp_path / TWO), "no such file")
    save(tmp_path, {"c": torch.ones(1)}, TWO)
    refused(tmp_path, tmp_path / "new", str(tmp_path / TWO), "no tensor b")
    save(tmp_path, {"a": torch.ones(1), "b": torch.ones(1)}, TWO)
    refused(tmp_path, tmp_path / "new", str(tmp_path / TWO), "a is in another file too")


def test_an_output_that_holds_files_is_left_alone(tmp_path: Path) -> None:
    save(tmp_path, {"a": torch.ones(1)})
    before = files(tmp_path)
    for output in (tmp_path, tmp_path / PICKLE):
        with pytest.raises(InputError, match="name a new one"):
            convert_folder(tmp_path, output)
    assert files(tmp_path) == before
    (tmp_path / "empty").mkdir()
    convert_folder(tmp_path, tmp_path / "empty")
    assert files(tmp_path / "empty") == [WEIGHTS]


def test_hidden_folders_and_code_stay_behind(tmp_path: Path) -> None:
    save(tmp_path, {"a": torch.ones(1)})
    (tmp_path / ".cache").mkdir()
    for name in (".cache/x.json", "modeling.py", "config.json", "vocab.txt", "spm.model", "merges.txt", ".hidden.json"):
        (tmp_path / name).write_text("{}")
    convert_folder(tmp_path, tmp_path / "new")
    assert files(tmp_path / "new") == ["config.json", "merges.txt", WEIGHTS, "spm.model", "vocab.txt"]
    assert len({(tmp_path / "new" / name).stat().st_mode for name in files(tmp_path / "new")}) == 1
