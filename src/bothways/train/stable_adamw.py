"""StableAdamW: AdamW that takes shorter steps where its second moments lag behind the gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["StableAdamW"]


class StableAdamW(torch.optim.Optimizer):
    """Wortsman et al. 2023, https://arxiv.org/abs/2304.13013, algorithm 2; ModernBERT's optimizer.

    Each parameter's learning rate is divided by the root mean square of gradient / √(second moment) where that is above
    1: AdaFactor's update clipping (Shazeer & Stern 2018, https://arxiv.org/abs/1804.04235). It stands in for clipping
    the gradient, which can be switched off beside it.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)

    def _move(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["step"] = torch.zeros(())  # on the host, in fp32, as AdamW has it
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        first, second = (_debiased(beta, int(state["step"])) for beta in group["betas"])
        mean = state["exp_avg"].lerp_(gradient, 1 - first)
        spread = state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second).sqrt()
        room = spread.clamp(min=group["eps"])  # used twice: fresh memory is what costs most for a large table
        # A norm and not a mean of squares: it has the same bits on any number of threads. Nothing waits for its value.
        rms = torch.div(gradient, room, out=room).norm() / math.sqrt(gradient.numel())
        update = torch.div(mean, spread.add_(group["eps"]), out=room).add_(parameter, alpha=group["weight_decay"])
        parameter.sub_(update.mul_(group["lr"] / rms.clamp(min=1.0)))


def _debiased(beta: float, step: int) -> float:
    """The decay with which a mean that began at 0 has no bias: of the first step 0, later nearly beta."""
    return beta * (1 - beta ** (step - 1)) / (1 - beta**step)
