"""`bothways generate`: texts written by an encoder–decoder, or gone on with by a decoder alone."""

from __future__ import annotations

import json as standard_json
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from bothways.cli.output import print_table, printable
from bothways.cli.resumed import written_lines
from bothways.cli.scribe import Wanted, check_form, form_of, made_by, scribe_of
from bothways.data.parallel import Parallel
from bothways.data.records import numbered_lines, opened
from bothways.errors import InputError
from bothways.files import check_place, replacing
from bothways.pictures import check_picture

if TYPE_CHECKING:
    from bothways.checkpoint.encoder import Encoder
    from bothways.checkpoint.encoder_decoder import EncoderDecoder
    from bothways.engine.decoding import Decoding
    from bothways.engine.prediction import Form
    from bothways.engine.text_lines import Scribe

__all__ = ["DecodingFlags", "generate"]

# What says something of draws only, and of beams.
OF_DRAWS = ("temperature", "top_k", "top_p", "min_p", "seed")
OF_BEAMS = ("length_penalty", "early_stopping")
EARLY: dict[str, bool | str] = {"true": True, "false": False, "never": "never"}


@dataclass(frozen=True)
class DecodingFlags:
    """How texts are written. What is not said is as the model's folder has it.

    Parameters
    ----------
    max_new_tokens
        Tokens that are written at most (as many as the model's folder says, else 128, as far as it has positions).
    min_new_tokens
        Tokens before which no text ends.
    num_beams
        1: the likeliest token each time; more: the likeliest texts, so many of them followed at a time.
    length_penalty
        Of beams: the power of a text's length that its score is divided by.
    early_stopping
        Of beams: whether the first texts are enough: true, false or never.
    do_sample
        Draw each token by its probability; --no-do-sample: even if the model's folder says so, do not.
    temperature
        Of draws: what scores are divided by before.
    top_k
        Of draws: among so many of the likeliest tokens; 0 for all.
    top_p
        Of draws: among the fewest tokens that make up so much.
    min_p
        Of draws: among those that are at least so many times as likely as the likeliest.
    seed
        Of draws; each text has chance of its own. With --output 0 unless another is said, so that a run that goes on
        draws the same.
    repetition_penalty
        What the scores of tokens that were there are divided by.
    no_repeat_ngram_size
        No sequence of so many tokens comes twice.
    encoder_no_repeat_ngram_size
        No sequence of so many tokens of the text comes.
    num_return_sequences
        Results for each text.
    """

    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    num_beams: int | None = None
    length_penalty: float | None = None
    early_stopping: Literal["true", "false", "never"] | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    encoder_no_repeat_ngram_size: int | None = None
    num_return_sequences: int | None = None

    def settings(self) -> dict[str, Any]:
        """Those that were said."""
        said = {name: value for name, value in asdict(self).items() if value is not None}
        if self.early_stopping is not None:
            said["early_stopping"] = EARLY[self.early_stopping]
        return said

    def check(self, decoding: Decoding) -> None:
        """Raise InputError on flags of draws where nothing is drawn, and on those of beams where there is only one.

        decoding: these flags, with what the model's folder says where they say nothing.
        """
        draws, beams = decoding.do_sample, decoding.num_beams
        for names, heeded, flag in ((OF_DRAWS, draws, "--do-sample"), (OF_BEAMS, beams > 1, "--num-beams 2 or more")):
            for name in names:
                if getattr(self, name) is not None and not heeded:
                    raise InputError(f"--{name.replace('_', '-')} says nothing without {flag}")


