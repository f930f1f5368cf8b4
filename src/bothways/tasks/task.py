"""What a task is: how inputs become tokens, what is computed from hidden states, and how that becomes an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from torch import nn

from bothways.data.batch import Batch
from bothways.nn.encoder import EncoderOutput
from bothways.text.tokenizer import Encoded, Tokenizer

__all__ = ["Request", "Task"]

OptionsT = TypeVar("OptionsT", contravariant=True)


@dataclass(frozen=True)
class Request:
    """What a user asked for.

    texts, pairs: the inputs; pairs is None for single texts.
    options: of this call, as the task's own `request` checked them.    single: one input was given, not a list.
    """

    texts: Sequence[str]
    single: bool
    pairs: Sequence[str] | None = None
    options: Any = None


class Task(Protocol[OptionsT]):
    """One kind of question to a model. Tasks hold no state; the same value serves every model.

    head: the name of the head it needs among a checkpoint's heads; None for none.
    """

    @property
    def head(self) -> str | None: ...

    @property
    def request(self) -> Callable[..., Request]:
        """Checks what the user gave; its signature is that of the pipeline's call."""

    def keeps(self, options: OptionsT) -> bool:
        """Whether it reads the hidden states of every layer."""

    def check(self, request: Request, encoded: Sequence[Encoded], tokenizer: Tokenizer) -> None:
        """Raise InputError on a text the task cannot answer, before anything is computed."""

    def predict(
        self, output: EncoderOutput, head: nn.Module | None, batch: Batch, tokenizer: Tokenizer, options: OptionsT
    ) -> Sequence[Any]:
        """What is computed from a batch's hidden states: one entry (tensors) for each sequence."""

    def decode(self, predicted: Any, encoded: Encoded, tokenizer: Tokenizer, options: OptionsT) -> Any:
        """One sequence's answer, in the shape users know from transformers."""
