"""What commands write with: a model that writes, as it is asked to, and the files of what it wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bothways.errors import InputError

if TYPE_CHECKING:
    from bothways.checkpoint.encoder import Encoder
    from bothways.checkpoint.encoder_decoder import EncoderDecoder
    from bothways.engine.prediction import Form
    from bothways.engine.text_lines import Scribe

__all__ = ["SUFFIXES", "Wanted", "check_form", "form_of", "made_by", "scribe_of"]

# What the end of a file's name says of its lines.
SUFFIXES: Mapping[str, Literal["jsonl", "csv"]] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}
# Those of other forms, which plain text would be taken for.
OTHERS = (".json", ".tsv", ".parquet", ".xlsx", ".xls", ".ods", ".html", ".xml", ".yaml", ".gz", ".zip")


@dataclass(frozen=True)
class Wanted:
    """What is said of how texts are written: the settings of `Decoding`, and what `Asking` has beside them."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    prefix: str | None = None
    separator: str | None = None
    truncation: bool = True
    full_text: bool | None = None
    log_probabilities: bool = False


def scribe_of(
    loaded: Encoder | EncoderDecoder, model: str, wanted: Wanted, precision: str, device: str, bar: bool | None = False
) -> Scribe:
    """What writes with a model, and as its folder says where nothing else is wanted."""
    from bothways.checkpoint.hub import resolve
    from bothways.engine.decoding import read_decoding
    from bothways.engine.text_lines import Scribe
    from bothways.engine.writing import Asking, pipeline_of

    write = pipeline_of(loaded, resolve(model), device=device, precision=precision, name=model, bar=bar)
    one = wanted
    about = one.prefix, one.separator, one.truncation, one.full_text, one.log_probabilities
    return Scribe(write, Asking(read_decoding(one.settings, write.usual), *about))


def made_by(loaded: Encoder | EncoderDecoder, scribe: Scribe, form: str) -> dict[str, str]:
    """What lines are made from, by what to call it."""
    from bothways.checkpoint.checksum import checksum

    made = {"model": checksum(loaded), "task": "generate", "device and precision": str(scribe.write.placement)}
    asked = {**vars(scribe.asking), **vars(scribe.asking.decoding), "length": scribe.write.writer.usual}
    return made | {"form": form} | {name: repr(value) for name, value in asked.items() if name != "decoding"}


def form_of(output: Path) -> Form:
    """What a file's lines are, by its name: plain text, unless its ending is of SUFFIXES (`out.de` is German, no form).

    Raises InputError on an ending that says what is not written.
    """
    ending = output.suffix.lower()
    if ending in OTHERS:
        known = f"{', '.join(SUFFIXES)}, or with anything else for plain text"
        raise InputError(f"{output}: files that end in {ending} are not written: end the name in {known}")
    return SUFFIXES.get(ending, "txt")


def check_form(form: Form | None, results: int, log_probabilities: bool = False) -> None:
    """Raise InputError where lines of a form cannot hold what is written for each text. form: None for no file."""
    more = "log-probabilities" if log_probabilities else f"{results:,} results of each text" if results > 1 else ""
    if more and form in ("csv", "txt"):
        kind = ".csv" if form == "csv" else "plain text"
        raise InputError(f"{kind} has one text a row: for {more}, end the name of --output in .jsonl")
