"""Weight files. Only safetensors are opened: nothing here unpickles."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from stat import S_ISREG

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bothways.errors import CheckpointError, InputError
from bothways.files import MOST_LISTED_BYTES, read_object, replacing, write_json

__all__ = [
    "WEIGHTS",
    "PartOfWeights",
    "ShardedWeights",
    "WeightFile",
    "read_index",
    "read_weights",
    "refuse_pickles",
    "stamp",
    "write_weights",
]

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD = "model-{:05d}-of-{:05d}.safetensors"
PICKLE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"
FLOATS = {"F64", "F32", "F16", "BF16"}
# As in transformers: the largest file that the hub takes.
MOST_SHARD_BYTES = 50 * 10**9
_FILE_NAME = re.compile(r"[\w.-]{1,240}")
_OLD_SHARD = re.compile(r"model-\d{5,}-of-\d{5,}\.safetensors")


class WeightFile:
    """The tensors of one checkpoint, memory-mapped: shapes are known at once, data is read where it is used."""

    path: Path
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._stamp = stamp(path)
            file = safe_open(path, framework="pt")
            self.shapes = {name: tuple(file.get_slice(name).get_shape()) for name in list(file.keys())}
            self.dtypes = {name: file.get_slice(name).get_dtype() for name in self.shapes}
        except FileNotFoundError:
            raise CheckpointError(f"{path}: no such file") from None
        except (SafetensorError, OSError, ValueError, OverflowError) as error:
            raise CheckpointError(f"{path}: not a whole safetensors file ({error}); fetch it again") from None

    def __str__(self) -> str:
        """What messages call it."""
        return str(self.path)

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
            if stamp(self.path) != self._stamp:
                raise CheckpointError(f"{self.path}: changed while it was read; load it again")
            return safe_open(self.path, framework="pt").get_tensor(name).to(torch.float32)
        except (SafetensorError, RuntimeError, OSError) as error:
            raise CheckpointError(f"{self.path}: {name} cannot be read ({error}); fetch the file again") from None


class ShardedWeights(WeightFile):
    """The same for a checkpoint that lies in several files; `path` is the index that names them.

    As in transformers, every tensor of a file that the index names belongs to the checkpoint, named there or not.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shapes, self.dtypes = {}, {}
        self._shards: dict[str, WeightFile] = {}
        named = read_index(path)
        for name in sorted(set(named.values())):
            self._add(WeightFile(path.with_name(name)))
        for tensor, name in named.items():
            if tensor not in self._shards or self._shards[tensor].path.name != name:
                raise CheckpointError(f"{path.with_name(name)}: no tensor {tensor}, but {path.name} places it here")

    def read(self, name: str) -> Tensor:
        return self._shards[name].read(name)

    def _add(self, shard: WeightFile) -> None:
        for name in shard.shapes:
            if name in self._shards:
                raise CheckpointError(f"{shard.path}: {name} is in {self._shards[name].path.name} too")
            self._shards[name] = shard
        self.shapes |= shard.shapes
        self.dtypes |= shard.dtypes


class PartOfWeights(WeightFile):
    """Some tensors of a file, by names of their own.

    names: its name here → in the file.    called: what messages call the part.
    """

    def __init__(self, whole: WeightFile, names: Mapping[str, str], called: str) -> None:
        self.path, self.called = whole.path, called
        self._whole, self._names = whole, names
        self.shapes = {name: whole.shapes[stored] for name, stored in names.items()}
        self.dtypes = {name: whole.dtypes[stored] for name, stored in names.items()}

    def __str__(self) -> str:
        return f"{self.path} ({self.called})"

    def read(self, name: str) -> Tensor:
        return self._whole.read(self._names[name])


def stamp(path: Path) -> tuple[int, int, int]:
    """What tells a file from another one put in its place. Raises OSError on a pipe or device, which may never end."""
    status = path.stat()
    if not S_ISREG(status.st_mode):
        raise OSError("not a regular file")
    return status.st_ino, status.st_size, status.st_mtime_ns


