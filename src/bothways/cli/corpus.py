"""`bothways corpus build` and `show`: text to shards of tokens, and a look at them."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from bothways.cli.output import print_json, print_table
from bothways.cli.source import Documents
from bothways.errors import InputError

if TYPE_CHECKING:
    from bothways.data.build import Progress
    from bothways.data.corpus import Corpus, Split

__all__ = ["app", "build", "show"]

app = App(name="corpus", help="Text to shards of tokens, for pretraining.", help_format="plaintext")

SAMPLE_SENTENCES = 3


@app.command(name="build")
def build(
    *,
    documents: Annotated[Documents, Parameter(name="*")] = Documents(),  # noqa: B008 (frozen)
    tokenizer: Path,
    output: Path,
    sentences: str = "split",
    language: str = "en",
    held_out: float = 0.01,
    shard_tokens: int = 1 << 25,
    seed: int = 0,
    workers: int | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Divide documents into sentences, tokenise them, and write shards that pretraining maps into memory.

    A document that came before is dropped. Stopped at any moment, the same command goes on; the result is the same.

    Parameters
    ----------
    tokenizer
        The folder of a tokenizer, as from `bothways tokenizer train`.
    output
        The folder to write.
    sentences
        split: by the rules of the language, and at line breaks; wrapped: through line breaks; line: one on each line;
        none: a document is one.
    language
        The language's code, such as en or de. Where there are no rules for it, those of a neighbour are taken, or
        English ones, and that is said.
    held_out
        The share of documents that training never sees.
    shard_tokens
        About how many tokens a shard has.
    seed
        Another seed holds out other documents.
    workers
        Processes that tokenise; by default one for each core. The result does not depend on it.
    json
        Print the counts as JSON.
    """
    from bothways.data.build import Settings
    from bothways.data.build import build as build_corpus
    from bothways.data.corpus import INDEX

    complete = (output / INDEX).exists()
    settings = Settings(sentences, language, held_out, shard_tokens, seed)
    meter = _Meter()
    corpus = build_corpus(
        documents.source(), tokenizer, output, settings, workers=workers or _cores(), report=meter.tell
    )
    meter.end()
    _print(corpus, json)
    if held_out and not corpus.splits["held_out"].documents:
        print(
            f"bothways: the held-out split is empty: {corpus.splits['train'].documents:,} documents are too few for "
            "--held-out; divide the text into documents (blank lines between them, or --lines), or give more",
            file=sys.stderr,
        )
    print(f"{output}: {'was complete already' if complete else 'complete'}", file=sys.stderr)


@app.command(name="show")
def show(
    folder: Path,
    /,
    *,
    verify: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """What a corpus holds: counts, mean lengths, and its first sentences, decoded.

    Parameters
    ----------
    folder
        A folder that `bothways corpus build` wrote.
    verify
        Compare every file with its checksum first.
    json
        Print JSON.
    """
    from bothways.data.corpus import Corpus

    corpus = Corpus.open(folder)
    if verify:
        corpus.verify()
    _print(corpus, json, _sample(corpus))
    if verify:
        print(f"{folder}: every file is as it was written", file=sys.stderr)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _print(corpus: Corpus, json: bool, sample: list[str] | None = None) -> None:
    splits = {name: _counts(split) for name, split in corpus.splits.items()}
    if json:
        shown = {} if sample is None else {"sample": sample}
        about = {"fingerprint": corpus.fingerprint, "vocab_size": corpus.vocab_size, "dropped": dict(corpus.counts)}
        print_json({**about, "splits": splits, **shown})
        return
    print_table(
        ["documents", "sentences", "tokens", "tokens a sentence", "tokens a document", "shards", "split"],
        [
            [
                f"{c['documents']:,}",
                f"{c['sentences']:,}",
                f"{c['tokens']:,}",
                f"{c['tokens_per_sentence']:.1f}",
                f"{c['tokens_per_document']:.1f}",
                str(c["shards"]),
                name,
            ]
            for name, c in splits.items()
        ],
    )
    print(
        f"Vocabulary of {corpus.vocab_size:,}, tokenizer {corpus.fingerprint[:12]}. Dropped: "
        f"{corpus.counts['duplicates']:,} duplicates, {corpus.counts['empty']:,} documents without tokens."
    )
    if sample:
        print_table(["", "first sentences"], [[str(i + 1), text] for i, text in enumerate(sample)])


def _counts(split: Split) -> dict[str, Any]:
    return {
        "documents": split.documents,
        "sentences": split.sentences,
        "tokens": split.tokens,
        "tokens_per_sentence": split.tokens / max(split.sentences, 1),
        "tokens_per_document": split.tokens / max(split.documents, 1),
        "shards": len(split.shards),
    }


def _sample(corpus: Corpus) -> list[str]:
    from bothways.text.formats import load_tokenizer

    tokenizer = load_tokenizer(corpus.tokenizer_folder)
    shards = [shard for split in corpus.splits.values() for shard in split.shards][:1]
    if tokenizer is None or not shards:
        raise InputError(f"{corpus.folder}: nothing to show: no tokenizer, or no shard")
    bounds = shards[0].sentences[: SAMPLE_SENTENCES + 1].tolist()
    return [tokenizer.decode(shards[0].tokens[a:b].tolist()) for a, b in pairwise(bounds)]


@dataclass
class _Meter:
    """A line on a terminal's stderr that says how far a build has come, now and then."""

    started: float = field(default_factory=time.monotonic)
    shown: float = 0.0

    def tell(self, progress: Progress) -> None:
        now = time.monotonic()
        if sys.stderr.isatty() and now - self.shown > 0.5:
            self.shown = now
            rate = progress.tokens / max(now - self.started, 1e-9)
            done = f"{progress.documents:,} documents, {progress.tokens:,} tokens, {rate:,.0f} tokens/s"
            print(f"\r{done}", end="\x1b[K", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self.shown:
            print(file=sys.stderr)
