"""Muon: steps whose matrices are orthogonal, for what stands inside a network; AdamW for everything else."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from bothways.nn.layers import packs

__all__ = ["Muon", "orthogonal"]

ROUNDS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
SMALLEST = 1e-7
# The root mean square that AdamW's steps usually have (Moonlight, section 2.2).
ADAM_RMS = 0.2


def orthogonal(x: Tensor) -> Tensor:
    """About the nearest matrix to x [m, n] whose singular values are all 1 (they come out between 0.7 and 1.2).

    Five rounds of a Newton–Schulz iteration, in bf16 where the device computes in it.
    """
    y = x.to(torch.bfloat16) if x.device.type != "cpu" or packs(torch.bfloat16) else x
    y = y.T if y.shape[0] > y.shape[1] else y  # the products are between its rows: the fewer the better
    # A norm is the one sum over everything that has the same bits on any number of threads.
    y = y / y.norm().clamp(min=SMALLEST)
    a, b, c = COEFFICIENTS
    for _ in range(ROUNDS):
        gram = y @ y.T
        y = torch.addmm(y, torch.addmm(gram, gram, gram, beta=b, alpha=c), y, beta=a)
    return (y.T if x.shape[0] > x.shape[1] else y).to(x.dtype)


class Muon(torch.optim.Optimizer):
    """Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/, with weight decay and step lengths of Moonlight
    (Liu et al. 2025, https://arxiv.org/abs/2502.16982): 0.2 · √max(rows, columns), so that steps are as long as AdamW's
    and one learning rate, one schedule and one weight decay serve both halves.

    groups: as `parameter_groups` makes them; those with `matrices` above 0 go this way, as so many matrices one below
    the other (torch's own Muon would take q, k and v, which are one parameter here, for one matrix); the rest is given
    to torch's AdamW.    momentum: Nesterov's.    betas, eps: of AdamW.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        momentum: float,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        groups = list(groups)
        others = [group for group in groups if not group["matrices"]]
        # It takes no empty list of groups, and whatever stands in this one gives way to the true ones at each step.
        self._adamw = torch.optim.AdamW(others or [{"params": []}], lr=lr, betas=betas, eps=eps, fused=True)
        super().__init__(groups, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"] if group["matrices"] else ():
                if parameter.grad is not None:
                    self._turn(parameter, group)
        # One state and one list of groups, whoever has put others in their place.
        self._adamw.state = self.state
        self._adamw.param_groups = [group for group in self.param_groups if not group["matrices"]]
        self._adamw.step()

    def _turn(self, parameter: Tensor, group: dict[str, Any]) -> None:
        """One step of a hidden parameter."""
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        lr, momentum = group["lr"], group["momentum"]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        average = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        ahead = torch.lerp(gradient, average, momentum)
        parameter.mul_(1 - lr * group["weight_decay"])
        for weight, direction in zip(parameter.chunk(group["matrices"]), ahead.chunk(group["matrices"])):
            weight.sub_(orthogonal(direction), alpha=lr * ADAM_RMS * math.sqrt(max(weight.shape)))
