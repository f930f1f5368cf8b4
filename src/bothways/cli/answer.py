"""`bothways answer`: where in a text the answer to a question is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bothways.cli.output import print_json, print_table
from bothways.errors import InputError

__all__ = ["answer"]

# Characters that are shown on each side of an answer.
AROUND = 30


def answer(
    model: str,
    /,
    *,
    question: str,
    context: str | None = None,
    context_file: Path | None = None,
    top_k: int = 1,
    doc_stride: int | None = None,
    max_seq_len: int = 384,
    max_question_len: int = 64,
    max_answer_len: int = 15,
    handle_impossible_answer: bool | None = None,
    precision: str = "auto",
    device: str = "auto",
    json: bool = False,
) -> None:
    """The words of a text that answer a question, with what stands around them.

    Parameters
    ----------
    model
        A folder or a hub id of a model with a question-answering head.
    question
        The question.
    context
        The text that has the answer.
    context_file
        A file with that text, of any length.
    top_k
        How many answers, best first.
    doc_stride
        Tokens that a window of a long text shares with the one before; by default 128, or half the room if that is
        less.
    max_seq_len
        Tokens of a window, with the question.
    max_question_len
        Tokens of the question; a longer one is cut, and that is told.
    max_answer_len
        Tokens of an answer.
    handle_impossible_answer
        Whether "there is none" is an answer, too; by default as the model's config says (null_threshold).
    precision
        fp32, bf16, or fp16 on a GPU. By default fp32 on a CPU, half on a GPU.
    device
        auto, cpu or cuda.
    json
        Print JSON, as the Python pipeline gives it.
    """
    text = _context(context, context_file)
    from bothways.engine.pipeline import pipeline

    found = pipeline("question-answering", model, precision=precision, device=device)(
        question=question,
        context=text,
        top_k=top_k,
        doc_stride=doc_stride,
        max_seq_len=max_seq_len,
        max_question_len=max_question_len,
        max_answer_len=max_answer_len,
        handle_impossible_answer=handle_impossible_answer,
    )
    if json:
        print_json(found)
        return
    rows = [_row(one, text) for one in ([found] if isinstance(found, dict) else found)]
    print_table(["score", "answer", "in the text"], rows, title=question)


def _context(context: str | None, file: Path | None) -> str:
    from bothways.files import read_lines

    if (context is None) == (file is None):
        raise InputError("give the text with the answer: either --context or --context-file")
    return context if file is None else "\n".join(read_lines(file))  # type: ignore[return-value]


def _row(found: dict[str, Any], text: str) -> list[str]:
    start, end = found["start"], found["end"]
    score = f"{found['score']:.4f}" if found["score"] >= 0.001 else f"{found['score']:.1e}"
    if start == end:
        return [score, "(none)", ""]
    before, after = max(0, start - AROUND), end + AROUND
    shown = f"{'…' if before else ''}{text[before:start]}[{text[start:end]}]{text[end:after]}"
    return [score, found["answer"], shown + ("…" if after < len(text) else "")]
