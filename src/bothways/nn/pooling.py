"""From token vectors to one vector a text (Reimers & Gurevych 2019, https://arxiv.org/abs/1908.10084)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bothways.ragged import Ragged

__all__ = ["POOLINGS", "pool"]


def _mean_sqrt_length(hidden: Ragged) -> Tensor:
    lengths = torch.tensor(hidden.layout.lengths, dtype=hidden.data.dtype, device=hidden.data.device)
    return hidden.sum() / lengths.clamp(min=1).sqrt()[:, None]


def _weighted_mean(hidden: Ragged, start: int = 0) -> Tensor:
    """Later tokens weigh more: the weight of a token is its position, counted from 1 (Muennighoff 2022)."""
    weights = (hidden.layout.positions + 1 + start).to(hidden.data.dtype)[:, None]
    return Ragged(hidden.data * weights, hidden.layout).sum() / Ragged(weights, hidden.layout).sum().clamp(min=1e-9)


# In the order in which sentence-transformers lays several poolings side by side.
POOLINGS: dict[str, Callable[[Ragged], Tensor]] = {
    "cls": Ragged.first,
    "max": Ragged.max,
    "mean": Ragged.mean,
    "mean_sqrt_len_tokens": _mean_sqrt_length,
    "weightedmean": _weighted_mean,
    "lasttoken": Ragged.last,
}


def pool(hidden: Ragged, modes: tuple[str, ...], skip: int = 0) -> Tensor:
    """[T, width] → [N, width · len(modes)], the poolings side by side, without each sequence's first `skip` rows.

    A prompt that is skipped keeps its place: the first row after it has position `skip`.
    """
    rest = hidden.drop_first(skip) if skip else hidden
    pooled = [_weighted_mean(rest, skip) if mode == "weightedmean" else POOLINGS[mode](rest) for mode in modes]
    return pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=-1)
