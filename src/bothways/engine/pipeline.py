"""`pipeline(task, model)`: a model that answers one kind of question."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bothways.checkpoint.encoder import Encoder
from bothways.data.batch import Batch
from bothways.engine.backends import BACKENDS, place
from bothways.engine.scheduler import progress, schedule
from bothways.engine.streams import Streams
from bothways.errors import CheckpointError, InputError
from bothways.nn.config import EncoderConfig
from bothways.tasks import TASKS
from bothways.tasks.task import Round, Rounds
from bothways.text.tokenizer import Encoded, Tokenizer, cut_lengths, warn_of_truncation

__all__ = ["Pipeline", "check_types", "pipeline", "tokenizer_of"]


class Pipeline:
    """A task on a loaded model. Call it with one text or a list; the result has the same form.

    share: whether it may keep weights of the encoder instead of copies (nothing else uses the encoder).
    Results do not depend on what else is in the list.
    """

    def __init__(
        self, task: str, encoder: Encoder, *, device: str = "auto", precision: str = "auto", share: bool = False
    ) -> None:
        if task not in TASKS:
            raise InputError(f"unknown task {task!r}; known: {', '.join(TASKS)}")
        self.tokenizer = tokenizer_of(encoder)
        self.task = TASKS[task]
        if self.task.head is not None and self.task.head not in encoder.heads:
            raise CheckpointError(
                f"the model has no {self.task.head} head (weights for {task}); load one trained for it"
            )
        self._config = encoder.config
        self._placement = place(device, precision)
        prepare = BACKENDS["eager"]
        self._streams = Streams(self._placement.device)
        self._network = prepare(encoder.network, self._placement, share=share)
        self._head = (
            None if self.task.head is None else prepare(encoder.heads[self.task.head], self._placement, share=share)
        )

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Answer. Arguments are those of the task's `request`; see `bothways.tasks`."""
        request = self.task.request(*inputs, **options)
        limit = self._config.longest - self.task.room(request, self.tokenizer)
        encoded = self.tokenizer.encode(request.texts, request.pairs, max_length=limit)
        check_types(encoded, self._config)
        self.task.check(request, encoded, self.tokenizer)
        warn_of_truncation(cut_lengths(encoded), len(encoded), limit)
        answers = self._answers(self.task.rounds(request, encoded, self.tokenizer))
        return answers[0] if request.single else answers

    def _answers(self, rounds: Rounds) -> list[Any]:
        predicted = None
        while True:
            try:
                asked = next(rounds) if predicted is None else rounds.send(predicted)
            except StopIteration as done:
                return done.value
            predicted = self._predict(asked)

    def _predict(self, asked: Round) -> list[Any]:
        """What the task computes from each sequence of a round."""
        results: list[Any] = [None] * len(asked.sequences)

        @torch.inference_mode()
        def work(batch: Batch) -> None:
            output = self._network(batch.tokens, batch.types, keep=asked.keep)
            for i, one in zip(batch.origin, self.task.predict(output, self._head, batch, asked.asked)):
                results[i] = one

        steps = schedule(asked.sequences, work, self._streams, device=self._placement.device)
        deque(progress(steps, len(results), "texts"), maxlen=0)
        return results


def tokenizer_of(encoder: Encoder) -> Tokenizer:
    """The encoder's tokenizer. Raises CheckpointError if its folder had none."""
    if encoder.tokenizer is None:
        raise CheckpointError("the model's folder has no tokenizer.json and no vocab.txt: texts cannot be read")
    return encoder.tokenizer


def check_types(encoded: Sequence[Encoded], config: EncoderConfig) -> None:
    """Raise InputError, naming it, on a pair whose token types the model does not have."""
    for i, one in enumerate(encoded):
        if config.types and one.pair and max(one.types, default=0) >= config.types:
            raise InputError(
                f"pair {i} has tokens of type {max(one.types)}, but the model knows {config.types} (from 0 on): "
                "its tokenizer is not made for it, or it was not made for pairs"
            )


def pipeline(
    task: str,
    model: str | Path | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    revision: str | None = None,
) -> Pipeline:
    """A pipeline for a task on a model's folder or hub id.

    >>> fill = pipeline("fill-mask", "bert-base-uncased")
    >>> fill("The [MASK] sat on the mat.", top_k=3)

    task: a name in `bothways.tasks.TASKS`.    precision: fp32 on a CPU unless asked otherwise; half on a GPU.

    Raises InputError on unknown names, ConfigError or CheckpointError on a model that cannot be loaded.
    """
    if task not in TASKS:
        raise InputError(f"unknown task {task!r}; known: {', '.join(TASKS)}")
    if model is None:
        raise InputError("no model is bundled yet: name a folder or a hub id")
    encoder = Encoder.from_pretrained(model, revision=revision)
    return Pipeline(task, encoder, device=device, precision=precision, share=True)
