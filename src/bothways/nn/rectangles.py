"""Attention as it is trained on a CPU: few rectangles instead of one for each length, and its own way back.

A batch of paragraphs has nearly as many lengths as sequences, and a group for each is mostly overhead: thousands of
small products, and a compiled kernel for every shape. Here lengths are rounded up to whole vectors, the idle rows are
hidden from the softmax, and rectangles have 1, 2, 4 … sequences, so that few shapes ever occur. What a sequence gets
does not depend on its neighbours. Where another network's rows are attended to, both sides are laid out so.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from bothways.nn.dropout import Draw, masked

__all__ = ["LANES", "attend_rectangles"]

LANES = 32  # rows of a rectangle are a multiple of it
IDLE = -1  # a sequence without rows
SCORES_AT_A_TIME = 1 << 20  # of a rectangle, at most: 2 to 4 MB


@dataclass(frozen=True, eq=False)
class _Side:
    """The queries or the keys of a rectangle of `count` sequences, each as `length` rows of every head.

    index: int64 [count · H · length], rows of [T · H, D] by sequence, head and row; idle ones are a real row's.
    used: [count, 1, length, 1], 0 for rows behind a sequence's end, which are idle, else 1; None if there is none.
    hidden: [count, 1, 1, length], what is added to the scores of keys; None if there is nothing to hide.
    """

    count: int
    length: int
    index: Tensor
    used: Tensor | None
    hidden: Tensor | None


_Rectangle: TypeAlias = tuple[_Side, _Side]
"""Queries and keys; the same object where a sequence attends to itself."""


@dataclass(frozen=True, eq=False)
class _Plan:
    """backs: int64 [T · H], where each row of [T · H, D] of the queries, and of the keys, is in the rectangles laid end
    to end; of filler, an idle row."""

    rectangles: tuple[_Rectangle, ...]
    backs: tuple[Tensor, Tensor]

    def laid_out(self, side: int, like: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Room for rows of all rectangles' queries (side 0) or keys (1), laid end to end; and of each [B · H, L, D].

        like: [T, H, D].
        """
        sides, (_, heads, width) = [one[side] for one in self.rectangles], like.shape
        rows = [one.count * heads * one.length for one in sides]
        whole = like.new_empty(sum(rows), width)
        parts = zip(whole.split(rows), sides)
        return whole, [part.view(-1, one.length, width) for part, one in parts]


def attend_rectangles(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths_q: tuple[int, ...],
    lengths_k: tuple[int, ...],
    mask: Tensor | None,
    scale: float,
    dropout: float,
    filling: bool = False,
) -> Tensor:
    """q [Tq, H, D], k, v [Tk, H, D] → [Tq, H, D]: softmax attention of each sequence over the same-numbered one.

    lengths_q, lengths_k: of the sequences; where they are not the same, none is 0. Rows behind them are filler, fewer
    than it takes to the next multiple of LANES: what they get is of no use, and their gradients are zero.
    filling: have more idle rows and fewer rectangles.

    mask: bool [L, L] with L at least the longest sequence, True where a row may not look; each sees itself. None where
    lengths differ.
    """
    plan = _plan(lengths_q, lengths_k, q.shape[1], len(q), len(k), filling, q.dtype)
    out = _Attention.apply(q, k, v, plan, mask, scale, dropout)
    assert isinstance(out, Tensor)
    return out


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: _Plan, mask: Tensor | None, scale: float, dropout: float
    ) -> Tensor:
        saved: list[Tensor] = []
        draws: list[Draw | None] = []
        sides = [_head_rows(x) for x in (q, k, v)]
        whole, parts = plan.laid_out(0, q)
        for one, part in zip(plan.rectangles, parts):
            q_some, k_some, v_some = (_gathered(rows, side, q.shape[1]) for rows, side in zip(sides, (*one, one[1])))
            weights = _weights(q_some, k_some, one[1], mask, scale)
            draw = Draw(dropout) if dropout > 0.0 else None
            dropped = weights if draw is None else draw.first(weights)
            _product(dropped, v_some, 1.0 if draw is None else draw.grow, part)
            saved += [q_some, k_some, v_some, weights]
            draws.append(draw)
        ctx.save_for_backward(*saved)
        ctx.plan, ctx.scale, ctx.draws = plan, scale, draws
        return _ungathered(whole, plan.backs[0], q)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> tuple[Any, ...]:
        (d_out,) = slopes
        rows, saved, plan = _head_rows(d_out), ctx.saved_tensors, ctx.plan
        wholes, parts = zip(*(plan.laid_out(side, d_out) for side in (0, 1, 1)))
        for number, ((one, _), draw, *places) in enumerate(zip(plan.rectangles, ctx.draws, *parts)):
            q, k, v, weights = saved[4 * number : 4 * number + 4]
            d = _gathered(rows, one, d_out.shape[1])
            if one.used is not None:
                d.view(one.count, -1, one.length, d.shape[-1]).mul_(one.used)
            grow = 1.0 if draw is None else draw.grow
            d_weights, dropped = _product(d, v.transpose(1, 2), grow), weights
            if draw is not None:
                kept = draw.again(weights)
                d_weights, dropped = masked(d_weights, kept), masked(weights, kept)
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            _product(d_scores, k, ctx.scale, places[0])
            _product(d_scores.transpose(1, 2), q, ctx.scale, places[1])
            _product(dropped.transpose(1, 2), d, grow, places[2])
        d_q, d_k, d_v = (_ungathered(*one, d_out) for one in zip(wholes, (*plan.backs, plan.backs[1])))
        return d_q, d_k, d_v, None, None, None, None


