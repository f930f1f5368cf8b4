"""The blocks of an encoder: attention, feed-forward and what makes a layer of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bothways.nn.attention import Bias, attend, weights
from bothways.nn.config import DisentangledPositions, EncoderConfig, RotaryPositions
from bothways.nn.dropout import dropout
from bothways.nn.layers import Linear, PackedLinear, activate, add, filled, norm, packs
from bothways.nn.positions import DisentangledBias, Turns, turn
from bothways.ragged import Layout, Ragged

__all__ = ["Convolution", "CrossAttention", "EncoderLayer", "Positions", "SelfAttention"]

# What works row by row is done for so many rows at a time on a CPU: the wide middle of the feed-forward part stays in
# cache, and buffers of one size are used again instead of growing the heap.
ROWS_AT_A_TIME = 512


class Positions:
    """What the layers of one forward share: angles by their base, a bias for all, vectors of relative positions; and
    how many rows of filler are behind theirs (see `attend`)."""

    def __init__(
        self,
        turns: dict[float, Turns] | None = None,
        bias: Bias | None = None,
        vectors: Tensor | None = None,
        filler: int | None = None,
    ) -> None:
        self.turns = turns or {}
        self.bias = bias
        self.vectors = vectors
        self.filler = filler

    def filled(self, rows: int) -> Positions:
        """The same with so many rows of filler behind."""
        angles = {theta: (_behind(cos, rows), _behind(sin, rows)) for theta, (cos, sin) in self.turns.items()}
        return Positions(angles, self.bias, self.vectors, rows)


def _behind(angles: Tensor, rows: int) -> Tensor:
    return F.pad(angles, (0, 0, 0, 0, 0, rows))


class SelfAttention(nn.Module):
    """Multi-head attention of each sequence over itself; q, k and v come from one product."""

    def __init__(self, config: EncoderConfig, layer: int) -> None:
        super().__init__()
        self.heads, self.head_width = config.heads, config.head_width
        self.dropout = config.attention_dropout
        self.window, self.causal = config.sees(layer), config.causal
        self.theta: float | None = None
        if isinstance(config.positions, RotaryPositions):
            self.theta = config.positions.theta if self.window is None else config.positions.local_theta
        self.scale = config.head_width**-0.5 if config.head.scaled else 1.0
        self.qkv = Linear(config.width, 3 * config.inner, bias=config.biases.attention)
        self.out = Linear(config.inner, config.width, bias=config.biases.attention)
        self.relative: DisentangledBias | None = None
        if isinstance(config.relative, DisentangledPositions):
            self.scale = (config.head_width * (1 + len(config.relative.terms))) ** -0.5
            if config.relative.active and config.relative.terms:
                self.relative = DisentangledBias(config, config.relative)

    def project(self, x: Tensor, positions: Positions, queries: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v [T, H, D], turned where positions are angles. queries: rows that ask instead of x [T, width]."""
        q, k, v = self.qkv(x).view(len(x), 3, self.heads, self.head_width).unbind(1)
        if queries is not None:
            q = self.qkv(queries).view(len(x), 3, self.heads, self.head_width)[:, 0]
        if self.theta is None:
            return q, k, v
        return turn(q, positions.turns[self.theta]), turn(k, positions.turns[self.theta]), v

    def bias(self, positions: Positions) -> Bias | None:
        """The additive term of this layer's scores, if there is one."""
        if self.relative is None:
            return positions.bias
        assert positions.vectors is not None
        return self.relative(self.relative.tables(positions.vectors, self.qkv))

    def forward(self, x: Tensor, layout: Layout, positions: Positions, queries: Tensor | None = None) -> Tensor:
        """x [T, width] → the heads' outputs side by side [T, H · D], before `out`. Behind the rows of the layout are
        those of the positions' filler."""
        return self.among(*self.project(x, positions, queries), layout, positions)

    def among(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout, positions: Positions) -> Tensor:
        """q, k, v [T, H, D] as `project` gives them → what `forward` gives."""
        return attend(
            q,
            k,
            v,
            layout,
            layout,
            bias=self.bias(positions),
            window=self.window,
            causal=self.causal,
            scale=self.scale,
            dropout=self.dropout if self.training else 0.0,
            filler=positions.filler,
        ).flatten(1)

    def weights(self, x: Tensor, layout: Layout, positions: Positions) -> list[Tensor]:
        """x [T, width] → what `forward` weighs the values with: fp32 [H, L, L] for each sequence."""
        q, k, _ = self.project(x, positions)
        return weights(
            q, k, layout, layout, bias=self.bias(positions), window=self.window, causal=self.causal, scale=self.scale
        )


