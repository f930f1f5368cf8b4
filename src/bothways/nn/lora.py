"""Low-rank adaptation (Hu et al. 2021, https://arxiv.org/abs/2106.09685): a frozen network, and small matrices beside
its linear maps that learn instead of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bothways.errors import CheckpointError, ConfigError
from bothways.nn.activations import ACTIVATIONS
from bothways.nn.blocks import EncoderLayer
from bothways.nn.dropout import dropout as drop
from bothways.nn.encoder import EncoderNetwork
from bothways.nn.layers import Linear
from bothways.nn.sharing import folded

__all__ = [
    "PARTS",
    "LoRA",
    "LoRALinear",
    "Parts",
    "add_lora",
    "lora_of",
    "lora_weights",
    "merged",
    "restore_lora",
    "set_aside",
    "whole",
]

Parts = Literal["attention", "all"]
PARTS: tuple[Parts, ...] = ("attention", "all")


@dataclass(frozen=True)
class LoRA:
    """rank: rows of A, columns of B.    alpha: their product counts alpha / rank.    dropout: on what A reads.

    parts: which maps of each layer have them: "attention" (q, k and v together, and its output), or "all", those of the
    feed-forward part too.

    Raises ConfigError, naming the field, on what cannot be.
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    parts: Parts = "attention"

    def __post_init__(self) -> None:
        if type(self.rank) is not int or self.rank < 1:
            raise ConfigError(f"rank must be a whole number of at least 1, got {self.rank!r:.40}")
        if type(self.alpha) not in (int, float) or not 0.0 < self.alpha < float("inf"):
            raise ConfigError(f"alpha must be a number above 0, got {self.alpha!r:.40}")
        if type(self.dropout) not in (int, float) or not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"dropout must be a number from 0 to less than 1, got {self.dropout!r:.40}")
        if self.parts not in PARTS:
            raise ConfigError(f"parts must be one of {', '.join(PARTS)}, got {self.parts!r:.40}")


class LoRALinear(Linear):
    """x [T, in] → act(x Wᵀ + b + alpha / rank · (dropout(x) Aᵀ) Bᵀ) + residual, [T, out]. W and b learn nothing.

    base: whose weight and bias these are.    a: A [rank, in].    b: B [out, rank].
    """

    def __init__(self, base: Linear, lora: LoRA, a: Tensor, b: Tensor) -> None:
        super().__init__(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.lora = lora
        self.dropout = float(lora.dropout)
        self.a, self.b = nn.Parameter(a), nn.Parameter(b)

    @property
    def scale(self) -> float:
        return self.lora.alpha / self.lora.rank

    def forward(self, x: Tensor, act: str | None = None, residual: Tensor | None = None) -> Tensor:
        read = F.linear(drop(x, self.dropout, self.training), self.a.to(x.dtype)) * self.scale
        y = super().forward(x) + F.linear(read, self.b.to(x.dtype))
        if act is not None:
            y = ACTIVATIONS[act](y)
        return y if residual is None else y + residual

    def matrix(self) -> Tensor:
        return self.weight + (self.scale * self.b) @ self.a


def add_lora(
    network: EncoderNetwork,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    parts: Parts = "attention",
    generator: torch.Generator | None = None,
) -> None:
    """Give the maps of each layer matrices A and B, which are all that learns but the pooler, as part of a head.

    A is normal with a variance of 1 / in, so that A x is as long as x's numbers are large whatever the width is; B is
    zero: the network computes what it did. generator: A is drawn from it.

    For the other arguments see `LoRA`. Raises ConfigError on what cannot be, on a rank that is larger than one of the
    matrices, and on a network that has such matrices already.
    """
    lora = LoRA(rank, alpha, dropout, parts)
    if lora_of(network) is not None:
        raise ConfigError("the network has low-rank matrices already; merge them first")
    places = _places(network, parts)
    for name, linear in places.items():
        if rank > min(linear.in_features, linear.out_features):
            shape = f"{linear.out_features} × {linear.in_features}"
            raise ConfigError(
                f"rank {rank} is larger than a matrix of the network: {name} is {shape}; name a lower one"
            )
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    for parameter in () if network.pooler is None else network.pooler.parameters():
        parameter.requires_grad_(True)
    for name, linear in places.items():
        a, b = torch.empty(rank, linear.in_features), torch.zeros(linear.out_features, rank)
        a.normal_(0.0, linear.in_features**-0.5, generator=generator)
        device = linear.weight.device
        _put(network, name, LoRALinear(linear, lora, a.to(device), b.to(device)))


def _places(network: EncoderNetwork, parts: Parts) -> dict[str, Linear]:
    """The maps to adapt, by name; layers that run several times are there once."""
    found: dict[str, Linear] = {}
    for number, layer in enumerate(network.layers):
        assert isinstance(layer, EncoderLayer)
        attention, ffn = layer.attention, layer.ffn
        found |= {f"layers.{number}.attention.qkv": attention.qkv, f"layers.{number}.attention.out": attention.out}
        if layer.cross is not None:
            parts_of_cross = {"query": layer.cross.query, "kv": layer.cross.kv, "out": layer.cross.out}
            found |= {f"layers.{number}.cross.{name}": linear for name, linear in parts_of_cross.items()}
        if parts == "all":
            found |= {f"layers.{number}.ffn.up": ffn.up, f"layers.{number}.ffn.down": ffn.down}
    return found


def _put(network: EncoderNetwork, name: str, linear: Linear) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(owner), leaf, linear.train(network.training))


