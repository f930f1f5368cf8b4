"""A layer's parts as plain functions of rows, for steps of a few rows, in which calling modules takes longer than
computing.

Made anew by whoever begins to write; of a network whose weights may still change, the functions call its modules.
Nothing is dropped.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bothways.nn.activations import ACTIVATIONS
from bothways.nn.blocks import EncoderLayer, FeedForward
from bothways.nn.layers import FewRows, activate

__all__ = ["PlainLayer", "plain_norm"]

Rows = Callable[[Tensor], Tensor]
Added = Callable[[Tensor, Tensor], Tensor]


class PlainLayer:
    """What `EncoderLayer` does with rows [R, width] around its attentions, by the same names.

    rows: R, or any number on the same side of each `FewRows.most`.
    """

    __slots__ = ("asking", "asking_memory", "attended", "attention", "cross", "crossed", "fed", "qkv", "query")

    def __init__(self, layer: EncoderLayer, rows: int) -> None:
        self.attention, self.cross = layer.attention, layer.cross
        first = layer.norm_first
        self.asking: Rows | None = _norm(layer.attention_norm) if first else None
        self.qkv = _map(layer.attention.qkv, rows)
        self.attended = _added(layer.attention.out, None if first else layer.attention_norm, rows)
        self.asking_memory: Rows | None = _norm(layer.cross_norm) if first else None
        self.query: Rows | None = None
        self.fed = _fed(layer, rows)
        self.crossed = self.fed
        if layer.cross is not None:
            self.query = _map(layer.cross.query, rows)
            crossed = _added(layer.cross.out, None if first else layer.cross_norm, rows)
            self.crossed = _then(crossed, self.fed)


def plain_norm(norm: nn.Module) -> Rows:
    """The norm, without what calling a module takes."""
    if type(norm) is not nn.LayerNorm or norm.weight.requires_grad:
        return norm
    shape, weight, eps = norm.normalized_shape, norm.weight.detach(), norm.eps
    bias = None if norm.bias is None else norm.bias.detach()
    return lambda x: torch.layer_norm(x, shape, weight, bias, eps)


def _norm(norm: nn.Module | None) -> Rows | None:
    return None if norm is None else plain_norm(norm)


def _map(linear: nn.Module, count: int) -> Rows:
    """For so many rows."""
    if not isinstance(linear, FewRows) or linear.weight is None or count > linear.most:
        return linear
    weight, bias = linear.weight, linear.packed.bias
    return (lambda x: torch.mm(x, weight)) if bias is None else (lambda x: torch.addmm(bias, x, weight))


def _added(linear: nn.Module, norm: nn.Module | None, count: int) -> Added:
    """x and what the map makes of rows, normalised where there is a norm."""
    maps = _map(linear, count)

    def with_module(rows: Tensor, x: Tensor) -> Tensor:
        found: Tensor = linear(rows, residual=x)
        return found

    def plainly(rows: Tensor, x: Tensor) -> Tensor:
        return maps(rows).add_(x)

    add = with_module if maps is linear else plainly
    if norm is None:
        return add
    normalise = plain_norm(norm)
    return lambda rows, x: normalise(add(rows, x))


def _fed(layer: EncoderLayer, rows: int) -> Callable[..., Tensor]:
    """x after the feed-forward part."""
    widen, down = _widen(layer.ffn, rows), _added(layer.ffn.down, None if layer.norm_first else layer.ffn_norm, rows)
    if not layer.norm_first:
        return lambda x: down(widen(x), x)
    normalise = plain_norm(layer.ffn_norm)
    return lambda x: down(widen(normalise(x)), x)


def _widen(ffn: FeedForward, rows: int) -> Rows:
    name, up, maps = ffn.act, ffn.up, _map(ffn.up, rows)
    if ffn.gated:

        def gated(x: Tensor) -> Tensor:
            opened, gate = maps(x).chunk(2, dim=-1)
            return activate(opened, name) * gate

        return gated
    if maps is up:
        return lambda x: up(x, act=name)
    act = ACTIVATIONS[name]
    return lambda x: act(maps(x))


def _then(first: Added, second: Callable[[Tensor], Tensor]) -> Added:
    return lambda rows, x: second(first(rows, x))
