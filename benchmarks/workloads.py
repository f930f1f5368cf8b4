"""The texts that every system embeds: real, deterministic, and read from Python's own documentation.

mixed        unique sentences of the Python language reference, as long as they come, in a shuffled order
wide         texts whose lengths are spread evenly from 3 to 512 tokens, in a shuffled order
query        one short question
calibration  further sentences, in none of the others, for systems that quantise from data
"""

from __future__ import annotations

import json
import pydoc_data.topics
import random
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from tokenizers import Tokenizer

SEED = 20
MODEL_LIMIT = 256
WIDE_LIMIT = 512
QUERY = "how do I read a csv file in python"
CALIBRATION_SENTENCES = 300
LEAST_LETTERS = 8


@dataclass(frozen=True)
class Workload:
    """Texts to embed in one call, with their real tokens (special tokens counted, padding not)."""

    texts: list[str]
    tokens: int
    length_limit: int


@dataclass(frozen=True)
class Size:
    """How many texts the two bulk workloads hold."""

    mixed: int
    wide: int


FULL = Size(mixed=1800, wide=200)
QUICK = Size(mixed=400, wide=48)


def pages() -> list[str]:
    """Every page of the language reference, by name."""
    return [pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)]


def in_paragraphs(page: str) -> list[str]:
    """Its paragraphs, on one line each."""
    return [" ".join(block.split()) for block in re.split(r"\n\s*\n", page)]


def paragraphs() -> list[str]:
    """Every paragraph of the language reference."""
    return [block for page in pages() for block in in_paragraphs(page)]


def split_sentences(text: str) -> list[str]:
    """The sentences of a page, each on one line; none goes on past a paragraph's end."""
    ends = re.compile(r"(?<=[.!?:;])\s+(?=[A-Z\"'(\[])")
    return [piece for block in in_paragraphs(text) for piece in ends.split(block)]


def sentences() -> list[str]:
    """Unique sentences of the language reference, without scraps that hold next to no letters."""
    pieces = (piece for page in pages() for piece in split_sentences(page))
    unique = dict.fromkeys(pieces)
    return [piece for piece in unique if sum(map(str.isalpha, piece)) >= LEAST_LETTERS]


def load_tokenizer(folder: Path, limit: int) -> Tokenizer:
    """The model's tokenizer, cutting at `limit` tokens and never padding."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(limit)
    tokenizer.no_padding()
    return tokenizer


def token_count(tokenizer: Tokenizer, texts: list[str]) -> int:
    """Tokens of all texts together, special tokens included."""
    return sum(len(encoding.ids) for encoding in tokenizer.encode_batch(texts))


def words_of_length(words: list[tuple[str, int]], start: int, length: int) -> str:
    """Running words from `start` on whose pieces add up to exactly `length`; words that would overshoot are skipped.

    `words` pairs each word with its number of word pieces.
    """
    taken, missing = [], length
    for step in range(len(words)):
        word, pieces = words[(start + step) % len(words)]
        if pieces <= missing:
            taken.append(word)
            missing -= pieces
        if missing == 0:
            return " ".join(taken)
    raise ValueError(f"no run of words makes {length} tokens")


def wide_texts(tokenizer: Tokenizer, count: int) -> list[str]:
    """`count` texts of evenly spread lengths from 3 to 512 tokens, special tokens included."""
    special = tokenizer.num_special_tokens_to_add(False)
    running = " ".join(paragraphs()).split()[: 300 * count]
    pieces = [len(encoding.ids) for encoding in tokenizer.encode_batch(running, add_special_tokens=False)]
    words = [(word, n) for word, n in zip(running, pieces, strict=True) if n > 0]
    lengths = [round(3 + i * (WIDE_LIMIT - 3) / (count - 1)) for i in range(count)]
    starts = [i * len(words) // count for i in range(count)]
    texts = [words_of_length(words, s, n - special) for s, n in zip(starts, lengths, strict=True)]
    found = [len(encoding.ids) for encoding in tokenizer.encode_batch(texts)]
    assert found == lengths, "a text's tokens are not the sum of its words' tokens"
    return texts


def build(folder: Path, size: Size) -> dict[str, Workload]:
    """All workloads, counted with the tokenizer of the model in `folder`."""
    pool = sentences()
    random.Random(SEED).shuffle(pool)
    wide = wide_texts(load_tokenizer(folder, WIDE_LIMIT), size.wide)
    random.Random(SEED).shuffle(wide)
    chosen = {
        "mixed": (pool[: size.mixed], MODEL_LIMIT),
        "wide": (wide, WIDE_LIMIT),
        "query": ([QUERY], MODEL_LIMIT),
        "calibration": (pool[size.mixed :][:CALIBRATION_SENTENCES], MODEL_LIMIT),
    }
    return {
        name: Workload(texts, token_count(load_tokenizer(folder, limit), texts), limit)
        for name, (texts, limit) in chosen.items()
    }


def save(workloads: dict[str, Workload], file: Path) -> None:
    """Writes the workloads for the workers to read."""
    file.write_text(json.dumps({name: asdict(workload) for name, workload in workloads.items()}))


def load(file: Path) -> dict[str, Workload]:
    """Reads what `save` wrote."""
    return {name: Workload(**fields) for name, fields in json.loads(file.read_text()).items()}
