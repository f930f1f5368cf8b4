"""`pipeline(task, model)`: a model that answers one kind of question."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, Literal, overload

import torch

from bothways.checkpoint.encoder import Encoder, tokenizer_of
from bothways.data.batch import Batch
from bothways.data.labelled import Labels
from bothways.engine.backends import BACKENDS, Placement, place
from bothways.engine.scheduler import progress, schedule
from bothways.engine.streams import Streams
from bothways.engine.writing import WRITES, WritingPipeline, writing
from bothways.errors import CheckpointError, InputError, meant
from bothways.nn.config import EncoderConfig
from bothways.nn.encoder import EncoderOutput
from bothways.nn.heads import Classifier
from bothways.tasks import TASKS
from bothways.tasks.task import Facts, Request, Round, Rounds
from bothways.text.tokenizer import Cuts, Encoded, cut_lengths, warn_of_truncation
from bothways.text.windows import in_windows

__all__ = ["Pipeline", "check_types", "pipeline"]

HEADS = {
    "answer": "question-answering",
    "choose": "multiple-choice",
    "classify": "classification",
    "mlm": "masked-language",
    "tag": "tagging",
}
"""What a head is called in words."""


class Pipeline:
    """A task on a loaded model. Call it with one text or a list; the result has the same form.

    share: whether it may keep weights of the encoder instead of copies (nothing else uses the encoder).
    name: what to call the model, such as the folder it is from.    bar: see `engine.scheduler.progress`.
    Results do not depend on what else is in the list.
    """

    def __init__(
        self,
        task: str,
        encoder: Encoder,
        *,
        device: str = "auto",
        precision: str = "auto",
        share: bool = False,
        name: str | None = None,
        bar: bool | None = None,
    ) -> None:
        if task not in TASKS:
            raise InputError(f"unknown task {task!r}; known: {', '.join(TASKS)}")
        model = "the model" if name is None else f"the model at {name}"
        self.tokenizer = tokenizer_of(encoder, model)
        self.task = TASKS[task]
        if self.task.head is not None and self.task.head not in encoder.heads:
            head = HEADS.get(self.task.head, self.task.head)
            raise CheckpointError(f"{model} has no {head} head (weights that {task} needs); load one trained for it")
        self._task_name, self._model = task, repr(encoder) if name is None else repr(name)
        self._config, self._bar = encoder.config, bar
        self._facts = Facts(self.tokenizer, encoder.extras, encoder.config.longest)
        self._placement = place(device, precision)
        prepare = BACKENDS["eager"]
        self._streams = Streams(self._placement.device)
        self._network = prepare(encoder.network, self._placement, share=share)
        self._head = (
            None if self.task.head is None else prepare(encoder.heads[self.task.head], self._placement, share=share)
        )

    def __repr__(self) -> str:
        return f"Pipeline({self._task_name!r}, {self._model}, {self._placement})"

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Answer. Arguments are those of the task's `request`; see `bothways.tasks`."""
        _check_arguments(self._task_name, self.task.request, inputs, options)
        request = self.task.request(*inputs, **options)
        answers = self.answers(request)
        return answers[0] if request.single else answers

    @property
    def placement(self) -> Placement:
        """Where it computes, and how exactly."""
        return self._placement

    @property
    def labels(self) -> Labels:
        """What the model's labels mean. Raises ConfigError on what its config cannot say of them."""
        return self._facts.labels

    def answers(self, request: Request, cuts: Cuts | None = None) -> list[Any]:
        """What the task says of each input of a request.

        cuts: counts the texts that are cut; without it they are warned of.
        Raises InputError on one that the task cannot answer.
        """
        encoded = self._encoded(request)
        self.task.check(request, encoded, self._facts)
        if cuts is not None:
            cuts.add(encoded)
        for length in sorted({len(e) for e in encoded if e.dropped}) if cuts is None else ():
            warn_of_truncation(cut_lengths(e for e in encoded if len(e) == length), len(encoded), length)
        return self._answers(self.task.rounds(request, encoded, self._facts))

    def _encoded(self, request: Request) -> list[Encoded]:
        """The texts as tokens, each cut where it leaves no room for what the task adds to it."""
        longest = self._config.longest
        if request.read is not None:
            encoded = request.read(request, self._facts)
            check_types(encoded, self._config)
            return encoded
        if request.windows is not None:
            encoded = in_windows(self.tokenizer, request.texts, request.pairs, request.windows, longest)
            check_types(encoded, self._config)
            return encoded
        if request.max_length is not None:
            if not 1 <= request.max_length <= longest:
                raise InputError(
                    f"max_length must be between 1 and the model's {longest} positions, got {request.max_length}"
                )
            longest = request.max_length
        encoded = self.tokenizer.encode(request.texts, request.pairs, max_length=longest)
        check_types(encoded, self._config)
        limits = [longest - room for room in self.task.rooms(request, encoded, self._facts)]
        for limit in {limit for one, limit in zip(encoded, limits) if len(one) > limit}:
            long = [i for i, one in enumerate(encoded) if limits[i] == limit < len(one)]
            texts, pairs = ([side[i] for i in long] if side else None for side in (request.texts, request.pairs))
            for i, one in zip(long, self.tokenizer.encode(texts or [], pairs, max_length=limit)):
                encoded[i] = one
        return encoded

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
            output = self._output(batch, asked.keep)
            for i, one in zip(batch.origin, self.task.predict(output, self._head, batch, asked.asked)):
                results[i] = one

        steps = schedule(asked.sequences, work, self._streams, device=self._placement.device)
        deque(progress(steps, len(results), "texts", self._bar), maxlen=0)
        return results

    def _output(self, batch: Batch, keep: bool) -> EncoderOutput:
        rows = self._head.reads(batch.tokens.layout) if isinstance(self._head, Classifier) and not keep else None
        return self._network(batch.tokens, batch.types, keep=keep, rows=rows)


