"""feature-extraction: the hidden states themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from bothways.data.batch import Batch
from bothways.errors import InputError
from bothways.nn.encoder import EncoderOutput
from bothways.ragged import Ragged
from bothways.tasks.task import Facts, Request, Round, Rounds
from bothways.text.tokenizer import Encoded, as_texts

__all__ = ["FeatureExtraction"]


@dataclass(frozen=True)
class Options:
    layers: Literal["last", "all"]


@dataclass(frozen=True)
class FeatureExtraction:
    """A text gives numpy `[1, tokens, width]`; with `layers="all"` `[layers + 1, tokens, width]`, embeddings first."""

    head: str | None = None

    def request(self, texts: str | Sequence[str], *, layers: Literal["last", "all"] = "last") -> Request:
        """layers: "last", or "all" for the embeddings and every layer."""
        if layers not in ("last", "all"):
            raise InputError(f'layers must be "last" or "all", got {layers!r}')
        return Request(as_texts(texts), isinstance(texts, str), options=Options(layers))

    def rooms(self, request: Request, encoded: Sequence[Encoded], facts: Facts) -> Sequence[int]:
        return [0] * len(encoded)

    def check(self, request: Request, encoded: Sequence[Encoded], facts: Facts) -> None:
        """Every text has features."""

    def rounds(self, request: Request, encoded: Sequence[Encoded], facts: Facts) -> Rounds:
        predicted = yield Round(encoded, request.options, keep=request.options.layers == "all")
        return [rows.contiguous().numpy() for rows in predicted]

    def predict(self, output: EncoderOutput, head: nn.Module | None, batch: Batch, asked: Options) -> list[Tensor]:
        states = (output.last.data,) if asked.layers == "last" or not output.hidden_states else output.hidden_states
        stacked = torch.stack(states, dim=1).float().cpu()
        return [rows.transpose(0, 1) for rows in Ragged(stacked, batch.tokens.layout).unbind()]
