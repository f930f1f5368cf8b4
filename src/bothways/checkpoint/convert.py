"""From a pickled checkpoint to safetensors, in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bothways.checkpoint.modules import read_modules
from bothways.checkpoint.weights import INDEX, PICKLE, PICKLE_INDEX, SHARD, WEIGHTS, WeightFile, read_index
from bothways.errors import CheckpointError, InputError
from bothways.files import make_folder, write_json

__all__ = ["convert_folder"]

# What is copied along: never code, never another pickle.
DESCRIPTIONS = {".json", ".txt", ".model"}
# Runs apart (and with -I: no file of the current folder is imported), so that whatever a pickle does to the process is
# done to none that matters. One file at a time is in memory, mapped where its format allows it.
SCRIPT = """
import re, sys, warnings, zipfile
import torch
from safetensors.torch import save_file

def fail(source, reason):
    sys.exit(f"{source}: not a checkpoint of weights alone: {reason}")

def told(error):
    # torch's message without its advice, which is for its own callers
    lines = [line for line in str(error).splitlines() if not re.match("Weights only|Please|Check|$", line)]
    return " ".join([type(error).__name__ + ":", *lines])[:200]

def load(source):
    try:
        return torch.load(source, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(source))
    except Exception as error:
        code = re.search(r"GLOBAL ([\\w.]+)", str(error))
        fail(source, f"it calls for {code[1]}, which is code; none was run" if code else told(error))

def tensors(source):
    state = load(source)
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict):
        fail(source, f"it holds a {type(state).__name__}, not tensors by name")
    found = {str(name): value for name, value in state.items() if isinstance(value, torch.Tensor)}
    return found or fail(source, "it holds no tensors")

def apart(tensors):
    # safetensors takes only what is laid out in order, and no memory twice
    seen = set()
    for name, value in tensors.items():
        value, place = value.detach().contiguous(), value.untyped_storage().data_ptr()
        yield name, value.clone() if place in seen else value
        seen.add(place)

warnings.simplefilter("ignore")
for source, target in zip(sys.argv[1::2], sys.argv[2::2]):
    found = dict(apart(tensors(source)))
    try:
        save_file(found, target, metadata={"format": "pt"})
    except Exception as error:
        sys.exit(f"{source}: cannot be written as safetensors: {told(error)}")
    del found
"""


@dataclass(frozen=True)
class Pickled:
    """The pickles of one folder: names of their files, and the tensors that an index says each of them holds."""

    place: str
    files: tuple[str, ...]
    index: dict[str, str]

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of the files they become."""
        count = len(self.files)
        return tuple(SHARD.format(i + 1, count) for i in range(count)) if self.index else (WEIGHTS,)


def convert_folder(folder: Path, output: Path) -> int:
    """Write `output`: the folder's descriptions (config, tokenizer), and its weights as safetensors; how many tensors.

    Pickles of the folder and of the modules that its modules.json names are converted, in one file or in several; where
    there are safetensors beside them, these are taken. `output` is made whole or not at all.

    Raises CheckpointError if there is no pickle or one holds anything but weights, InputError if `output` holds files.
    """
    places = ["", *dict.fromkeys(place for _, place in read_modules(folder) if place not in ("", "."))]
    pickles = [pickled for place in places for pickled in _pickles(folder, place)]
    if not pickles:
        raise CheckpointError(f"{folder / PICKLE}: no such file, nor {PICKLE_INDEX}; there is nothing to convert")
    copied = [file for file in sorted(folder.rglob("*")) if _is_copied(file.relative_to(folder), places)]
    with _whole_folder(output) as aside:
        for file in copied:
            place = aside / file.relative_to(folder)
            make_folder(place.parent)
            shutil.copyfile(file, place)
        for pickled in pickles:
            make_folder(aside / pickled.place)
        _run([(folder / p.place / s, aside / p.place / t) for p in pickles for s, t in zip(p.files, p.targets)])
        return sum(_check_and_index(folder, aside, pickled) for pickled in pickles)


def _pickles(folder: Path, place: str) -> Iterator[Pickled]:
    here = folder / place
    if (here / WEIGHTS).exists() or (here / INDEX).exists():
        return
    if (here / PICKLE).is_file():
        yield Pickled(place, (PICKLE,), {})
    elif (here / PICKLE_INDEX).is_file():
        index = read_index(here / PICKLE_INDEX)
        for name in set(index.values()):
            if not (here / name).is_file():
                raise CheckpointError(f"{here / name}: no such file, but {PICKLE_INDEX} names it")
        yield Pickled(place, tuple(sorted(set(index.values()))), index)


def _is_copied(file: Path, places: list[str]) -> bool:
    """Whether a file goes along as it is: descriptions from anywhere but hidden folders, safetensors of the modules."""
    if any(part.startswith(".") for part in file.parts) or file.name == PICKLE_INDEX:
        return False
    return file.suffix in DESCRIPTIONS or (file.suffix == ".safetensors" and file.parent in map(Path, places))


def _run(files: list[tuple[Path, Path]]) -> None:
    arguments = [path for pair in files for path in pair]
    run = subprocess.run([sys.executable, "-I", "-c", SCRIPT, *arguments], capture_output=True, text=True, check=False)
    if run.returncode:
        reason = run.stderr.strip().splitlines() or [f"{files[0][0]}: reading it ended with {run.returncode}"]
        raise CheckpointError(reason[-1])


def _check_and_index(folder: Path, output: Path, pickled: Pickled) -> int:
    """Write the index of files that were several; the number of tensors in them.

    Raises CheckpointError where a pickle holds not what its index says.
    """
    places: dict[str, str] = {}
    size = 0
    for source, target in zip(pickled.files, pickled.targets):
        path = output / pickled.place / target
        names = WeightFile(path).shapes
        path.chmod(path.parent.stat().st_mode & 0o666)  # safetensors writes files that only their owner may read
        size += path.stat().st_size
        missing = [name for name, file in pickled.index.items() if file == source and name not in names]
        if missing:
            raise CheckpointError(
                f"{folder / pickled.place / source}: no tensor {missing[0]}, but {PICKLE_INDEX} says so"
            )
        twice = [name for name in names if name in places]
        if twice:
            raise CheckpointError(f"{folder / pickled.place / source}: {twice[0]} is in another file too")
        places |= dict.fromkeys(names, target)
    if pickled.index:
        write_json(output / pickled.place / INDEX, {"metadata": {"total_size": size}, "weight_map": places})
    return len(places)


@contextmanager
def _whole_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` to fill; it becomes `path` when all went well, and is gone when not."""
    target = path.resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{path}: there already, and not an empty folder; name a new one")
    aside = target.with_name(f".{target.name}.{os.getpid()}.partial")
    make_folder(aside)
    try:
        yield aside
        os.replace(aside, target)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
