"""Checkpoints of a run: folders that are whole or not there, and from which a run goes on as if it had never stopped.

    run/checkpoints/step-00001000/    config.json, model.safetensors, tokenizer: a folder like any other model's
                                      generator/, shifts.safetensors: in runs that have a generator (`train.networks`)
                                      optimizer.safetensors, state.json: what training needs besides
                                      lora.safetensors: in runs that adapt an encoder by low-rank matrices
                                      average.safetensors: the average of the weights, in runs that keep one

Nothing in them is pickled. `state.json` has the checksum of every other file, so damage is found, not trained on.
"""

from __future__ import annotations

import math
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bothways.data.corpus import sha256
from bothways.errors import BothwaysError, CheckpointError, DamagedCheckpointWarning, InputError
from bothways.files import make_folder, read_object, write_json
from bothways.objectives.objective import Model
from bothways.train.averaging import Average, means_of
from bothways.train.networks import Trained
from bothways.train.optim import optimizer_state, restore_optimizer
from bothways.train.progress import Progress

__all__ = [
    "Read",
    "Restored",
    "TrainedT",
    "begun_or_restored",
    "best",
    "checkpoints",
    "prune",
    "restore",
    "save_checkpoint",
]

FOLDER = "checkpoints"
STATE = "state.json"
OPTIMIZER = "optimizer.safetensors"
AVERAGE = "average.safetensors"


T = TypeVar("T")
TrainedT = TypeVar("TrainedT", bound=Trained)


@dataclass(frozen=True, eq=False)
class Restored(Generic[TrainedT]):
    """What a checkpoint holds, ready to go on. corpus: the identity of what it was trained on, if that is known."""

    networks: TrainedT
    model: Model
    optimizer: torch.optim.Optimizer
    average: Average | None
    progress: Progress
    folder: Path
    corpus: str | None = None


# The largest numbers that a place in a run has: a batch's seed is made of an epoch and a number.
MOST = {
    **dict.fromkeys(("step", "tokens", "unchanged", "skipped"), 1 << 60),
    **{"epoch": (1 << 20) - 1, "number": (1 << 40) - 1},
}
Parts = Callable[[Model], tuple[torch.optim.Optimizer, Average | None]]
Check = Callable[[Progress], None]
Read: TypeAlias = Callable[[Path, Mapping[str, Any]], TrainedT]
"""(a checkpoint's folder, its state) → what is trained, such as `Networks.of`."""


def save_checkpoint(
    run: Path,
    networks: Trained,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    settings: Mapping[str, Any],
    average: Average | None = None,
    corpus: str | None = None,
) -> Path:
    """Write the checkpoint of a step, aside first; the finished folder's path. Raises InputError if it cannot be.

    corpus: the identity of what the run is trained on.
    """
    place = run / FOLDER / _name(progress.step)
    aside = place.with_name(f".{place.name}.{os.getpid()}")
    for begun in place.parent.glob(".step-*"):  # by a process that was killed
        shutil.rmtree(begun, ignore_errors=True)
    make_folder(aside)
    try:
        networks.save(aside, resumable=True)
        save_file(optimizer_state(networks.model(), optimizer), aside / OPTIMIZER)
        if average is not None:
            save_file(average.state(), aside / AVERAGE)
        state = {"progress": asdict(progress), "corpus": corpus, "settings": dict(settings), "sha256": _sums(aside)}
        write_json(aside / STATE, state | networks.told())
        for path in sorted(aside.rglob("*"), reverse=True):  # what is in a folder before the folder
            _to_disk(path)
        shutil.rmtree(place, ignore_errors=True)
        aside.rename(place)
        _to_disk(place.parent)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{place}: cannot be written: {error}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return place


def checkpoints(run: Path) -> list[Path]:
    """The run's checkpoints, oldest first."""
    return sorted(path for path in (run / FOLDER).glob("step-*") if path.is_dir())


def restore(
    run: Path, read: Read[TrainedT], parts: Parts, check: Check = lambda progress: None
) -> Restored[TrainedT] | None:
    """The newest checkpoint that is whole; None if there is none at all.

    read: what is trained, from its folder.
    parts: makes a model's optimizer and, if the run keeps one, the average of its weights.
    check: raises CheckpointError on a place that the run's data has not. Damaged ones are passed over with a warning.
    Raises CheckpointError if there are checkpoints, but none of them is whole.
    """
    found = checkpoints(run)
    for folder in reversed(found):
        restored = _whole(folder, partial(_read, read=read, parts=parts, check=check))
        if restored is not None:
            return restored
    if found:
        raise CheckpointError(f"{run / FOLDER}: none of the {len(found)} checkpoints is whole")
    return None


