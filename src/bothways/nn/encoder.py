"""The network that runs every family: embeddings, then layers, over ragged batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bothways.errors import InputError
from bothways.nn.config import EncoderConfig
from bothways.nn.layers import Embedding, EncoderLayer, Linear
from bothways.ragged import Ragged

__all__ = ["EncoderNetwork", "EncoderOutput", "Pooler"]


@dataclass(frozen=True)
class EncoderOutput:
    """last: the last layer's hidden states [T, width].

    hidden_states: the embeddings' and each layer's [T, width] (depth + 1 of them), if they were asked for.
    """

    last: Ragged
    hidden_states: tuple[Tensor, ...] | None = None


class Embeddings(nn.Module):
    """Word + position + type vectors, normalised."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.words = Embedding(config.vocab, config.width)
        self.positions = Embedding(config.positions.count, config.width)
        self.types = Embedding(config.types, config.width) if config.types else None
        self.norm = nn.LayerNorm(config.width, config.norm_eps)

    def forward(self, tokens: Ragged, types: Tensor | None) -> Tensor:
        """ids int [T], types int [T] (None: all 0) → [T, width]. Raises InputError on a sequence that is too long."""
        if tokens.layout.longest > self.positions.num_embeddings:
            raise InputError(
                f"a sequence of {tokens.layout.longest} tokens is longer than the "
                f"{self.positions.num_embeddings} this model has positions for"
            )
        x = self.words(tokens.data) + self.positions(tokens.layout.positions)
        if self.types is not None:
            x = x + (self.types.weight[0] if types is None else self.types(types))
        return F.dropout(self.norm(x), self.dropout, self.training)


class Pooler(nn.Module):
    """tanh(first token W + b): what next-sentence prediction reads."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = Linear(config.width, config.width)

    def forward(self, hidden: Ragged) -> Tensor:
        """[T, width] → [N, width]."""
        return self.dense(hidden.first(), act="tanh")


class EncoderNetwork(nn.Module):
    """A bidirectional encoder, as its config says; its weights have no values until `initialise` or a checkpoint.

    pooler: None where the checkpoint has none.
    dtype: of the hidden states, if other than that of the embeddings (set by a backend, never by a family).
    """

    def __init__(self, config: EncoderConfig, *, pooler: bool = True) -> None:
        super().__init__()
        self.config = config
        self.dtype: torch.dtype | None = None
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.depth))
        self.pooler = Pooler(config) if pooler else None

    def steps(self, tokens: Ragged, types: Tensor | None = None) -> Iterator[Tensor]:
        """The hidden states [T, width] of the embeddings, then of each layer, as they are computed."""
        x = self.embeddings(tokens, types)
        x = x if self.dtype is None else x.to(self.dtype)
        yield x
        for layer in self.layers:
            x = layer(x, tokens.layout)
            yield x

    def forward(self, tokens: Ragged, types: Tensor | None = None, *, keep: bool = False) -> EncoderOutput:
        """Encode token ids int [T] with token types int [T] (None: all 0).

        keep: also return the hidden states of every layer.
        """
        if keep:
            states = tuple(self.steps(tokens, types))
            return EncoderOutput(Ragged(states[-1], tokens.layout), states)
        for x in self.steps(tokens, types):
            last = x
        return EncoderOutput(Ragged(last, tokens.layout))
