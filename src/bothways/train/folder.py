"""A run's folder: that it may be written to, holds no other run, and that there is room for what will come."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from bothways.errors import ConfigError, InputError
from bothways.files import make_folder, read_object, write_json
from bothways.train.history import METRICS, SETTINGS, read_metrics
from bothways.train.optim import moment_bytes
from bothways.train.state import Restored, TrainedT, checkpoints

if sys.platform != "win32":
    import fcntl

__all__ = ["Lock", "begin", "check_run", "check_unfinished", "described"]

LOCK = ".lock"
FINISHED = ("model", "best")  # what a finished run leaves
# Files of folders that are no run's.
ANOTHERS = {"corpus.json": "a corpus", "tokenizer.json": "a tokenizer", "config.json": "a model"}
# What a resumed run may change: how often is saved or shown, where files are, what a number that is not finite does.
FREE = frozenset({"workers", "log_every", "evaluate_every", "save_every", "keep", "tensorboard", "corpus", "nonfinite"})


def described(settings: Any) -> dict[str, dict[str, Any]]:
    """The settings, a value of values, as JSON has them."""
    return {part: {key: _plain(value) for key, value in keys.items()} for part, keys in asdict(settings).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def check_run(output: Path, settings: Any, resume: bool) -> None:
    """Raises InputError on a folder with another run, ConfigError on a run with other settings. Nothing is written."""
    for name in ANOTHERS:
        if (output / name).exists():
            raise InputError(f"{output}: holds {ANOTHERS[name]} ({name}); name another folder for the run")
    saved = checkpoints(output)
    if not resume and (saved or _logged(output)):
        raise InputError(f"{output}: holds a run already; say --resume to go on with it, or name another folder")
    if not saved:
        check_unfinished(output)
        return
    changed = _changed(read_object(output / SETTINGS), described(settings), described(type(settings)()))
    if changed:
        raise ConfigError(
            f"{output / SETTINGS}: the run to be resumed has other settings: {', '.join(changed)}; "
            "give those, or begin another run in another folder"
        )


def _logged(output: Path) -> bool:
    """Whether a run has taken steps there."""
    log = output / METRICS
    return log.is_file() and log.stat().st_size > 0


def check_unfinished(output: Path) -> None:
    """A run without checkpoints would begin anew: over no model."""
    for name in FINISHED:
        if (output / name).exists():
            raise InputError(
                f"{output / name}: a model without checkpoints to go on from; move it away, or name another folder"
            )


class Lock:
    """Within, no other process trains in a run's folder: from the start where a run is there, else from `begin` on.

    The system itself lets go of the lock when a process ends, even when it is killed; the empty file `.lock` stays and
    means nothing. Where a file system has no locks (and on Windows) nothing is locked.
    """

    def __init__(self, output: Path) -> None:
        self._output = output
        self._handle: int | None = None

    def __enter__(self) -> Lock:
        if (self._output / SETTINGS).is_file():
            self.take()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._handle is not None:
            os.close(self._handle)

    def take(self) -> None:
        """Raises InputError where another process has it, or there is no writing in the folder."""
        if self._handle is None:
            self._handle = _locked(self._output)


def _locked(output: Path) -> int:
    """The open file that holds the lock."""
    path = output / LOCK
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    if sys.platform != "win32":
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            advice = "wait for its end, or name another folder"
            raise InputError(f"{output}: another process is training in this folder; {advice}") from None
        except OSError:  # the file system has no locks
            pass
    return handle


def begin(
    output: Path,
    settings: Any,
    started: Restored[TrainedT],
    corpus: str,
    lock: Lock,
    resume: bool,
    told: Callable[[str], None] = lambda line: None,
    *,
    held: str | None = None,
) -> None:
    """Make the folder, lock it and write the settings; of a run that goes on, tell from which step.

    corpus: its identity, whatever folder it is in.    held: that of the rows held out, where these are apart.
    Raises InputError where that cannot be, where the disk is too full, and where another process was faster.
    """
    _check_room(output, _checkpoint_bytes(started), settings.run.keep)
    make_folder(output)
    lock.take()
    check_run(output, settings, resume and (started.progress.step > 0 or not checkpoints(output)))
    if (output / METRICS).exists():
        for _ in read_metrics(output / METRICS):  # a damaged one is told of before anything is written
            pass
    said = described(settings)
    apart = {} if held is None else {"held": held}
    write_json(output / SETTINGS, {**said, "corpus": {**said.get("corpus", {}), "identity": corpus, **apart}})
    if started.progress.step:
        told(f"{output}: goes on from step {started.progress.step:,}")


def _checkpoint_bytes(started: Restored[TrainedT]) -> int:
    """Of a checkpoint: weights, their average if there is one, and what the optimizer keeps."""
    averages = 0 if started.average is None else sum(parameter.nbytes for parameter in started.model.parameters())
    return started.networks.file_bytes() + averages + moment_bytes(started.optimizer)


def _check_room(output: Path, size: int, keep: int) -> None:
    """There is room for the newest checkpoints, the best one, and one that is being written; some may be there."""
    there = output.absolute()
    while not there.exists():
        there = there.parent
    more = max(1, keep + 2 - len(checkpoints(output)))
    disk = shutil.disk_usage(there)
    if disk.total and disk.free < size * more:  # what is no disk, such as /proc, has no size
        taken = f"{more} checkpoints of {_megabytes(size)} take {_megabytes(size * more)}"
        raise InputError(
            f"{output}: the disk has {_megabytes(disk.free)} free, but {taken}; make room, or say a lower --keep"
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def _changed(before: Mapping[str, Any], now: Mapping[str, Any], usual: Mapping[str, Any]) -> list[str]:
    """The settings that change what is computed and are not the same; one that was not known yet had its default."""

    def was(part: str, key: str) -> Any:
        found = before.get(part)
        return found.get(key, usual[part][key]) if isinstance(found, dict) else usual[part][key]

    keys = [(part, key) for part in now for key in now[part] if key not in FREE]
    return [
        f"{key} was {was(part, key)!r}, now {now[part][key]!r}"
        for part, key in keys
        if was(part, key) != now[part][key]
    ]
