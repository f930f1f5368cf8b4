"""Masked language modelling (Devlin et al. 2018, https://arxiv.org/abs/1810.04805): say what was hidden."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from bothways.data.batch import Answers, Batch
from bothways.data.packing import Packed
from bothways.nn.encoder import EncoderOutput
from bothways.nn.heads import MaskDecoder, MaskedLanguageHead
from bothways.objectives.masking import Masking, mask_tokens
from bothways.objectives.objective import Losses, Model, Part
from bothways.ragged import Ragged

__all__ = ["MaskedLanguageModelling"]


@dataclass(frozen=True, eq=False)
class MaskedLanguageModelling:
    """A reading. The head sees the rows that are predicted, and no others.

    mask_id: the mask token.    special: ids that are neither chosen nor put in by chance.    vocab: how many ids.
    """

    vocab: int
    mask_id: int
    special: frozenset[int]
    masking: Masking = field(default_factory=Masking)
    heads: tuple[str, ...] = ("mlm",)
    losses: Mapping[str, float] = field(default_factory=lambda: {"mlm": 1.0})
    _special: NDArray[np.bool_] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        flags = np.zeros(self.vocab, bool)
        flags[list(self.special)] = True
        object.__setattr__(self, "_special", flags)

    def corrupt(self, packed: Packed, batch: Batch, rng: np.random.Generator) -> Batch:
        ids = batch.tokens.data.numpy()
        fixed = packed.special | self._special[ids]
        ordinary = np.flatnonzero(~self._special)
        masked = mask_tokens(ids, packed.words, fixed, self.masking, self.mask_id, ordinary, rng)
        tokens = Ragged(torch.from_numpy(masked.ids), batch.tokens.layout)
        answers = Answers(torch.from_numpy(masked.targets), torch.from_numpy(masked.rows))
        return replace(batch, tokens=tokens, labels={**batch.labels, "mlm": answers})

    def counts(self, batch: Batch) -> Mapping[str, int]:
        return {"mlm": len(batch.labels["mlm"].values)}

    def predicted(self, length: float) -> float:
        return self.masking.rate

    def read(self, model: Model, output: EncoderOutput, batch: Batch) -> Losses:
        answers, head = batch.labels["mlm"], model.heads["mlm"]
        assert answers.rows is not None
        assert isinstance(head, (MaskedLanguageHead, MaskDecoder))
        total, correct = head.loss(head.states(output, answers.rows), answers.values)
        count = len(answers.values)
        return Losses({"mlm": Part(total, count)}, {"accuracy": Part(correct, count)})