def read_index(path: Path) -> dict[str, str]:
    """Tensor → the file beside `path` that holds it: the weight map of a checkpoint in several files.

    Nothing else of an index is believed. Raises ConfigError or CheckpointError on any other content.
    """
    places = read_object(path, MOST_LISTED_BYTES).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{path}: a weight_map from tensors to files was expected")
    kind = path.name.removesuffix(".index.json").rpartition(".")[2]
    for tensor, name in places.items():
        if not isinstance(name, str) or not _FILE_NAME.fullmatch(name) or not name.endswith(f".{kind}"):
            shown = repr(name)[:80]
            raise CheckpointError(f"{path}: {tensor} is placed in {shown}, not a .{kind} file of this folder")
    return places


def read_weights(folder: Path, model: Path | None = None) -> WeightFile:
    """The weights of a folder: `model.safetensors`, or else the files that `model.safetensors.index.json` names.

    model: the folder of the whole model, where `folder` is that of one of its modules.
    Raises CheckpointError where there are none, or only a pickle.
    """
    if (folder / WEIGHTS).exists():
        return WeightFile(folder / WEIGHTS)
    if (folder / INDEX).exists():
        return ShardedWeights(folder / INDEX)
    refuse_pickles(folder, model or folder)
    raise CheckpointError(f"{folder}: no {WEIGHTS} in this folder")


def refuse_pickles(folder: Path, model: Path) -> None:
    """Raise CheckpointError, saying how to convert `model`, if `folder` has its weights only as a pickle."""
    if (folder / WEIGHTS).exists() or (folder / INDEX).exists():
        return
    for name in (PICKLE, PICKLE_INDEX):
        if (folder / name).exists():
            raise CheckpointError(
                f"{folder / name}: a pickle, which can run code when it is opened; "
                f"convert it once with: bothways convert {model} --output DIR"
            )


def write_weights(path: Path, tensors: Mapping[str, Tensor], max_shard_size: int = MOST_SHARD_BYTES) -> None:
    """Write tensors to `path`, a folder's model.safetensors; if they are larger, to files of at most `max_shard_size`
    bytes each beside it, and an index. A tensor beyond that size gets a file of its own.

    A reader meets the old weights, the new ones, or none while the last files are put in place: never a mixture.
    """
    shards = list(_shards(tensors, max_shard_size))
    if len(shards) == 1:
        with replacing(path) as aside:
            _write(shards[0], aside)
        path.with_name(INDEX).unlink(missing_ok=True)
        _remove_shards(path.parent, keep=set())
    else:
        _write_shards(path, shards)


def _write_shards(path: Path, shards: list[dict[str, Tensor]]) -> None:
    names = [SHARD.format(i + 1, len(shards)) for i in range(len(shards))]
    with ExitStack() as stack:
        for name, shard in zip(names, shards):
            _write(shard, stack.enter_context(replacing(path.with_name(name))))
        # From here to the new index the folder has no index: the old one would name old and new files together.
        path.with_name(INDEX).unlink(missing_ok=True)
    size = sum(_size(tensor) for shard in shards for tensor in shard.values())
    places = {tensor: name for name, shard in zip(names, shards) for tensor in shard}
    write_json(path.with_name(INDEX), {"metadata": {"total_size": size}, "weight_map": places})
    path.unlink(missing_ok=True)  # only now: a whole file goes before an index
    _remove_shards(path.parent, keep=set(names))


def _remove_shards(folder: Path, keep: set[str]) -> None:
    for file in folder.iterdir():
        if _OLD_SHARD.fullmatch(file.name) and file.name not in keep:
            file.unlink(missing_ok=True)


def _shards(tensors: Mapping[str, Tensor], most: int) -> Iterator[dict[str, Tensor]]:
    """The tensors in their order, parted wherever the next one would lead over `most` bytes; at least one part."""
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        if shard and size + _size(tensor) > most:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += _size(tensor)
    yield shard


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _write(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write to `path`, which is there and keeps its mode: safetensors would leave a file only its owner may read."""
    mode = path.stat().st_mode
    try:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path, {"format": "pt"})
    except SafetensorError as error:
        raise InputError(f"{path.parent}: the weights cannot be written: {error}") from None
    path.chmod(mode)