def generate(
    model: str,
    /,
    *texts: str,
    input: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    output: Path | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    prefix: str | None = None,
    separator: str | None = None,
    decoding: Annotated[DecodingFlags, Parameter(name="*")] = DecodingFlags(),
    truncation: bool = True,
    full_text: bool | None = None,
    log_probabilities: Annotated[bool, Parameter(negative="")] = False,
    stream: Annotated[bool, Parameter(negative="")] = False,
    alignment: Path | None = None,
    precision: str = "auto",
    device: str = "auto",
    json: bool = False,
) -> None:
    """Write a text for each text (translation, summary, …), or go on with it, as the model was trained to.

    A file may have any number of lines: some are written at a time, few at first, and told at once.

    Parameters
    ----------
    model
        A folder or a hub id of an encoder–decoder (bothways', bart, t5, transformers' encoder-decoder) or of a decoder
        alone (gpt2).
    texts
        The texts, if they are not in a file.
    input
        A UTF-8 file with a text on each line, also .gz or .zst; - for standard input. Line i of what is printed is of
        its line i.
    output
        A file to write in place of printing: .jsonl; .csv; .txt or no ending for a line for each text. Lines are
        written to OUTPUT.partial some at a time.
    resume
        Go on with OUTPUT.partial, after Ctrl-C or when the process was killed; without one, begin.
    prefix
        What stands before each text, such as T5's "summarize: ". A model that `bothways finetune generate` trained
        knows its own.
    separator
        Of a decoder alone, what it was trained to see behind each text; as above. "" for a text that it is to go on
        with freely.
    truncation
        Cut texts that are longer than what the model reads, and say so; with --no-truncation they are an error.
    full_text
        Of a decoder alone, print the text that is gone on with, too (by default, where there is no separator).
    log_probabilities
        Print the log-probability of each token, too.
    stream
        Print one text as it is written, token by token.
    alignment
        A file that ends in .png, to draw which tokens of the text each written token looked at (needs the extra
        "plot"). One text only.
    precision
        fp32, bf16, or fp16 on a GPU. By default fp32 on a CPU, half on a GPU.
    device
        auto, cpu or cuda.
    json
        Print JSON: a list for each text, as the Python pipeline gives it.
    """
    given = {"--stream": stream, "--alignment": alignment is not None}
    others = {"--json": json, "--log-probabilities": log_probabilities, "--output": output is not None}
    _check(given, others, output, resume)
    settings = decoding.settings()
    if stream and settings.setdefault("num_return_sequences", 1) > 1:  # whatever the folder says
        raise InputError("--stream is of one result: leave --num-return-sequences out")
    if alignment is not None:  # of the very text that is printed
        settings.setdefault("seed", secrets.randbits(63))
        check_picture(alignment)
    form = None if output is None else form_of(output)
    if output is not None:
        settings.setdefault("seed", 0)
        check_form(form, settings.get("num_return_sequences", 1), log_probabilities)
    wanted = Wanted(settings, prefix, separator, truncation, full_text, log_probabilities)
    with ExitStack() as stack:
        rows = _rows(texts, input, stack)
        if stream or alignment is not None:
            rows = iter([_only(rows, given)])
        first = list(islice(rows, 2))  # before the model, which takes longer
        if not first:
            raise InputError(f"{input}: empty; a text on each line was expected")
        from bothways.engine.parts import load

        loaded = load(model)
        scribe = scribe_of(loaded, model, wanted, precision, device, bar=False if output is not None else None)
        decoding.check(scribe.asking.decoding)
        check_form(form, scribe.asking.decoding.num_return_sequences, log_probabilities)  # as the folder may say
        every = chain(first, rows)
        if alignment is not None:
            _align(scribe, first[0], settings, alignment, model)
        if output is not None and form is not None:
            _write(loaded, scribe, every, output, form, resume)
        elif stream:
            _stream(scribe, first[0].source)
        else:
            _print(scribe, every, len(first) > 1, json)


def _rows(texts: tuple[str, ...], path: str | None, stack: ExitStack) -> Iterator[Parallel]:
    """The texts, or the lines of a file, one by one. Raises InputError on an empty line, naming it."""
    if texts and path is not None:
        raise InputError("give texts or --input, not both")
    if not texts and path is None:
        raise InputError("nothing to read: give texts, or a file with --input")
    if path is None:
        return (Parallel(text, (), f"text {i}") for i, text in enumerate(texts))
    name, lines = path, numbered_lines(opened(path, stack), path)
    return (_line(text, f"{name}: line {number}") for number, text in lines)


def _line(text: str, place: str) -> Parallel:
    if not text.strip():
        raise InputError(f"{place} is empty: there is nothing to read")
    return Parallel(text, (), place)


