"""What a task is: how inputs become tokens, what is computed from hidden states, and how that becomes an answer."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar

from torch import nn

from bothways.checkpoint.labels import labels_of
from bothways.data.batch import Batch, Tokens
from bothways.data.labelled import Labels
from bothways.nn.encoder import EncoderOutput
from bothways.text.tokenizer import Encoded, Tokenizer
from bothways.text.windows import Windows

__all__ = ["Facts", "Request", "Round", "Rounds", "Task"]

AskedT = TypeVar("AskedT", contravariant=True)


@dataclass(frozen=True, eq=False)
class Facts:
    """What a task may know of the model that it asks.

    extras: the keys of its config that do not shape the network.    longest: tokens that it takes.
    """

    tokenizer: Tokenizer
    extras: Mapping[str, Any]
    longest: int

    @cached_property
    def labels(self) -> Labels:
        """What its labels mean. Raises ConfigError on what a config cannot say of them."""
        return labels_of(self.extras)


@dataclass(frozen=True)
class Request:
    """What a user asked for.

    texts, pairs: the inputs; pairs is None for single texts.
    options: of this call, as the task's own `request` checked them.    single: one input was given, not a list.
    windows: how texts that are too long are read; None: they are cut, and that is told.
    max_length: tokens that a text may have then; None: what the model takes.
    read: how texts become tokens, where the task has a way of its own; several of one text are its windows.
    """

    texts: Sequence[str]
    single: bool
    pairs: Sequence[str] | None = None
    options: Any = None
    windows: Windows | None = None
    max_length: int | None = None
    read: Callable[[Request, Facts], list[Encoded]] | None = None


@dataclass(frozen=True)
class Round:
    """One pass of the network over some sequences.

    asked: what `predict` shall compute from them.    keep: whether it reads the hidden states of every layer.
    """

    sequences: Sequence[Tokens]
    asked: Any = None
    keep: bool = False


Rounds = Generator[Round, list[Any], list[Any]]
"""Yields one round after the other; is sent what `predict` gave for each sequence, and returns an answer a text."""


class Task(Protocol[AskedT]):
    """One kind of question to a model. Tasks hold no state; the same value serves every model.

    head: the name of the head it needs among a checkpoint's heads; None for none.
    """

    @property
    def head(self) -> str | None: ...

    @property
    def request(self) -> Callable[..., Request]:
        """Checks what the user gave; its signature is that of the pipeline's call."""

    def rooms(self, request: Request, encoded: Sequence[Encoded], facts: Facts) -> Sequence[int]:
        """How many tokens the task may add to each text; those that are then too long are cut to leave that room.

        encoded: the texts, cut to what the model takes. What one text needs does not depend on the others. Not asked
        where texts are read in windows, or by the task itself.
        Raises InputError, naming what needs the room, where none would be left for a text.
        """

    def check(self, request: Request, encoded: Sequence[Encoded], facts: Facts) -> None:
        """Raise InputError on a text the task cannot answer, before anything is computed."""

    def rounds(self, request: Request, encoded: Sequence[Encoded], facts: Facts) -> Rounds:
        """How the answers come about, in the shape users know from transformers. Most tasks need one round:

        encoded: the texts; where they are read in windows, all windows of each (`Encoded.text` says whose).

        predicted = yield Round(encoded)
        return [answer(one) for one in predicted]
        """

    def predict(self, output: EncoderOutput, head: nn.Module | None, batch: Batch, asked: AskedT) -> Sequence[Any]:
        """What is computed from a batch's hidden states: one entry (tensors) for each sequence.

        batch.origin: where each sequence stands in the round.    asked: the round's.
        """
