"""`bothways evaluate` of models that write: the loss of right texts, and BLEU, chrF and ROUGE of what is written."""

from __future__ import annotations

import json as standard_json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal

from cyclopts import Parameter

from bothways.cli.labelled import FormRows, LabelledRows
from bothways.cli.output import print_json, print_table
from bothways.cli.parallel import parallel_rows
from bothways.data.parallel import Parallel, ParallelColumns
from bothways.errors import InputError
from bothways.files import make_folder, replacing, write_json

if TYPE_CHECKING:
    from bothways.checkpoint.encoder import Encoder
    from bothways.checkpoint.encoder_decoder import EncoderDecoder
    from bothways.engine.decoding import Decoding
    from bothways.engine.writing import WritingPipeline
    from bothways.train.seq2seq_settings import Seq2SeqSettings

__all__ = ["WritingFlags", "evaluate_writing"]

TEXTS = "texts.jsonl"
SAID = {
    "loss": "loss: nats of each token of a right text, after those before it",
    "accuracy": "accuracy: the share of these tokens that are the likeliest",
    "bleu": "BLEU of what was written, of 100",
    "chrf": "chrF of what was written, of 100",
    "rouge1": "ROUGE-1: F1 of words, of English",
    "rouge2": "ROUGE-2: F1 of pairs of words",
    "rougeL": "ROUGE-L: F1 of the longest common sequence",
}


@dataclass(frozen=True)
class WritingFlags:
    """What only the evaluation of a model that writes has.

    Parameters
    ----------
    data_target
        Of a model that writes, a file of targets, where --data is one of sources; line by line they go together.
    targets
        Of several that are right, which the loss is of: first, all, or joined, which makes one of them.
    metrics
        Of the texts that are written: bleu, chrf, rouge; none for the loss and the accuracy alone, which are fast.
    num_beams
        Texts that are followed at a time, where it is not to be as the model's folder says.
    max_new_tokens
        Tokens that are written at most, where it is not to be as the model's folder says.
    max_source_length
        Tokens of a source; what is longer is cut.
    max_target_length
        Tokens of a target; what is longer is cut.
    prefix
        What stands before each source, such as T5's "summarize: "; by default, what the model was trained to see there.
    """

    data_target: str | None = None
    targets: Literal["first", "all", "joined"] = "first"
    metrics: Annotated[tuple[str, ...], Parameter(negative="")] = ("bleu", "chrf", "rouge")
    num_beams: int | None = None
    max_new_tokens: int | None = None
    max_source_length: int | None = None
    max_target_length: int | None = None
    prefix: str | None = None

    def settings(self) -> Seq2SeqSettings:
        """Those that a run of `bothways finetune generate` judges by."""
        from bothways.train.seq2seq_settings import JudgingSettings, Seq2SeqSettings, SidesSettings

        sides = SidesSettings(self.max_source_length, self.max_target_length, self.targets, self.prefix)
        settings = Seq2SeqSettings(sides=sides, judging=JudgingSettings(self.metrics))
        if not settings.judging.overlaps and self.decoding():
            raise InputError("--num-beams and --max-new-tokens say how texts are written; with --metrics none none are")
        return settings

    def decoding(self) -> dict[str, Any]:
        """What is said of how texts are written."""
        said = {"num_beams": self.num_beams, "max_new_tokens": self.max_new_tokens}
        return {name: value for name, value in said.items() if value is not None}


def evaluate_writing(
    loaded: Encoder | EncoderDecoder,
    model: str,
    rows: LabelledRows,
    form: FormRows,
    flags: WritingFlags,
    output: Path | None,
    max_samples: int | None,
    precision: str,
    device: str,
    json: bool,
) -> None:
    """Print how good it is; with an output folder, keep that, and what was written for each row.

    Raises InputError or MissingExtraError on what cannot be, before anything is computed.
    """
    from bothways.checkpoint.hub import resolve
    from bothways.data.split import sampled
    from bothways.engine.decoding import read_decoding
    from bothways.engine.writing import pipeline_of
    from bothways.tasks.overlap import need_overlap

    settings, source = flags.settings(), form.flags(rows).source(rows.data)
    need_overlap(settings.judging.overlaps)
    if rows.text is not None or rows.text_pair is not None or rows.label is not None:
        raise InputError(
            "the columns of a model that writes are --source and --target: leave --text, --text-pair and --label out"
        )
    columns, said = ParallelColumns(form.source, form.target), flags.decoding()
    pipeline = pipeline_of(loaded, resolve(model), device=device, precision=precision, name=model, bar=False)
    decoding = read_decoding({"seed": 0, **said}, pipeline.usual)
    texts = output if settings.judging.overlaps else None
    if output is not None:
        make_folder(output)
    lines = "name the file of their targets with --data-target"
    reading = parallel_rows(source, flags.data_target, columns, lines=lines, skip_empty=form.skip_empty)
    with reading as found, _kept(texts) as keep:
        some: Iterable[Parallel] = found if max_samples is None else sampled(found, max_samples)
        count, metrics = _judged(loaded, pipeline, decoding, some, settings, keep)
    report = {"model": model, "data": source.name, "task": "generate", "rows": count, "metrics": metrics}
    if output is not None:
        write_json(output / "metrics.json", report)
    _show(report, metrics, count, output, texts is not None, json)


def _judged(
    model: Encoder | EncoderDecoder,
    pipeline: WritingPipeline,
    decoding: Decoding,
    rows: Iterable[Parallel],
    settings: Seq2SeqSettings,
    watch: Callable[[Parallel, str], None],
) -> tuple[int, dict[str, float]]:
    """How many rows there were, and the metrics."""
    from bothways.engine.scheduler import progress
    from bothways.train.seq2seq_judging import Examination

    judged = Examination(model, pipeline, decoding, settings, watch)
    count = sum(progress(judged.steps(rows), None, "rows"))
    return count, judged.metrics()


@contextmanager
def _kept(folder: Path | None) -> Iterator[Callable[[Parallel, str], None]]:
    """What keeps each row with the text that was written for it, if there is a folder for that."""
    if folder is None:
        yield lambda row, text: None
        return
    with replacing(folder / TEXTS) as aside, aside.open("wb") as file:
        yield lambda row, text: _keep(file, row, text)


def _keep(file: BinaryIO, row: Parallel, text: str) -> None:
    said = {"place": row.place, "source": row.source, "targets": list(row.targets), "text": text}
    file.write(standard_json.dumps(said, ensure_ascii=False).encode("utf-8", errors="backslashreplace") + b"\n")


def _show(
    report: Mapping[str, Any], metrics: Mapping[str, float], count: int, output: Path | None, texts: bool, json: bool
) -> None:
    if json:
        print_json(report)
        return
    print_table(["value", "metric"], [[f"{value:.4f}", SAID.get(name, name)] for name, value in metrics.items()])
    print(f"{count:,} rows.")
    if output is not None:
        more = f", and {TEXTS}: each row with what was written" if texts else ""
        print(f"{output}: metrics.json{more}", file=sys.stderr)
