"""Tokens drawn by their scores, each row with chance of its own, so that its neighbours do not matter.

Shapes: R rows, V words, C candidates that are left of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor

from bothways.engine.decoding import Decoding
from bothways.engine.scores import top

__all__ = ["candidates", "chances", "draw", "generators"]

# Where only top_p says which tokens are kept, so many are looked at before all are sorted.
FEW = 256


def generators(seed: int, names: Sequence[str]) -> list[torch.Generator]:
    """One for each row, by the seed and the row's name, whatever else is written."""
    digests = [blake2b(f"{seed} {name}".encode(), digest_size=8).digest() for name in names]
    return [torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1) for digest in digests]


def chances(made: Sequence[torch.Generator], count: int) -> Tensor:
    """float64 [R, count] from 0 on, below 1: the next ones of each row."""
    return torch.stack([torch.rand(count, generator=one, dtype=torch.float64) for one in made])


def candidates(scores: Tensor, decoding: Decoding, least: int = 1) -> tuple[Tensor, Tensor | None]:
    """scores [R, V] → those that may be drawn, divided by the temperature, -inf for the others [R, C]; and their
    columns [R, C], best first, or None where they are all columns in order.

    least: how many are kept whatever top_k, top_p and min_p say.
    """
    values, columns = _of_top(scores, decoding, least)
    return (values if decoding.min_p == 0.0 else _likely(values, decoding.min_p, least)), columns


def _of_top(scores: Tensor, decoding: Decoding, least: int) -> tuple[Tensor, Tensor | None]:
    """As `candidates`, by top_k and top_p."""
    count, width = max(decoding.top_k, least) if decoding.top_k else 0, scores.shape[1]
    if 0 < count < width:
        values, columns = top(scores, count)
        values = values / decoding.temperature
        return (values, columns) if decoding.top_p == 1.0 else (_nucleus(values, decoding.top_p, least), columns)
    scores = scores / decoding.temperature
    return (scores, None) if decoding.top_p == 1.0 else _nucleus_of_all(scores, decoding.top_p, least)


def _nucleus_of_all(scores: Tensor, top_p: float, least: int) -> tuple[Tensor, Tensor]:
    """The nucleus among all columns: mostly it is among few of them."""
    whole = scores.logsumexp(1, keepdim=True)
    values, columns = top(scores, max(FEW, least))
    if bool(((values - whole).exp().sum(1) < top_p).any()):
        values, columns = scores.sort(1, descending=True)
    return _nucleus(values, top_p, least, whole), columns


def _nucleus(values: Tensor, top_p: float, least: int, whole: Tensor | None = None) -> Tensor:
    """values [R, C], best first: -inf for those before which there is top_p already (Holtzman et al. 2019,
    https://arxiv.org/abs/1904.09751). whole: the log of the sum of all exponentials, if these are not all."""
    shares = (values - (values.logsumexp(1, keepdim=True) if whole is None else whole)).exp()
    beyond = shares.cumsum(1) - shares >= top_p
    beyond[:, :least] = False
    return values.masked_fill(beyond, -torch.inf)


def _likely(values: Tensor, min_p: float, least: int) -> Tensor:
    """-inf for those that are less than min_p times as likely as the likeliest one (Nguyen et al. 2024,
    https://arxiv.org/abs/2407.01082)."""
    beyond = (values - values.amax(1, keepdim=True)).exp() < min_p
    if least > 1:
        beyond.scatter_(1, torch.topk(values, min(least, values.shape[1])).indices, False)
    return values.masked_fill(beyond, -torch.inf)


def draw(values: Tensor, chance: Tensor) -> Tensor:
    """values [R, C] of `candidates`, chance float64 [R] → which one each row draws, int64 [R]."""
    sums = values.softmax(1).double().cumsum(1)
    found = torch.searchsorted(sums, (chance.to(sums.device) * sums[:, -1])[:, None], right=True)[:, 0]
    return found.clamp(max=values.shape[1] - 1)
