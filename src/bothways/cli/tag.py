"""`bothways tag`: entities in texts."""

from __future__ import annotations

from typing import Any

from bothways.cli.output import print_json, print_table
from bothways.errors import InputError

__all__ = ["tag"]


def tag(
    model: str,
    /,
    *texts: str,
    aggregation_strategy: str = "simple",
    stride: int | None = None,
    max_length: int | None = None,
    precision: str = "auto",
    device: str = "auto",
    json: bool = False,
) -> None:
    """Names, places and other entities in texts, or whatever else the model has labels for.

    Parameters
    ----------
    model
        A folder or a hub id of a model with a head for tokens.
    texts
        One or more texts. Long ones are read in windows.
    aggregation_strategy
        simple: neighbouring tokens of one kind are an entity. first, average, max: a word has the label of its first
        token, of its tokens' mean, of the surest one. none: a line for each token.
    stride
        Tokens that windows share; by default a quarter of a window.
    max_length
        Tokens that a window has at most; by default what the model takes.
    precision
        fp32, bf16, or fp16 on a GPU. By default fp32 on a CPU, half on a GPU.
    device
        auto, cpu or cuda.
    json
        Print JSON: a list for each text, as the Python pipeline gives it.
    """
    if not texts:
        raise InputError('no text given, such as "Ada Lovelace was born in London."')
    from bothways.engine.pipeline import pipeline

    find = pipeline("token-classification", model, precision=precision, device=device)
    answers = find(list(texts), aggregation_strategy=aggregation_strategy, stride=stride, max_length=max_length)
    if json:
        print_json(answers)
        return
    for text, answer in zip(texts, answers):
        rows = [_row(text, one) for one in answer]
        print_table(["start", "end", "score", "entity", "text"], rows, title=text, text=["entity", "text"])


def _row(text: str, one: dict[str, Any]) -> list[str]:
    label = one.get("entity_group", one.get("entity"))
    return [str(one["start"]), str(one["end"]), f"{one['score']:.4f}", str(label), text[one["start"] : one["end"]]]
