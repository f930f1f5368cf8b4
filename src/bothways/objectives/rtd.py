"""Replaced-token detection (ELECTRA, Clark et al. 2020, https://arxiv.org/abs/2003.10555): a generator fills masked
tokens in, and a discriminator says of every token whether it is the one that stood there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from bothways.data.batch import Batch
from bothways.data.packing import Packed
from bothways.nn.dropout import uniform
from bothways.nn.heads import Classifier, MaskDecoder, MaskedLanguageHead, rows_of_last
from bothways.objectives.mlm import MaskedLanguageModelling
from bothways.objectives.objective import Losses, Model, Part
from bothways.objectives.reading import Together
from bothways.ragged import Ragged

__all__ = ["RTD_HEADS", "RTD_WEIGHT", "Proposal", "ReplacedTokens", "judges"]

RTD_WEIGHT = 50.0
# The discriminator's, by preference: a head of its own, or one for tags, of which there is one: "replaced".
RTD_HEADS = ("rtd", "tag")


@dataclass(frozen=True, eq=False)
class Proposal:
    """What a generator makes of a batch of T tokens, M of which it was to predict.

    losses: its own.    states [M, width]: what its head predicts from.    ids int64 [T]: the text with its words.
    replaced bool [T]: where these are not the true ones.
    """

    losses: Losses
    states: Tensor
    ids: Tensor
    replaced: Tensor


@dataclass(frozen=True, eq=False)
class ReplacedTokens:
    """An objective of two forwards: `model.generator` reads masked tokens, `model.network` what it made of them.

    masked: what the generator learns.    weight: of the discriminator's loss beside the generator's.

    The generator gets no gradient through its words, which are sampled. A sampled word that is the true one counts as
    not replaced. All tokens are judged, special ones too, as in the released code. Of metrics, `accuracy` is that of
    the generator; `replaced`, `flagged` (said to be replaced) and `found` (both) are shares of all tokens, so that
    found / replaced is the recall of a whole step, and found / flagged its precision.
    """

    masked: MaskedLanguageModelling
    weight: float = RTD_WEIGHT
    heads: tuple[str, ...] = RTD_HEADS
    steady = False  # the better the generator, the harder its words are told from the true ones

    @property
    def losses(self) -> Mapping[str, float]:
        return {**self.masked.losses, "rtd": self.weight}

    def corrupt(self, packed: Packed, rng: np.random.Generator) -> Batch:
        return Together((self.masked,)).corrupt(packed, rng)

    def counts(self, batch: Batch) -> Mapping[str, int]:
        return {**self.masked.counts(batch), "rtd": batch.tokens.layout.total}

    def predicted(self, length: float) -> float:
        return self.masked.predicted(length)

    def loss(self, model: Model, batch: Batch) -> Losses:
        proposal = self.propose(model, batch)
        judged = _judged(self.judge(model, batch, proposal.ids), proposal.replaced)
        proposed = proposal.losses
        return Losses({**proposed.losses, **judged.losses}, {**proposed.metrics, **judged.metrics})

    def propose(self, model: Model, batch: Batch) -> Proposal:
        """What the generator puts in the place of masked tokens, and loses."""
        generator, answers = model.generator, batch.labels["mlm"]
        assert generator is not None
        assert answers.rows is not None
        head = generator.heads["mlm"]
        assert isinstance(head, (MaskedLanguageHead, MaskDecoder))
        asked = rows_of_last([head], batch.rows)
        rows = head.states(generator.network(batch.tokens, batch.types, rows=asked), answers.rows)
        chances = uniform(len(rows), rows.device)
        total, correct, words = head.loss_and_words(rows, answers.values, chances)
        count = len(answers.values)
        losses = Losses({"mlm": Part(total, count)}, {"accuracy": Part(correct, count)})
        original = batch.tokens.data.index_copy(0, answers.rows, answers.values)
        ids = original.index_copy(0, answers.rows, words)
        return Proposal(losses, rows, ids, ids != original)

    def judge(self, model: Model, batch: Batch, ids: Tensor) -> Tensor:
        """ids int64 [T], in place of the batch's → fp32 [T]: above 0 where the discriminator says "replaced"."""
        head = model.first_head(self.heads)
        assert isinstance(head, Classifier)
        output = model.network(Ragged(ids, batch.tokens.layout), batch.types)
        # A head for tags drops, where it learns tags; as ELECTRA's for replaced tokens it does not.
        return head.undropped(output.last.data)[:, 0].float()


def _judged(scores: Tensor, replaced: Tensor) -> Losses:
    """What the discriminator loses."""
    lost = F.binary_cross_entropy_with_logits(scores, replaced.float(), reduction="sum")
    flagged = scores > 0
    told = {"rtd_accuracy": flagged == replaced, "replaced": replaced, "flagged": flagged}
    told["found"] = flagged & replaced
    metrics = {name: Part(one.sum(), len(scores)) for name, one in told.items()}
    return Losses({"rtd": Part(lost, len(scores))}, metrics)


def judges(head: nn.Module) -> bool:
    """Whether a head can say of each token whether it was replaced: it has a single label."""
    return isinstance(head, Classifier) and head.pooling is None and head.out.out_features == 1
