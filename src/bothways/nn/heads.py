"""Heads: what turns hidden states into an answer. Their weights come from a checkpoint or `nn.layers.initialise`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bothways.nn.config import EncoderConfig
from bothways.nn.layers import Linear
from bothways.nn.pooling import pool
from bothways.ragged import Ragged

__all__ = ["Dense", "MaskedLanguageHead", "Normalize", "SentenceHead"]


class MaskedLanguageHead(nn.Module):
    """Scores of every vocabulary entry: transform, activation, norm, then a product with the word embeddings.

    words: the weight [vocab, width] that the last product shares with the embeddings, or None for one of its own.
    """

    def __init__(self, config: EncoderConfig, words: nn.Parameter | None = None) -> None:
        super().__init__()
        self.act = config.activation
        self.transform = Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, config.norm_eps)
        self.decoder = Linear(config.width, config.vocab, device="meta" if words is not None else None)
        if words is not None:
            self.decoder.weight = words
            self.decoder.bias = nn.Parameter(torch.zeros(config.vocab, device=words.device))

    def forward(self, rows: Tensor) -> Tensor:
        """rows [M, width] → logits [M, vocab]. Give it only the rows to be predicted."""
        return self.decoder(self.norm(self.transform(rows, act=self.act)))


class Dense(nn.Module):
    """act(x W + b): sentence-transformers' Dense module, over sentence vectors."""

    def __init__(self, width: int, out: int, act: str | None, bias: bool = True) -> None:
        super().__init__()
        self.act = act
        self.linear = Linear(width, out, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x, act=self.act)


class Normalize(nn.Module):
    """Vectors of length 1."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1)


class SentenceHead(nn.Module):
    """Token vectors → one fp32 vector a text: pooling, then `steps` in order.

    poolings: names in `nn.pooling.POOLINGS`.    include_prompt: whether a prompt's tokens are pooled too.
    """

    def __init__(
        self,
        width: int,
        poolings: Sequence[str] = ("mean",),
        include_prompt: bool = True,
        steps: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.poolings = tuple(poolings)
        self.include_prompt = include_prompt
        self.steps = nn.ModuleList(steps)
        dense = [step.linear.out_features for step in steps if isinstance(step, Dense)]
        self.width = dense[-1] if dense else width * len(self.poolings)

    def forward(self, hidden: Ragged, prompt_tokens: int = 0) -> Tensor:
        """[T, width of the encoder] → [N, self.width]; `prompt_tokens` first rows of each text are its prompt."""
        x = pool(Ragged(hidden.data.float(), hidden.layout), self.poolings, 0 if self.include_prompt else prompt_tokens)
        for step in self.steps:
            x = step(x)
        return x
