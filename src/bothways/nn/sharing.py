"""Tables of embeddings that two networks share: a generator, which predicts words, and its discriminator.

"tied": they are the same tables (ELECTRA, Clark et al. 2020, https://arxiv.org/abs/2003.10555, section 3.2).
"disentangled": the discriminator's are the generator's, whose gradient ends there, and a learned shift
(DeBERTa-v3, He et al. 2021, https://arxiv.org/abs/2111.09543, section 3.3).    "none": each has its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bothways.errors import CheckpointError
from bothways.nn.encoder import EncoderNetwork
from bothways.nn.layers import Embedding

__all__ = ["SHARINGS", "Sharing", "ShiftedEmbedding", "folded", "share", "shifts", "take_over"]

Sharing = Literal["tied", "disentangled", "none"]
SHARINGS: tuple[Sharing, ...] = ("tied", "disentangled", "none")
TABLES = ("words", "positions", "types")


class ShiftedEmbedding(Embedding):
    """stop_gradient(E) + S, where E is another table and S this one's weight.

    base: the other table; it is no part of this module.
    """

    def __init__(self, base: Embedding, shift: Tensor) -> None:
        rows, width = shift.shape
        super().__init__(rows, width, device="meta")
        self.weight = nn.Parameter(shift)
        self._base = (base,)  # in a tuple torch does not see it

    def forward(self, ids: Tensor) -> Tensor:
        """ids int [T] → [T, width]."""
        return F.embedding(ids, self._base[0].table().detach()) + super().forward(ids)

    def table(self) -> Tensor:
        """[rows, width], as a table without a base would have it."""
        return self._base[0].table().detach() + self.weight


def _tables(network: EncoderNetwork) -> dict[str, Embedding]:
    """Its tables that can be shared, by name."""
    found = {name: getattr(network.embeddings, name) for name in TABLES}
    return {name: table for name, table in found.items() if table is not None}


@torch.no_grad()
def take_over(generator: EncoderNetwork, discriminator: EncoderNetwork) -> None:
    """Give the generator's tables the numbers of the discriminator's."""
    theirs = _tables(discriminator)
    for name, table in _tables(generator).items():
        table.weight.copy_(theirs[name].weight)


def share(
    discriminator: EncoderNetwork,
    generator: EncoderNetwork,
    how: Sharing,
    shifts: Mapping[str, Tensor] | None = None,
) -> None:
    """Have both networks share their tables from here on; what they compute does not change.

    shifts: of disentangled tables by name, exactly as `shifts` gave them; None for the difference of the tables.
    Raises CheckpointError where tables have not the same shape, or are to be tied and differ.
    """
    if how == "none":
        return
    bases = _tables(generator)
    for name, table in _tables(discriminator).items():
        base = bases.get(name)
        if base is None or base.weight.shape != table.weight.shape:
            raise CheckpointError(
                f"the generator's {name} have another shape than the discriminator's; say sharing = none"
            )
        if how == "tied":
            _tie(name, table, base)
        else:
            shift = table.weight.detach() - base.weight.detach() if shifts is None else shifts[name]
            setattr(discriminator.embeddings, name, ShiftedEmbedding(base, shift))


def _tie(name: str, table: Embedding, base: Embedding) -> None:
    if not torch.equal(table.weight, base.weight):
        raise CheckpointError(
            f"the generator's {name} differ from the discriminator's; say sharing = disentangled, or none"
        )
    table.weight = base.weight


def shifts(network: EncoderNetwork) -> dict[str, Tensor]:
    """What its disentangled tables have of their own, by name; nothing where there are none."""
    tables = _tables(network)
    return {name: table.weight.detach() for name, table in tables.items() if isinstance(table, ShiftedEmbedding)}


@contextmanager
def folded(network: EncoderNetwork) -> Iterator[None]:
    """Within, shifted tables are plain ones with the same numbers, so that the network is whole by itself."""
    shifted = {name: table for name, table in _tables(network).items() if isinstance(table, ShiftedEmbedding)}
    for name, table in shifted.items():
        plain = Embedding(table.num_embeddings, table.embedding_dim, device="meta")
        plain.weight = nn.Parameter(table.table().detach())
        setattr(network.embeddings, name, plain)
    try:
        yield
    finally:
        for name, table in shifted.items():
            setattr(network.embeddings, name, table)
