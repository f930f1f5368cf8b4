"""`modules.json`: which modules a folder of sentence-transformers has, and in which of its folders each one is."""

from __future__ import annotations

from pathlib import Path, PurePath

from bothways.errors import ConfigError
from bothways.files import read_json

__all__ = ["MODULES", "read_modules"]

MODULES = "modules.json"
# A name longer than 255 bytes is none to most file systems.
MOST_PATH_BYTES = 240


def read_modules(folder: Path) -> list[tuple[str, str]]:
    """(kind, folder within `folder`) of each module, in order; none where there is no `modules.json`.

    Raises ConfigError on anything but a list of modules, and on a path that leads out of the folder.
    """
    path = folder / MODULES
    if not path.exists():
        return []
    entries = read_json(path)
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and isinstance(e.get("type"), str) for e in entries
    ):
        raise ConfigError(f"{path}: a list of modules, each with a type and a path, was expected")
    modules = [(entry["type"].rpartition(".")[2], entry.get("path", "")) for entry in entries]
    for _, place in modules:
        if not isinstance(place, str) or not place.isprintable() or len(place.encode()) > MOST_PATH_BYTES:
            raise ConfigError(f"{path}: the path {repr(place)[:80]} is no folder's")
        if PurePath(place).is_absolute() or ".." in PurePath(place).parts:
            raise ConfigError(f"{path}: the path {place!r} leads out of the model's folder")
    return modules
