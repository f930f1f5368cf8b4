"""The model card of a fine-tuned model: what it answers, how well, how it is asked, and everything that made it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bothways.train.card import CARD, model_name, model_told, write_tables
from bothways.train.folder import described
from bothways.train.meter import Reading
from bothways.train.networks import Networks
from bothways.train.progress import Progress
from bothways.train.samples import Material
from bothways.train.tuning import TuningSettings

__all__ = ["settings_told", "write_tuning_card"]

FRONT = "---\nlibrary_name: bothways\npipeline_tag: {task}\n---\n"
LOADING = """\
```python
import bothways

ask = bothways.pipeline("{task}", "FOLDER")  # this folder, wherever it is
```
"""
EVERYBODYS = 'transformers loads it, too: `transformers.{kind}.from_pretrained("FOLDER")`.\n'
OURS = """\
transformers loads it as `{kind}`, but reads the first token where this model was trained on the {pooling} of all:
only bothways gives its answers.
"""
MOST_LABELS = 50


def write_tuning_card(
    folder: Path,
    settings: TuningSettings,
    material: Material,
    networks: Networks,
    progress: Progress,
    metrics: Mapping[str, float],
    reading: Reading | None,
) -> None:
    """Write `README.md` beside a model. metrics: of this model, on the rows held out; empty where none were.

    reading: None where the run's steps were taken by another process; a card that is there stays.
    """
    if reading is None and (folder / CARD).exists():
        return
    encoder, model, head = networks.encoder, model_name(settings.adapt.model), material.objective.head
    kind = encoder.family.architecture(encoder.heads)
    said = encoder.extras.get("classifier_pooling") if getattr(encoder.heads[head], "pooling", None) else None
    ours = said not in (None, "cls") and encoder.family.model_type != "modernbert"
    parts = [
        f"{FRONT.format(task=material.name)}# {model}, fine-tuned for {material.name}\n",
        f"From `{model}`: {progress.step:,} steps over {len(material.samples):,} rows, seed {settings.run.seed}.\n",
        "## Loading",
        LOADING.format(task=material.name) + (OURS if ours else EVERYBODYS).format(kind=kind, pooling=said),
    ]
    tables: dict[str, Mapping[str, Any]] = {
        "Result": {**{name: value for name, value in metrics.items() if "/" not in name}, "at step": progress.step},
        "Data": {
            "rows": len(material.samples),
            "rows held out": len(material.held),
            "tokens": sum(map(len, material.samples)),
            "rows cut": sum(sample.cut > 0 for sample in material.samples),
            "fingerprint": material.identity,
        },
        **({"Labels": _labels(material.labels.names)} if material.labels.names else {}),
        "Model": model_told(encoder),
        "Settings": settings_told(settings, settings.adapt.model),
    }
    write_tables(folder, parts, tables, reading)


def _labels(names: tuple[str, ...]) -> dict[str, Any]:
    shown = {str(number): name for number, name in enumerate(names[:MOST_LABELS])}
    return shown | ({"…": f"{len(names) - MOST_LABELS} more"} if len(names) > MOST_LABELS else {})


def settings_told(settings: Any, model: str) -> dict[str, Any]:
    """All that was said or has a default."""
    flat = {key: value for part in described(settings).values() for key, value in part.items()}
    return {key: value for key, value in flat.items() if value is not None} | {"model": model_name(model)}
