"""Parallel texts as what a run learns from: sources and targets as tokens, and what stands for them in checkpoints."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bothways.checkpoint.encoder import Encoder
from bothways.checkpoint.encoder_decoder import EncoderDecoder
from bothways.data.batch import Batch, Numbers
from bothways.data.parallel import Parallel
from bothways.engine.parts import parts_of
from bothways.engine.pipeline import check_types
from bothways.errors import InputError, TruncationWarning
from bothways.nn.config import EncoderConfig
from bothways.objectives.objective import Losses, Model
from bothways.objectives.seq2seq import Continuation, SequenceToSequence
from bothways.ragged import Ragged
from bothways.tasks.learning import Sample
from bothways.text.targets import Target, as_targets, open_ended, separated
from bothways.text.tokenizer import Encoded, Tokenizer
from bothways.train.samples import identity_of
from bothways.train.seq2seq_settings import Seq2SeqSettings

__all__ = ["CutRows", "Material", "Writing", "material_of", "objective_of", "samples_of", "sources_of", "targets_of"]

ROWS_AT_A_TIME = 4096


@dataclass(frozen=True, eq=False)
class Writing:
    """The objective of a run: that of its kind, and how samples become its batches."""

    inner: SequenceToSequence | Continuation

    @property
    def heads(self) -> tuple[str, ...]:
        return self.inner.heads

    @property
    def losses(self) -> Mapping[str, float]:
        return self.inner.losses

    @property
    def steady(self) -> bool:
        return self.inner.steady

    def batch(self, samples: Sequence[Sample], states: Ragged | None = None) -> Batch:
        """Samples, each of one sequence, whose answers are the ids of targets.

        states: hidden states of their sequences, which are to be in the place of ids.
        """
        made = self.inner.batch([one.sequences[0] for one in samples], [one.answer for one in samples])
        return made if states is None else replace(made, tokens=states, types=None)

    def counts(self, batch: Batch) -> Mapping[str, int]:
        return self.inner.counts(batch)

    def loss(self, model: Model, batch: Batch) -> Losses:
        return self.inner.loss(model, batch)

    def plain(self) -> Writing:
        """Without smoothing, as it is evaluated."""
        return Writing(replace(self.inner, smoothing=0.0))


@dataclass(frozen=True, eq=False)
class Material:
    """What a run is taught with. rows, held: as they were read.    samples, held_samples: as tokens.

    identity: what stands for all rows.    held_identity: for those held out; None where there are none.
    """

    rows: Sequence[Parallel]
    held: Sequence[Parallel]
    samples: Sequence[Sample]
    held_samples: Sequence[Sample]
    objective: Writing
    identity: str
    held_identity: str | None

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sample, of both sides."""
        return [length_of(sample) for sample in self.samples]


def length_of(sample: Sample) -> int:
    """Tokens of both sides."""
    return len(sample) + len(sample.answer)


def targets_of(rows: Sequence[Parallel], which: str) -> list[Parallel]:
    """Rows with the targets that are learnt: the first, all, a row each, or all of a row joined as one."""
    if which == "all":
        return [replace(row, targets=(one,)) for row in rows for one in row.targets]
    if which == "joined":
        return [replace(row, targets=(" ".join(row.targets),)) for row in rows]
    return [replace(row, targets=row.targets[:1]) for row in rows]


def material_of(
    model: EncoderDecoder | Encoder, rows: Sequence[Parallel], held: Sequence[Parallel], settings: Seq2SeqSettings
) -> Material:
    """The rows as tokens. Warns of sources and targets that are cut.

    Raises InputError, naming the row, on one that cannot be learnt from.
    """
    learnt, judged = targets_of(rows, settings.sides.targets), targets_of(held, settings.sides.targets)
    if not learnt:
        raise InputError("no rows to learn from")
    samples = list(samples_of(model, learnt, settings))
    held_samples = list(samples_of(model, judged, settings))
    cut = CutRows()
    cut.add([*samples, *held_samples])
    cut.warn()
    identity = identity_of(("parallel", settings.sides.targets), rows, held)
    held_identity = identity_of("parallel", held, ()) if held else None
    return Material(rows, held, samples, held_samples, objective_of(model, settings), identity, held_identity)


def objective_of(model: EncoderDecoder | Encoder, settings: Seq2SeqSettings) -> Writing:
    """What the model learns."""
    smoothing = settings.smoothing.smoothing
    inner = Continuation(smoothing) if isinstance(model, Encoder) else SequenceToSequence(model.marks.start, smoothing)
    return Writing(inner)