class CrossAttention(nn.Module):
    """Multi-head attention of each sequence over the same-numbered one of a memory, another network's rows."""

    def __init__(self, config: EncoderConfig, memory: int) -> None:
        super().__init__()
        self.heads, self.head_width = config.heads, config.head_width
        self.dropout = config.attention_dropout
        self.scale = config.head_width**-0.5 if config.head.scaled else 1.0
        bias = config.biases.attention
        self.query = Linear(config.width, config.inner, bias=bias)
        self.kv = Linear(memory, 2 * config.inner, bias=bias)
        self.out = Linear(config.inner, config.width, bias=bias)

    def project(self, memory: Ragged) -> Tensor:
        """Keys and values [Tm, 2, H, D] of a memory [Tm, memory]."""
        rows = filled(memory.data) if torch.is_grad_enabled() else memory.data
        return self.kv(rows)[: len(memory.data)].view(-1, 2, self.heads, self.head_width)

    def forward(self, x: Tensor, layout: Layout, memory: Ragged, known: Tensor | None = None) -> Tensor:
        """x [T, width], the rows of the layout and perhaps of filler, and a memory [Tm, memory] → the heads' outputs
        side by side [T, H · D], before `out`. A sequence without memory gets zeros. known: what `project` gives."""
        q = self.query(x).view(len(x), self.heads, self.head_width)
        dropped = self.dropout if self.training else 0.0
        rows = q[: layout.total]
        k, v = (self.project(memory) if known is None else known).unbind(1)
        context = attend(rows, k, v, layout, memory.layout, scale=self.scale, dropout=dropped, filler=0)
        return (
            F.pad(context.flatten(1), (0, 0, 0, len(x) - layout.total)) if len(x) > layout.total else context.flatten(1)
        )

    def weights(self, x: Tensor, layout: Layout, memory: Ragged) -> list[Tensor]:
        """What `forward` weighs the values with, for people to look at: fp32 [H, L, Lm] for each sequence."""
        q = self.query(x).view(len(x), self.heads, self.head_width)
        return weights(q, self.project(memory)[:, 0], layout, memory.layout, scale=self.scale)


