"""The card of a model that learnt to write one text from another: how well, how it is asked, what made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bothways.checkpoint.encoder_decoder import EncoderDecoder
from bothways.checkpoint.marks import Around
from bothways.train.card import CARD, model_name, model_told, network_told, write_tables
from bothways.train.meter import Reading
from bothways.train.networks import Networks, PairNetworks
from bothways.train.progress import Progress
from bothways.train.seq2seq_rows import Material
from bothways.train.seq2seq_settings import Seq2SeqSettings
from bothways.train.tuning_card import settings_told

__all__ = ["write_seq2seq_card"]

FRONT = "---\nlibrary_name: bothways\npipeline_tag: {task}\n---\n"
LOADING = """\
```python
import bothways

write = bothways.pipeline("{task}", "FOLDER")  # this folder, wherever it is
```
At the prompt: `bothways generate FOLDER "A text."`.

"""
EVERYBODYS = 'transformers loads it, too: `transformers.{kind}.from_pretrained("FOLDER")`.\n'
OURS = "transformers does not know its {parts}: only bothways loads it whole.\n"
BEHIND = (
    "It goes on from a source with {separator!r} behind it, which bothways puts there, and transformers does not.\n"
)
BEFORE = "It reads each source with {prefix!r} before it, which bothways puts there, and transformers does not.\n"


def write_seq2seq_card(
    folder: Path,
    settings: Seq2SeqSettings,
    material: Material,
    networks: Networks | PairNetworks,
    progress: Progress,
    metrics: Mapping[str, float],
    reading: Reading | None,
) -> None:
    """Write `README.md` beside a model. metrics: of this model, on the rows held out; empty where none were.

    reading: None where the run's steps were taken by another process; a card that is there stays.
    """
    if reading is None and (folder / CARD).exists():
        return
    model = model_name(settings.source.model)
    task = "text-generation" if isinstance(networks, Networks) else "text2text-generation"
    rows = f"{len(material.samples):,} rows, seed {settings.run.seed}"
    parts = [
        f"{FRONT.format(task=task)}# {model}, fine-tuned to write\n",
        f"From `{model}`: {progress.step:,} steps over {rows}.\n",
        "## Loading",
        LOADING.format(task=task) + _loading(networks),
    ]
    tables: dict[str, Mapping[str, Any]] = {
        "Result": {**metrics, "at step": progress.step},
        "Data": {
            "rows": len(material.samples),
            "rows held out": len(material.held),
            "tokens of sources": sum(map(len, material.samples)),
            "tokens of targets": sum(len(sample.answer) for sample in material.samples),
            "rows cut": sum(sample.cut > 0 for sample in material.samples),
            "fingerprint": material.identity,
        },
        **_told(networks),
        "Settings": settings_told(settings, settings.source.model),
    }
    write_tables(folder, parts, tables, reading)


def _loading(networks: Networks | PairNetworks) -> str:
    if isinstance(networks, Networks):
        kind = networks.encoder.family.architecture(networks.encoder.heads)
        return EVERYBODYS.format(kind=kind) + _around(networks.encoder.extras)
    pair = networks.pair
    ours = [name for name, there in (("adapter", pair.adapter_is_ours), ("second tokenizer", _two(pair))) if there]
    told = OURS.format(parts=" and ".join(ours)) if ours else EVERYBODYS.format(kind=pair.family.architecture)
    return told + _around(pair.extras)


def _around(extras: Mapping[str, Any]) -> str:
    around = Around.of(extras, "the model")
    behind = BEHIND.format(separator=around.separator) if around.separator else ""
    return behind + (BEFORE.format(prefix=around.prefix) if around.prefix else "")


def _two(pair: EncoderDecoder) -> bool:
    return pair.target_tokenizer is not pair.tokenizer


def _told(networks: Networks | PairNetworks) -> dict[str, Mapping[str, Any]]:
    if isinstance(networks, Networks):
        return {"Model": model_told(networks.encoder)}
    pair, family = networks.pair, networks.pair.family
    between = {} if pair.adapter is None else {"Adapter": _adapter(pair)}
    return {
        "Encoder": network_told(pair.encoder, family.encoder.model_type),
        **between,
        "Decoder": network_told(pair.decoder, family.decoder.model_type),
    }


def _adapter(pair: EncoderDecoder) -> dict[str, Any]:
    assert pair.adapter is not None
    return {**asdict(pair.adapter.config), "parameters": sum(one.numel() for one in pair.adapter.parameters())}
