"""`bothways classify`: the labels of texts."""

from __future__ import annotations

from typing import Any, Literal

from bothways.cli.output import print_json, print_table
from bothways.errors import InputError

__all__ = ["classify"]


def classify(
    model: str,
    /,
    *texts: str,
    text_pair: list[str] | None = None,
    top_k: int | None = None,
    windows: Literal["mean", "max"] | None = None,
    stride: int | None = None,
    precision: str = "auto",
    device: str = "auto",
    json: bool = False,
) -> None:
    """The labels of texts, or of pairs of texts, best first, by a model trained for them.

    Parameters
    ----------
    model
        A folder or a hub id of a model with a classification head.
    texts
        One or more texts.
    text_pair
        The second text of a pair (say --text-pair once for each text, in their order).
    top_k
        How many labels of each text; by default all.
    windows
        Read a text that is too long in windows, and take the mean or the max of their scores before they become
        probabilities; by default it is cut.
    stride
        Tokens that a window shares with the one before; by default a quarter of its text.
    precision
        fp32, bf16, or fp16 on a GPU. By default fp32 on a CPU, half on a GPU.
    device
        auto, cpu or cuda.
    json
        Print JSON: a list for each text, as the Python pipeline gives it.
    """
    if not texts:
        raise InputError('no text given, such as "I like it."')
    from bothways.engine.pipeline import pipeline

    ask = pipeline("text-classification", model, precision=precision, device=device)
    answers = ask(list(texts), text_pair=text_pair, top_k=top_k, windows=windows, stride=stride)
    if json:
        print_json(answers)
        return
    titles = texts if text_pair is None else [f"{first}\n{second}" for first, second in zip(texts, text_pair)]
    for title, answer in zip(titles, answers):
        print_table(["score", "label"], _rows(answer), title=title)


def _rows(answer: list[dict[str, Any]]) -> list[list[str]]:
    return [[_score(one["score"]), one["label"]] for one in answer]


def _score(score: float) -> str:
    return f"{score:.4f}" if abs(score) >= 0.001 else f"{score:.1e}"
