"""`bothways data show`: what a file of labelled rows holds, before anything is learnt from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from bothways.cli.output import print_json, print_table
from bothways.errors import InputError

if TYPE_CHECKING:
    from bothways.data.survey import Asked, Lengths, Measure, Survey
    from bothways.data.table import TableSource
    from bothways.text.tokenizer import Tokenizer

__all__ = ["app", "show"]

SWITCH = Parameter(negative="")
MOST_LABELS = 20
MOST_SHOWN = 160  # characters of a text

app = App(name="data", help="Labelled rows, before anything is learnt from them.", help_format="plaintext")


@dataclass(frozen=True)
class Form:
    """How the rows are written, where that is not guessed right.

    Parameters
    ----------
    kind
        classification, pairs, regression, multi-label, tagging, questions or choices.
    format
        csv, tsv, jsonl, parquet, conll (a word and its tag a line) or json (SQuAD's), where the name does not say.
    text
        The column of the text; without names in the file, its number, from 1. Of tagging, that of the words.
    text_pair
        The column of the second text, for pairs.
    label
        The column of the label; of tagging, that of the tags or entities.
    question
        The column of the question, of questions and choices.
    context
        The column of the context, of questions.
    answers
        The column of the answers, of questions.
    choices
        The column of the list of choices, or those of each choice.
    separator
        What stands between several labels in a cell.
    names
        A file with a name of a label a line, for labels that are numbers, from 0.
    scheme
        How tags say where spans are: iob1, iob2, bioes, bilou, bmes, or plain.
    header
        Whether the first row of csv or tsv holds the names of columns.
    quoted
        Whether quotation marks around the cells of csv or tsv are no part of the text.
    surplus
        Pass over cells beyond those of the first row.
    unlabelled
        Rows may be without labels.
    """

    kind: str | None = None
    format: str | None = None
    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    question: str | None = None
    context: str | None = None
    answers: str | None = None
    choices: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = ()
    separator: str | None = None
    names: Path | None = None
    scheme: str | None = None
    header: bool | None = None
    quoted: bool | None = None
    surplus: Annotated[bool, SWITCH] = False
    unlabelled: Annotated[bool, SWITCH] = False

    def asked(self) -> Asked:
        """What is said of the rows. Raises InputError on an unknown kind."""
        from bothways.data.choices import ChoiceColumns
        from bothways.data.columns import Columns
        from bothways.data.questions import QuestionColumns
        from bothways.data.survey import Asked
        from bothways.files import read_lines

        return Asked(
            self.kind,
            Columns(self.text, self.text_pair, self.label),
            self.separator,
            () if self.names is None else tuple(read_lines(self.names)),
            self.scheme,
            QuestionColumns(self.question, self.context, self.answers),
            ChoiceColumns(self.question, self.choices, self.label),
            not self.unlabelled,
        )


@app.command(name="show")
def show(
    file: str | None = None,
    /,
    *,
    form: Annotated[Form, Parameter(name="*")] = Form(),
    dataset: str | None = None,
    split: str = "train",
    model: str | None = None,
    tokenizer: Path | None = None,
    max_length: int | None = None,
    json: Annotated[bool, SWITCH] = False,
) -> None:
    """What a file holds: its labels and how often each comes, how long rows are, what comes twice, the first rows.

    Parameters
    ----------
    file
        csv, tsv, JSON lines, Parquet, columns of words and tags, or SQuAD's JSON; also .gz or .zst.
    dataset
        The id or folder of a data set for the datasets library, in place of a file.
    split
        Its split.
    model
        A folder or a hub id: count lengths in its tokens, and what is longer than it takes.
    tokenizer
        The same with the folder of a tokenizer.
    max_length
        Tokens that are taken (by default, what the model takes).
    json
        Print JSON.
    """
    from bothways.data.survey import survey
    from bothways.data.table import TableSource

    if max_length is not None and model is None and tokenizer is None:
        raise InputError("--max-length counts tokens; give --model or --tokenizer")
    source = TableSource(file, dataset, split, form.format, form.header, form.quoted, form.surplus)
    asked = form.asked()
    pieces, limit = _tokenizer(model, tokenizer)
    limit = max_length if max_length is not None else limit
    found = survey(source, asked, measure=None if pieces is None else _measure(pieces), max_length=limit)
    if json:
        print_json({"file": source.name, **_as_dict(found, limit)})
    else:
        _print(found, source, limit)


def _tokenizer(model: str | None, folder: Path | None) -> tuple[Tokenizer | None, int | None]:
    """The tokenizer, and the tokens that its model takes. Raises InputError where two are said, or there is none."""
    if model is not None and folder is not None:
        raise InputError("say either --model or --tokenizer")
    if folder is not None:
        from bothways.text.formats import load_tokenizer

        loaded = load_tokenizer(folder)
        if loaded is None:
            raise InputError(f"{folder}: no tokenizer in this folder")
        return loaded, loaded.max_length
    if model is None:
        return None, None
    from bothways.checkpoint.encoder import Encoder, tokenizer_of

    encoder = Encoder.from_pretrained(model)
    own = tokenizer_of(encoder, model)
    return own, min(filter(None, (own.max_length, encoder.config.longest)))


def _measure(tokenizer: Tokenizer) -> Measure:
    def lengths(inputs: Sequence[tuple[str, str | None]]) -> list[int]:
        firsts = [first for first, _ in inputs]
        seconds = [second for _, second in inputs if second is not None]
        return [len(one) for one in tokenizer.encode(firsts, seconds or None, offsets=False)]

    return lengths


def _as_dict(found: Survey, limit: int | None) -> dict[str, Any]:
    told = asdict(found)
    told["first"] = [{"texts": list(texts), "label": label} for texts, label in found.first]
    told["scores"] = None if found.scores is None else dict(zip(("least", "mean", "greatest"), found.scores))
    return {**told, "max_length": None if found.tokens is None else limit}


def _print(found: Survey, source: TableSource, limit: int | None) -> None:
    print(f"{found.kind}: {found.said}")
    if found.scores is not None:
        print_table(["least", "mean", "greatest"], [[f"{score:.4g}" for score in found.scores]], text=())
    else:
        _print_labels(found)
    columns = ["mean", "half at most", "95% at most", "longest", "a row"]
    print_table(columns, [_length(found.words, "words"), *([_length(found.tokens, "tokens")] if found.tokens else [])])
    print(" ".join(_remarks(found, limit)))
    rows = [[label, " | ".join(map(_short, texts))] for texts, label in found.first]
    print_table(
        ["label", "first rows"], [[_short(label, 40), text] for label, text in rows], text=("label", "first rows")
    )


def _print_labels(found: Survey) -> None:
    total = sum(found.labels.values())
    rows = list(found.labels.items())
    shown = [[f"{count:,}", f"{count / total:.1%}", name or "(none)"] for name, count in rows[:MOST_LABELS]]
    if rows[MOST_LABELS:]:
        rest = sum(count for _, count in rows[MOST_LABELS:])
        shown.append([f"{rest:,}", f"{rest / total:.1%}", f"({len(rows) - MOST_LABELS:,} further labels)"])
    if shown:
        print_table(["count", "share", "spans" if found.kind == "tagging" else "label"], shown)


def _length(lengths: Lengths, unit: str) -> list[str]:
    return [f"{lengths.mean:.1f}", f"{lengths.median:,}", f"{lengths.most_95:,}", f"{lengths.longest:,}", unit]


def _remarks(found: Survey, limit: int | None) -> Iterator[str]:
    yield f"{found.rows:,} rows."
    if found.cut is not None:
        yield f"{found.cut:,} ({found.cut / found.rows:.1%}) have more than {limit:,} tokens."
    if found.duplicates:
        yield f"{found.duplicates:,} say what another one says, {found.contradictions:,} of them with another label."
    if found.empty:
        yield f"{found.empty:,} have an empty text."
    if found.misplaced:
        yield f"{found.misplaced:,} answers are not where they are said to be, and are left out."


def _short(text: str, most: int = MOST_SHOWN) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
