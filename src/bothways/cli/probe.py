"""`bothways evaluate --probe`: how well labels can be read off a model."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bothways.cli.labelled import LabelledRows
from bothways.cli.output import print_json, print_table
from bothways.data.labelled import Example, Labels, chosen, labelled

if TYPE_CHECKING:
    from bothways.data.columns import Columns
    from bothways.data.table import TableSource
    from bothways.engine.probe import ProbeResult, ProbeRun

__all__ = ["Asked", "probe"]

METRICS = {
    "accuracy": "accuracy",
    "macro_f1": "F1, mean over labels",
    "mcc": "Matthews' correlation",
    "pearson": "Pearson's correlation",
    "spearman": "Spearman's correlation",
}
SAID_LABELS = 8


@dataclass(frozen=True)
class Asked:
    """What is said of a probe; as the options of `bothways evaluate --probe`."""

    kind: str | None
    max_rows: int | None
    seeds: int
    layer: int | str
    pooling: str
    pairs: str | None
    max_length: int | None
    batch_tokens: int | None
    precision: str
    device: str


def probe(model: str, rows: LabelledRows, asked: Asked, json: bool) -> None:
    """Learn a linear model on frozen hidden states, and print how good it is."""
    started = time.monotonic()
    source, eval_source = rows.sources()
    train, columns = _read(source, rows.columns(), asked.max_rows)
    held = None if eval_source is None else _read(eval_source, columns, asked.max_rows)[0]
    labels = Labels.of(train, columns.label or "", kind=asked.kind)
    from bothways.checkpoint.encoder import Encoder
    from bothways.engine.probe import FrozenFeatures, ProbeSettings
    from bothways.engine.probe import probe as ask

    settings = ProbeSettings(asked.pooling, asked.pairs, asked.seeds, asked.max_length, asked.layer)
    features = FrozenFeatures(
        Encoder.from_pretrained(model),
        settings,
        device=asked.device,
        precision=asked.precision,
        batch_tokens=asked.batch_tokens,
    )
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
