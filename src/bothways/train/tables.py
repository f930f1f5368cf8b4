"""Gradients of word tables as the rows that a step has words of: all others are zero, and stay untouched memory.

A dense gradient of 30,522 vectors is filled with zeros, written and added up for each batch, measured, shortened and
read again, for the sake of some hundred rows. `parameter.grad` is such a table all the same, so that every optimizer
reads it; it is kept from step to step, and only its rows change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from bothways.nn.layers import Embedding
from bothways.objectives.objective import Model

__all__ = ["Rows", "Table", "tables_of"]

Rows: TypeAlias = tuple[Tensor, Tensor]
"""ids int [T], and the gradients of their vectors [T, width]."""


class Table:
    """An embedding whose gradient is held as rows.

    rows: int64 [U], rising: which ones a step has.    sums: [U, width], their gradients.
    """

    def __init__(self, embedding: Embedding) -> None:
        self.embedding = embedding
        weight = embedding.weight
        # Memory that nobody has touched is not there yet, other than torch's own zeros.
        self._gradient = torch.from_numpy(np.zeros(weight.shape, np.float32)).to(weight.dtype)
        self.rows = torch.empty(0, dtype=torch.int64)
        self.sums = torch.empty(0, weight.shape[1])

    def clear(self) -> None:
        """No row has a gradient."""
        self._gradient.index_fill_(0, self.rows, 0.0)
        self.rows = self.rows[:0]

    def settle(self, parts: Sequence[Rows]) -> None:
        """Take the sums over all parts, in their order."""
        if not parts:
            return
        ids, slopes = (torch.cat(some) for some in zip(*parts))
        self.rows, places = ids.long().unique(return_inverse=True)
        self.sums = torch.ops.aten.embedding_dense_backward(slopes, places, len(self.rows), -1, False)

    def write(self) -> None:
        """Have the sums, as they are now, in the weight's gradient."""
        weight = self.embedding.weight
        self._gradient.index_copy_(0, self.rows, self.sums)
        weight.grad = self._gradient


def tables_of(model: Model, scaled: bool = False) -> tuple[Table, ...]:
    """The word tables of a model that nothing but their rows is read of, where that is worth while: on a CPU.

    scaled: whether losses are scaled, as in fp16; then there are none, for whoever scales looks at whole gradients.
    """
    own = [model.network, *([] if model.decoder is None else [model.decoder])]
    tables = [network.embeddings.words for network in own if hasattr(network, "embeddings")]
    parts = [part for one in (*own, model.heads) for part in one.modules()]
    return tuple(Table(words) for words in tables if not scaled and _worth_while(words, parts))


def _worth_while(words: Embedding, parts: Sequence[nn.Module]) -> bool:
    """Whether a table learns on a CPU, and is no other part's weight, too."""
    learns = words.weight.requires_grad and type(words) is Embedding and words.weight.device.type == "cpu"
    return learns and not any(
        one is words.weight for part in parts if part is not words for one in part.parameters(recurse=False)
    )
