"""What a run trains: an encoder and, where tokens are replaced for it, the generator that replaces them.

config.json, model.safetensors, tokenizer     the encoder
generator/                                    the generator: an encoder's folder, too
shifts.safetensors                            in checkpoints: what the encoder's word vectors have of their own,
                                              where the rest is the generator's; without it a sum of both would be
                                              parted, to other last bits
lora.safetensors                              in checkpoints: the low-rank matrices of an adapted encoder; its weights
                                              are there as they were, and merged with these in all other folders
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from safetensors.torch import load_file, save_file
from torch import nn

from bothways.checkpoint.encoder import Encoder
from bothways.checkpoint.encoder_decoder import EncoderDecoder
from bothways.checkpoint.generator import GENERATOR
from bothways.errors import BothwaysError, CheckpointError, ConfigError
from bothways.nn.lora import LoRA, lora_of, lora_weights, restore_lora, set_aside
from bothways.nn.sharing import SHARINGS, Sharing, share, shifts
from bothways.objectives.objective import Model

__all__ = ["Networks", "PairNetworks", "Trained", "count"]

SHIFTS = "shifts.safetensors"
ADAPTED = "lora.safetensors"
LORA = "lora"
CAUSAL = "causal"


class Trained(Protocol):
    """What a run trains, as it is saved and read again."""

    def model(self) -> Model:
        """Its networks and heads, as an objective wants them. Always the same parameters by the same names."""

    def file_bytes(self) -> int:
        """Of all weights that `save` writes."""

    def save(self, folder: Path, *, resumable: bool = False) -> None:
        """Write its folder. Raises InputError if it cannot be written. resumable: with what `read` needs."""

    def told(self) -> dict[str, Any]:
        """What a checkpoint's state says of it."""


@dataclass(frozen=True, eq=False)
class Networks:
    """encoder: what the run is for.    generator: None for none.    sharing: of their tables of embeddings."""

    encoder: Encoder
    generator: Encoder | None = None
    sharing: Sharing = "none"

    def model(self) -> Model:
        """Their networks and heads, as an objective wants them. Always the same parameters by the same names."""
        return Model(self.encoder.network, self.encoder.heads, self._generating())

    @property
    def lora(self) -> LoRA | None:
        """How the encoder is adapted; None where all of it learns."""
        return lora_of(self.encoder.network)

    def _generating(self) -> Model | None:
        return None if self.generator is None else Model(self.generator.network, self.generator.heads)

    def file_bytes(self) -> int:
        """Of all weights that `save` writes."""
        every = (self.encoder, *(() if self.generator is None else (self.generator,)))
        parameters = sum(count(Model(one.network, one.heads)) for one in every)
        return 4 * (parameters + sum(shift.numel() for shift in shifts(self.encoder.network).values()))

    def save(self, folder: Path, *, resumable: bool = False) -> None:
        """Write both folders; each can be loaded by itself. Raises InputError if they cannot be written.

        resumable: with what `read` needs.
        """
        with set_aside(self.encoder.network) if resumable else nullcontext():
            self.encoder.save_pretrained(folder)
        if resumable and self.lora is not None:
            save_file(lora_weights(self.encoder.network), folder / ADAPTED)
        if self.generator is not None:
            self.generator.save_pretrained(folder / GENERATOR)
        if resumable and self.sharing == "disentangled":
            save_file(
                {name: shift.contiguous() for name, shift in shifts(self.encoder.network).items()}, folder / SHIFTS
            )

    def told(self) -> dict[str, Any]:
        """What a checkpoint's state says of them: how a generator shares tables, and of low-rank matrices."""
        sharing = {} if self.generator is None else {"sharing": self.sharing}
        return sharing | ({} if self.lora is None else {LORA: asdict(self.lora)})

    @classmethod
    def of(cls, folder: Path, state: Mapping[str, Any]) -> Networks:
        """Those of a checkpoint, whose state this is. Raises CheckpointError where that says what cannot be."""
        lora = state.get(LORA)
        try:
            return cls.read(folder, state.get("sharing"), None if lora is None else LoRA(**lora))
        except (TypeError, ConfigError) as error:
            raise CheckpointError(f"{folder}: {error}") from None

    @classmethod
    def read(cls, folder: Path, sharing: Sharing | None, lora: LoRA | None = None) -> Networks:
        """What `save` wrote to resume from, sharing again what it shared, and adapted as it was.

        sharing: None where there is no generator.    lora: None where nothing was adapted.
        Raises ConfigError or CheckpointError, naming the file, on whatever does not fit.
        """
        encoder = Encoder.from_pretrained(folder)
        if lora is not None:
            _adapt(encoder, lora, folder / ADAPTED)
        if sharing is None:
            return cls(encoder)
        if sharing not in SHARINGS:
            raise CheckpointError(f"{folder}: sharing {sharing!r:.80} is not known")
        if sharing == "disentangled" and not (folder / SHIFTS).exists():
            raise CheckpointError(f"{folder / SHIFTS}: no such file; go on from a checkpoint that is whole")
        generator = Encoder.from_pretrained(folder / GENERATOR)
        own = load_file(folder / SHIFTS) if sharing == "disentangled" else None
        share(encoder.network, generator.network, sharing, own)
        return cls(encoder, generator, sharing)


@dataclass(frozen=True, eq=False)
class PairNetworks:
    """An encoder with a decoder, in the folder that it has anywhere."""

    pair: EncoderDecoder

    def model(self) -> Model:
        """Its networks, its adapter, and its head as "causal"."""
        pair = self.pair
        return Model(pair.encoder, {CAUSAL: pair.head}, decoder=pair.decoder, adapter=pair.adapter)

    def file_bytes(self) -> int:
        return 4 * count(self.model())

    def save(self, folder: Path, *, resumable: bool = False) -> None:
        self.pair.save_pretrained(folder)

    def told(self) -> dict[str, Any]:
        return {}

    @classmethod
    def of(cls, folder: Path, state: Mapping[str, Any]) -> PairNetworks:
        """That of a checkpoint. Raises ConfigError or CheckpointError on whatever does not fit."""
        return cls(EncoderDecoder.from_pretrained(folder))


def _adapt(encoder: Encoder, lora: LoRA, file: Path) -> None:
    try:
        restore_lora(encoder.network, lora, load_file(file))
    except BothwaysError as error:
        raise CheckpointError(f"{file}: {error}") from None


def count(module: nn.Module) -> int:
    """Numbers in all weights; shared ones count once."""
    return sum(parameter.numel() for parameter in module.parameters())
