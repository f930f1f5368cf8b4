"""`bothways tokenizer train`: a vocabulary made from text, and a report on how well it fits."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from bothways.cli.output import print_json, print_table
from bothways.cli.source import Documents
from bothways.errors import InputError, meant
from bothways.files import make_folder

if TYPE_CHECKING:
    from bothways.data.sampling import Sample, Size
    from bothways.text.training import Fit

__all__ = ["app", "train"]

Report = dict[str, Any]

app = App(name="tokenizer", help="Train a tokenizer on text.", help_format="plaintext")

FEW = 100  # documents; of fewer, none is held out


@app.command(name="train")
def train(
    *,
    documents: Annotated[Documents, Parameter(name="*")] = Documents(),  # noqa: B008 (frozen)
    output: Path,
    kind: str = "wordpiece",
    vocab_size: int = 30_000,
    lowercase: Annotated[bool | None, Parameter(negative="--cased")] = None,
    special: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = (),
    max_length: int = 512,
    min_frequency: int = 2,
    limit_bytes: int | None = None,
    held_out: float = 0.01,
    seed: int = 0,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Train a tokenizer and report how its vocabulary fits text that it was not trained on.

    The input is read twice: once to see how much there is, once to train.

    Parameters
    ----------
    output
        The folder to write: tokenizer.json and tokenizer_config.json, which transformers reads too.
    kind
        wordpiece as BERT, bpe (of bytes) as RoBERTa, or unigram as ALBERT.
    vocab_size
        Entries of the vocabulary, special tokens included.
    lowercase
        Whether case is dropped; by default for wordpiece only.
    special
        Further special tokens, behind those of the kind.
    max_length
        Tokens that a model takes; noted for those who load the tokenizer.
    min_frequency
        How often two pieces must stand together to become one (not for unigram).
    limit_bytes
        Train on a sample of about so many bytes if there is more: it bounds memory and time. By default 1 GiB, and
        64 MiB for unigram, which takes far longer for each word.
    held_out
        The share of documents kept for the report; with the same seed, those that `corpus build` holds out.
    seed
        Another seed samples and holds out other documents.
    json
        Print the report as JSON.
    """
    from bothways.data.sampling import Sample, measure
    from bothways.text.formats import save_tokenizer
    from bothways.text.training import KINDS, fit
    from bothways.text.training import train as train_on

    if kind not in KINDS:
        raise InputError(f"kind {kind!r} is not one of {', '.join(KINDS)}{meant(kind, KINDS)}")
    most = KINDS[kind].bytes if limit_bytes is None else limit_bytes
    if not (0 <= held_out < 1 and most > 0):
        raise InputError(f"--held-out must be in [0, 1) and --limit-bytes above 0, got {held_out} and {most}")
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: not a folder; the tokenizer is written to one")
    source = documents.source()
    if not source.repeatable:
        raise InputError("training reads its input twice, which standard input cannot be; give files")
    size = measure(source.documents())
    if not size.documents:
        raise InputError(f"{source.name}: there is no text in it to train on")
    share = min(1.0, most / max(size.bytes, 1))
    if sys.stderr.isatty():
        print(f"{size.documents:,} documents, {size.bytes:,} bytes; training on {share:.1%} …", file=sys.stderr)
    sample = Sample(source.documents(), share, held_out if size.documents >= FEW else 0.0, seed)
    tokenizer = train_on(
        sample,
        kind,
        vocab_size,
        characters=size.characters,
        lowercase=lowercase,
        special=special,
        max_length=max_length,
        min_frequency=min_frequency,
    )
    make_folder(output)
    if (output / "tokenizer.json").exists():
        print(f"{output}: the tokenizer that was there is replaced", file=sys.stderr)
    save_tokenizer(tokenizer, output)
    judged = sample.aside or list(_first(source.documents()))
    report = _report(fit(tokenizer, judged), tokenizer.vocab_size, size, sample)
    if json:
        print_json(report)
    else:
        _show(report)
    print(f"{output}: {tokenizer.vocab_size:,} entries", file=sys.stderr)


def _first(documents: Iterator[str], count: int = 1000) -> Iterator[str]:
    return (text for _, text in zip(range(count), documents))


def _report(fit: Fit, vocab_size: int, size: Size, sample: Sample) -> Report:
    return {
        "vocab_size": vocab_size,
        "documents": size.documents,
        "bytes": size.bytes,
        "trained_on": {"documents": sample.documents, "bytes": sample.bytes, "share": sample.bytes / size.bytes},
        "judged_on": "held-out documents" if sample.aside else "documents it was trained on: there are too few",
        **asdict(fit),
    }


def _show(report: Report) -> None:
    trained, scripts = report["trained_on"], report["scripts"]
    rows = [
        ["documents read", f"{report['documents']:,} ({report['bytes']:,} bytes)"],
        ["trained on", f"{trained['documents']:,} ({trained['bytes']:,} bytes, {trained['share']:.1%})"],
        ["judged on", f"{report['judged_on']}: {report['words']:,} words, {report['tokens']:,} tokens"],
        ["characters a token", f"{report['characters_per_token']:.3f}"],
        ["unknown tokens", f"{report['unknown']:.4%}"],
    ]
    print_table(["", "vocabulary"], [["entries", f"{report['vocab_size']:,}"], *rows])
    whole = {key: report[key] for key in ("words", "kept_whole", "fertility")}
    whole["unknown"] = sum(s["words"] * s["unknown"] for s in scripts.values()) / report["words"]
    columns = ["words", "kept whole", "pieces a word", "unknown words", "script"]
    print_table(columns, [_row(name, rates) for name, rates in [("all", whole), *scripts.items()]])


def _row(name: str, rates: Mapping[str, float]) -> list[str]:
    return [
        f"{rates['words']:,}",
        f"{rates['kept_whole']:.2%}",
        f"{rates['fertility']:.3f}",
        f"{rates['unknown']:.3%}",
        name,
    ]
