"""Causal language modelling (Radford et al. 2019, see `nn.heads.LanguageModelHead`): say which token comes next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from bothways.data.batch import Answers, Batch
from bothways.data.packing import Packed
from bothways.errors import CheckpointError
from bothways.nn.encoder import EncoderOutput
from bothways.nn.heads import LanguageModelHead
from bothways.objectives.objective import Losses, Model, Part
from bothways.text.tokenizer import Tokenizer

__all__ = ["CausalLanguageModelling", "edges"]

# Roles of the tokens that a sequence may begin and end with, the first that the tokenizer has.
FIRST, LAST = ("bos", "cls", "eos"), ("eos", "sep", "bos")


@dataclass(frozen=True)
class CausalLanguageModelling:
    """A reading. The head sees all rows but the last of each sequence, which nothing follows; no token is hidden or
    replaced. Special tokens stand where documents begin and end alone (`Packing`'s `edges`): after a text that goes on
    in another sequence no end is to be said.

    For causal networks alone: the rows of another one see the answer.
    """

    heads: tuple[str, ...] = ("causal",)
    losses: Mapping[str, float] = field(default_factory=lambda: {"causal": 1.0})

    def corrupt(self, packed: Packed, batch: Batch, rng: np.random.Generator) -> Batch:
        """The tokens as they are, and for each row the id that follows it, also where that is a special token."""
        lengths = np.array(packed.lengths, np.int64)
        followed = np.ones(len(packed.ids), bool)
        followed[np.cumsum(lengths)[lengths > 0] - 1] = False
        rows = np.flatnonzero(followed)
        answers = Answers(torch.from_numpy(packed.ids[rows + 1]), torch.from_numpy(rows))
        return replace(batch, labels={**batch.labels, "causal": answers})

    def counts(self, batch: Batch) -> Mapping[str, int]:
        return {"causal": len(batch.labels["causal"].values)}

    def predicted(self, length: float) -> float:
        return max(0.0, 1 - 1 / length)

    def read(self, model: Model, output: EncoderOutput, batch: Batch) -> Losses:
        answers, head = batch.labels["causal"], model.heads["causal"]
        assert answers.rows is not None
        assert isinstance(head, LanguageModelHead)
        assert model.network.config.causal
        total, correct = head.loss(head.states(output, answers.rows), answers.values)
        count = len(answers.values)
        return Losses({"causal": Part(total, count)}, {"accuracy": Part(correct, count)})


def edges(tokenizer: Tokenizer) -> tuple[int, int]:
    """What documents begin and end with: GPT-2's "<|endoftext|>" both times, BERT's "[CLS]" and "[SEP]".

    Raises CheckpointError where the tokenizer has no token for it.
    """
    return _first_of(tokenizer, FIRST), _first_of(tokenizer, LAST)


def _first_of(tokenizer: Tokenizer, roles: tuple[str, ...]) -> int:
    for role in roles:
        if (number := tokenizer.id_of(role)) is not None:
            return number
    raise CheckpointError(
        f"the tokenizer has no {' or '.join(roles)} token, which sequences need; name one in tokenizer_config.json"
    )