def _only(rows: Iterator[Parallel], given: Mapping[str, bool]) -> Parallel:
    """The only text. Raises InputError where there are more, or none."""
    some = list(islice(rows, 2))
    if len(some) != 1:
        flag = next(flag for flag, there in given.items() if there)
        raise InputError(f"{flag} is of one text, and {'more' if some else 'none'} are given")
    return some[0]


def _check(given: Mapping[str, bool], others: Mapping[str, bool], output: Path | None, resume: bool) -> None:
    """Raise InputError on flags that do not go together."""
    for flag in [flag for flag, there in {**others, "--alignment": given["--alignment"]}.items() if there]:
        if given["--stream"]:
            raise InputError(f"--stream prints a text as it is written, and nothing else: leave {flag} out")
    if resume and output is None:
        raise InputError("--resume goes on with the file of --output: name it")
    if output is None:
        return
    if given["--alignment"]:
        raise InputError("--alignment is of one text, which is printed: leave --output out")
    if others["--json"]:
        raise InputError("--json prints; leave it out, and end the name of --output in .jsonl for JSON lines")
    check_place(output)


def _stream(scribe: Scribe, text: str) -> None:
    write, asking = scribe.write, scribe.asking
    if (behind := write.shown_before(asking)) is not None:
        print(text + behind, end="", flush=True)
    spelling = write.spelling(text, asking.prefix, asking.separator)

    def tell(source: int, which: int, token: int) -> None:
        print(spelling.more(token), end="", flush=True)

    write.answers([text], asking, on_token=tell)
    print(spelling.rest())


def _write(
    loaded: Encoder | EncoderDecoder, scribe: Scribe, rows: Iterable[Parallel], output: Path, form: Form, resume: bool
) -> None:
    from bothways.engine.text_lines import add_texts

    made = made_by(loaded, scribe, form)
    done, _ = written_lines(output, made, resume, lambda partial: add_texts(scribe, rows, partial, form))
    print(f"{output}: {done:,} rows", file=sys.stderr)


def _print(scribe: Scribe, rows: Iterable[Parallel], many: bool, json: bool) -> None:
    """Each text, or a list of JSON, as it comes. many: whether it is not a single one."""
    from bothways.engine.text_lines import told

    every = told(scribe, rows)
    if json:
        _print_list(results for _, results in every)
        return
    for row, results in every:
        _show(row.source, results, many, scribe.asking.log_probabilities)


def _print_list(values: Iterable[Any]) -> None:
    """A list of JSON, one value after another as they come; where an error ends them, a list of those before it."""
    before = "["
    try:
        for value in values:
            print(f"{before}{standard_json.dumps(value, ensure_ascii=False)}", end="", flush=True)
            before = ", "
    finally:
        if before != "[":
            print("]")


def _align(scribe: Scribe, row: Parallel, settings: dict[str, Any], path: Path, model: str) -> None:
    from bothways.cli.alignment import draw
    from bothways.engine.alignment import align

    with replacing(path) as aside:
        seen = align(scribe.write, scribe.read(row), **settings)
        draw(seen, aside, "/".join(Path(model).parts[-2:]))
    told = f"{len(seen.target)} tokens written and {len(seen.source)} read"
    print(f"{path}: what each of {told} looked at", file=sys.stderr)


def _show(text: str, results: Sequence[dict[str, Any]], many: bool, log_probabilities: bool) -> None:
    """A line; with several results, or more of each than its text, under the text that they are of, one of many."""
    if (len(results) > 1 or log_probabilities) and many:
        print(printable(text))
    for number, one in enumerate(results, start=1):
        written = printable(next(iter(one.values())))
        print(f"{number}  {written}" if len(results) > 1 else written, flush=True)
        if log_probabilities:
            _show_tokens(one)


def _show_tokens(one: dict[str, Any]) -> None:
    score = f", score {one['score']:.4f}" if "score" in one else ""
    title = f"log-probability {one['log_probability']:.4f}, mean {one['mean_log_probability']:.4f}{score}"
    rows = [[f"{token['log_probability']:.4f}", token["token"]] for token in one["tokens"]]
    print_table(["log-probability", "token"], rows, title=title)