def begun_or_restored(
    run: Path,
    read: Read[TrainedT],
    begun: Callable[[], TrainedT],
    parts: Parts,
    check: Check,
    identity: str,
    resume: bool,
) -> Restored[TrainedT]:
    """The newest whole checkpoint of a run over rows that is resumed, or step 0 of what `begun` gives.

    identity: of the rows. Raises InputError where the checkpoint is of others; the rest as `restore`.
    """
    found = restore(run, read, parts, check) if resume else None
    if found is None:
        networks = begun()
        model = networks.model()
        return Restored(networks, model, *parts(model), Progress(), run)
    if found.corpus not in (None, identity):
        raise InputError(f"{run}: its rows were others than these; name those it was begun with, or another folder")
    return found


def best(run: Path, read: Read[TrainedT], progress: Progress) -> tuple[TrainedT, Progress] | None:
    """What had the lowest held-out loss, as it was evaluated, and how far the run was then.

    In runs that keep an average of the weights it is the average. None if nothing was evaluated, and, with a warning,
    where that checkpoint is not whole.
    """
    if progress.best_step is None:
        return None
    return _whole(run / FOLDER / _name(progress.best_step), partial(_evaluated, read=read))


def _evaluated(folder: Path, read: Read[TrainedT]) -> tuple[TrainedT, Progress]:
    state = _checked(folder)
    networks = read(folder, state)
    if (folder / AVERAGE).is_file():
        model = networks.model()
        for name, mean in means_of(load_file(folder / AVERAGE)).items():
            model.get_parameter(name).data = mean
    return networks, _progress(folder, state)


def _whole(folder: Path, read: Callable[[Path], T]) -> T | None:
    try:
        return read(folder)
    except (BothwaysError, OSError, SafetensorError, LookupError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        warnings.warn(f"{folder} cannot be used ({reason})", DamagedCheckpointWarning, stacklevel=3)
        return None


def _checked(folder: Path) -> dict[str, Any]:
    """The state of a checkpoint whose files are all what was written."""
    state = read_object(folder / STATE)
    there = _sums(folder)
    for name, expected in state["sha256"].items():
        if name not in there:
            raise CheckpointError(f"{folder / name}: missing")
        if there[name] != expected:
            raise CheckpointError(f"{folder / name}: not what was written (sha256 differs)")
    for name in there.keys() - state["sha256"].keys():
        if not Path(name).name.startswith("."):
            raise CheckpointError(f"{folder / name}: {STATE} does not know it")
    return state


def _progress(folder: Path, state: Mapping[str, Any]) -> Progress:
    """Raises CheckpointError on numbers that no run comes to."""
    progress = Progress(**state["progress"])
    for name, most in MOST.items():
        value = getattr(progress, name)
        if type(value) is not int or not 0 <= value <= most:
            raise CheckpointError(f"{folder / STATE}: {name} is {value!r:.40}")
    for name in ("best_loss", "scale", "gradient"):
        value = getattr(progress, name)
        if value is not None and not (type(value) in (int, float) and -math.inf < value < math.inf):
            raise CheckpointError(f"{folder / STATE}: {name} is {value!r:.40}")
    best = progress.best_step
    if best is not None and (type(best) is not int or not 0 < best <= progress.step):
        raise CheckpointError(f"{folder / STATE}: best_step is {best!r:.40}")
    if folder.name != _name(progress.step):
        raise CheckpointError(f"{folder / STATE}: step is {progress.step}")
    return progress


def _read(folder: Path, read: Read[TrainedT], parts: Parts, check: Check) -> Restored[TrainedT]:
    state = _checked(folder)
    progress = _progress(folder, state)
    check(progress)
    networks = read(folder, state)
    model = networks.model()
    optimizer, average = parts(model)
    restore_optimizer(model, optimizer, load_file(folder / OPTIMIZER))
    if average is not None:
        average.restore(load_file(folder / AVERAGE))
    return Restored(networks, model, optimizer, average, progress, folder, state.get("corpus"))


def _sums(folder: Path) -> dict[str, str]:
    """The checksum of every file of a checkpoint but its state, by its place in the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / STATE)
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


def prune(run: Path, keep: int, progress: Progress) -> None:
    """Remove all checkpoints but the newest `keep` and the best.

    Those of later steps are damaged ones that were passed over; they count for nothing.
    """
    best = None if progress.best_step is None else _name(progress.best_step)
    so_far = [folder for folder in checkpoints(run) if folder.name <= _name(progress.step)]
    for folder in so_far[:-keep]:
        if folder.name != best:
            shutil.rmtree(folder, ignore_errors=True)


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
