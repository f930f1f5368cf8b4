"""Weight files. Only safetensors are opened: nothing here unpickles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bothways.errors import CheckpointError
from bothways.files import replacing

__all__ = ["WEIGHTS", "WeightFile", "read_weights", "write_weights"]

WEIGHTS = "model.safetensors"
PICKLE = "pytorch_model.bin"
FLOATS = {"F64", "F32", "F16", "BF16"}


class WeightFile:
    """The tensors of one checkpoint, memory-mapped: shapes are known at once, data is read where it is used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._stamp = _stamp(path)
            file = safe_open(path, framework="pt")
            self.shapes = {name: tuple(file.get_slice(name).get_shape()) for name in list(file.keys())}
            self.dtypes = {name: file.get_slice(name).get_dtype() for name in self.shapes}
        except FileNotFoundError:
            raise CheckpointError(f"{path}: no such file") from None
        except (SafetensorError, OSError, ValueError, OverflowError) as error:
            raise CheckpointError(f"{path}: not a whole safetensors file ({error}); fetch it again") from None

    def read(self, name: str) -> Tensor:
        """One tensor as fp32, mapped from the file where it is stored so. Raises CheckpointError on NaN or infinity."""
        if self.dtypes[name] not in FLOATS:
            raise CheckpointError(f"{self.path}: {name} holds {self.dtypes[name]}, not floating-point weights")
        # A sum is finite unless a member is not, and takes no memory; the exact test follows only where it is not. It
        # reads through a mapping of its own, so that pages nobody uses later do not stay in memory.
        checked = self._mapped(name)
        if not torch.isfinite(checked.sum()) and not torch.isfinite(checked).all():
            raise CheckpointError(f"{self.path}: {name} holds NaN, or weights too large for fp32")
        return self._mapped(name)

    def _mapped(self, name: str) -> Tensor:
        try:
            if _stamp(self.path) != self._stamp:
                raise CheckpointError(f"{self.path}: changed while it was read; load it again")
            return safe_open(self.path, framework="pt").get_tensor(name).to(torch.float32)
        except (SafetensorError, RuntimeError, OSError) as error:
            raise CheckpointError(f"{self.path}: {name} cannot be read ({error}); fetch the file again") from None


def _stamp(path: Path) -> tuple[int, int, int]:
    """What tells a file from another one put in its place."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def read_weights(folder: Path) -> WeightFile:
    """The weights of a model's folder. Raises CheckpointError where there are none, or only a pickle."""
    path = folder / WEIGHTS
    if path.exists():
        return WeightFile(path)
    if (folder / PICKLE).exists():
        raise CheckpointError(
            f"{folder / PICKLE}: a pickle, which can run code when it is opened; "
            f"convert it once with: bothways convert {folder} --output DIR"
        )
    raise CheckpointError(f"{folder}: no {WEIGHTS} in this folder")


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    with replacing(path) as aside:
        aside.write_bytes(save({name: t.detach().contiguous() for name, t in tensors.items()}, {"format": "pt"}))
