"""The slow and obvious way to write: the whole text so far, computed anew for every token."""

from __future__ import annotations

import torch
from torch import Tensor

from bothways.engine.generation import Way
from bothways.nn.encoder import EncoderNetwork
from bothways.ragged import Ragged

__all__ = ["SLOW"]


class Texts:
    """What every row of every source has so far."""

    def __init__(self, prompts: Ragged, memory: Ragged | None, beams: int) -> None:
        self.rows = [[prompt.tolist() for _ in range(beams)] for prompt in prompts.unbind()]
        self.memory = None if memory is None else memory.unbind()

    def follow(self, parents: Tensor) -> None:
        self.rows = [[list(own[parent]) for parent in order] for own, order in zip(self.rows, parents.tolist())]

    def keep(self, sources: list[int]) -> None:
        self.rows = [self.rows[i] for i in sources]
        self.memory = None if self.memory is None else [self.memory[i] for i in sources]

    def hidden(self, network: EncoderNetwork) -> Tensor:
        """[N, B, width], of each row's last token."""
        return torch.stack(
            [torch.stack([self._last(network, i, ids) for ids in own]) for i, own in enumerate(self.rows)]
        )

    def _last(self, network: EncoderNetwork, source: int, ids: list[int]) -> Tensor:
        tokens = Ragged.of([ids])
        if self.memory is None:
            return network(tokens).last.data[-1]
        return network(tokens, memory=Ragged.of([self.memory[source]])).last.data[-1]


def begin(
    network: EncoderNetwork, prompts: Ragged, memory: Ragged | None, beams: int, room: int
) -> tuple[Texts, Tensor]:
    state = Texts(prompts, memory, beams)
    return state, state.hidden(network)[:, 0]


def step(network: EncoderNetwork, ids: Tensor, state: Texts) -> Tensor:
    for own, tokens in zip(state.rows, ids.tolist()):
        for row, token in zip(own, tokens):
            row.append(token)
    return state.hidden(network)


SLOW = Way(begin, step)
