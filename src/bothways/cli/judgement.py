"""What an evaluation came to: as tables, as JSON, and as the files of a folder."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bothways.cli.output import print_table
from bothways.errors import MissingExtraError
from bothways.files import make_folder, replacing, write_json

if TYPE_CHECKING:
    from bothways.engine.judging import Report

__all__ = ["as_dict", "print_report", "write_report"]

MOST_LABELS = 30
SAID = {
    "accuracy": "accuracy: the share of {unit} that are right",
    "micro_f1": "F1, over all labels together",
    "macro_f1": "F1, mean over labels",
    "mcc": "Matthews' correlation",
    "pearson": "Pearson's correlation",
    "spearman": "Spearman's correlation, of ranks",
    "ece": "expected calibration error: how far scores are from the share that is right",
    "precision": "precision of entities: the share of those found that are right",
    "recall": "recall of entities: the share of those there are that were found",
    "f1": "F1 of {found}",
    "em": "exact match: the share of answers that are right word for word",
    "has_answer_em": "exact match, of questions that have an answer",
    "has_answer_f1": "F1, of questions that have an answer",
    "no_answer_em": "exact match, of questions that have none",
    "no_answer_f1": "F1, of questions that have none",
    "best_threshold": "odds of no answer above which answers are best held back",
    "best_f1": "F1, were they; tuned on these rows",
}
UNITS = {"classify": "rows", "tag": "words", "answer": "questions", "choose": "questions"}
FOUND = {
    "classify": "the second label",
    "tag": "entities",
    "answer": "answers, by the words they share",
    "choose": "answers",
}


def print_report(report: Report, kind: str, folder: Path | None, saved: Mapping[str, Any]) -> None:
    """Tables for people."""
    rows = [[_number(value), _said(name, kind, report)] for name, value in report.metrics.items()]
    print_table(["value", "metric"], rows)
    print(f"{report.rows:,} rows.")
    if report.table:
        _print_labels(report, kind)
    if report.calibration is not None:
        _print_calibration(report)
    if report.tuned:
        _print_tuned(report)
    for key, value in saved.items():
        print(f"config.json: {key} = {value if isinstance(value, float) else ', '.join(f'{one:.4f}' for one in value)}")
    if folder is not None:
        shown = min(report.mistakes.count, report.mistakes.most)
        print(f"{folder}: metrics.json and more; mistakes.jsonl has {shown:,} of {report.mistakes.count:,} mistakes")


def _said(name: str, kind: str, report: Report) -> str:
    if kind == "answer" and name == "f1":
        return "F1 of the words of answers"
    if name == "accuracy" and kind == "classify" and report.labels.kind == "multi":
        return "accuracy: the share of rows that have exactly the labels answered"
    return SAID.get(name, name).format(unit=UNITS[kind], found=FOUND[kind])


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1e4 else f"{value:.3g}"


def _print_labels(report: Report, kind: str) -> None:
    """All labels in their order; of many, those of the worst F1."""
    names = list(report.table)
    title = ""
    if len(names) > MOST_LABELS:
        names = sorted(names, key=lambda name: (report.table[name].f1, -report.table[name].support))[:MOST_LABELS]
        title = f"The {MOST_LABELS} worst of {len(report.table)} labels:"
    rows = [
        [f"{one.precision:.4f}", f"{one.recall:.4f}", f"{one.f1:.4f}", f"{one.support:,}", name]
        for name, one in ((name, report.table[name]) for name in names)
    ]
    entities = kind == "tag" and report.confusion is None
    print_table(["precision", "recall", "F1", "support", "entity" if entities else "label"], rows, title=title)


def _print_calibration(report: Report) -> None:
    assert report.calibration is not None
    rows = [
        [f"{one.low:.2f} to {one.high:.2f}", f"{one.answers:,}", f"{one.score:.4f}", f"{one.right:.4f}"]
        for one in report.calibration.bins()
    ]
    print_table(["score", "answers", "mean score", "right"], rows, title="Can the scores be trusted?", text=("score",))


def _print_tuned(report: Report) -> None:
    tuned = sorted(report.tuned, key=lambda one: one.f1 - one.tuned_f1)
    title = "Thresholds with the best F1, tuned on these rows (on others they do less well):"
    if len(tuned) > MOST_LABELS:
        title += f"\nthe {MOST_LABELS} of {len(tuned)} labels that gain most"
    rows = [[f"{one.threshold:.4f}", f"{one.f1:.4f}", f"{one.tuned_f1:.4f}", one.label] for one in tuned[:MOST_LABELS]]
    print_table(["threshold", "F1 now", "F1 then", "label"], rows, title=title)
    then = ", ".join(f"{_short(name)} {report.tuned_metrics[name]:.4f}" for name in ("micro_f1", "macro_f1"))
    now = ", ".join(f"{_short(name)} {report.metrics[name]:.4f}" for name in ("micro_f1", "macro_f1"))
    better = report.tuned_metrics["macro_f1"] > report.metrics["macro_f1"]
    advice = (
        "--tune-thresholds --save makes them the model's" if better else "the model's decisions are better as they are"
    )
    print(f"All labels: now {now}; then {then}; {advice}.")


def _short(name: str) -> str:
    return name.replace("_f1", " F1")


def as_dict(report: Report, kind: str, model: str, data: str) -> dict[str, Any]:
    """Everything but mistakes and confusion, for machines."""
    found: dict[str, Any] = {
        "model": model,
        "data": data,
        "task": kind,
        "rows": report.rows,
        "metrics": dict(report.metrics),
        "labels": {
            name: {"precision": one.precision, "recall": one.recall, "f1": one.f1, "support": one.support}
            for name, one in report.table.items()
        },
        "mistakes": report.mistakes.count,
    }
    if report.calibration is not None:
        found["calibration"] = [one._asdict() for one in report.calibration.bins()]
    if report.tuned:
        found["tuned"] = {
            "thresholds": list(report.thresholds),
            "labels": [one._asdict() for one in report.tuned],
            "metrics": dict(report.tuned_metrics),
        }
    return found


def write_report(report: Report, folder: Path, kind: str, model: str, data: str) -> None:
    """metrics.json, per_label.csv, mistakes.jsonl and pictures, those that there is something to write in."""
    make_folder(folder)
    write_json(folder / "metrics.json", as_dict(report, kind, model, data))
    if report.table:
        with replacing(folder / "per_label.csv") as aside, aside.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(_lines(report))
    with replacing(folder / "mistakes.jsonl") as aside, aside.open("wb") as lines:
        for one in report.mistakes.ordered():
            lines.write(json.dumps(one, ensure_ascii=False).encode("utf-8", errors="backslashreplace") + b"\n")
    try:
        for name, draw in _pictures(report, kind):
            with replacing(folder / name) as aside:
                draw(aside)
    except MissingExtraError as error:
        print(f"bothways: {error} (the other files are there)", file=sys.stderr)


def _lines(report: Report) -> Iterator[Sequence[Any]]:
    yield "label", "precision", "recall", "f1", "support"
    for name, one in report.table.items():
        yield name, one.precision, one.recall, one.f1, one.support


def _pictures(report: Report, kind: str) -> Iterator[tuple[str, Callable[[Path], None]]]:
    from bothways.cli.charts import draw_confusion, draw_reliability

    confusion, calibration = report.confusion, report.calibration
    if confusion is not None:
        yield "confusion.png", lambda path: draw_confusion(confusion.names, confusion.counts, path)
    if calibration is not None:
        unit = "labels of rows" if report.labels.kind == "multi" and kind == "classify" else UNITS[kind]
        yield "reliability.png", lambda path: draw_reliability(list(calibration.bins()), calibration.error, unit, path)
