"""The blocks of an encoder: attention, feed-forward and what makes a layer of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bothways.nn.attention import Bias, attend, weights
from bothways.nn.config import DisentangledPositions, EncoderConfig, RotaryPositions
from bothways.nn.dropout import dropout
from bothways.nn.layers import Linear, PackedLinear, activate, add, norm, packs
from bothways.nn.positions import DisentangledBias, Turns, turn
from bothways.ragged import Layout

__all__ = ["Convolution", "EncoderLayer", "Positions"]

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
        self.scale = config.head_width**-0.5
        self.qkv = Linear(config.width, 3 * config.width, bias=config.biases.attention)
        self.out = Linear(config.width, config.width, bias=config.biases.attention)
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
        """x [T, width] → the heads' outputs side by side [T, width], before `out`. Behind the rows of the layout are
        those of the positions' filler."""
        q, k, v = self.project(x, positions, queries)
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
            q, k, layout, bias=self.bias(positions), window=self.window, causal=self.causal, scale=self.scale
        )


class FeedForward(nn.Module):
    """act(x Wup) Wdown; gated: (act(a) · b) Wdown with a and b the halves of x Wup."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.act, self.gated = config.activation, config.gated
        bias = config.biases.feed_forward
        self.up = Linear(config.width, config.ffn * (2 if config.gated else 1), bias=bias)
        self.down = Linear(config.ffn, config.width, bias=bias)

    def widen(self, x: Tensor) -> Tensor:
        """x [T, width] → [T, ffn], what `down` reads."""
        if not self.gated:
            return self.up(x, act=self.act)
        opened, gate = self.up(x).chunk(2, dim=-1)
        return activate(opened, self.act) * gate


class EncoderLayer(nn.Module):
    """Attention, then feed-forward, each added to its input; norms after each sum (Devlin et al. 2018) or before each
    part (ModernBERT, where the very first rows are normalised already, and GPT-2, where they are not)."""

    def __init__(self, config: EncoderConfig, layer: int = 0) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.norm_first = config.norm_first
        self.attention = SelfAttention(config, layer)
        normalised = config.norm_first and config.embedding_norm and layer == 0
        self.attention_norm = None if normalised else norm(config)
        self.ffn = FeedForward(config)
        self.ffn_norm = norm(config)

    def forward(self, x: Tensor, layout: Layout, positions: Positions, queries: Tensor | None = None) -> Tensor:
        """x [T, width] → [T, width]. queries: rows [T, width] that ask x, and that the answers are added to."""
        context = self.attention(self._known(x), layout, positions, queries)
        x = x if queries is None else queries
        if torch.is_grad_enabled() or x.device.type != "cpu" or len(x) <= ROWS_AT_A_TIME:
            return self._rest(context, x)
        return torch.cat([self._rest(*rows) for rows in zip(context.split(ROWS_AT_A_TIME), x.split(ROWS_AT_A_TIME))])

    def weights(self, x: Tensor, layout: Layout, positions: Positions) -> list[Tensor]:
        """x [T, width], which the layer reads → its attention weights, fp32 [H, L, L] for each sequence."""
        return self.attention.weights(self._known(x), layout, positions)

    def _known(self, x: Tensor) -> Tensor:
        """What attention reads of x."""
        return self.attention_norm(x) if self.norm_first and self.attention_norm is not None else x

    def _rest(self, context: Tensor, x: Tensor) -> Tensor:
        """Everything after attention; each row by itself."""
        dropped = self.dropout if self.training else 0.0
        x = add(self.attention.out, context, x, dropped)
        if self.norm_first:
            return add(self.ffn.down, self.ffn.widen(self.ffn_norm(x)), x, dropped)
        assert self.attention_norm is not None
        x = self.attention_norm(x)
        return self.ffn_norm(add(self.ffn.down, self.ffn.widen(x), x, dropped))

    def freeze(self, positions: Positions) -> None:
        """Compute once what does not depend on tokens: for inference, where weights no longer change."""
        relative = self.attention.relative
        if relative is not None and positions.vectors is not None:
            relative.freeze(positions.vectors, self.attention.qkv)


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
