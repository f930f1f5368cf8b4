"""`bothways evaluate`: how well labels can be read off a model."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from bothways.cli.labelled import SWITCH, LabelledRows
from bothways.cli.output import print_json, print_table
from bothways.data.labelled import Example, Labels, chosen, labelled
from bothways.errors import InputError

if TYPE_CHECKING:
    from bothways.data.columns import Columns
    from bothways.data.table import TableSource
    from bothways.engine.probe import ProbeResult, ProbeRun

__all__ = ["evaluate"]

METRICS = {
    "accuracy": "accuracy",
    "macro_f1": "F1, mean over labels",
    "mcc": "Matthews' correlation",
    "pearson": "Pearson's correlation",
    "spearman": "Spearman's correlation",
}
SAID_LABELS = 8


def evaluate(
    model: str,
    /,
    *,
    probe: Annotated[bool, SWITCH] = False,
    rows: Annotated[LabelledRows, Parameter(name="*")] = LabelledRows(),  # noqa: B008 (frozen)
    kind: str | None = None,
    max_rows: int | None = None,
    seeds: int = 1,
    layer: int | str = "last",
    pooling: str = "mean",
    pairs: str | None = None,
    max_length: int | None = None,
    batch_tokens: int | None = None,
    precision: str = "auto",
    device: str = "auto",
    json: Annotated[bool, SWITCH] = False,
) -> None:
    """What an encoder knows without being trained for it: a linear model on its frozen hidden states.

    Logistic regression for labels, ridge regression for numbers, its regularisation chosen on a fifth of the training
    rows. The result does not depend on the order of the rows.

    Parameters
    ----------
    model
        A folder or a hub id.
    probe
        Freeze the encoder and learn a linear model (what there is so far).
    kind
        single (a label) or regression (a number); by default regression where labels are numbers and not all whole.
    max_rows
        Learn from, and evaluate on, at most so many rows each, picked from all over the file.
    seeds
        So many divisions of the training rows; the mean and the spread are shown. Without rows to evaluate on, each
        keeps other ones aside for it; with them, all training rows are learnt from each time, and only those that the
        regularisation is chosen on differ.
    layer
        Whose hidden states: last; a number, 0 for the embeddings; mean, of all of them; or best, that which does best
        on the fifth of the training rows that the regularisation is chosen on.
    pooling
        What makes a vector of a text's hidden states: mean, cls, max, lasttoken, weightedmean, mean_sqrt_len_tokens.
    pairs
        How a pair is read: together as one input, apart (the default), or both.
    max_length
        Tokens a text may have (by default, what the model takes).
    batch_tokens
        Tokens computed at a time: memory against speed; the result does not depend on it.
    precision
        fp32, bf16, or fp16 on a GPU. By default fp32 on a CPU, half on a GPU.
    device
        auto, cpu or cuda.
    json
        Print JSON.
    """
    if not probe:
        raise InputError("say --probe: there is no other evaluation yet")
    started = time.monotonic()
    source, eval_source = rows.sources()
    train, columns = _read(source, rows.columns(), max_rows)
    held = None if eval_source is None else _read(eval_source, columns, max_rows)[0]
    labels = Labels.of(train, columns.label or "", kind=kind)
    from bothways.checkpoint.encoder import Encoder
    from bothways.engine.probe import FrozenFeatures, ProbeSettings
    from bothways.engine.probe import probe as ask

    settings = ProbeSettings(pooling, pairs, seeds, max_length, layer)
    encoder = Encoder.from_pretrained(model)
    features = FrozenFeatures(encoder, settings, device=device, precision=precision, batch_tokens=batch_tokens)
    result = ask(features, train, held, labels)
    _print(result, model, time.monotonic() - started, json)


def _read(source: TableSource, columns: Columns, most: int | None) -> tuple[list[Example], Columns]:
    """The rows, and the columns they are from, which are printed if they were guessed."""
    with labelled(source, columns) as found:
        if found.columns != columns:
            print(f"bothways: guessed: {found.said}", file=sys.stderr)
        return chosen(found.examples, most), found.columns


def _print(result: ProbeResult, model: str, seconds: float, json: bool) -> None:
    if json:
        print_json({"model": model, **_as_dict(result), "seconds": round(seconds, 1)})
        return
    several = len(result.runs) > 1
    print_table(
        ["value", *(["±"] if several else []), "metric"],
        [
            [f"{mean:.4f}", *([f"{result.spreads[name]:.4f}"] if several else []), METRICS[name]]
            for name, mean in result.means.items()
        ],
    )
    chosen = "; ".join(dict.fromkeys(_chosen(run) for run in result.runs))
    print(
        f"{_said(result)} Learnt from {result.rows:,} rows of {result.width:,} numbers ({chosen}), "
        f"evaluated on {result.evaluated:,}, in {seconds:.1f} s."
    )


def _chosen(run: ProbeRun) -> str:
    layer = "mean of all layers" if run.layer is None else f"layer {run.layer}"
    return f"{layer}, strength {run.strength:g}"


def _said(result: ProbeResult) -> str:
    names = result.labels.names
    if not names:
        return "Scores."
    shown = ", ".join(name[:40] for name in names[:SAID_LABELS]) + (", …" if names[SAID_LABELS:] else "")
    asked = "" if result.asked == len(names) else f", {result.asked} of them evaluated"
    return f"{len(names)} labels ({shown}){asked}; always the most frequent one: accuracy {result.majority:.4f}."


def _as_dict(result: ProbeResult) -> dict[str, Any]:
    runs = [{"seed": run.seed, "layer": run.layer, "strength": run.strength, **run.metrics} for run in result.runs]
    return {
        "kind": result.labels.kind,
        "labels": list(result.labels.names),
        "labels_evaluated": result.asked,
        "rows": result.rows,
        "evaluated": result.evaluated,
        "width": result.width,
        "majority": result.majority,
        "metrics": result.means,
        "spreads": result.spreads,
        "runs": runs,
    }
