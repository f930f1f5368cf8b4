"""What attention learns from where rows stand: angles (rotary), numbers (distance buckets), vectors (disentangled).

Nothing here is computed for a whole batch: a bias is a callable that gives one group's term (see `nn.attention`).
Shapes in names: B sequences of L rows, H heads, D head width, R = distances from 1 - L to L - 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bothways.nn.attention import Bias, aligned
from bothways.nn.config import DisentangledPositions, DistanceBuckets, EncoderConfig
from bothways.nn.dropout import dropout
from bothways.nn.layers import Embedding, Linear
from bothways.ragged import Layout

__all__ = ["DisentangledBias", "DistanceBias", "RelativeVectors", "Turns", "log_buckets", "turn", "turns", "turns_at"]

Turns = tuple[Tensor, Tensor]
"""cos and sin [T, 1, D] of the angles that each row's q and k are turned by."""


def turns(layout: Layout, width: int, theta: float) -> Turns:
    """The angles of a batch's rows, for heads of `width` columns: position · theta^(-2i / width) for pair i."""
    return turns_at(layout.positions, width, theta)


def turns_at(positions: Tensor, width: int, theta: float) -> Turns:
    """The angles of rows that stand at these positions [T]."""
    steps = torch.arange(0, width, 2, dtype=torch.float32, device=positions.device) / width
    angles = positions[:, None].float() * (1.0 / theta**steps)
    angles = torch.cat([angles, angles], dim=-1)[:, None]
    return angles.cos(), angles.sin()


def turn(x: Tensor, by: Turns) -> Tensor:
    """x [T, H, D] turned: column i together with column i + D/2. Computed in fp32, given in x's own precision."""
    cos, sin = by
    first, second = x.float().chunk(2, dim=-1)
    return (x.float() * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)


@lru_cache(maxsize=256)
def distance_buckets(buckets: int, furthest: int, length: int, ahead: bool = True) -> Tensor:
    """int64 [2 L - 1]: the bucket of each distance, from keys L - 1 rows before the query to those as far behind it.

    ahead: whether those behind it have half of the buckets; else they have the first one, and nobody looks there.
    T5, https://arxiv.org/abs/1910.10683, appendix B.
    """
    with torch.inference_mode(False):
        behind = torch.arange(length - 1, -length, -1)  # positive where the key is before the query
        half = buckets // 2 if ahead else buckets
        exact = half // 2
        distance = behind.abs() if ahead else behind.clamp(min=0)
        grown = torch.log(distance.float() / exact) / math.log(furthest / exact) * (half - exact)
        far = (exact + grown.clamp(min=0.0).to(torch.int64)).clamp(max=half - 1)
        return (behind < 0) * (half if ahead else 0) + torch.where(distance < exact, distance, far)


class DistanceBias(nn.Module):
    """One number for each head and bucket of distances; the same in every layer."""

    def __init__(self, config: EncoderConfig, relative: DistanceBuckets) -> None:
        super().__init__()
        self.relative = relative
        self.numbers = Embedding(relative.rows, config.heads)

    def forward(self, layout: Layout) -> Bias:
        """The bias of one forward: each length is computed once, for all layers, and before the first of them, so that
        a layer that is computed again on the way back finds it as before."""
        known = {length: self._of(length) for length in set(layout.lengths) if length}
        return lambda q, k: known[q.shape[2]]

    def _of(self, length: int) -> Tensor:
        """[1, H, L, L]."""
        return self.by_distance(length).unfold(1, length, 1).flip(1)[None]  # each query's keys, one further each

    def by_distance(self, length: int) -> Tensor:
        """[H, 2 L - 1]: from keys L - 1 rows before the query to those as far behind it."""
        relative = self.relative
        buckets = distance_buckets(relative.buckets, relative.furthest, length, relative.ahead)
        return self.numbers(buckets.to(self.numbers.weight.device)).T.contiguous()


def log_buckets(distances: Tensor, buckets: int, furthest: int) -> Tensor:
    """DeBERTa-v2's buckets: single distances up to half of them, logarithmic up to `furthest`; odd in the distance."""
    middle = buckets // 2
    near = (distances < middle) & (distances > -middle)
    size = torch.where(near, middle - 1, distances.abs())
    grown = torch.log(size / middle) / torch.log(torch.tensor((furthest - 1) / middle)) * (middle - 1)
    far = (torch.ceil(grown) + middle) * distances.sign()
    return torch.where(size <= middle, distances.to(far.dtype), far).to(torch.int64)


@lru_cache(maxsize=256)
def _rows_of_distances(buckets: int, span: int, length: int) -> Tensor:
    """int64 [R]: the vector's row for each distance 1 - L … L - 1, filled up with copies to a multiple of 16.

    Filled up, because products with rows that are not aligned differ in the last bits.
    """
    with torch.inference_mode(False):
        distances = torch.arange(1 - length, length)
        reach = buckets if buckets > 0 else span
        steps = log_buckets(distances, buckets, span) if buckets > 0 else distances
        rows = (steps + reach).clamp(0, 2 * reach - 1)
        return F.pad(rows, (0, -len(rows) % 16))


