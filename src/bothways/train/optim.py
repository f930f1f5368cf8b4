"""Optimizers, and which weights they let decay."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bothways.errors import ConfigError

__all__ = ["OPTIMIZERS", "AdamSettings", "optimizer_state", "parameter_groups", "restore_optimizer"]


@dataclass(frozen=True)
class AdamSettings:
    """lr: the highest learning rate.    beta1, beta2, eps: of the moments.    weight_decay: of matrices."""

    lr: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-6
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        for name, value, most in (
            ("lr", self.lr, math.inf),
            ("beta1", self.beta1, 1.0),
            ("beta2", self.beta2, 1.0),
            ("eps", self.eps, math.inf),
            ("weight_decay", self.weight_decay, math.inf),
        ):
            if not 0.0 <= value < most:
                raise ConfigError(f"{name} must be 0 or more and less than {most:g}, got {value}")


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; norms and biases, which are vectors, do not. A shared parameter is there once."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


def _adamw(groups: Iterable[dict[str, Any]], settings: AdamSettings) -> torch.optim.Optimizer:
    """Loshchilov & Hutter 2017, https://arxiv.org/abs/1711.05101; one kernel for each parameter."""
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(groups, lr=settings.lr, betas=betas, eps=settings.eps, fused=True)


OPTIMIZERS: dict[str, Callable[[Iterable[dict[str, Any]], AdamSettings], torch.optim.Optimizer]] = {
    "adamw": _adamw,
}


def optimizer_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors by the parameters' names: "network.….weight/exp_avg" …"""
    return {
        f"{name}/{key}": torch.as_tensor(value)
        for name, parameter in module.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(module: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """The inverse of `optimizer_state`."""
    parameters = dict(module.named_parameters())
    for place, value in state.items():
        name, _, key = place.rpartition("/")
        parameter = parameters[name]
        kept = value if value.dim() == 0 else value.to(parameter.device)
        optimizer.state[parameter][key] = kept.clone()
