"""`bothways generate`: texts written by an encoder–decoder, or gone on with by a decoder alone."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from bothways.cli.output import print_json, print_table, printable
from bothways.errors import InputError
from bothways.files import read_lines, replacing
from bothways.pictures import check_drawing, check_picture

if TYPE_CHECKING:
    from bothways.engine.writing import WritingPipeline

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
        Tokens that are written at most (128, or as many as the model has positions for).
    min_new_tokens
        Tokens before which no text ends.
    num_beams
        1: the likeliest token each time; more: the likeliest texts, so many of them followed at a time.
    length_penalty
        Of beams: the power of a text's length that its score is divided by.
    early_stopping
        Of beams: whether the first texts are enough: true, false or never.
    do_sample
        Draw each token by its probability.
    temperature
        Of draws: what scores are divided by before.
    top_k
        Of draws: among so many of the likeliest tokens; 0 for all.
    top_p
        Of draws: among the fewest tokens that make up so much.
    min_p
        Of draws: among those that are at least so many times as likely as the likeliest.
    seed
        Of draws; each text has chance of its own.
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
    do_sample: Annotated[bool, Parameter(negative="")] = False
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
        return said if self.do_sample else {name: value for name, value in said.items() if name != "do_sample"}

    def check(self, usual: Mapping[str, Any]) -> None:
        """Raise InputError on flags of draws where nothing is drawn, and on those of beams where there is only one.

        usual: what the model's folder says.
        """
        draws = self.do_sample or usual.get("do_sample") is True
        beams = usual.get("num_beams", 1) if self.num_beams is None else self.num_beams
        for names, heeded, flag in ((OF_DRAWS, draws, "--do-sample"), (OF_BEAMS, beams > 1, "--num-beams 2 or more")):
            for name in names:
                if getattr(self, name) is not None and not heeded:
                    raise InputError(f"--{name.replace('_', '-')} says nothing without {flag}")


def generate(
    model: str,
    /,
    *texts: str,
    input: Path | None = None,
    prefix: str = "",
    decoding: Annotated[DecodingFlags, Parameter(name="*")] = DecodingFlags(),
    truncation: bool = True,
    full_text: bool = True,
    log_probabilities: Annotated[bool, Parameter(negative="")] = False,
    stream: Annotated[bool, Parameter(negative="")] = False,
    alignment: Path | None = None,
    precision: str = "auto",
    device: str = "auto",
    json: bool = False,
) -> None:
    """Write a text for each text (translation, summary, …), or go on with it, as the model was trained to.

    Parameters
    ----------
    model
        A folder or a hub id of an encoder–decoder (bothways', bart, t5, transformers' encoder-decoder) or of a decoder
        alone (gpt2).
    texts
        The texts, if they are not in a file.
    input
        A UTF-8 file with a text on each line; /dev/stdin for standard input. Line i of what is printed is its line i.
    prefix
        What the model was trained to see before each text, such as T5's "summarize: ".
    truncation
        Cut texts that are longer than what the model reads, and say so; with --no-truncation they are an error.
    full_text
        Of a decoder alone, print the text that is gone on with, too; not with --no-full-text.
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
    lines = _texts(texts, input)
    _check(lines, stream, alignment, json, log_probabilities)
    if alignment is not None:
        check_picture(alignment)
        check_drawing()
    from bothways.engine.writing import writing

    write = writing(model, device=device, precision=precision)
    decoding.check(write.usual)
    settings = decoding.settings()
    if alignment is not None:  # of the very text that is printed
        settings.setdefault("seed", secrets.randbits(63))
    if stream:
        _stream(write, lines[0], prefix, truncation, full_text, settings)
        return
    answers = write(
        lines,
        prefix=prefix,
        truncation=truncation,
        return_full_text=full_text,
        log_probabilities=log_probabilities,
        **settings,
    )
    if alignment is not None:
        _align(write, prefix + lines[0], settings, alignment, model)
    if json:
        print_json(answers)
    else:
        _show(lines, answers, log_probabilities)


def _texts(texts: tuple[str, ...], path: Path | None) -> list[str]:
    if texts and path is not None:
        raise InputError("give texts or --input, not both")
    if texts:
        return list(texts)
    if path is None:
        raise InputError("nothing to read: give texts, or a file with --input")
    lines = read_lines(path)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise InputError(f"{path}: line {number} is empty: there is nothing to read")
    if not lines:
        raise InputError(f"{path}: empty; a text on each line was expected")
    return lines


def _check(lines: Sequence[str], stream: bool, alignment: Path | None, json: bool, log_probabilities: bool) -> None:
    for flag, given in (("--stream", stream), ("--alignment", alignment is not None)):
        if given and len(lines) > 1:
            raise InputError(f"{flag} is of one text, and {len(lines):,} are given")
    others = {"--json": json, "--log-probabilities": log_probabilities, "--alignment": alignment is not None}
    for flag in [flag for flag, given in others.items() if given]:
        if stream:
            raise InputError(f"--stream prints a text as it is written, and nothing else: leave {flag} out")


def _stream(
    write: WritingPipeline, text: str, prefix: str, truncation: bool, full_text: bool, settings: dict[str, Any]
) -> None:
    if settings.setdefault("num_return_sequences", 1) > 1:  # whatever the folder says
        raise InputError("--stream is of one result: leave --num-return-sequences out")
    if full_text and write.alone:
        print(text, end="", flush=True)
    spelling = write.spelling(text, prefix)

    def tell(source: int, which: int, token: int) -> None:
        print(spelling.more(token), end="", flush=True)

    write(text, prefix=prefix, truncation=truncation, on_token=tell, **settings)
    print(spelling.rest())


def _align(write: WritingPipeline, text: str, settings: dict[str, Any], path: Path, model: str) -> None:
    from bothways.cli.alignment import draw
    from bothways.engine.alignment import align

    with replacing(path) as aside:
        seen = align(write, text, **settings)
        draw(seen, aside, "/".join(Path(model).parts[-2:]))
    told = f"{len(seen.target)} tokens written and {len(seen.source)} read"
    print(f"{path}: what each of {told} looked at", file=sys.stderr)


def _show(lines: Sequence[str], answers: Sequence[Sequence[dict[str, Any]]], log_probabilities: bool) -> None:
    """A line for each text; with several results, or more of each than its text, under the text."""
    for line, results in zip(lines, answers):
        several = len(results) > 1 or log_probabilities
        if several and len(lines) > 1:
            print(printable(line))
        for number, one in enumerate(results, start=1):
            text = next(iter(one.values()))
            print(f"{number}  {printable(text)}" if len(results) > 1 else printable(text))
            if log_probabilities:
                _show_tokens(one)


def _show_tokens(one: dict[str, Any]) -> None:
    score = f", score {one['score']:.4f}" if "score" in one else ""
    title = f"log-probability {one['log_probability']:.4f}, mean {one['mean_log_probability']:.4f}{score}"
    rows = [[f"{token['log_probability']:.4f}", token["token"]] for token in one["tokens"]]
    print_table(["log-probability", "token"], rows, title=title)
