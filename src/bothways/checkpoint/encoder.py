"""The public `Encoder`: a network with its family, tokenizer, heads and everything else its folder said."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from bothways.checkpoint.hub import resolve
from bothways.checkpoint.load import load_parts
from bothways.checkpoint.save import save_parts
from bothways.errors import CheckpointError, UnusedWeightsWarning
from bothways.families import Family
from bothways.nn.config import EncoderConfig
from bothways.nn.encoder import EncoderNetwork
from bothways.text.classes import TOKENIZERS
from bothways.text.tokenizer import Tokenizer

__all__ = ["Encoder", "tokenizer_of", "warn_of_lost"]

# Endings of names under which old files keep numbers that every model has: counted positions, GPT-2's causal masks.
CONSTANTS = ("position_ids", ".attn.bias", ".attn.masked_bias")


@dataclass(frozen=True, eq=False)
class Encoder:
    """An encoder that knows how to load and save itself.

    network: the layers, in fp32 on the CPU; weights stored as fp32 stay mapped from their file until changed.
    tokenizer: None where the folder has none.    heads: those the checkpoint carried, by name ("mlm").
    extras: the keys of `config.json` that do not shape the network, written back on saving.
    unused: the names of weights in the checkpoint that nothing here uses.
    """

    network: EncoderNetwork
    family: Family
    tokenizer: Tokenizer | None = None
    heads: Mapping[str, nn.Module] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)
    unused: tuple[str, ...] = ()

    def __repr__(self) -> str:
        config = self.config
        size = f"{config.depth} layers × {config.width}, {config.heads} attention heads"
        parameters = f"{sum(p.numel() for p in self.network.parameters()) / 1e6:.1f} M parameters"
        return (
            f"Encoder({self.family.model_type}, {size}, {parameters}, output heads: {', '.join(self.heads) or 'none'})"
        )

    @property
    def config(self) -> EncoderConfig:
        return self.network.config

    @property
    def lost(self) -> tuple[str, ...]:
        """The unused weights that were learned: what a saved copy has no longer."""
        return learned(self.unused)

    @classmethod
    def from_pretrained(cls, model: str | Path, *, revision: str | None = None) -> Encoder:
        """Load a folder in the layout of transformers, or an id on the hub.

        Raises ConfigError or CheckpointError, naming file and key, on whatever does not fit.
        """
        return cls(**load_parts(resolve(model, revision)))

    def save_pretrained(self, folder: str | Path, *, precision: str = "fp32") -> None:
        """Write a folder that this class and transformers load. Raises InputError if it cannot be written.

        precision: of the weights in the file: fp32, or half the size, bf16 or fp16. Computed with, they are fp32 again.

        Warns, naming them, of weights the checkpoint had and nothing here uses: they are not written.
        """
        warn_of_lost(folder, self.lost)
        save_parts(Path(folder), self.network, self.family, self.heads, self.extras, self.tokenizer, precision)


def learned(names: Sequence[str]) -> tuple[str, ...]:
    """The weights of these that are no constants."""
    return tuple(name for name in names if not name.endswith(CONSTANTS))


def warn_of_lost(folder: str | Path, unused: Sequence[str]) -> None:
    """Warn of learned weights that a folder is saved without."""
    lost = learned(unused)
    if lost:
        names = ", ".join(lost[:5]) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
        warnings.warn(f"{folder}: saved without {names}", UnusedWeightsWarning, stacklevel=3)


def tokenizer_of(encoder: Encoder, model: str = "the model") -> Tokenizer:
    """The encoder's tokenizer. Raises CheckpointError, saying what its folder lacks, if there is none.

    model: what the message calls the model.
    """
    if encoder.tokenizer is None:
        name = encoder.family.tokenizer
        files = " and ".join(TOKENIZERS[name].files)
        raise CheckpointError(f"{model} has no tokenizer: put tokenizer.json, or {files} ({name}), into its folder")
    return encoder.tokenizer
