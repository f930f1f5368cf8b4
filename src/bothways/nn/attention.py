"""Attention over ragged batches. This is the only file that knows kernels.

Shapes in names: T rows of all sequences, H heads, D head width; in a group of equal lengths B sequences, L rows each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bothways.errors import InputError
from bothways.nn.dropout import dropout as drop
from bothways.nn.rectangles import LANES, attend_rectangles
from bothways.ragged import Group, Grouping, Layout, group_by_lengths

__all__ = ["Bias", "aligned", "attend", "weights"]

Bias = Callable[[Tensor, Tensor], Tensor]
"""The additive term of a group's scores: (q [B, H, Lq, D], k [B, H, Lk, D]) → broadcastable to [B, H, Lq, Lk]."""

Span = tuple[int, int, int, int]
"""Rows of a rectangle that are done together: queries from, to; keys from, to."""

# Scores held at a time by the products path: 2 to 4 MB, which stays in cache and inside the allocator's arenas.
SCORES_AT_A_TIME = 1 << 20
# Scores that may have a bias at a time elsewhere: the bias is as large, and what it is made of larger.
BIASED_AT_A_TIME = 1 << 25
# Where scaled_dot_product_attention overtakes plain products on a CPU (docs/decisions/0002-cpu-attention.md), and up to
# where products of bf16 are done in fp32.
AMX = torch.cpu._is_amx_tile_supported()
FP32_UP_TO = 32 if AMX else 64
PRODUCTS_UP_TO = {torch.float32: 128, torch.bfloat16: 32 if AMX else 1024}
# Queries of a sequence done at a time, where a window makes that less work than all at once.
BLOCK = 256
# The longest sequences that are trained in rectangles: their weights are kept for the way back.
RECTANGLES_UP_TO = 512


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout_q: Layout,
    layout_k: Layout,
    *,
    bias: Bias | None = None,
    window: int | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    filler: int | None = None,
) -> Tensor:
    """Softmax attention of each sequence of `layout_q` over the same-numbered sequence of `layout_k`.

    q [Tq, H, D]; k, v [Tk, H, D] → [Tq, H, D]. No sequence sees another one, and none is padded.

    bias: additive term of the scores, computed group by group and never for the whole batch.
    window: a row sees at most this many rows to either side of it.
    causal: a row sees no later row. Where the lengths differ, the last rows of both sides are aligned.
    scale: of the scores; 1/√D if None.    dropout: probability of dropping an attention weight.
    filler: rows of q, k and v behind those of the layouts. Nothing looks at them; what they get is of no use. Where
    it is a number, and be it 0, few shapes come before few rows in attention, too.

    A row that sees nothing gives zeros. Vaswani et al. 2017, https://arxiv.org/abs/1706.03762.
    """
    _check(q, k, v, layout_q, layout_k, window, dropout, filler or 0)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    choices = _Choices(bias, window, causal, scale, dropout)
    if _trains_in_rectangles(q, k, v, layout_q, layout_k, choices):
        longest = -(-layout_q.longest // LANES) * LANES
        mask = _mask((longest, longest), (0, longest, 0, longest), choices, q.device)
        lengths = layout_q.lengths, layout_k.lengths
        return attend_rectangles(q, k, v, *lengths, mask, scale, dropout, filler is not None)
    if filler:
        sides = q[: layout_q.total], k[: layout_k.total], v[: layout_k.total]
        return F.pad(_attend(*sides, layout_q, layout_k, choices), (0, 0, 0, 0, 0, filler))
    return _attend(q, k, v, layout_q, layout_k, choices)


def _attend(q: Tensor, k: Tensor, v: Tensor, layout_q: Layout, layout_k: Layout, choices: _Choices) -> Tensor:
    if choices.bias is None and choices.dropout == 0.0 and len(k) and _varlen_runs(q, v):
        return _attend_varlen(q, k, v, layout_q, layout_k, choices)
    grouping = layout_q.grouping if layout_k is layout_q else group_by_lengths(layout_q, layout_k)
    return _attend_groups(q, k, v, grouping, choices)


def weights(
    q: Tensor,
    k: Tensor,
    layout_q: Layout,
    layout_k: Layout,
    *,
    bias: Bias | None = None,
    window: int | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> list[Tensor]:
    """What `attend` weighs the values with, for people to look at: fp32 [H, Lq, Lk] for each sequence, rows sum to 1.

    q [Tq, H, D], k [Tk, H, D]; the rest as for `attend`, which never makes these weights itself where a kernel spares
    it that.
    """
    _check(q, k, k, layout_q, layout_k, window, 0.0, 0)
    choices = _Choices(bias, window, causal, q.shape[-1] ** -0.5 if scale is None else scale, 0.0)
    found: dict[int, Tensor] = {}
    grouping = group_by_lengths(layout_q, layout_k)
    for group, q_rows, k_rows in zip(grouping.groups, grouping.split(q), grouping.split(k, keys=True)):
        if group.query_length and group.key_length:
            rectangles = _rectangle(q_rows, group), _rectangle(k_rows, group)
            found |= zip(group.sequences, _group_weights(*rectangles, group, choices))
    lengths = zip(layout_q.lengths, layout_k.lengths)
    return [found.get(i, q.new_zeros(q.shape[1], *pair).float()) for i, pair in enumerate(lengths)]


def _group_weights(q: Tensor, k: Tensor, group: Group, choices: _Choices) -> Tensor:
    """q, k [B, H, L, D] of a group → [B, H, Lq, Lk]."""
    scores = (q.float() @ k.float().transpose(-1, -2)) * choices.scale
    if choices.bias is not None:
        scores = scores + choices.bias(q, k).float()
    lengths = group.query_length, group.key_length
    mask = _mask(lengths, (0, lengths[0], 0, lengths[1]), choices, q.device)
    return (scores if mask is None else scores.masked_fill(mask, -torch.inf)).softmax(-1)


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout_q: Layout,
    layout_k: Layout,
    window: int | None,
    dropout: float,
    filler: int,
) -> None:
    if (len(q) - filler, len(k) - filler, len(v) - filler) != (layout_q.total, layout_k.total, layout_k.total):
        rows, layouts = f"{len(q)}, {len(k)}, {len(v)}", f"{layout_q.total}, {layout_k.total}, {layout_k.total}"
        raise InputError(f"q, k, v have {rows} rows, but their layouts {layouts}")
    if len(layout_q) != len(layout_k):
        raise InputError(f"cannot attend from {len(layout_q)} sequences to {len(layout_k)}: one for one is needed")
    if window is not None and window < 0:
        raise InputError(f"a window of {window} rows to either side cannot be")
    if not 0.0 <= dropout < 1.0:
        raise InputError(f"dropout must be at least 0 and below 1, got {dropout}")


def _varlen_runs(q: Tensor, v: Tensor) -> bool:
    """The flash kernels take half precisions and head widths up to 256 that are multiples of 8, from Ampere on."""
    if q.device.type != "cuda" or q.dtype not in (torch.float16, torch.bfloat16):
        return False
    if not len(q) or not torch.backends.cuda.is_flash_attention_available():
        return False
    fits = q.shape[-1] % 8 == 0 and q.shape[-1] <= 256 and v.shape[-1] == q.shape[-1]
    return fits and torch.cuda.get_device_capability(q.device) >= (8, 0)


def _trains_in_rectangles(
    q: Tensor, k: Tensor, v: Tensor, layout_q: Layout, layout_k: Layout, choices: _Choices
) -> bool:
    """Whether a way back is wanted on a CPU, and neither a bias nor long sequences stand against rectangles."""
    if q.device.type != "cpu" or not torch.is_grad_enabled() or not (q.requires_grad or v.requires_grad):
        return False
    if q.dtype not in PRODUCTS_UP_TO or q.dtype != v.dtype or k.shape != v.shape or q.shape[1:] != k.shape[1:]:
        return False
    if not 0 < max(layout_q.longest, layout_k.longest) <= RECTANGLES_UP_TO:
        return False
    if choices.bias is not None or choices.scale == 0.0:
        return False
    if layout_k is not layout_q:
        return choices.window is None and not choices.causal and 0 not in (*layout_q.lengths, *layout_k.lengths)
    return choices.window is None or layout_q.longest <= BLOCK + 2 * choices.window


def _attend_varlen(q: Tensor, k: Tensor, v: Tensor, layout_q: Layout, layout_k: Layout, choices: _Choices) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    side = -1 if choices.window is None else choices.window
    out = varlen_attn(
        q,
        k,
        v,
        layout_q.offsets,
        layout_k.offsets,
        layout_q.longest,
        layout_k.longest,
        scale=choices.scale,
        window_size=(side, 0 if choices.causal else side),
    )
    assert isinstance(out, Tensor)
    return out


@dataclass(frozen=True)
class _Choices:
    """What a caller of `attend` chose."""

    bias: Bias | None
    window: int | None
    causal: bool
    scale: float
    dropout: float


def _attend_groups(q: Tensor, k: Tensor, v: Tensor, grouping: Grouping, choices: _Choices) -> Tensor:
    """One rectangle for each group of equal lengths, then back into one tensor."""
    parts: list[Tensor] = []
    sides = grouping.split(q), grouping.split(k, keys=True), grouping.split(v, keys=True)
    for group, q_rows, k_rows, v_rows in zip(grouping.groups, *sides):
        if group.query_length == 0:
            continue
        if group.key_length == 0:
            parts.append(q.new_zeros(group.count, group.query_length, *q.shape[1:-1], v.shape[-1]))
            continue
        rectangles = [_rectangle(rows, group) for rows in (q_rows, k_rows, v_rows)]
        blocks = [_attend_span(rectangles, group, span, choices) for span in _spans(group, choices)]
        parts += blocks[0] if len(blocks) == 1 else [torch.cat([torch.cat(block) for block in blocks], dim=1)]
    return _laid_end_to_end(parts, grouping, v.new_empty(len(q), *v.shape[1:]))


def _attend_span(rectangles: list[Tensor], group: Group, span: Span, choices: _Choices) -> list[Tensor]:
    """q, k, v [B, H, L, D] of a group → the queries of a span [B', Lq, H, D], some sequences at a time."""
    first, last, key_first, key_last = span
    q, k, v = rectangles
    q, k, v = q[:, :, first:last], k[:, :, key_first:key_last], v[:, :, key_first:key_last]
    mask = _mask((group.query_length, group.key_length), span, choices, q.device)
    dtype = _working_dtype(k)
    kernel = _products if _products_win(q, k, choices.dropout) else _fused
    some = group.count
    if kernel is _products or choices.bias is not None:
        held = SCORES_AT_A_TIME if kernel is _products else BIASED_AT_A_TIME
        some = max(1, held // (q.shape[1] * q.shape[2] * k.shape[2]))
    parts = []
    for q_some, k_some, v_some in zip(q.split(some), k.split(some), v.split(some)):
        q_some, k_some, v_some = q_some.to(dtype), k_some.to(dtype), v_some.to(dtype)
        term = None if choices.bias is None else choices.bias(q_some, k_some).to(dtype)
        third = aligned(q_some), aligned(k_some), aligned(v_some)
        out = kernel(*third, term, mask, choices.scale, choices.dropout)
        parts.append(out[..., : v.shape[-1]].transpose(1, 2))
    return parts


def _spans(group: Group, choices: _Choices) -> list[Span]:
    """A long sequence with a narrow window is done in blocks of queries, each with only the keys it can see."""
    length, window = group.query_length, choices.window
    if window is None or choices.bias is not None or length != group.key_length or length <= BLOCK + 2 * window:
        return [(0, length, 0, group.key_length)]
    ahead = 0 if choices.causal else window
    blocks = [(first, min(first + BLOCK, length)) for first in range(0, length, BLOCK)]
    return [(first, last, max(0, first - window), min(length, last + ahead)) for first, last in blocks]


def _laid_end_to_end(parts: list[Tensor], grouping: Grouping, out: Tensor) -> Tensor:
    """The parts [B, L, H, D] as one tensor in the layout's order; copied once, into `out`, where no gradient is."""
    if not parts:
        return out.zero_()
    if torch.is_grad_enabled() or len(parts) == 1:
        return grouping.merge([part.flatten(0, 1).to(out.dtype) for part in parts])
    for rows, part in zip(out.split([part.shape[0] * part.shape[1] for part in parts]), parts):
        rows.view(part.shape).copy_(part)
    return grouping.merge([out])


def _rectangle(rows: Tensor, group: Group) -> Tensor:
    """The group's rows as [B, H, L, D], a view."""
    return rows.view(group.count, -1, *rows.shape[1:]).transpose(1, 2)


def _working_dtype(k: Tensor) -> torch.dtype:
    """On a CPU short bf16 sequences are attended to in fp32.

    Converting is part of a copy that is made anyway, the softmax is faster, and oneDNN, which would do the products in
    bf16, compiles and keeps a kernel for every number of sequences.
    """
    short = k.device.type == "cpu" and k.dtype == torch.bfloat16 and k.shape[2] <= FP32_UP_TO
    return torch.float32 if short else k.dtype


def _products_win(q: Tensor, k: Tensor, dropout: float) -> bool:
    """Whether two products with a softmax in between are faster than the fused kernel."""
    short = k.shape[2] <= PRODUCTS_UP_TO.get(q.dtype, 0)
    return q.device.type == "cpu" and (short or dropout > 0.0)


def _mask(lengths: tuple[int, int], span: Span, choices: _Choices, device: torch.device) -> Tensor | None:
    """True where a row may not look, [Lq, Lk] of the span; None where every row may look everywhere.

    lengths: of the whole sequences, queries' and keys'.
    """
    window, causal = choices.window, choices.causal
    if not causal and (window is None or max(lengths) <= window + 1):
        return None
    first, last, key_first, key_last = span
    rows = torch.arange(first, last, device=device)[:, None] + (lengths[1] - lengths[0])
    distance = torch.arange(key_first, key_last, device=device)[None, :] - rows
    mask = torch.zeros_like(distance, dtype=torch.bool)
    if causal:
        mask |= distance > 0
    if window is not None:
        mask |= distance.abs() > window
    return mask


def aligned(x: Tensor) -> Tensor:
    """Columns filled up to 16 bytes: in fp32 on a CPU, products of rows that are not so aligned differ in last bits."""
    idle = -x.shape[-1] % 4 if x.dtype == torch.float32 and x.device.type == "cpu" else 0
    return F.pad(x, (0, idle)) if idle else x


def _fused(
    q: Tensor, k: Tensor, v: Tensor, term: Tensor | None, mask: Tensor | None, scale: float, dropout: float
) -> Tensor:
    """[B, H, L, D] by scaled_dot_product_attention; a mask only where there is something to mask."""
    if mask is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=term, dropout_p=dropout, scale=scale)
    blind = mask.all(-1, keepdim=True)  # such a row would give NaN: let it look, then zero it
    hidden = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(mask & ~blind, -torch.inf)
    term = hidden if term is None else term + hidden
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=term, dropout_p=dropout, scale=scale)
    return out.masked_fill(blind, 0.0)


