"""Saving a folder in the layout of transformers: the rules of loading, read from right to left."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bothways.checkpoint.names import plan
from bothways.checkpoint.weights import WEIGHTS, write_weights
from bothways.errors import InputError
from bothways.families import Family
from bothways.families.family import config_to_hf
from bothways.files import make_folder, write_json
from bothways.nn.encoder import EncoderNetwork
from bothways.nn.lora import whole
from bothways.text.formats import save_tokenizer
from bothways.text.tokenizer import Tokenizer

__all__ = ["STORED", "check_precision", "said_of", "save_parts", "stored_tensors"]

STORED = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def save_parts(
    folder: Path,
    network: EncoderNetwork,
    family: Family,
    heads: Mapping[str, nn.Module],
    extras: Mapping[str, Any],
    tokenizer: Tokenizer | None,
    precision: str = "fp32",
) -> None:
    """Write config, weights and tokenizer; each file whole or not at all, the config last.

    precision: of the weights in the file, a name in STORED. Raises InputError on one that is not known, and on weights
    that are too large for it.
    """
    check_precision(precision)
    tensors = stored_tensors(family, network, heads, precision, prefixed=bool(heads))
    make_folder(folder)
    write_weights(folder / WEIGHTS, tensors)
    if tokenizer is not None:
        save_tokenizer(tokenizer, folder)
    said = {key: value for name, head in heads.items() for key, value in family.heads[name].says(head).items()}
    said["architectures"] = [family.architecture(heads)]
    stored = said_of(precision, extras)
    # Before what shapes the network, as it is in a file that was read: saved again it comes out in the same order.
    said["model_type"] = family.model_type
    for name, head in heads.items():
        said |= family.heads[name].dropped(head, extras, network.config)
    write_json(folder / "config.json", config_to_hf(family, network.config, {**extras, **stored, **said}))


def check_precision(precision: str) -> None:
    """Raise InputError on one that is not known."""
    if precision not in STORED:
        raise InputError(f"precision must be one of {', '.join(STORED)}, got {precision!r}")


def said_of(precision: str, extras: Mapping[str, Any]) -> dict[str, str]:
    """What a config says of the precision, under the key that it has for it."""
    named = [key for key in ("dtype", "torch_dtype") if key in extras] or ["dtype"] * (precision != "fp32")
    return {key: str(STORED[precision]).removeprefix("torch.") for key in named}


def stored_tensors(
    family: Family, network: EncoderNetwork, heads: Mapping[str, nn.Module], precision: str, *, prefixed: bool
) -> dict[str, Tensor]:
    """All parameters as a file has them. prefixed: the network's begin with the family's prefix."""
    with whole(network):
        tensors = _tensors(family, network, heads, prefixed)
        return {name: _stored(name, tensor, precision) for name, tensor in tensors.items()}


def _stored(name: str, tensor: Tensor, precision: str) -> Tensor:
    """A tensor as the file has it."""
    stored = tensor.to(STORED[precision])
    if bool(tensor.isfinite().all()) and not bool(stored.isfinite().all()):
        raise InputError(f"{name} has numbers too large for {precision}; save it in bf16 or fp32")
    return stored


def _tensors(
    family: Family, network: EncoderNetwork, heads: Mapping[str, nn.Module], prefixed: bool
) -> dict[str, Tensor]:
    """All parameters under the names of transformers; a shared one only once."""
    tensors: dict[str, Tensor] = {}
    for module, rule in plan(family, network, heads):
        prefix = family.prefix if prefixed and (module is network or rule.within) else ""
        parameter = module.get_parameter(rule.ours).detach()
        tensors |= {prefix + source: part for source, part in rule.parts(parameter).items()}
        tensors |= {prefix + name: parameter.clone() for name in rule.also}
    return tensors
