"""A file that is written some lines at a time, and gone on with where a process was killed.

`OUT.partial` has what is written; `OUT.partial.json` says of what, and how much of it is whole. Each part is on the
disk before it is said to be; what stands behind the last of them is cut off.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from bothways.errors import ConfigError, InputError
from bothways.files import read_object, write_json

if sys.platform != "win32":
    import fcntl

__all__ = ["PartialLines"]


class PartialLines:
    """Within, `add` writes; at the end without an error, the file has its name.

    identity: what the lines are made from, by what to call it in messages; only lines of the same are gone on with.
    rows, digest: how many rows are done, and what stands for them; 0 and "" of a new file.
    """

    def __init__(self, output: Path, identity: Mapping[str, str], *, resume: bool = False) -> None:
        """Raises InputError on a partial file that is not to be gone on with, or that was made from something else."""
        if output.exists() and not output.is_file():
            raise InputError(f"{output}: not a regular file, so it is not written to")
        self.output, self._identity = output, dict(identity)
        self._partial = output.with_name(output.name + ".partial")
        self._said = output.with_name(output.name + ".partial.json")
        self.rows, self.digest, self._bytes = 0, "", 0
        self._file: BinaryIO | None = None
        if self._partial.exists():
            if not resume:
                raise InputError(f"{self._partial}: is of a run that did not end; go on with --resume, or remove it")
            self._read()

    def _read(self) -> None:
        """What is said of the partial file; of one of which nothing is said, nothing is kept."""
        try:
            said = read_object(self._said)
            made, rows, digest, size = said["made"], said["rows"], said["digest"], said["bytes"]
        except (ConfigError, KeyError):
            return
        for name, value in self._identity.items():
            if made.get(name) != value:
                was = f"{made.get(name)!s:.60}, now {value:.60}"
                raise InputError(f"{self._partial}: was begun with another {name} ({was}); say the same, or remove it")
        if self._partial.stat().st_size < size:
            raise InputError(f"{self._partial}: is shorter than it was; remove it and begin anew")
        self.rows, self.digest, self._bytes = rows, digest, size

    def __enter__(self) -> PartialLines:
        return self

    def add(self, data: bytes, rows: int, digest: str) -> None:
        """Write some lines, of so many rows; digest: what stands for all rows so far."""
        try:
            file = self._open()
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except OSError as error:
            raise InputError(f"{self._partial}: cannot be written: {error.strerror or error}") from None
        self.rows, self.digest, self._bytes = self.rows + rows, digest, self._bytes + len(data)
        said: dict[str, Any] = {"made": self._identity, "rows": self.rows, "digest": digest, "bytes": self._bytes}
        write_json(self._said, said)

    def _open(self) -> BinaryIO:
        """Only when there is something to write: a run that fails at once leaves nothing."""
        if self._file is None:
            file = self._partial.open("r+b" if self._partial.exists() else "w+b")
            try:
                _lock(file, self._partial)
            except InputError:
                file.close()
                raise
            self._file = file
            file.truncate(self._bytes)
            file.seek(self._bytes)
        return self._file

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self._open()  # a file that was whole but for its name
                os.replace(self._partial, self.output)
                with suppress(OSError):
                    self._said.unlink()
        except OSError as failed:
            raise InputError(f"{self.output}: cannot be written: {failed.strerror or failed}") from None
        finally:
            if self._file is not None:
                self._file.close()


def _lock(file: BinaryIO, path: Path) -> None:
    """Raise InputError where another process writes to it."""
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{path}: another process writes to it; wait for its end, or name another file") from None
        except OSError:  # the file system has no locks
            pass
