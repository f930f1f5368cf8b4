"""`bothways fill-mask`: the likeliest words for each mask."""

from __future__ import annotations

from typing import Any

from bothways.cli.output import print_json, print_table
from bothways.errors import InputError

__all__ = ["fill_mask"]


def fill_mask(
    model: str,
    /,
    *texts: str,
    top_k: int | None = None,
    target: list[str] | None = None,
    pieces: int = 1,
    precision: str = "auto",
    device: str = "auto",
    json: bool = False,
) -> None:
    """The likeliest words for each mask token, such as "The [MASK] sat on the mat."

    Parameters
    ----------
    model
        A folder or a hub id of a model with a masked-language head.
    texts
        One or more texts, each with at least one mask token.
    top_k
        How many words for each mask; by default 5, or all targets.
    target
        Only this word (say --target again for more), split as it would be in the place of the mask; one of several
        pieces counts as a whole. A piece spelt as in the vocabulary ("##able") is that piece.
    pieces
        Words of up to so many pieces, 8 at most.
    precision
        fp32, bf16, or fp16 on a GPU. By default fp32 on a CPU, half on a GPU.
    device
        auto, cpu or cuda.
    json
        Print JSON: a list for each text, as the Python pipeline gives it.
    """
    if not texts:
        raise InputError('no text given, such as "The [MASK] sat on the mat."')
    from bothways.engine.pipeline import pipeline

    fill = pipeline("fill-mask", model, precision=precision, device=device)
    answers = fill(list(texts), top_k=top_k, targets=target, pieces=pieces)
    if json:
        print_json(answers)
        return
    for text, answer in zip(texts, answers):
        masks = answer if isinstance(answer[0], list) else [answer]
        for number, candidates in enumerate(masks, start=1):
            print_table(["score", "token"], _rows(candidates), title=text + (f"  (mask {number})" if masks[1:] else ""))


def _rows(candidates: list[dict[str, Any]]) -> list[list[str]]:
    return [[_score(c["score"]), c["token_str"]] for c in candidates]


def _score(score: float) -> str:
    return f"{score:.4f}" if score >= 0.001 else f"{score:.1e}"
