"""`bothways predict`: a model's answers to the rows of a file, as a file."""

from __future__ import annotations

import json as standard_json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from bothways.cli.labelled import SWITCH, FormRows, PredictedRows
from bothways.cli.parallel import parallel_rows
from bothways.cli.resumed import written_lines
from bothways.cli.rows import RowFlags
from bothways.cli.scribe import SUFFIXES, Wanted, check_form, made_by, scribe_of
from bothways.errors import InputError
from bothways.files import check_place

if TYPE_CHECKING:
    from bothways.checkpoint.encoder import Encoder
    from bothways.checkpoint.encoder_decoder import EncoderDecoder
    from bothways.data.table import TableSource
    from bothways.engine.lines import PartialLines
    from bothways.engine.pipeline import Pipeline
    from bothways.engine.prediction import Lines

__all__ = ["predict"]

CSV = ("classify", "choose", "generate")


@dataclass(frozen=True)
class AnswerFlags:
    """How rows are answered.

    Parameters
    ----------
    top_k
        Of classification and questions: how many answers a row, best first (in `scores` and `answers`).
    all_scores
        Of classification: the scores of all labels.
    aggregation_strategy
        Of tags: simple, neighbouring tokens of one kind are an entity; first, average, max: a word has the label of its
        first token, of its tokens' mean, of the surest one; none: tokens; words: the tag of each word.
    handle_impossible_answer
        Of questions: whether no answer is one; by default as the model's config says.
    windows
        Of classification: read a text that is too long in windows, and take the mean or the max of their scores; by
        default it is cut. Tags and answers are read in windows anyway.
    stride
        Tokens that a window shares with the one before.
    max_length
        Tokens a text, or a window of it, may have (by default, what the model takes).
    prefix
        Of a model that writes, what stands before each source, such as T5's "summarize: "; by default, what the model
        was trained to see there.
    """

    top_k: int | None = None
    all_scores: Annotated[bool, SWITCH] = False
    aggregation_strategy: Literal["simple", "first", "average", "max", "none", "words"] | None = None
    handle_impossible_answer: bool | None = None
    windows: Literal["mean", "max"] | None = None
    stride: int | None = None
    max_length: int | None = None
    prefix: str | None = None


def predict(
    model: str,
    /,
    *,
    output: Path,
    rows: Annotated[PredictedRows, Parameter(name="*")] = PredictedRows(),  # noqa: B008 (frozen)
    form: Annotated[FormRows, Parameter(name="*")] = FormRows(),  # noqa: B008
    kind: str | None = None,
    answer: Annotated[AnswerFlags, Parameter(name="*")] = AnswerFlags(),
    squad_predictions: Path | None = None,
    resume: Annotated[bool, SWITCH] = False,
    precision: str = "auto",
    device: str = "auto",
    json: Annotated[bool, SWITCH] = False,
) -> None:
    """A model's answers to the rows of a file of any size: a line each, in their order.

    The model's head says what is asked: labels of texts, tags of words, answers to questions, or the best of several
    choices; of a model with a decoder, what it writes. A line has the row's number, from 1, and the answer: label and
    score (and `labels`, those answered, where there may be several); text and entities; id, answer, score, start and
    end; label and scores of choices; the text that was written, as `bothways generate` writes it. Lines are
    written to OUTPUT.partial some at a time. After Ctrl-C, or when the process was killed, --resume goes on from there,
    and the file becomes the same, byte for byte.

    Parameters
    ----------
    model
        A folder or a hub id.
    output
        The file to write: .jsonl; of labels, choices and texts that are written also .csv.
    kind
        Of a model with several heads, which task: classify, tag, answer, choose or generate.
    squad_predictions
        Of questions: also write {id: answer} to this file, as the official script of SQuAD reads it.
    resume
        Go on with OUTPUT.partial; without one, begin.
    precision
        fp32, bf16, or fp16 on a GPU. By default fp32 on a CPU, half on a GPU.
    device
        auto, cpu or cuda.
    json
        Print at the end what was done, as a JSON object.
    """
    written = SUFFIXES.get(output.suffix.lower())
    if written is None:
        raise InputError(f"{output}: end the name in .jsonl or .csv, which says what is written")
    check_place(output)
    flags = form.flags(rows)
    source = flags.source(rows.data)
    from bothways.checkpoint.checksum import checksum
    from bothways.checkpoint.encoder import Encoder
    from bothways.cli.heads import WRITE, asked_of, loaded_as, reading_of

    kind, loaded = loaded_as(model, kind)
    _check(kind, answer, written, squad_predictions)
    if kind == WRITE or not isinstance(loaded, Encoder):
        _ended(
            *_write(loaded, model, source, rows, form, answer.prefix, output, written, resume, precision, device),
            output,
            kind,
            json,
        )
        return
    form.check_none_of_writing()
    identity = checksum(loaded)
    pipeline = asked_of(loaded, model, kind, precision, device)
    reading = reading_of(kind, answer.windows, answer.stride, answer.max_length)
    lines = _lines(kind, answer, pipeline)
    made = {"model": identity, "task": kind, "device and precision": str(pipeline.placement)}
    made |= {"form": written, "answers": repr((lines, reading))}
    done, before = _run(pipeline, kind, source, flags, lines, reading, output, made, written, resume)
    if squad_predictions is not None:
        _write_squad(output, squad_predictions)
    _ended(done, before, output, kind, json)