def _adapted(network: EncoderNetwork) -> dict[str, LoRALinear]:
    return {name: part for name, part in network.named_modules() if isinstance(part, LoRALinear)}


def lora_of(network: EncoderNetwork) -> LoRA | None:
    """How a network is adapted; None where it is not."""
    return next((part.lora for part in _adapted(network).values()), None)


def lora_weights(network: EncoderNetwork) -> dict[str, Tensor]:
    """A and B of each adapted map, by name ("layers.0.attention.qkv.a"); nothing where there are none."""
    adapted = _adapted(network).items()
    return {f"{name}.{which}": getattr(part, which).detach() for name, part in adapted for which in "ab"}


@torch.no_grad()
def restore_lora(network: EncoderNetwork, lora: LoRA, weights: Mapping[str, Tensor]) -> None:
    """Adapt a network as `lora_weights` and `lora_of` told of another, bit for bit.

    Raises ConfigError as `add_lora`, CheckpointError where the weights are not those of its maps.
    """
    add_lora(network, lora.rank, lora.alpha, lora.dropout, lora.parts, torch.Generator())
    own = lora_weights(network)
    for name in own.keys() ^ weights.keys():
        raise CheckpointError(f"{name} is in only one of the network and its low-rank matrices")
    for name, tensor in own.items():
        if tensor.shape != weights[name].shape:
            raise CheckpointError(f"{name} is {list(weights[name].shape)}, not {list(tensor.shape)}")
        tensor.copy_(weights[name])


@contextmanager
def _replaced(network: EncoderNetwork, plain: Mapping[str, Linear]) -> Iterator[None]:
    """Within, these maps stand where adapted ones do."""
    adapted = _adapted(network)
    try:
        for name, linear in plain.items():
            _put(network, name, linear)
        yield
    finally:
        for name, part in adapted.items():
            _put(network, name, part)


def _plain(base: LoRALinear, weight: Tensor) -> Linear:
    linear = Linear(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
    linear.weight, linear.bias = cast(nn.Parameter, weight), base.bias
    return linear


@contextmanager
def merged(network: EncoderNetwork) -> Iterator[None]:
    """Within, adapted maps are plain ones of the weight W + alpha / rank · B A, which compute the same."""
    adapted = _adapted(network).items()
    plain = {name: _plain(part, nn.Parameter(part.matrix().detach())) for name, part in adapted}
    with _replaced(network, plain):
        yield


@contextmanager
def set_aside(network: EncoderNetwork) -> Iterator[None]:
    """Within, adapted maps are what they were before, with their own weights."""
    with _replaced(network, {name: _plain(part, part.weight) for name, part in _adapted(network).items()}):
        yield


@contextmanager
def whole(network: EncoderNetwork) -> Iterator[None]:
    """Within, the network is plain and by itself: merged, and with tables of its own in the place of shifted ones."""
    with folded(network), merged(network):
        yield
