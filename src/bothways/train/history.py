"""A run as its folder tells of it: what was trained, how far it came, and the curves of its losses and metrics.

Nothing here needs torch: runs are looked at on any machine, in a moment.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bothways.errors import InputError
from bothways.files import read_object
from bothways.train.heeded import heeds

__all__ = [
    "HIGHER",
    "LOSSES",
    "LOWER",
    "METRICS",
    "OF_HUNDRED",
    "SETTINGS",
    "Best",
    "Curve",
    "History",
    "Point",
    "best_of",
    "differing",
    "held_out_at",
    "kind_of",
    "metric_of",
    "read_history",
    "read_metrics",
    "unique_names",
]

METRICS = "metrics.jsonl"
SETTINGS = "settings.json"
MOST_LOG_BYTES = 1 << 28  # a million rows
BEYOND = 1e100  # larger than any loss in fp32
# The names of losses, and what people call them.
LOSSES = {
    "mlm": "masked words",
    "nsp": "next sentences",
    "sop": "sentence order",
    "causal": "next words",
    "rtd": "replaced tokens",
    "words": "written words",
    "generator": "masked words, by a generator",
}
# What a run with replaced tokens says of its generator: its words are not those of the encoder that is trained.
OF_GENERATOR = {"mlm": "generator", "accuracy": "generator_accuracy", "pseudo_perplexity": "generator_perplexity"}
# The losses of words that are predicted: it is theirs, where a log says "accuracy" of one.
OF_WORDS = ("mlm", "causal", "words")
# Kinds of metrics that are the better the higher they are, or the lower.
HIGHER = (
    *("accuracy", "precision", "recall", "f1", "em", "mcc", "pearson", "spearman"),
    *("bleu", "chrf", "rouge1", "rouge2", "rougeL"),
)
LOWER = ("loss", "perplexity", "ece")
OF_HUNDRED = ("bleu", "chrf")  # numbers up to 100; all others that are higher are shares
# Settings that what is held out, and what is asked of it, depend on.
ASKED = {
    "corpus": ("identity", "longest"),
    "text": ("max_length", "windows", "stride"),
    "sides": ("max_source_length", "max_target_length", "targets"),
    "judging": ("num_beams", "max_new_tokens"),
    "masking": ("rate", "mask", "random", "unit"),
    "objective": ("negatives",),
    "run": ("evaluate_tokens",),
}
# What people call a setting, where that is no key of theirs.
TOLD = {"identity": "corpus"}
# Objectives whose sequences are pairs of segments: their words are other ones, too.
PAIRED = frozenset({"nsp", "sop"})
# What a row says beside means.
BESIDE = frozenset({"step", "tokens", "loss", "lr", "gradient", "skipped", "held_out"})


class Point(NamedTuple):
    """A value after so many steps and tokens."""

    step: int
    tokens: float
    value: float


Curve = tuple[Point, ...]


@dataclass(frozen=True)
class Best:
    """A curve's best value, and the step it is of."""

    value: float
    step: int


@dataclass(frozen=True)
class History:
    """What is known of a run.

    objectives, model: as its settings name them; model is None, and objectives are told by the log, without settings.
    parameters: of the newest weights in its folder, heads included.
    steps, tokens: done; planned: steps it is to take.
    training, held_out: curves by metric, over steps; "accuracy" of predicted words is there as "mlm_accuracy", and what
    a generator's words come to as "generator" and "generator_accuracy".
    settings: all of them, as the run's folder has them.
    """

    folder: Path
    objectives: tuple[str, ...]
    model: str | None
    parameters: int | None
    steps: int
    tokens: int
    planned: int | None
    training: Mapping[str, Curve]
    held_out: Mapping[str, Curve]
    settings: Mapping[str, Any]