def _products(
    q: Tensor, k: Tensor, v: Tensor, term: Tensor | None, mask: Tensor | None, scale: float, dropout: float
) -> Tensor:
    """[B, H, L, D] by two batched products with a softmax in between."""
    count, heads, queries, _ = q.shape
    keys = k.shape[2]
    lanes = keys + _idle_lanes(keys, q)
    k_flat, v_flat = _widen(k, lanes), _widen(v, lanes)
    if scale == 0.0:
        q, scale = torch.zeros_like(q), 1.0  # alpha = 0 gives NaN in bf16
    nothing = q.new_zeros(1, 1, 1)
    scores = torch.baddbmm(nothing, q.flatten(0, 1), k_flat.transpose(1, 2), beta=0.0, alpha=scale)
    if term is not None:
        scores.view(count, heads, queries, lanes)[..., :keys] += term
    if lanes > keys:
        scores[..., keys:] = -torch.inf
    if mask is not None:
        scores = scores.masked_fill(F.pad(mask, (0, lanes - keys), value=True), -torch.inf)
    weights = scores.softmax(-1)
    if mask is not None:
        weights = weights.masked_fill(mask.all(-1)[:, None], 0.0)
    if dropout > 0.0:
        weights = drop(weights, dropout)
    return torch.bmm(weights, v_flat).view(count, heads, queries, -1)


def _idle_lanes(keys: int, q: Tensor) -> int:
    """Empty columns that make the CPU's softmax run on whole vectors.

    Its scalar tail costs more than the vectors before it (2,048 tokens, bf16: 2.4 ms at length 31, 0.6 at 32).
    """
    if q.device.type != "cpu":
        return 0
    vector = 32 if q.dtype == torch.bfloat16 else 16
    tail = keys % vector
    pays = tail >= 16 if q.dtype == torch.bfloat16 else keys < vector and tail > 0
    return vector - tail if pays else 0


def _widen(x: Tensor, rows: int) -> Tensor:
    """[B, H, L, D] → contiguous [B·H, rows, D], the rows beyond L zero."""
    length = x.shape[2]
    if rows == length:
        return x.flatten(0, 1).contiguous()
    wide = x.new_empty(*x.shape[:2], rows, x.shape[3])
    wide[:, :, :length] = x
    wide[:, :, length:] = 0.0
    return wide.flatten(0, 1)
