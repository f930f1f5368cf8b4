"""Files, read with errors that name the place and written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bothways.errors import ConfigError, InputError

__all__ = [
    "MOST_LISTED_BYTES",
    "check_place",
    "make_folder",
    "read_json",
    "read_lines",
    "read_object",
    "replacing",
    "write_json",
]

# The largest JSON file that describes a model, and the largest that lists what it consists of: a tokenizer of a million
# entries takes some 40 MB.
MOST_JSON_BYTES = 1 << 22
MOST_LISTED_BYTES = 1 << 26


def read_json(path: Path, most: int = MOST_JSON_BYTES) -> Any:
    """The parsed file. Raises ConfigError, naming file and place, if it is missing, not UTF-8 or not JSON.

    most: how many bytes it may have, since parsed it takes many times as much memory.
    """
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise ConfigError(f"{path}: more than {most:,} bytes, too many for such a file")
        return json.loads(data.decode("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: not JSON: {error.msg} in line {error.lineno}, column {error.colno}") from None
    except (RecursionError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: not JSON that can be read: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def read_object(path: Path, most: int = MOST_JSON_BYTES) -> dict[str, Any]:
    """As `read_json`, for a file that must hold an object."""
    value = read_json(path, most)
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: an object was expected, not a {type(value).__name__}")
    return value


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, without their ends. Raises InputError, naming file and line, if it is not UTF-8."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}: line {line} is not UTF-8 (byte {error.start}); convert the file first") from None
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` when all went well, and is gone when not."""
    target = path.resolve()
    if target.exists() and not target.is_file():
        raise InputError(f"{path}: not a regular file, so it is not written to")
    aside = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        aside.touch()
        yield aside
        os.replace(aside, target)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            aside.unlink()


def check_place(output: Path) -> None:
    """Raise InputError where there is no folder to write a file to."""
    if not output.absolute().parent.is_dir():
        raise InputError(f"{output}: there is no folder {output.parent}")


def make_folder(path: Path) -> None:
    """Create a folder (and those above it) unless it is there. Raises InputError if that cannot be done."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be made a folder: {error.strerror}") from None


def write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    with replacing(path) as aside:
        aside.write_bytes(text.encode("utf-8", errors="backslashreplace"))  # half a surrogate pair becomes its escape