def read_history(folder: Path) -> History:
    """Read a run's folder. Raises InputError or ConfigError, naming the file, on a log that is missing, damaged or
    empty, and on damaged settings.
    """
    path = folder / METRICS
    rows = list(_checked(path))
    if not rows:
        raise InputError(f"{path}: no step is logged yet; look again when the run is further")
    settings = read_object(folder / SETTINGS) if (folder / SETTINGS).exists() else {}
    at = _tokens_at(rows)
    steps = max(row["step"] for row in rows)
    training = _curves((row for row in rows if "held_out" not in row and not row.get("skipped")), at)
    held_out = _curves(({"step": row["step"], **_held(row["held_out"])} for row in rows if "held_out" in row), at)
    return History(
        folder,
        objectives=_objectives(settings, {**training, **held_out}),
        model=_model(settings),
        parameters=_parameters(folder),
        steps=steps,
        tokens=round(at(steps)),
        planned=_said(settings, "step", "steps", int),
        training=training,
        held_out=held_out,
        settings=settings,
    )


def held_out_at(folder: Path, step: int) -> dict[str, float]:
    """What the evaluation after a step of the run in a folder found, as its log has it; nothing if there was none."""
    rows = [row for row in read_metrics(folder / METRICS) if row["step"] == step and "held_out" in row]
    return dict(rows[-1]["held_out"]) if rows else {}


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a log; a last line that a kill cut short is left out. Raises InputError on any other damage."""
    lines = _text(path).split("\n")
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line) if line else None
        except (ValueError, RecursionError):
            if number >= len(lines):
                return
            raise InputError(f"{path}: line {number} is not JSON") from None
        if isinstance(value, dict) and "step" in value:
            yield value


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MOST_LOG_BYTES:
            raise InputError(f"{path}: more than {MOST_LOG_BYTES:,} bytes, too many for a log")
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; name the folder of a run of `bothways pretrain` or `finetune`"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def _checked(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a log that is drawn: their numbers are numbers."""
    for row in read_metrics(path):
        held = row.get("held_out", {})
        values = [row["step"], row.get("tokens", 0)]
        if not all(type(one) is int and 0 <= one < 1 << 60 for one in values) or not isinstance(held, dict):
            raise InputError(f"{path}: damaged: {_short(row)} is no row of a log")
        for name, value in {**row, **held}.items():
            if name != "held_out" and not isinstance(value, (int, float, type(None))):
                raise InputError(f"{path}: damaged: {name} is {_short(value)} at step {row['step']}")
        yield row


def _held(found: Mapping[str, Any]) -> dict[str, Any]:
    """What is held out, with the loss of written words by the name that it has in training."""
    return {"words" if name == "loss" else name: value for name, value in found.items()}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _tokens_at(rows: Iterable[Mapping[str, Any]]) -> Callable[[int], float]:
    """How many tokens had been seen after a step; between rows that say it, in proportion."""
    known = sorted({0: 0, **{row["step"]: row["tokens"] for row in rows if "tokens" in row}}.items())
    steps = [step for step, _ in known]

    def at(step: int) -> float:
        i = min(max(1, bisect_left(steps, step)), len(known) - 1)
        (left, fewer), (right, more) = known[max(0, i - 1)], known[i]
        return more if right == left else fewer + (more - fewer) * (step - left) / (right - left)

    return at


def _curves(rows: Iterable[Mapping[str, Any]], at: Callable[[int], float]) -> dict[str, Curve]:
    """By metric, without values that no sum of finite ones can be."""
    curves: dict[str, list[Point]] = {}
    for row in rows:
        for name, value in row.items():
            if name not in BESIDE and value is not None and abs(value) < BEYOND:
                curves.setdefault(metric_of(name, row), []).append(Point(row["step"], at(row["step"]), float(value)))
    return {name: tuple(curve) for name, curve in curves.items()}


def metric_of(name: str, row: Iterable[str]) -> str:
    """What a value is the same metric as: the accuracy of masked words is not that of next words, or a generator's."""
    if "rtd" in row and name in OF_GENERATOR:
        return OF_GENERATOR[name]
    words = next((loss for loss in OF_WORDS if loss in row), None)
    return f"{words}_{name}" if name == "accuracy" and words else name