def _weights(q: Tensor, k: Tensor, keys: _Side, mask: Tensor | None, scale: float) -> Tensor:
    """q [B · H, Lq, D], k [B · H, Lk, D] → [B · H, Lq, Lk]; rows that are idle have some weights too, which nothing
    reads."""
    scores = _product(q, k.transpose(1, 2), scale)
    if keys.hidden is not None:
        scores.view(keys.count, -1, q.shape[1], keys.length).add_(keys.hidden)
    if mask is not None:
        here = mask[: keys.length, : keys.length]
        scores.add_(torch.zeros(here.shape, dtype=q.dtype).masked_fill_(here, -torch.inf))
    return scores.softmax(-1)


def _product(a: Tensor, b: Tensor, scale: float, out: Tensor | None = None) -> Tensor:
    """scale · a b, for every matrix of a batch; written to `out`, if there is one."""
    return torch.baddbmm(_nothing(a.dtype), a, b, beta=0.0, alpha=scale, out=out)


@lru_cache
def _nothing(dtype: torch.dtype) -> Tensor:
    """What is added to products: there are thousands in a step."""
    return torch.zeros(1, 1, 1, dtype=dtype)


def _head_rows(x: Tensor) -> Tensor:
    """[T, H, D] → [T · H, D]."""
    return x.reshape(-1, x.shape[-1])


def _gathered(rows: Tensor, side: _Side, heads: int) -> Tensor:
    """Rows of all heads → those of a rectangle, [B · H, L, D]."""
    return rows.index_select(0, side.index).view(side.count * heads, side.length, -1)


def _ungathered(rows: Tensor, back: Tensor, like: Tensor) -> Tensor:
    """The rectangles' rows as [T, H, D], like the heads of another, in the batch's order; idle ones are left behind."""
    return rows.index_select(0, back).view(-1, *like.shape[1:])


@lru_cache(maxsize=16)  # the layers of a forward share it; so do the batches of all streams
def _plan(
    lengths_q: tuple[int, ...],
    lengths_k: tuple[int, ...],
    heads: int,
    total_q: int,
    total_k: int,
    filling: bool,
    dtype: torch.dtype,
) -> _Plan:
    """total_q, total_k: rows of all sequences, and of filler."""
    alike: dict[tuple[int, int], list[int]] = {}
    for i, pair in enumerate(zip(lengths_q, lengths_k)):
        if pair[0]:
            alike.setdefault((_rounded(pair[0]), _rounded(pair[1])), []).append(i)
    chosen = [(pair, some) for pair, sequences in alike.items() for some in _runs(sequences, pair, heads, filling)]
    queries, back = _sides(lengths_q, total_q, [(pair[0], some) for pair, some in chosen], heads, dtype)
    if lengths_k == lengths_q and total_k == total_q:
        return _Plan(tuple((side, side) for side in queries), (back, back))
    keys, back_k = _sides(lengths_k, total_k, [(pair[1], some) for pair, some in chosen], heads, dtype)
    return _Plan(tuple(zip(queries, keys)), (back, back_k))


def _rounded(length: int) -> int:
    return -(-length // LANES) * LANES


def _runs(sequences: list[int], pair: tuple[int, int], heads: int, filling: bool) -> list[list[int]]:
    """Sequences of these rounded lengths, those of a rectangle each."""
    most = max(1, SCORES_AT_A_TIME // (heads * pair[0] * pair[1]))
    return _powers_of_two(_filled(sequences, most) if filling else sequences, most)


def _sides(
    lengths: tuple[int, ...], total: int, chosen: list[tuple[int, list[int]]], heads: int, dtype: torch.dtype
) -> tuple[list[_Side], Tensor]:
    """One side of rectangles, of which rounded length and sequences are chosen, and its way back."""
    starts = np.cumsum([0, *lengths])
    back = np.zeros(total * heads, np.int64)
    sides: list[_Side] = []
    behind = 0
    for length, some in chosen:
        columns = np.arange(length)
        real = columns < np.array([lengths[i] if i >= 0 else 0 for i in some])[:, None]
        rows = np.where(real, columns, 0) + starts[np.maximum(some, 0)][:, None]
        index = (rows[:, None, :] * heads + np.arange(heads)[:, None]).reshape(-1)
        used = np.repeat(real[:, None, :], heads, axis=1).reshape(-1)
        back[index[used]] = behind + np.flatnonzero(used)
        if not real.all():
            back[starts[-1] * heads :] = behind + np.flatnonzero(~used)[0]
        behind += len(index)
        masks = (None, None) if real.all() else _masks(torch.from_numpy(real), dtype)
        sides.append(_Side(len(some), length, torch.from_numpy(index), *masks))
    return sides, torch.from_numpy(back)


def _masks(real: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`used` and `hidden` of a side, by which of its rows [count, length] are real."""
    # Finite, for an idle row near the end may see idle rows only, and would be NaN; still no weight for all others.
    hidden = torch.zeros(real.shape, dtype=dtype).masked_fill_(~real, torch.finfo(dtype).min / 2)
    return real.to(dtype)[:, None, :, None], hidden[:, None, None]


def _filled(sequences: list[int], most: int) -> list[int]:
    """The sequences, and IDLE for as many as it takes to have one run or two."""
    step = min(1 << max(0, len(sequences).bit_length() - 2), most)
    return sequences + [IDLE] * (-len(sequences) % step)


def _powers_of_two(items: list[int], most: int) -> list[list[int]]:
    """The items in runs of 1, 2, 4 …, none longer than `most`, the longest first."""
    runs: list[list[int]] = []
    while items:
        size = 1 << (min(most, len(items)).bit_length() - 1)
        runs.append(items[:size])
        items = items[size:]
    return runs
