"""An average of the weights over training, which predicts better than the last step's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["Average", "means_of"]

COUNT = "updates"


class Average:
    """An exponential moving average of all parameters that learn (Polyak & Juditsky 1992), each as often as it is in
    the module. What requires no gradient is its own average.

    decay: the share of the old average that stays. Early updates keep less, (1 + t) / (10 + t), so that fresh weights
    are soon forgotten.

    The module must stand on its device already: each average is made there.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        self._updates = 0
        self._parameters = {name: one for name, one in module.named_parameters() if one.requires_grad}
        self._means = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters in as they are now: to be called after every step that changed them."""
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        for name, parameter in self._parameters.items():
            self._means[name].lerp_(parameter, 1 - decay)
        self._updates += 1

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Within, the module has the averages as its weights; nothing is copied, so it costs nothing."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in self._parameters.items():
            parameter.data, self._means[name] = self._means[name], parameter.data

    def state(self) -> dict[str, Tensor]:
        """Everything that goes into a checkpoint: the averages by the parameters' names, and how many updates."""
        return {COUNT: torch.tensor(self._updates), **self._means}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        self._updates = int(state[COUNT])
        for name, mean in self._means.items():
            mean.copy_(state[name])


def means_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The averages of a state by the parameters' names."""
    return {name: mean for name, mean in state.items() if name != COUNT}
