"""From what a user calls a model (a folder, or an id on the hub) to a folder."""

from __future__ import annotations

import re
from pathlib import Path

from bothways.errors import CheckpointError, InputError

__all__ = ["resolve"]

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]


def resolve(model: str | Path, revision: str | None = None) -> Path:
    """The folder of a model: `model` itself if there is such a folder, else a snapshot from the hub's cache or the hub.

    Raises CheckpointError if neither is to be had.
    """
    try:
        path = Path(model).expanduser()
        if path.is_dir():
            return path
        if path.exists():
            raise InputError(f"{model}: a file; the folder of a model was expected")
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{str(model)[:80]}: cannot be a folder: {error}") from None
    if not _HUB_ID.fullmatch(str(model)) or str(model).startswith("."):
        raise CheckpointError(f"{model}: no such folder")
    return _snapshot(str(model), revision)


def _snapshot(model: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        advice = "give a folder, or fetch it where the hub can be reached"
        raise CheckpointError(f"{model}: no such folder, and the hub does not give it ({reason}); {advice}") from None