@dataclass(frozen=True)
class _Ways:
    """How rows become tokens.

    start: None for a decoder alone, which goes on from the source.    end: what may end a target.
    longest: tokens that a source may have.    positions: those of the decoder; None for no limit.
    around: (before, behind) each source.    reads: what reads them.
    """

    source: Tokenizer
    target: Tokenizer
    start: int | None
    end: tuple[int, ...]
    longest: int
    positions: int | None
    around: tuple[str, str]
    reads: EncoderConfig


def _ways(model: EncoderDecoder | Encoder, settings: Seq2SeqSettings) -> _Ways:
    """Raises InputError on lengths that the model has no room for."""
    asked, own = settings.sides, model.tokenizer
    assert own is not None
    around = parts_of(model).around.asked(asked.prefix)
    if isinstance(model, Encoder):
        asked_length = asked.max_source_length or around.longest
        longest = _within("max_source_length", asked_length, model.config.longest - 1)
        return _Ways(own, own, None, parts_of(model).end, longest, model.config.limit, around.sides, model.config)
    positions, marks = model.decoder.config.limit, model.marks
    if positions is not None:
        _within("max_target_length", asked.max_target_length, positions)
    longest = _within("max_source_length", asked.max_source_length, model.encoder.config.longest)
    target = model.target_tokenizer or own
    return _Ways(own, target, marks.start, marks.end, longest, positions, around.sides, model.encoder.config)


def _within(key: str, asked: int | None, longest: int) -> int:
    if asked is not None and asked > longest:
        raise InputError(f"{key} is {asked}, but the model takes {longest} tokens at most")
    return asked or longest


def samples_of(
    model: EncoderDecoder | Encoder, rows: Sequence[Parallel], settings: Seq2SeqSettings
) -> Iterator[Sample]:
    """Rows, each with one target, as tokens. Raises InputError, naming it, on one that has no room.

    Some at a time, since a tokenizer's results are many times as large as their numbers.
    """
    ways, most = _ways(model, settings), settings.sides.max_target_length
    for at in range(0, len(rows), ROWS_AT_A_TIME):
        some = rows[at : at + ROWS_AT_A_TIME]
        sources = _read(some, ways)
        check_types(sources, ways.reads)
        targets = as_targets(ways.target, [row.targets[0] for row in some], ways.start, ways.end, most)
        for row, source, target in zip(some, sources, targets):
            yield _sample(row, source, target, ways)


def sources_of(model: EncoderDecoder | Encoder, rows: Sequence[Parallel], settings: Seq2SeqSettings) -> list[Encoded]:
    """The sources of rows, cut as they are in training."""
    return _read(rows, _ways(model, settings))


def _read(rows: Sequence[Parallel], ways: _Ways) -> list[Encoded]:
    before, behind = ways.around
    return separated(ways.source, [row.source for row in rows], behind, ways.longest, before)


def _sample(row: Parallel, source: Encoded, target: Target, ways: _Ways) -> Sample:
    alone = ways.start is None
    numbers = Numbers(np.array(open_ended(source), np.int32), None, False) if alone else Numbers.of(source)
    if not len(numbers):
        raise InputError(f"{row.place}: the tokenizer makes no tokens of its source")
    taken = len(target.ids) + (len(numbers) - 1 if alone else 0)
    if ways.positions is not None and taken > ways.positions:
        whose = "its source and target have" if alone else "its target has"
        least = max(1, ways.positions - len(numbers) + 1) if alone else ways.positions
        raise InputError(
            f"{row.place}: {whose} {taken:,} tokens, but the decoder has {ways.positions:,} positions; "
            f"cut what is too long, with --max-target-length {least}" + (" and --max-source-length" if alone else "")
        )
    return Sample((numbers,), np.array(target.ids, np.int32), source.dropped + target.cut)


class CutRows:
    """Rows that were cut, counted over several calls, to be told once."""

    def __init__(self) -> None:
        self._rows = self._cut = self._longest = 0

    def add(self, samples: Sequence[Sample]) -> None:
        cut = [length_of(sample) + sample.cut for sample in samples if sample.cut]
        self._rows, self._cut = self._rows + len(samples), self._cut + len(cut)
        self._longest = max([self._longest, *cut])

    def warn(self) -> None:
        """Warn, if there were any."""
        if self._cut:
            longest = f"the longest had {self._longest:,} tokens of source and target"
            told = f"{self._cut:,} of {self._rows:,} rows were cut ({longest})"
            warnings.warn(told, TruncationWarning, stacklevel=3)
