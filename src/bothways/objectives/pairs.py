"""What two segments are to each other: next-sentence prediction (Devlin et al. 2018, section 3.1, task 2) and sentence
order (Lan et al. 2019, https://arxiv.org/abs/1909.11942, section 3.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from bothways.data.batch import Answers, Batch
from bothways.data.packing import Packed
from bothways.nn.encoder import EncoderOutput
from bothways.nn.heads import Classifier
from bothways.objectives.objective import Losses, Model, Part

__all__ = ["SegmentPairs"]


@dataclass(frozen=True)
class SegmentPairs:
    """A reading of the first token of each pair; the pairs are those of a `data.pairs.PairPacking`.

    name: of the loss: "nsp" or "sop". Labels are those of transformers: 0 is next, or in order; 1 is not.
    heads: the first of them that the model has is read: BERT's one for pairs serves both objectives.
    """

    name: str
    heads: tuple[str, ...]

    @property
    def losses(self) -> Mapping[str, float]:
        return {self.name: 1.0}

    def corrupt(self, packed: Packed, batch: Batch, rng: np.random.Generator) -> Batch:
        assert packed.pairs is not None
        pairs = np.flatnonzero(packed.pairs >= 0)
        starts = np.cumsum([0, *packed.lengths])[pairs]
        answers = Answers(torch.from_numpy(packed.pairs[pairs]), torch.from_numpy(starts))
        return replace(batch, labels={**batch.labels, self.name: answers})

    def counts(self, batch: Batch) -> Mapping[str, int]:
        return {self.name: len(batch.labels[self.name].values)}

    def predicted(self, length: float) -> float:
        return 0.0

    def read(self, model: Model, output: EncoderOutput, batch: Batch) -> Losses:
        answers, head = batch.labels[self.name], model.first_head(self.heads)
        assert answers.rows is not None
        assert isinstance(head, Classifier)
        assert head.pooling == "cls"
        total, correct = head.loss(output.at(answers.rows), answers.values)
        count = len(answers.values)
        return Losses({self.name: Part(total, count)}, {f"{self.name}_accuracy": Part(correct, count)})
