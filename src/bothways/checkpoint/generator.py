"""The generator of a discriminator (replaced-token detection): an encoder's folder, within the other's."""

from __future__ import annotations

from pathlib import Path

from bothways.checkpoint.encoder import Encoder
from bothways.errors import CheckpointError

__all__ = ["GENERATOR", "generator_folder", "read_generator"]

GENERATOR = "generator"


def generator_folder(folder: Path) -> Path | None:
    """Where the generator of the encoder in a folder is; None where there is none."""
    place = folder / GENERATOR
    return place if (place / "config.json").is_file() else None


def read_generator(folder: Path, encoder: Encoder, head: str) -> Encoder:
    """The generator in a folder, beside that encoder. head: of the generator, as a family names it.

    Raises ConfigError or CheckpointError on what cannot be read, or is no generator of that encoder.
    """
    generator, ours = Encoder.from_pretrained(folder), encoder.family
    if generator.family is not ours or head not in generator.heads:
        raise _other(folder, f"no {ours.model_type} model with a head {head}, as the generator beside one must be")
    if generator.config.vocab != encoder.config.vocab:
        rows = f"{generator.config.vocab:,} rows of words, the encoder beside it {encoder.config.vocab:,}"
        raise _other(folder, f"has {rows}")
    return generator


def _other(folder: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{folder}: {what}; put there the one that was trained with it, or remove it")