def kind_of(metric: str) -> str:
    """loss, accuracy, perplexity …: what it is a metric of left out."""
    return "loss" if metric in LOSSES else metric.rsplit("_", 1)[-1]


def best_of(metric: str, curve: Curve) -> Best | None:
    """The first of the best points; None of a metric that is not for the better or the worse."""
    if (kind := kind_of(metric)) in LOWER:
        best = min(curve, key=lambda point: point.value)
    elif kind in HIGHER:
        best = max(curve, key=lambda point: point.value)
    else:
        return None
    return Best(best.value, best.step)


def differing(runs: Iterable[History]) -> dict[str, list[Any]]:
    """Settings that make the held-out values of runs values of different tasks, each with all that it is."""
    runs = list(runs)
    asked = {
        key: [one.settings for one in runs if heeds(key, one.objectives)] for keys in ASKED.values() for key in keys
    }
    found = {TOLD.get(key, key): _values(asked[key], part, key) for part, keys in ASKED.items() for key in keys}
    paired = list(dict.fromkeys("pairs" if PAIRED & set(run.objectives) else "single" for run in runs))
    return {key: values for key, values in {**found, "sequences": paired}.items() if len(values) > 1}


def _values(every: Iterable[Mapping[str, Any]], part: str, key: str) -> list[Any]:
    """All that a setting is, of those that say it."""
    said = [_identity(one) if key == "identity" else one[key] for one in _parts(every, part) if key in one]
    return [value for i, value in enumerate(said) if value not in said[:i]]


def _parts(every: Iterable[Mapping[str, Any]], part: str) -> Iterator[dict[str, Any]]:
    return (one for some in every if isinstance(one := some.get(part), dict))


def _identity(corpus: Mapping[str, Any]) -> Any:
    """That of what is held out, where this is apart from what is learnt."""
    return corpus.get("held", corpus["identity"])


def unique_names(folders: Sequence[Path]) -> list[str]:
    """Each folder's name, with as many of those above it as tell it from the others."""
    parts = [folder.resolve().parts for folder in folders]
    names = ["/".join(one[-1:]) for one in parts]
    for count in range(2, max(map(len, parts), default=0) + 1):
        names = ["/".join(one[-count:]) if names.count(name) > 1 else name for one, name in zip(parts, names)]
    return names


def _said(settings: Mapping[str, Any], part: str, key: str, kind: type[Any]) -> Any:
    """A value of the settings; None where they lack it, or have it otherwise than a run writes it."""
    values = settings.get(part)
    value = values.get(key) if isinstance(values, dict) else None
    return value if type(value) is kind else None


def _objectives(settings: Mapping[str, Any], metrics: Iterable[str]) -> tuple[str, ...]:
    said = _said(settings, "objective", "objectives", list)
    return tuple(map(str, said)) if said else tuple(name for name in LOSSES if name in metrics and name != "generator")


def _model(settings: Mapping[str, Any]) -> str | None:
    preset = _said(settings, "model", "preset", str)
    begun = (("model", "start"), ("adapt", "model"), ("source", "model"))
    start = next((one for part, key in begun if (one := _said(settings, part, key, str))), None)
    return preset if start is None else f"from {Path(start).name}"


def _parameters(folder: Path) -> int | None:
    """Of the finished model, or of the newest checkpoint; None where there is none that is whole."""
    from safetensors import SafetensorError, safe_open

    places: list[Path] = [folder / "model", *sorted((folder / "checkpoints").glob("step-*"), reverse=True)]
    files = next((found for place in places if (found := sorted(place.glob("model*.safetensors")))), [])
    try:
        shapes = [_shapes(safe_open(file, framework="np")) for file in files]
    except (SafetensorError, OSError, ValueError):
        return None
    return sum(math.prod(shape) for some in shapes for shape in some) or None


def _shapes(file: Any) -> list[Sequence[int]]:
    return [file.get_slice(name).get_shape() for name in list(file.keys())]