class RelativeVectors(nn.Module):
    """DeBERTa's vectors of relative positions [2 · reach, width], which every layer projects for itself."""

    def __init__(self, config: EncoderConfig, relative: DisentangledPositions) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.vectors = Embedding(2 * reach(config, relative), config.width)
        self.norm = nn.LayerNorm(config.width, config.norm_eps) if relative.norm else None

    def forward(self) -> Tensor:
        vectors = self.vectors.weight if self.norm is None else self.norm(self.vectors.weight)
        return dropout(vectors, self.dropout, self.training)


def reach(config: EncoderConfig, relative: DisentangledPositions) -> int:
    """Vectors to either side."""
    return relative.buckets if relative.buckets > 0 else span(config, relative)


def span(config: EncoderConfig, relative: DisentangledPositions) -> int:
    """The furthest distance."""
    return relative.span if relative.span > 0 else config.positions.count


class DisentangledBias(nn.Module):
    """The part of one layer's scores that depends on relative positions.

    For query i, key j and δ = bucket(i - j):
        c2p  q_i · K_δ        p2c  Q_δ · k_j        p2p  Q_δ · K_δ
    so that all together with q_i · k_j are (q_i + Q_δ) · (k_j + K_δ): He et al. 2020, equation 2, with δ as in the
    released models.
    """

    def __init__(self, config: EncoderConfig, relative: DisentangledPositions) -> None:
        super().__init__()
        self.terms = frozenset(relative.terms)
        self.buckets, self.span = relative.buckets, span(config, relative)
        self.heads = config.heads
        self.scale = (config.head_width * (1 + len(relative.terms))) ** -0.5
        own = not relative.shared
        self.key = Linear(config.width, config.width) if own and self.terms & {"c2p", "p2p"} else None
        self.query = Linear(config.width, config.width) if own and self.terms & {"p2c", "p2p"} else None
        self._tables: Turns | None = None

    def tables(self, vectors: Tensor, qkv: Callable[[Tensor], Tensor]) -> Turns:
        """Q and K [H, 2 · reach, D] of the vectors; `qkv` is the content's projection, for layers that share it."""
        if self._tables is not None:
            return self._tables
        shared = qkv(vectors).chunk(3, dim=-1) if self.key is None and self.query is None else None
        query = shared[0] if shared else vectors if self.query is None else self.query(vectors)
        key = shared[1] if shared else vectors if self.key is None else self.key(vectors)
        split = (len(vectors), self.heads, -1)
        return query.view(split).transpose(0, 1), key.view(split).transpose(0, 1)

    def freeze(self, vectors: Tensor, qkv: Callable[[Tensor], Tensor]) -> None:
        """Compute the tables once: for inference, where weights no longer change."""
        query, key = self.tables(vectors, qkv)
        self._tables = query.contiguous(), key.contiguous()

    def forward(self, tables: Turns) -> Bias:
        """The bias of one layer in one forward."""
        known: dict[int, Turns] = {}

        def of_length(length: int, dtype: torch.dtype) -> Turns:
            """Q [H, D, R] by distance, K [H, D, R] by distance backwards; both scaled, and laid out as such."""
            if length not in known:
                rows = _rows_of_distances(self.buckets, self.span, length).to(tables[0].device)
                query, key = (aligned(table.to(dtype).mul(self.scale)).transpose(1, 2) for table in tables)
                known[length] = query.index_select(2, rows), key.index_select(2, rows.flip(0))
            return known[length]

        def bias(q: Tensor, k: Tensor) -> Tensor:
            # Contiguous and aligned, all of them: else matmul copies some where there are several sequences, and takes
            # another kernel than for one, with other last bits.
            query, key = of_length(q.shape[2], q.dtype)
            parts = []
            if "c2p" in self.terms:
                parts.append(_by_query(torch.matmul(aligned(q).contiguous(), key)))
            if "p2c" in self.terms:
                parts.append(_by_key(torch.matmul(aligned(k).contiguous(), query)))
            if "p2p" in self.terms:
                both = (query * key.flip(2)).sum(1) / self.scale
                parts.append(_by_key(both[None, :, None].expand(1, -1, q.shape[2], -1).contiguous()))
            return sum(parts[1:], parts[0])

        return bias


def _by_key(scores: Tensor) -> Tensor:
    """[B, H, L, R] of key j and distance → [B, H, L, L] of query i and key j, at distance i - j. A view."""
    count, heads, length, width = scores.shape
    strides = (heads * length * width, length * width, 1, width - 1)
    return scores.as_strided((count, heads, length, length), strides, scores.storage_offset() + length - 1)


def _by_query(scores: Tensor) -> Tensor:
    """[B, H, L, R] of query i and distance, backwards → [B, H, L, L] of query i and key j. A view."""
    count, heads, length, width = scores.shape
    strides = (heads * length * width, length * width, width - 1, 1)
    return scores.as_strided((count, heads, length, length), strides, scores.storage_offset() + width - length)
