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
from bothways.nn.layers import FewRows, PackedLinear, activate

__all__ = ["PlainLayer", "plain_norm"]

Rows = Callable[[Tensor], Tensor]
Added = Callable[[Tensor, Tensor], Tensor]


class PlainLayer:
    """What `EncoderLayer` does with rows [R, width] around its attentions, by the same names.

    few: whether R is no more than FewRows.MOST.
    """

    __slots__ = ("asking", "asking_memory", "attended", "attention", "cross", "crossed", "fed", "qkv", "query")

    def __init__(self, layer: EncoderLayer, few: bool) -> None:
        self.attention, self.cross = layer.attention, layer.cross
        first = layer.norm_first
        self.asking: Rows | None = _norm(layer.attention_norm) if first else None
        self.qkv = _map(layer.attention.qkv, few)
        self.attended = _added(layer.attention.out, None if first else layer.attention_norm, few)
        self.asking_memory: Rows | None = _norm(layer.cross_norm) if first else None
        self.query: Rows | None = None
        self.fed = _fed(layer, few)
        self.crossed = self.fed
        if layer.cross is not None:
            self.query = _map(layer.cross.query, few)
            crossed = _added(layer.cross.out, None if first else layer.cross_norm, few)
            self.crossed = _then(crossed, self.fed)


def plain_norm(norm: nn.Module) -> Rows:
    """The norm, without what calling a module takes."""
    if type(norm) is not nn.LayerNorm or norm.weight.requires_grad:
        return norm
    shape, weight, bias, eps = norm.normalized_shape, norm.weight.detach(), norm.bias, norm.eps
    bias = None if bias is None else bias.detach()
    return lambda x: torch.layer_norm(x, shape, weight, bias, eps)


def _norm(norm: nn.Module | None) -> Rows | None:
    return None if norm is None else plain_norm(norm)


def _map(linear: nn.Module, few: bool) -> Rows:
    if not isinstance(linear, FewRows):
        return linear
    if not few:
        return linear.many
    weight, bias = linear.weight, linear.many.bias
    return (lambda x: torch.mm(x, weight)) if bias is None else (lambda x: torch.addmm(bias, x, weight))


def _added(linear: nn.Module, norm: nn.Module | None, few: bool) -> Added:
    """x and what the map makes of rows, normalised where there is a norm."""
    if isinstance(linear, FewRows) and few:
        maps = _map(linear, few)
        add: Added = lambda rows, x: maps(rows).add_(x)  # noqa: E731 (of two kinds)
    else:
        whole = linear.many if isinstance(linear, FewRows) else linear
        add = lambda rows, x: whole(rows, residual=x)  # noqa: E731
    if norm is None:
        return add
    normalise = plain_norm(norm)
    return lambda rows, x: normalise(add(rows, x))


def _fed(layer: EncoderLayer, few: bool) -> Callable[..., Tensor]:
    """x after the feed-forward part."""
    widen, down = _widen(layer.ffn, few), _added(layer.ffn.down, None if layer.norm_first else layer.ffn_norm, few)
    if not layer.norm_first:
        return lambda x: down(widen(x), x)
    normalise = plain_norm(layer.ffn_norm)
    return lambda x: down(widen(normalise(x)), x)


def _widen(ffn: FeedForward, few: bool) -> Rows:
    name, maps = ffn.act, _map(ffn.up, few)
    if ffn.gated:

        def gated(x: Tensor) -> Tensor:
            opened, gate = maps(x).chunk(2, dim=-1)
            return activate(opened, name) * gate

        return gated
    if isinstance(ffn.up, (FewRows, PackedLinear)) and not (isinstance(ffn.up, FewRows) and few):
        whole = ffn.up.many if isinstance(ffn.up, FewRows) else ffn.up
        return lambda x: whole(x, act=name)
    act = ACTIVATIONS[name]
    return lambda x: act(maps(x))


def _then(first: Added, second: Callable[[Tensor], Tensor]) -> Added:
    return lambda rows, x: second(first(rows, x))
