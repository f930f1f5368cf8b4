"""Masked language modelling (Devlin et al. 2018, https://arxiv.org/abs/1810.04805): say what was hidden."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from bothways.data.batch import Batch
from bothways.data.packing import Packed
from bothways.nn.heads import MaskDecoder, MaskedLanguageHead
from bothways.objectives.masking import Masking, mask_tokens
from bothways.objectives.objective import Losses, Model, Part
from bothways.ragged import Layout, Ragged

__all__ = ["MaskedLanguageModelling"]


@dataclass(frozen=True, eq=False)
class MaskedLanguageModelling:
    """The head sees the rows that are predicted, and no others.

    mask_id: the mask token.    special: ids that are neither chosen nor put in by chance.    vocab: how many ids.
    """

    vocab: int
    mask_id: int
    special: frozenset[int]
    masking: Masking = field(default_factory=Masking)
    heads: tuple[str, ...] = ("mlm",)
    losses: tuple[str, ...] = ("mlm",)
    _special: NDArray[np.bool_] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        flags = np.zeros(self.vocab, bool)
        flags[list(self.special)] = True
        object.__setattr__(self, "_special", flags)

    def corrupt(self, packed: Packed, rng: np.random.Generator) -> Batch:
        fixed = packed.special | self._special[packed.ids]
        ordinary = np.flatnonzero(~self._special)
        masked = mask_tokens(packed.ids, packed.words, fixed, self.masking, self.mask_id, ordinary, rng)
        tokens = Ragged(torch.from_numpy(masked.ids), Layout.of(packed.lengths))
        rows, labels = torch.from_numpy(masked.rows), torch.from_numpy(masked.targets)
        return Batch(tokens, None, tuple(range(len(packed.lengths))), labels=labels, rows=rows)

    def counts(self, batch: Batch) -> Mapping[str, int]:
        return {"mlm": 0 if batch.labels is None else len(batch.labels)}

    def loss(self, model: Model, batch: Batch) -> Losses:
        assert batch.labels is not None
        assert batch.rows is not None
        output = model.network(batch.tokens, batch.types)
        head = model.heads["mlm"]
        assert isinstance(head, (MaskedLanguageHead, MaskDecoder))
        total, correct = head.loss(head.states(output).index_select(0, batch.rows), batch.labels)
        count = len(batch.labels)
        return Losses({"mlm": Part(total, count)}, {"accuracy": Part(correct, count)})
