"""What a worker asks of every system."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Setup:
    """What a system is made from: the model's folder, a folder for derived files, and the row's own options."""

    model: Path
    cache: Path
    threads: int
    calibration: list[str] = field(repr=False)
    options: dict[str, str]


class Encoder(Protocol):
    """A loaded system."""

    def set_length_limit(self, tokens: int) -> None:
        """From now on texts are cut at `tokens` tokens."""

    def tune(self, texts: list[str]) -> None:
        """Settles, outside the measured time, what a careful user would: the batch size for texts such as these."""

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """The texts' unit vectors [texts, width], in the order of the texts."""

    def encode_one(self, text: str) -> NDArray[np.float32]:
        """One text's unit vector, the fast way where the system has one."""


class SystemModule(Protocol):
    """A module of this folder: how one kind of system is made."""

    PACKAGES: tuple[str, ...]

    def build(self, setup: Setup) -> None:
        """Derives the files that `load` reads, once, in a process of its own."""

    def load(self, setup: Setup) -> Encoder:
        """The system, ready to embed."""
