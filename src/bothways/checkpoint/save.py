"""Saving a folder in the layout of transformers: the rules of loading, read from right to left."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bothways.checkpoint.names import plan
from bothways.checkpoint.weights import WEIGHTS, write_weights
from bothways.families import Family
from bothways.families.family import config_to_hf
from bothways.files import make_folder, write_json
from bothways.nn.encoder import EncoderNetwork
from bothways.text.formats import save_tokenizer
from bothways.text.tokenizer import Tokenizer

__all__ = ["save_parts"]


def save_parts(
    folder: Path,
    network: EncoderNetwork,
    family: Family,
    heads: Mapping[str, nn.Module],
    extras: Mapping[str, Any],
    tokenizer: Tokenizer | None,
) -> None:
    """Write config, weights and tokenizer; each file whole or not at all, the config last."""
    make_folder(folder)
    write_weights(folder / WEIGHTS, _tensors(family, network, heads))
    if tokenizer is not None:
        save_tokenizer(tokenizer, folder)
    said = {key: value for name, head in heads.items() for key, value in family.heads[name].says(head).items()}
    said["architectures"] = [family.architecture(heads)]
    stored = {key: "float32" for key in ("dtype", "torch_dtype") if key in extras}
    # Before what shapes the network, as it is in a file that was read: saved again it comes out in the same order.
    said["model_type"] = family.model_type
    write_json(folder / "config.json", config_to_hf(family, network.config, {**extras, **stored, **said}))


def _tensors(family: Family, network: EncoderNetwork, heads: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """All parameters under the names of transformers; a shared one only once."""
    tensors: dict[str, Tensor] = {}
    for module, rule in plan(family, network, heads):
        prefix = family.prefix if heads and (module is network or rule.within) else ""
        parameter = module.get_parameter(rule.ours).detach()
        tensors |= {prefix + source: part for source, part in rule.parts(parameter).items()}
        tensors |= {prefix + name: parameter.clone() for name in rule.also}
    return tensors
