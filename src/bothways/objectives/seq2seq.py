"""Writing one text from another (Sutskever et al. 2014, https://arxiv.org/abs/1409.3215): each token of a target is
predicted from the source and from the tokens of the target before it, which are the true ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from bothways.data.batch import Answers, Batch, Tokens, batch
from bothways.nn.encoder import EncoderNetwork
from bothways.nn.heads import LanguageModelHead, MaskedLanguageHead
from bothways.objectives.objective import Losses, Model, Part
from bothways.ragged import Layout, Ragged

__all__ = ["Continuation", "SequenceToSequence"]

LOSS = "words"
HEADS = ("causal",)


@dataclass(frozen=True)
class SequenceToSequence:
    """An encoder reads sources, `Model.adapter` changes its rows where there is one, and `Model.decoder` reads them.

    start: the id that each target begins with, before its own first one.
    smoothing: the share of each target token that all of the vocabulary gets alike.
    """

    start: int
    smoothing: float = 0.0
    heads: tuple[str, ...] = HEADS
    losses: Mapping[str, float] = field(default_factory=lambda: {LOSS: 1.0})
    steady = True

    def batch(self, sources: Sequence[Tokens], targets: Sequence[Sequence[int]]) -> Batch:
        """Sources with their targets, ids of which none is empty. `Batch.target` is what the decoder reads: start and
        all of the target but its last id.
        """
        made = batch(sources, range(len(sources)))
        ids = np.concatenate([np.array(target, np.int64) for target in targets])
        layout = Layout.of(map(len, targets))
        read = np.roll(ids, 1)
        read[list(layout.starts)] = self.start
        answers = Answers(torch.from_numpy(ids))
        return replace(made, target=Ragged(torch.from_numpy(read), layout), labels={LOSS: answers})

    def counts(self, batch: Batch) -> Mapping[str, int]:
        return {LOSS: len(batch.labels[LOSS].values)}

    def loss(self, model: Model, batch: Batch) -> Losses:
        assert model.decoder is not None
        assert batch.target is not None
        memory = model.network(batch.tokens, batch.types).last
        memory = memory if model.adapter is None else model.adapter(memory)
        output = model.decoder(batch.target, memory=memory)
        head = model.first_head(self.heads)
        assert isinstance(head, (LanguageModelHead, MaskedLanguageHead))
        return _lost(head, head.states(output), batch.labels[LOSS].values, self.smoothing)


@dataclass(frozen=True)
class Continuation:
    """A causal network reads a source and then its target, each token of which it is to predict; of the source none.

    smoothing: as that of `SequenceToSequence`.
    """

    smoothing: float = 0.0
    heads: tuple[str, ...] = HEADS
    losses: Mapping[str, float] = field(default_factory=lambda: {LOSS: 1.0})
    steady = True

    def batch(self, sources: Sequence[Tokens], targets: Sequence[Sequence[int]]) -> Batch:
        """Sources and targets, ids of which none is empty, as one sequence each, without the last id, which nothing
        follows.
        """
        whole = [np.array([*source.ids, *target], np.int64) for source, target in zip(sources, targets)]
        layout = Layout.of(len(one) - 1 for one in whole)
        starts = zip(layout.starts, map(len, sources), map(len, targets))
        rows = [np.arange(at + before - 1, at + before - 1 + count) for at, before, count in starts]
        values = np.concatenate([np.array(target, np.int64) for target in targets])
        answers = Answers(torch.from_numpy(values), torch.from_numpy(np.concatenate(rows)))
        read = torch.from_numpy(np.concatenate([one[:-1] for one in whole]))
        return Batch(Ragged(read, layout), None, tuple(range(len(whole))), labels={LOSS: answers})

    def counts(self, batch: Batch) -> Mapping[str, int]:
        return {LOSS: len(batch.labels[LOSS].values)}

    def loss(self, model: Model, batch: Batch) -> Losses:
        assert isinstance(model.network, EncoderNetwork)
        assert model.network.config.causal
        answers, head = batch.labels[LOSS], model.first_head(self.heads)
        assert answers.rows is not None
        assert isinstance(head, (LanguageModelHead, MaskedLanguageHead))
        rows = head.states(model.network(batch.tokens, batch.types), answers.rows)
        return _lost(head, rows, answers.values, self.smoothing)


def _lost(head: LanguageModelHead | MaskedLanguageHead, rows: Tensor, values: Tensor, smoothing: float) -> Losses:
    total, right = head.loss(rows, values, smoothing=smoothing)
    return Losses({LOSS: Part(total, len(values))}, {"accuracy": Part(right, len(values))})
