"""Our own library, as its README says to use it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from systems.encoder import Encoder, Setup

PACKAGES = ("bothways", "torch")


class BothwaysEncoder:
    """`bothways.SentenceEncoder` with its default settings."""

    def __init__(self, setup: Setup) -> None:
        import bothways

        self._encoder = bothways.SentenceEncoder(str(setup.model), precision=setup.options["precision"], device="cpu")

    def set_length_limit(self, tokens: int) -> None:
        """From now on texts are cut at `tokens` tokens."""
        self._encoder.max_seq_length = tokens

    def tune(self, texts: list[str]) -> None:
        """Nothing to settle: the defaults are what is measured."""

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """Unit vectors [texts, width]."""
        return np.asarray(self._encoder.encode(texts, show_progress_bar=False))

    def encode_one(self, text: str) -> NDArray[np.float32]:
        """One text's vector."""
        return np.asarray(self._encoder.encode(text, show_progress_bar=False))


def build(setup: Setup) -> None:
    """Nothing to derive: the folder is read as it is."""


def load(setup: Setup) -> Encoder:
    """The encoder at the precision of the options."""
    return BothwaysEncoder(setup)
