"""How good a model is that writes one text from another: the loss of right texts, and what it writes beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice

from bothways.checkpoint.encoder import Encoder
from bothways.checkpoint.encoder_decoder import EncoderDecoder
from bothways.data.batch import Batch
from bothways.data.parallel import Parallel
from bothways.engine.decoding import Decoding
from bothways.engine.scores import check_numbers
from bothways.engine.spelling import continued
from bothways.engine.streams import Streams
from bothways.engine.writing import WritingPipeline
from bothways.errors import InputError
from bothways.objectives.objective import Model
from bothways.tasks.learning import Sample
from bothways.tasks.overlap import Overlaps
from bothways.text.targets import open_ended
from bothways.train.networks import Networks, PairNetworks
from bothways.train.rows import dealt
from bothways.train.seq2seq_rows import CutRows, Writing, length_of, objective_of, samples_of, sources_of, targets_of
from bothways.train.seq2seq_settings import Seq2SeqSettings
from bothways.train.step import Means, add_means

__all__ = ["LOSS", "Examination", "Judging", "written"]

LOSS = "loss"
ROWS_AT_A_TIME = 256  # what is written between two looks at a bar


class Judging:
    """Rows, some at a time, and what is found out of them: `loss` and `accuracy` of the tokens of right texts, without
    smoothing, and the overlaps that settings name of the texts that are written with all that are right.
    """

    def __init__(
        self,
        model: Model,
        objective: Writing,
        settings: Seq2SeqSettings,
        write: Callable[[Sequence[Parallel]], list[str]],
    ) -> None:
        """write: gives what is written for rows. It is not called where no overlap is asked for."""
        self._model, self._objective, self._settings, self._write = model, objective.plain(), settings, write
        self._means, self._overlaps = Means(), Overlaps(settings.judging.overlaps)

    def add(self, rows: Sequence[Parallel], samples: Sequence[Sample], streams: Streams) -> list[str]:
        """Rows, and their targets as tokens; gives the texts that were written."""
        add_means(self._means, self._model, self._objective, list(self._batches(samples)), streams)
        if not self._settings.judging.overlaps:
            return []
        texts = self._write(rows)
        joined = self._settings.sides.targets == "joined"
        self._overlaps.add(texts, [row.targets for row in (targets_of(rows, "joined") if joined else rows)])
        return texts

    def _batches(self, samples: Sequence[Sample]) -> Iterator[Batch]:
        """As many tokens of both sides at a time as in training."""
        lengths = [length_of(one) for one in samples]
        for some in dealt(range(len(samples)), lengths, self._settings.rows.batch_tokens):
            yield self._objective.batch([samples[i] for i in some])

    def metrics(self) -> dict[str, float]:
        """Raises InputError where there was no row."""
        (name,), found = self._objective.losses, self._means.values()
        if name not in found:
            raise InputError("no rows to evaluate on")
        told = {LOSS: found[name], "accuracy": found["accuracy"]}
        return told | self._overlaps.values() if self._settings.judging.overlaps else told


def written(
    pipeline: WritingPipeline,
    model: EncoderDecoder | Encoder,
    decoding: Decoding,
    rows: Sequence[Parallel],
    settings: Seq2SeqSettings,
) -> list[str]:
    """What a model writes for the source of each row, which is cut as in training."""
    sources = sources_of(model, rows, settings)
    before = [open_ended(one) if pipeline.alone else [] for one in sources]
    found = pipeline.write(sources, decoding)
    return [continued(pipeline.parts.target, ids, best.ids).strip() for ids, (best, *_) in zip(before, found)]


class Examination:
    """A model, judged on rows of any number, some at a time."""

    def __init__(
        self,
        model: EncoderDecoder | Encoder,
        pipeline: WritingPipeline,
        decoding: Decoding,
        settings: Seq2SeqSettings,
        watch: Callable[[Parallel, str], None] = lambda row, text: None,
    ) -> None:
        """pipeline: of this model.    watch: is told of each row and of the text that was written for it, if any is."""
        networks = (Networks(model) if isinstance(model, Encoder) else PairNetworks(model)).model()
        self._streams = Streams(pipeline.placement.device)
        for network in networks.to(self._streams.device).networks:
            network.dtype = pipeline.placement.dtype
        self._model, self._settings, self._watch = model, settings, watch
        write = partial(written, pipeline, model, decoding, settings=settings)
        self._judging = Judging(networks, objective_of(model, settings), settings, write)

    def steps(self, rows: Iterable[Parallel]) -> Iterator[int]:
        """Judge rows; yields how many were at a time. Warns once, at the end, of those that were cut.

        Raises InputError, naming it, on a row that has no room.
        """
        rows, cut, which = iter(rows), CutRows(), self._settings.sides.targets
        while some := list(islice(rows, ROWS_AT_A_TIME)):
            samples = list(samples_of(self._model, targets_of(some, which), self._settings))
            cut.add(samples)
            texts = self._judging.add(some, samples, self._streams)
            for row, text in zip(some, texts, strict=True) if self._settings.judging.overlaps else ():
                self._watch(row, text)
            yield len(some)
        cut.warn()

    def metrics(self) -> dict[str, float]:
        """Of all rows. Raises InputError where there was none, and where the loss is no number."""
        found = self._judging.metrics()
        check_numbers(found[LOSS], "the model's scores of these targets")
        return found
