"""Optimizers, and which weights they let decay."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bothways.errors import ConfigError
from bothways.nn.blocks import CrossAttention, EncoderLayer, FeedForward, SelfAttention
from bothways.nn.encoder import EncoderNetwork
from bothways.train.muon import Muon
from bothways.train.stable_adamw import StableAdamW

__all__ = ["OPTIMIZERS", "AdamSettings", "moment_bytes", "optimizer_state", "parameter_groups", "restore_optimizer"]


@dataclass(frozen=True)
class AdamSettings:
    """lr: the highest learning rate.    beta1, beta2, eps: of the moments.    weight_decay: of matrices.

    momentum: of Muon, which has AdamW's other settings for what is no hidden matrix.
    """

    lr: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-6
    weight_decay: float = 0.01
    momentum: float = 0.95

    def __post_init__(self) -> None:
        for name, value, most in (
            ("lr", self.lr, math.inf),
            ("beta1", self.beta1, 1.0),
            ("beta2", self.beta2, 1.0),
            ("eps", self.eps, math.inf),
            ("weight_decay", self.weight_decay, math.inf),
            ("momentum", self.momentum, 1.0),
        ):
            if not 0.0 <= value < most:
                raise ConfigError(f"{name} must be 0 or more and less than {most:g}, got {value}")
        if self.eps == 0.0:
            raise ConfigError("eps must be more than 0: a weight without a gradient would become 0 / 0")


def parameter_groups(
    module: nn.Module,
    weight_decay: float,
    lr: float | None = None,
    layer_decay: float = 1.0,
    head_lr: float | None = None,
    encoder: tuple[nn.Module, float] | None = None,
) -> list[dict[str, Any]]:
    """Matrices decay; norms and biases, which are vectors, do not. A shared parameter is there once, and one that
    requires no gradient nowhere.

    `matrices` of a group: how many matrices of the layers each of its parameters is, one below the other; 0 for
    embeddings, heads and vectors.

    lr: of the last layer; None: groups have no rate of their own.    layer_decay: what each layer's is multiplied with
    on the way down (Howard & Ruder 2018, https://arxiv.org/abs/1801.06146): layer i of d has lr · layer_decay^(d - i),
    embeddings, with all else that comes before the layers, as i = 0. Layers that share weights count once.
    head_lr: of heads and poolers, if other than `lr`.
    encoder: a network with a rate of its own in place of `lr`; what it shares with others has that, too.

    Raises ConfigError where a decay is not above 0 and at most 1, or a rate is needed and not given.
    """
    if not 0.0 < layer_decay <= 1.0:
        raise ConfigError(f"layer_decay must be above 0 and at most 1, got {layer_decay}")
    if head_lr is not None and not 0.0 <= head_lr < math.inf:
        raise ConfigError(f"head_lr must be 0 or more, got {head_lr}")
    if lr is None and (layer_decay != 1.0 or head_lr is not None or encoder is not None):
        raise ConfigError("layer_decay, head_lr and a rate of the encoder's need an lr that they are measured by")
    stacked = _stacked(module)
    own = {} if encoder is None else _rates(encoder[0], encoder[1], layer_decay)
    rates = {} if lr is None else _rates(module, lr, layer_decay) | own
    groups: dict[tuple[bool, int, float | None], list[nn.Parameter]] = {}
    for parameter in module.parameters():
        if parameter.requires_grad:
            rate = rates.get(parameter, lr if head_lr is None else head_lr)
            groups.setdefault((parameter.dim() > 1, stacked.get(parameter, 0), rate), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if decays else 0.0, "matrices": matrices}
        | ({} if rate is None else {"lr": rate})
        for (decays, matrices, rate), parameters in groups.items()
    ]


def _rates(module: nn.Module, lr: float, decay: float) -> dict[Tensor, float]:
    """The learning rate of each parameter of the networks; those of poolers, which belong to heads, are left out."""
    rates: dict[Tensor, float] = {}
    for network in (part for part in module.modules() if isinstance(part, EncoderNetwork)):
        depth = len(network.layers)
        heights: list[tuple[nn.Module | None, int]] = [
            (network.embeddings, 0),
            (network.relative, 0),
            (network.convolution, 1),
            *((layer, height) for height, layer in enumerate(network.layers, start=1)),
            (network.norm, depth),
        ]
        for part, height in heights:
            for parameter in () if part is None else part.parameters():
                rates.setdefault(parameter, lr * decay ** (depth - height))
    return rates


def _stacked(module: nn.Module) -> dict[Tensor, int]:
    """The weights of linear maps inside layers, and how many maps each of them is."""
    layers = [part for part in module.modules() if isinstance(part, EncoderLayer)]
    parts = [part for layer in layers for part in layer.modules()]
    stacked = {part.weight: 1 for part in parts if isinstance(part, nn.Linear)}
    for part in parts:
        if isinstance(part, SelfAttention):
            stacked[part.qkv.weight] = 3
        elif isinstance(part, CrossAttention):
            stacked[part.kv.weight] = 2
        elif isinstance(part, FeedForward) and part.gated:
            stacked[part.up.weight] = 2
    return stacked


Groups = Iterable[dict[str, Any]]


def _adamw(groups: Groups, settings: AdamSettings) -> torch.optim.Optimizer:
    """Loshchilov & Hutter 2017, https://arxiv.org/abs/1711.05101; one kernel for each parameter."""
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(groups, lr=settings.lr, betas=betas, eps=settings.eps, fused=True)


def _muon(groups: Groups, settings: AdamSettings) -> torch.optim.Optimizer:
    return Muon(groups, settings.lr, settings.momentum, (settings.beta1, settings.beta2), settings.eps)


def _stable_adamw(groups: Groups, settings: AdamSettings) -> torch.optim.Optimizer:
    return StableAdamW(groups, settings.lr, (settings.beta1, settings.beta2), settings.eps)


OPTIMIZERS: dict[str, Callable[[Groups, AdamSettings], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "muon": _muon,
    "stable-adamw": _stable_adamw,
}


def optimizer_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors by the parameters' names: "network.….weight/exp_avg" …"""
    return {
        f"{name}/{key}": torch.as_tensor(value)
        for name, parameter in module.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(module: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """The inverse of `optimizer_state`. What is counted stays on the host, but where a fused kernel reads it."""
    parameters = dict(module.named_parameters())
    fused = {one for group in optimizer.param_groups if group.get("fused") for one in group["params"]}
    for place, value in state.items():
        name, _, key = place.rpartition("/")
        parameter = parameters[name]
        kept = value.to(parameter.device) if value.dim() or parameter in fused else value
        optimizer.state[parameter][key] = kept.clone()


def moment_bytes(optimizer: torch.optim.Optimizer) -> int:
    """What the optimizer keeps beside its parameters from its first step on: two moments of each, of Muon's one."""
    one = isinstance(optimizer, Muon)
    return sum(
        parameter.nbytes * (1 if one and group["matrices"] else 2)
        for group in optimizer.param_groups
        for parameter in group["params"]
    )
