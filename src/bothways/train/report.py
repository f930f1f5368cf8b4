"""What a run writes for people as it goes: its log, and the batches that it stopped at."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bothways.data.batch import Answers
from bothways.errors import InputError
from bothways.files import replacing, write_json
from bothways.train.history import METRICS, read_metrics
from bothways.train.loop import Event

__all__ = ["MetricsLog", "row", "with_ratios", "write_failure"]

FAILURE = "nonfinite.json"
# exp of the mean loss on tokens that are predicted: of masked ones it is called pseudo-perplexity.
PERPLEXITIES = {"mlm": "pseudo_perplexity", "causal": "perplexity"}
# A share of what another one says: how many of the replaced tokens were found, and of those said to be replaced are.
RATIOS = {"rtd_recall": ("found", "replaced"), "rtd_precision": ("found", "flagged")}


def row(event: Event) -> dict[str, Any]:
    """A step or an evaluation as a row of numbers; nothing in it depends on the clock."""
    place = {"step": event.progress.step, "tokens": event.progress.tokens}
    if event.means is not None:
        return {**place, "held_out": with_ratios(event.means) | _perplexity(event.means)}
    assert event.result is not None
    result = event.result
    shown = {**place, "loss": result.loss, "lr": event.lr, "gradient": result.gradient}
    return {**shown, **with_ratios(result.means), **({} if result.applied else {"skipped": True})}


def with_ratios(means: Mapping[str, float]) -> dict[str, float]:
    """The means, of the same tokens each, and what they say of each other; nothing where there was nothing to find."""
    pairs = {told: (means[part], means[of]) for told, (part, of) in RATIOS.items() if part in means}
    return {**means, **{told: part / of for told, (part, of) in pairs.items() if of}}


def _perplexity(means: Mapping[str, float]) -> dict[str, float]:
    losses = {told: means[name] for name, told in PERPLEXITIES.items() if name in means}
    return {told: math.exp(loss) for told, loss in losses.items() if loss < 700}


class MetricsLog:
    """`metrics.jsonl`: a row each `every` steps and for each evaluation, on disk as it happens.

    step: of the checkpoint that the run goes on from; rows after it are cut off, since they will be written again, and
    so are those without a number of steps.
    """

    def __init__(self, folder: Path, every: int, step: int) -> None:
        self._every = every
        path = folder / METRICS
        there = read_metrics(path) if path.exists() else ()
        kept = [line for line in there if type(line["step"]) is int and line["step"] <= step]
        with replacing(path) as aside:
            aside.write_text("".join(_line(one) for one in kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")

    def add(self, event: Event) -> None:
        """Write what is due of a step, an evaluation or a skipped step."""
        if event.kind == "save" or (event.kind == "step" and event.progress.step % self._every):
            return
        try:
            self._file.write(_line(row(event)))
            self._file.flush()
        except OSError as error:
            raise InputError(f"{self._file.name}: cannot be written: {error.strerror}") from None

    def close(self) -> None:
        self._file.close()


def _line(values: Mapping[str, Any]) -> str:
    return json.dumps(_finite(values), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """JSON has no word for NaN and infinity: they become null."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_failure(folder: Path, event: Event) -> None:
    """`nonfinite.json`: the step whose loss or gradient was no finite number, and its batches as the model saw them."""
    assert event.result is not None
    batches = [
        {
            "ids": [ids.tolist() for ids in batch.tokens.unbind()],
            "types": None if batch.types is None else batch.types.tolist(),
            "labels": {name: _answers(answers) for name, answers in batch.labels.items()},
        }
        for batch in event.batches
    ]
    numbers = {"loss": str(event.result.loss), "gradient": str(event.result.gradient)}
    write_json(folder / FAILURE, {"step": event.progress.step, **numbers, "batches": batches})


def _answers(answers: Answers) -> dict[str, Any]:
    return {"rows": None if answers.rows is None else answers.rows.tolist(), "values": answers.values.tolist()}
