"""An adapter as a folder of its own beside the model's files: `adapter/` with config.json and model.safetensors."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path

import torch
from torch import nn

from bothways.checkpoint.weights import WEIGHTS, read_weights, write_weights
from bothways.errors import CheckpointError, ConfigError
from bothways.files import make_folder, read_object, write_json
from bothways.nn.adapter import ADAPTERS, Adapter, AdapterConfig

__all__ = ["read_adapter", "write_adapter"]

CONFIG = "config.json"


def write_adapter(folder: Path, adapter: Adapter) -> None:
    """Write it into `folder`, each file whole or not at all, the config last. Raises InputError if it cannot be."""
    make_folder(folder)
    write_weights(folder / WEIGHTS, {name: tensor.detach() for name, tensor in adapter.state_dict().items()})
    write_json(folder / CONFIG, asdict(adapter.config))


def read_adapter(folder: Path) -> Adapter:
    """What `write_adapter` wrote, in fp32.

    Raises ConfigError or CheckpointError, naming file and key or tensor, on whatever does not fit.
    """
    config = _config(folder / CONFIG)
    weights = read_weights(folder)
    with torch.device("meta"):
        adapter = ADAPTERS[config.kind](config)
    wanted = {name: tuple(tensor.shape) for name, tensor in adapter.state_dict().items()}
    for name in sorted(wanted.keys() ^ weights.shapes.keys()):
        what = "is missing" if name in wanted else "is none of its weights"
        raise CheckpointError(f"{weights.path}: {name} {what}, where config.json says {config.kind}")
    for name, shape in wanted.items():
        if weights.shapes[name] != shape:
            raise CheckpointError(f"{weights.path}: {name} is {list(weights.shapes[name])}, not {list(shape)}")
    for name in wanted:
        owner, _, leaf = name.rpartition(".")
        setattr(adapter.get_submodule(owner), leaf, nn.Parameter(weights.read(name)))
    return adapter.eval()


def _config(path: Path) -> AdapterConfig:
    said = read_object(path)
    known = {one.name for one in fields(AdapterConfig)}
    for name in sorted(said.keys() ^ known):
        raise ConfigError(f"{path}: {name} is {'missing' if name in known else 'not known'}")
    try:
        config = AdapterConfig(**said)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if config.kind not in ADAPTERS:
        raise ConfigError(f"{path}: kind is {config.kind}, of which there is no folder; remove it")
    return config
