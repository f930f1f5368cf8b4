"""`bothways choose`: the best of several choices."""

from __future__ import annotations

from bothways.cli.output import print_json, print_table
from bothways.errors import InputError

__all__ = ["choose"]


def choose(
    model: str,
    question: str,
    /,
    *choices: str,
    precision: str = "auto",
    device: str = "auto",
    json: bool = False,
) -> None:
    """Which choice answers a question best, or goes on best with a text, by a model trained for it.

    Parameters
    ----------
    model
        A folder or a hub id of a model with a multiple-choice head.
    question
        The question, or the text that goes on.
    choices
        Two or more choices.
    precision
        fp32, bf16, or fp16 on a GPU. By default fp32 on a CPU, half on a GPU.
    device
        auto, cpu or cuda.
    json
        Print JSON, as the Python pipeline gives it: the number of the best choice, from 0, and each one's score.
    """
    if len(choices) < 2:
        raise InputError(f"give at least two choices after the question, got {len(choices)}")
    from bothways.engine.pipeline import pipeline

    answer = pipeline("multiple-choice", model, precision=precision, device=device)(question, list(choices))
    if json:
        print_json(answer)
        return
    order = sorted(range(len(choices)), key=lambda i: (i != answer["label"], -answer["scores"][i]))
    print_table(["score", "choice"], [[f"{answer['scores'][i]:.4f}", choices[i]] for i in order], title=question)
