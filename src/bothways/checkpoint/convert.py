"""From a pickled checkpoint to safetensors, in a process of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from bothways.checkpoint.weights import PICKLE, WEIGHTS
from bothways.errors import CheckpointError, InputError
from bothways.files import make_folder, replacing

__all__ = ["convert_folder"]

# What is copied along: never code, never another pickle.
DESCRIPTIONS = {".json", ".txt", ".model"}
# Runs apart (and with -I: no file of the current folder is imported), so that whatever the pickle does to the process
# is done to none that matters.
SCRIPT = """
import sys, torch
from safetensors.torch import save_file
state = torch.load(sys.argv[1], map_location="cpu", weights_only=True)
state = state.get("state_dict", state)
tensors = {name: value.clone().contiguous() for name, value in state.items() if isinstance(value, torch.Tensor)}
save_file(tensors, sys.argv[2], metadata={"format": "pt"})
print(len(tensors))
"""


def convert_folder(folder: Path, output: Path) -> int:
    """Write `output` with model.safetensors and the folder's descriptions (config, tokenizer); the number of tensors.

    Raises CheckpointError if there is no pickle, or it holds anything but weights.
    """
    source = folder / PICKLE
    if not source.is_file():
        raise CheckpointError(f"{source}: no such file")
    if output.exists() and output.samefile(folder):
        raise InputError(f"{output}: name another folder; this one is kept as it is")
    make_folder(output)
    for file in sorted(folder.rglob("*")):
        if file.suffix in DESCRIPTIONS and file.is_file():
            _copy(file, output / file.relative_to(folder))
    with replacing(output / WEIGHTS) as aside:
        run = subprocess.run(
            [sys.executable, "-I", "-c", SCRIPT, source, aside], capture_output=True, text=True, check=False
        )
        if run.returncode:
            reason = (run.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise CheckpointError(f"{source}: not a checkpoint of weights alone: {reason}")
    return int(run.stdout)


def _copy(file: Path, place: Path) -> None:
    make_folder(place.parent)
    with replacing(place) as aside:
        shutil.copyfile(file, aside)
