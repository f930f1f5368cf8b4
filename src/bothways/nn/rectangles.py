"""Self-attention as it is trained on a CPU: few rectangles instead of one for each length, and its own way back.

A batch of paragraphs has nearly as many lengths as sequences, and a group for each is mostly overhead: thousands of
small products, and a compiled kernel for every shape. Here lengths are rounded up to whole vectors, the idle rows are
hidden from the softmax, and rectangles have 1, 2, 4 … sequences, so that few shapes ever occur. What a sequence gets
does not depend on its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bothways.nn.dropout import Draw, masked

__all__ = ["LANES", "attend_rectangles"]

LANES = 32  # rows of a rectangle are a multiple of it
IDLE = -1  # a sequence without rows
SCORES_AT_A_TIME = 1 << 20  # of a rectangle, at most: 2 to 4 MB


@dataclass(frozen=True, eq=False)
class _Rectangle:
    """`count` sequences, each as `length` rows of every head.

    index: int64 [count · H · length], rows of [T · H, D] by sequence, head and row; idle ones are a real row's.
    idle: bool [count, length], rows behind a sequence's end; None if there is none.
    """

    count: int
    length: int
    index: Tensor
    idle: Tensor | None


@dataclass(frozen=True, eq=False)
class _Plan:
    """back: int64 [T · H], where each row of [T · H, D] is in the rectangles laid end to end; of filler, an
    idle row."""

    rectangles: tuple[_Rectangle, ...]
    back: Tensor


def attend_rectangles(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: tuple[int, ...],
    mask: Tensor | None,
    scale: float,
    dropout: float,
    filling: bool = False,
) -> Tensor:
    """q, k, v [T, H, D] → [T, H, D]: softmax attention of each sequence over itself.

    lengths: of the sequences. Rows behind them are filler, fewer than it takes to the next multiple of LANES: what they
    get is of no use, and their gradients are zero.    filling: have more idle rows and fewer rectangles.

    mask: bool [L, L] with L at least the longest sequence, True where a row may not look; each sees itself.
    """
    out = _Attention.apply(q, k, v, _plan(lengths, q.shape[1], len(q), filling), mask, scale, dropout)
    assert isinstance(out, Tensor)
    return out


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: _Plan, mask: Tensor | None, scale: float, dropout: float
    ) -> Tensor:
        saved: list[Tensor] = []
        draws: list[Draw | None] = []
        parts, sides = [], [_head_rows(x) for x in (q, k, v)]
        for one in plan.rectangles:
            q_some, k_some, v_some = (_gathered(side, one, q.shape[1]) for side in sides)
            weights = _weights(q_some, k_some, one, mask, scale)
            draw = Draw(dropout) if dropout > 0.0 else None
            dropped = weights if draw is None else draw.first(weights)
            parts.append(_product(dropped, v_some, 1.0 if draw is None else draw.grow).flatten(0, 1))
            saved += [q_some, k_some, v_some, weights]
            draws.append(draw)
        ctx.save_for_backward(*saved)
        ctx.plan, ctx.scale, ctx.draws = plan, scale, draws
        return _ungathered(parts, plan, q)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> tuple[Any, ...]:
        (d_out,) = slopes
        rows, saved, plan = _head_rows(d_out), ctx.saved_tensors, ctx.plan
        found: tuple[list[Tensor], ...] = ([], [], [])
        for one, draw, place in zip(plan.rectangles, ctx.draws, range(0, len(saved), 4)):
            q, k, v, weights = saved[place : place + 4]
            d = _gathered(rows, one, d_out.shape[1])
            if one.idle is not None:
                d.view(one.count, -1, one.length, d.shape[-1]).mul_((~one.idle).to(d.dtype)[:, None, :, None])
            grow = 1.0 if draw is None else draw.grow
            d_weights, dropped = _product(d, v.transpose(1, 2), grow), weights
            if draw is not None:
                kept = draw.again(weights)
                d_weights, dropped = masked(d_weights, kept), masked(weights, kept)
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            found[0].append(_product(d_scores, k, ctx.scale).flatten(0, 1))
            found[1].append(_product(d_scores.transpose(1, 2), q, ctx.scale).flatten(0, 1))
            found[2].append(_product(dropped.transpose(1, 2), d, grow).flatten(0, 1))
        return (*(_ungathered(parts, plan, d_out) for parts in found), None, None, None, None)


def _weights(q: Tensor, k: Tensor, one: _Rectangle, mask: Tensor | None, scale: float) -> Tensor:
    """q, k [B · H, L, D] → [B · H, L, L]; rows that are idle have some weights too, which nothing reads."""
    scores = _product(q, k.transpose(1, 2), scale)
    if one.idle is not None:
        # Finite, for an idle row near the end may see idle rows only, and would be NaN; still no weight for all others.
        hidden = torch.zeros(one.idle.shape, dtype=q.dtype).masked_fill_(one.idle, torch.finfo(q.dtype).min / 2)
        scores.view(one.count, -1, one.length, one.length).add_(hidden[:, None, None])
    if mask is not None:
        here = mask[: one.length, : one.length]
        scores.add_(torch.zeros(here.shape, dtype=q.dtype).masked_fill_(here, -torch.inf))
    return scores.softmax(-1)


def _product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """scale · a b, for every matrix of a batch."""
    return torch.baddbmm(a.new_zeros(1, 1, 1), a, b, beta=0.0, alpha=scale)


def _head_rows(x: Tensor) -> Tensor:
    """[T, H, D] → [T · H, D]."""
    return x.reshape(-1, x.shape[-1])


def _gathered(rows: Tensor, one: _Rectangle, heads: int) -> Tensor:
    """Rows of all heads → those of a rectangle, [B · H, L, D]."""
    return rows.index_select(0, one.index).view(one.count * heads, one.length, -1)


def _ungathered(parts: list[Tensor], plan: _Plan, like: Tensor) -> Tensor:
    """The rectangles' rows as [T, H, D] in the batch's order; idle ones are left behind."""
    rows = parts[0] if len(parts) == 1 else torch.cat(parts)
    return rows.index_select(0, plan.back).view(like.shape[0], like.shape[1], -1)


@lru_cache(maxsize=16)  # the layers of a forward share it; so do the batches of all streams
def _plan(lengths: tuple[int, ...], heads: int, total: int, filling: bool) -> _Plan:
    """total: rows of all sequences, and of filler."""
    starts = np.cumsum([0, *lengths])
    alike: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        if length:
            alike.setdefault(-(-length // LANES) * LANES, []).append(i)
    rectangles: list[_Rectangle] = []
    back = np.empty(total * heads, np.int64)
    behind = 0
    for length, sequences in alike.items():
        most = max(1, SCORES_AT_A_TIME // (heads * length * length))
        for some in _powers_of_two(_filled(sequences, most) if filling else sequences, most):
            columns = np.arange(length)
            real = columns < np.array([lengths[i] if i >= 0 else 0 for i in some])[:, None]
            rows = np.where(real, columns, 0) + starts[np.maximum(some, 0)][:, None]
            index = (rows[:, None, :] * heads + np.arange(heads)[:, None]).reshape(-1)
            used = np.repeat(real[:, None, :], heads, axis=1).reshape(-1)
            back[index[used]] = behind + np.flatnonzero(used)
            if not real.all():
                back[starts[-1] * heads :] = behind + np.flatnonzero(~used)[0]
            behind += len(index)
            idle = None if real.all() else torch.from_numpy(~real)
            rectangles.append(_Rectangle(len(some), length, torch.from_numpy(index), idle))
    return _Plan(tuple(rectangles), torch.from_numpy(back))


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