def _ended(done: int, before: int, output: Path, kind: str, json: bool) -> None:
    """Say what was done."""
    if json:
        from bothways.cli.output import print_json

        print_json({"output": str(output), "task": kind, "rows": done, "resumed_after": before})
    else:
        print(f"{output}: {done:,} rows", file=sys.stderr)


def _check(kind: str, answer: AnswerFlags, written: str, squad: Path | None) -> None:
    """Raise InputError on what does not go with the task."""
    for flag, given, kinds in (
        ("--top-k", answer.top_k is not None, ("classify", "answer")),
        ("--all-scores", answer.all_scores, ("classify",)),
        ("--aggregation-strategy", answer.aggregation_strategy is not None, ("tag",)),
        ("--handle-impossible-answer", answer.handle_impossible_answer is not None, ("answer",)),
        ("--squad-predictions", squad is not None, ("answer",)),
        ("--prefix", answer.prefix is not None, ("generate",)),
    ):
        if given and kind not in kinds:
            raise InputError(f"{flag} is for {' and '.join(kinds)}, but the task is {kind}")
    if answer.top_k is not None and answer.top_k < 1:
        raise InputError(f"--top-k must be at least 1, got {answer.top_k}")
    for name in ("windows", "stride", "max_length"):
        if kind == "generate" and getattr(answer, name) is not None:
            raise InputError(f"--{name.replace('_', '-')} is for tasks that read texts; what writes has none")
    if written == "csv" and kind not in CSV:
        raise InputError(f"csv is for {' and '.join(CSV)}; of {kind}, end the name of --output in .jsonl")


def _lines(kind: str, answer: AnswerFlags, pipeline: Pipeline) -> Lines:
    from bothways.engine.prediction import AnswerLines, ChoiceLines, ClassLines, TagLines

    if kind == "classify":
        scores = 0 if answer.top_k in (None, 1) else answer.top_k
        return ClassLines(pipeline.labels, None if answer.all_scores else scores)
    if kind == "tag":
        return TagLines(answer.aggregation_strategy or "simple")
    return AnswerLines(answer.top_k or 1, answer.handle_impossible_answer) if kind == "answer" else ChoiceLines()


def _run(
    pipeline: Pipeline,
    kind: str,
    source: TableSource,
    flags: RowFlags,
    lines: Lines,
    reading: Any,
    output: Path,
    made: Mapping[str, str],
    written: Literal["jsonl", "csv"],
    resume: bool,
) -> tuple[int, int]:
    """How many rows the file has, and how many of them it had before."""
    from bothways.cli.rows import rows_of
    from bothways.engine.prediction import predict as answered

    def steps(partial: PartialLines) -> Iterator[int]:
        with rows_of(kind, source, flags, labels=False) as found:
            yield from answered(pipeline, found, lines, reading, partial, written)

    return written_lines(output, made, resume, steps, _total(source))


def _write(
    loaded: Encoder | EncoderDecoder,
    model: str,
    source: TableSource,
    rows: PredictedRows,
    form: FormRows,
    prefix: str | None,
    output: Path,
    written: Literal["jsonl", "csv"],
    resume: bool,
    precision: str,
    device: str,
) -> tuple[int, int]:
    """As `_run`, of a model that writes: for the column of sources, as `bothways generate` does for lines."""
    from bothways.data.parallel import ParallelColumns
    from bothways.engine.text_lines import add_texts

    form.check_only_of_writing()
    if rows.text_pair is not None or rows.label is not None:
        raise InputError("a model that writes reads one column: say --source, and leave --text-pair and --label out")
    if rows.text is not None and form.source is not None:
        raise InputError("--text and --source are both the column of the source; say one of them")
    columns = ParallelColumns(rows.text if form.source is None else form.source, form.target)
    scribe = scribe_of(loaded, model, Wanted({"seed": 0}, prefix), precision, device)
    check_form(written, scribe.asking.decoding.num_return_sequences)  # as the folder says

    def steps(partial: PartialLines) -> Iterator[int]:
        lines = f"say `bothways generate {model} --input {source.name} --output {output}`"
        reading = parallel_rows(source, None, columns, lines=lines, targets=False, skip_empty=form.skip_empty)
        with reading as found:
            yield from add_texts(scribe, found, partial, written)

    return written_lines(output, made_by(loaded, scribe, written), resume, steps, _total(source))


def _total(source: TableSource) -> int | None:
    """How many rows there are, where that is cheap to tell."""
    if source.path is None or not source.path.endswith((".jsonl", ".ndjson")) or not Path(source.path).is_file():
        return None
    with open(source.path, "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def _write_squad(answers: Path, path: Path) -> None:
    from bothways.files import write_json

    with answers.open(encoding="utf-8") as lines:
        said = map(standard_json.loads, lines)
        write_json(path, {one["id"]: one["answer"] for one in said})