def _check_arguments(
    task: str, request: Callable[..., Request], inputs: Sequence[Any], options: Mapping[str, Any]
) -> None:
    """Raise InputError on arguments that the task does not take, with the name that may have been meant."""
    parameters = signature(request).parameters
    known = [name for name, parameter in parameters.items() if parameter.kind is Parameter.KEYWORD_ONLY]
    for name in options:
        if name not in parameters:
            hint = meant(name, known, f"; it has {', '.join(known)}")
            raise InputError(f"{task} has no option {name}{hint}")
    try:
        signature(request).bind(*inputs, **options)
    except TypeError as error:
        raise InputError(f"{task}: {error}; give a text or a list of texts, and options by name") from None


def check_types(encoded: Sequence[Encoded], config: EncoderConfig) -> None:
    """Raise InputError, naming it, on a pair whose token types the model does not have."""
    for i, one in enumerate(encoded):
        if config.types and one.pair and max(one.types, default=0) >= config.types:
            raise InputError(
                f"pair {i} has tokens of type {max(one.types)}, but the model knows {config.types} (from 0 on): "
                "its tokenizer is not made for it, or it was not made for pairs"
            )


@overload
def pipeline(  # type: ignore[overload-overlap]
    task: Literal["translation", "summarization", "text2text-generation", "text-generation"],
    model: str | Path | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    revision: str | None = None,
) -> WritingPipeline: ...


@overload
def pipeline(
    task: str,
    model: str | Path | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    revision: str | None = None,
) -> Pipeline: ...


def pipeline(
    task: str,
    model: str | Path | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    revision: str | None = None,
) -> Pipeline | WritingPipeline:
    """A pipeline for a task on a model's folder or hub id.

    >>> fill = pipeline("fill-mask", "bert-base-uncased")
    >>> fill("The [MASK] sat on the mat.", top_k=3)

    task: a name in `bothways.tasks.TASKS` or, of texts that are written, in `bothways.engine.writing.WRITES`.
    precision: fp32 on a CPU unless asked otherwise; half on a GPU.

    Raises InputError on unknown names, ConfigError or CheckpointError on a model that cannot be loaded.
    """
    if task not in TASKS and task not in WRITES:
        raise InputError(f"unknown task {task!r}; known: {', '.join([*TASKS, *WRITES])}")
    if model is None:
        raise InputError("no model is bundled yet: name a folder or a hub id")
    if task in WRITES:
        return writing(model, task, device=device, precision=precision, revision=revision)
    encoder = Encoder.from_pretrained(model, revision=revision)
    return Pipeline(task, encoder, device=device, precision=precision, share=True, name=str(model))