class FeedForward(nn.Module):
    """act(x Wup) Wdown; gated: (act(a) · b) Wdown with a and b the halves of x Wup."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.act, self.gated = config.activation, config.gated
        self.inner_dropout = config.inner_dropout
        bias = config.biases.feed_forward
        self.up = Linear(config.width, config.ffn * (2 if config.gated else 1), bias=bias)
        self.down = Linear(config.ffn, config.width, bias=bias)

    def widen(self, x: Tensor) -> Tensor:
        """x [T, width] → [T, ffn], what `down` reads."""
        if not self.gated:
            return dropout(self.up(x, act=self.act), self.inner_dropout, self.training)
        opened, gate = self.up(x).chunk(2, dim=-1)
        return dropout(activate(opened, self.act) * gate, self.inner_dropout, self.training)


class EncoderLayer(nn.Module):
    """Attention, then in a decoder with a memory cross-attention, then feed-forward, each added to its input; norms
    after each sum (Devlin et al. 2018) or before each part (ModernBERT, where the very first rows are normalised
    already, and GPT-2, where they are not)."""

    def __init__(self, config: EncoderConfig, layer: int = 0) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.norm_first = config.norm_first
        self.attention = SelfAttention(config, layer)
        normalised = config.norm_first and config.embedding_norm and layer == 0
        self.attention_norm = None if normalised else norm(config)
        self.cross = None if config.memory is None else CrossAttention(config, config.memory)
        self.cross_norm = None if config.memory is None else norm(config)
        self.ffn = FeedForward(config)
        self.ffn_norm = norm(config)

    def forward(
        self,
        x: Tensor,
        layout: Layout,
        positions: Positions,
        queries: Tensor | None = None,
        memory: Ragged | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """x [T, width] → [T, width]. queries: rows [T, width] that ask x, and that the answers are added to.
        memory: [Tm, memory], what cross-attention reads.
        rows: int64 [M], which ones are given; not with a memory."""
        context = self.attention(self.asking(x), layout, positions, queries)
        x = x if queries is None else queries
        if rows is not None:
            context, x = context.index_select(0, rows), x.index_select(0, rows)
        return self.onward(context, x, layout, memory)

    def onward(
        self,
        context: Tensor,
        x: Tensor,
        layout: Layout,
        memory: Ragged | None = None,
        known: Tensor | None = None,
    ) -> Tensor:
        """Everything after attention, whose outputs [T, H · D] are the context of x [T, width].

        known: keys and values of the memory, where they are computed already.
        """
        if self.cross is None or memory is None:
            return _by_rows(self._rest, context, x)
        x = _by_rows(self.attended, context, x)
        context = self.cross(self.asking_memory(x), layout, memory, known)
        return _by_rows(self.crossed, context, x)

    def weights(self, x: Tensor, layout: Layout, positions: Positions) -> list[Tensor]:
        """x [T, width], which the layer reads → its attention weights, fp32 [H, L, L] for each sequence."""
        return self.attention.weights(self.asking(x), layout, positions)

    def cross_weights(self, x: Tensor, layout: Layout, positions: Positions, memory: Ragged) -> list[Tensor]:
        """x [T, width], which the layer reads → its cross-attention weights, fp32 [H, L, Lm] for each sequence."""
        assert self.cross is not None
        x = self.attended(self.attention(self.asking(x), layout, positions), x)
        return self.cross.weights(self.asking_memory(x), layout, memory)

    def asking(self, x: Tensor) -> Tensor:
        """What attention reads of x."""
        return self.attention_norm(x) if self.norm_first and self.attention_norm is not None else x

    def asking_memory(self, x: Tensor) -> Tensor:
        """What cross-attention reads of x."""
        return self.cross_norm(x) if self.norm_first and self.cross_norm is not None else x

    # Each row by itself:

    def _rest(self, context: Tensor, x: Tensor) -> Tensor:
        """Everything after attention, where there is no memory."""
        return self.fed(self.attended(context, x))

    def attended(self, context: Tensor, x: Tensor) -> Tensor:
        """x after attention, whose outputs [T, H · D] are its context."""
        return self._added(self.attention.out, context, x, self.attention_norm)

    def crossed(self, context: Tensor, x: Tensor) -> Tensor:
        """Everything after cross-attention, whose outputs [T, H · D] are the context of x."""
        assert self.cross is not None
        return self.fed(self._added(self.cross.out, context, x, self.cross_norm))

    def fed(self, x: Tensor) -> Tensor:
        """x after the feed-forward part."""
        asking = self.ffn_norm(x) if self.norm_first else x
        return self._added(self.ffn.down, self.ffn.widen(asking), x, self.ffn_norm)

    def _added(self, out: nn.Module, rows: Tensor, x: Tensor, norm: nn.Module | None) -> Tensor:
        """x and what `out` makes of rows, normalised where norms come after."""
        x = add(out, rows, x, self.dropout if self.training else 0.0)
        return x if self.norm_first or norm is None else norm(x)

    def freeze(self, positions: Positions) -> None:
        """Compute once what does not depend on tokens: for inference, where weights no longer change."""
        relative = self.attention.relative
        if relative is not None and positions.vectors is not None:
            relative.freeze(positions.vectors, self.attention.qkv)


def _by_rows(work: Callable[[Tensor, Tensor], Tensor], context: Tensor, x: Tensor) -> Tensor:
    """Work on rows, some at a time where that helps."""
    if torch.is_grad_enabled() or x.device.type != "cpu" or len(x) <= ROWS_AT_A_TIME:
        return work(context, x)
    return torch.cat([work(*rows) for rows in zip(context.split(ROWS_AT_A_TIME), x.split(ROWS_AT_A_TIME))])


class Convolution(nn.Module):
    """norm(y + act(x * kernel)): each row with its neighbours in the sequence (zeros beyond its ends)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        kernel, self.groups = config.convolution.kernel, config.convolution.groups
        self.act, self.dropout = config.convolution.act, config.dropout
        self.weight = nn.Parameter(torch.empty(config.width, config.width // self.groups, kernel))
        self.bias = nn.Parameter(torch.empty(config.width))
        self.norm = norm(config)
        self.packed = nn.ModuleList()  # a linear map for each group, once frozen

    def freeze(self, dtype: torch.dtype | None) -> None:
        """Reorder the weights once: for inference on a CPU, where they no longer change."""
        if self.weight.device.type == "cpu" and packs(dtype or self.weight.dtype):
            weights = self.weight.unflatten(0, (self.groups, -1)).flatten(2)
            self.packed = nn.ModuleList(PackedLinear(weight, None, dtype or weight.dtype) for weight in weights)

    def forward(self, x: Tensor, y: Tensor, layout: Layout) -> Tensor:
        """x [T, width], which is convolved, and y [T, width], which that is added to → [T, width]."""
        around = _neighbours(x, layout, self.weight.shape[-1])
        columns = around.unflatten(1, (self.groups, -1)).movedim(1, 0).flatten(2).contiguous()
        if self.packed:
            parts = [linear(rows) for linear, rows in zip(self.packed, columns)]
        else:
            weights = self.weight.to(x.dtype).unflatten(0, (self.groups, -1)).flatten(2)
            parts = [F.linear(rows, weight) for rows, weight in zip(columns, weights)]
        convolved = torch.cat(parts, dim=-1) + self.bias.to(x.dtype)
        return self.norm(y + activate(dropout(convolved, self.dropout, self.training), self.act))


def _neighbours(x: Tensor, layout: Layout, kernel: int) -> Tensor:
    """x [T, width] → [T, width, kernel]: each row's neighbours, zero beyond the ends of its sequence."""
    steps = torch.arange(kernel, device=x.device) - kernel // 2
    lengths = torch.tensor(layout.lengths, device=x.device)[layout.segments]
    places = layout.positions[:, None] + steps
    inside = (places >= 0) & (places < lengths[:, None])
    rows = (torch.arange(len(x), device=x.device)[:, None] + steps).clamp(0, max(len(x) - 1, 0))
    return (x[rows] * inside[..., None]).transpose(1, 2)
