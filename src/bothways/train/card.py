"""The model card of a finished run: what it is, how it is loaded, and everything that made it."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bothways import __version__
from bothways.checkpoint.encoder import Encoder
from bothways.data.corpus import Corpus
from bothways.files import replacing
from bothways.nn.encoder import EncoderNetwork
from bothways.nn.heads import MaskDecoder
from bothways.objectives.choice import OBJECTIVES
from bothways.train.folder import described
from bothways.train.history import held_out_at
from bothways.train.meter import Reading
from bothways.train.networks import Networks
from bothways.train.progress import Progress
from bothways.train.settings import PretrainSettings

__all__ = ["CARD", "model_name", "model_told", "network_told", "write_card", "write_tables"]

CARD = "README.md"
FRONT = "---\nlibrary_name: bothways\npipeline_tag: {tag}\n---\n"
LOAD_MASKED = """\
```python
import bothways

fill_mask = bothways.pipeline("fill-mask", "FOLDER")  # this folder, wherever it is
encoder = bothways.Encoder.from_pretrained("FOLDER")
```
At the prompt: `bothways fill-mask FOLDER "The [MASK] sat on the mat."` with the tokenizer's mask token, here `{mask}`.

"""
LOAD_CAUSAL = """\
```python
import bothways

encoder = bothways.Encoder.from_pretrained("FOLDER")  # this folder, wherever it is
```
"""
LOAD_REPLACED = """\
```python
import bothways

encoder = bothways.Encoder.from_pretrained("FOLDER")  # this folder, wherever it is
scores = encoder.heads["{head}"](encoder.network(bothways.Ragged.of([ids])).last)  # above 0: a token was replaced
generator = bothways.Encoder.from_pretrained("FOLDER/generator")  # which replaced tokens
```
"""
EVERYBODYS = 'transformers loads it, too: `{kind}.from_pretrained("FOLDER")`.\n'
OURS = """\
transformers loads the encoder (`AutoModel.from_pretrained("FOLDER")`), but not the masked-language head: DeBERTa's
enhanced mask decoder is missing there, and what `AutoModelForMaskedLM` predicts with these weights is worth nothing.
Only bothways predicts words with it.
"""
EMBEDDINGS = {
    "tied": "those of the model",
    "disentangled": "its own; those of the model are these and a shift",
    "none": "its own",
}
SOFTWARE = ("torch", "numpy", "tokenizers", "safetensors")


def write_card(
    folder: Path,
    run: Path,
    settings: PretrainSettings,
    corpus: Corpus,
    networks: Networks,
    progress: Progress,
    reading: Reading | None,
) -> None:
    """Write `README.md` beside a model in `folder`.

    run: the folder of the run.    reading: None where its steps were taken by another process; a card that is there,
    which knows their speed, stays.
    """
    if reading is None and (folder / CARD).exists():
        return
    encoder, start = networks.encoder, settings.model.start and model_name(settings.model.start)
    title = f"{settings.model.preset}, pretrained" if start is None else f"{start}, pretrained further"
    front = FRONT.format(tag=_tag(networks))
    parts = [f"{front}# {title}\n", _introduction(settings, progress), "## Loading", _loading(networks)]
    tables = {
        "Result": _result(progress, held_out_at(run, progress.step)),
        "Data": _data(corpus),
        "Model": model_told(encoder),
        **({} if networks.generator is None else {"Generator": _generator(networks, networks.generator)}),
        "Settings": _settings(settings, networks),
    }
    write_tables(folder, parts, tables, reading)


def model_name(model: str) -> str:
    """An id on the hub as it is, a folder by its name: where it was is nobody's business."""
    return Path(model).resolve().name if Path(model).exists() else model


def write_tables(
    folder: Path, parts: Sequence[str], tables: Mapping[str, Mapping[str, Any]], reading: Reading | None
) -> None:
    """Write a card: text, then tables by their headings, with software and speed behind them."""
    software = {"bothways": __version__, "Python": platform.python_version()}
    more = {
        "Software": software | {name: version(name) for name in SOFTWARE},
        **({} if reading is None else {"Speed": _speed(reading)}),
    }
    told = [*parts, *(_table(heading, values) for heading, values in {**tables, **more}.items())]
    with replacing(folder / CARD) as aside:
        aside.write_text("\n".join(told), encoding="utf-8")


def _introduction(settings: PretrainSettings, progress: Progress) -> str:
    start = settings.model.start
    origin = "from fresh weights" if start is None else f"from `{model_name(start)}`"
    done = f"{progress.step:,} steps, {progress.tokens:,} tokens, seed {settings.run.seed}"
    titles = " and ".join(OBJECTIVES[name].title for name in settings.objective.objectives)
    return f"Trained by {titles}, {origin}: {done}.\n"


def _tag(networks: Networks) -> str:
    """What the hub calls what it does; an encoder without a word head makes vectors."""
    if networks.generator is not None:
        return "feature-extraction"
    return "text-generation" if networks.encoder.config.causal else "fill-mask"


def _loading(networks: Networks) -> str:
    encoder = networks.encoder
    if networks.generator is not None:
        (name,) = encoder.heads
        return LOAD_REPLACED.format(head=name) + EVERYBODYS.format(kind=encoder.family.architecture(encoder.heads))
    if encoder.config.causal:
        return LOAD_CAUSAL + EVERYBODYS.format(kind="AutoModelForCausalLM")
    decodes = isinstance(head := encoder.heads["mlm"], MaskDecoder) and head.positions is not None
    mask = "" if encoder.tokenizer is None else encoder.tokenizer.special.get("mask", "")
    return LOAD_MASKED.format(mask=mask) + (OURS if decodes else EVERYBODYS.format(kind="AutoModelForMaskedLM"))


def _result(progress: Progress, held_out: Mapping[str, float]) -> dict[str, Any]:
    return {
        "steps": progress.step,
        **({"steps skipped": progress.skipped} if progress.skipped else {}),
        "tokens seen": progress.tokens,
        **({} if progress.best_loss is None else {"best held-out loss": progress.best_loss}),
        **({} if progress.best_step is None else {"at step": progress.best_step}),
        **{f"held out: {name}": value for name, value in held_out.items()},
    }


def _data(corpus: Corpus) -> dict[str, Any]:
    splits = {
        f"{name} split": f"{split.documents:,} documents, {split.tokens:,} tokens"
        for name, split in corpus.splits.items()
    }
    dropped = {f"dropped: {name}": count for name, count in corpus.counts.items()}
    made = dict(corpus.made)
    source = made.pop("source", None)
    told = {f"built with {key}": value for key, value in made.items()}
    return {"source": _source(source if isinstance(source, dict) else {}), **splits, **dropped, **told}


def _source(source: Mapping[str, Any]) -> str:
    """A data set by its name, files by theirs: which folder they were in is nobody's business."""
    inputs = source.get("inputs")
    names = [Path(str(one)).name for one in inputs] if isinstance(inputs, list) else []
    return str(source["dataset"]) if source.get("dataset") else ", ".join(names)


def _settings(settings: PretrainSettings, networks: Networks) -> dict[str, Any]:
    """All that was set and heeded, and what stands for what was not."""
    flat = {key: value for part in described(settings).values() for key, value in part.items()}
    found: dict[str, Any] = {
        "dropout": networks.encoder.config.dropout,
        "warmup": settings.update.rising(settings.step.steps),
    }
    if settings.model.start is not None:
        found["start"] = model_name(settings.model.start)
    if networks.generator is not None:
        found["sharing"] = networks.sharing
    told = {key: found.get(key, value) for key, value in flat.items() if key in found or value is not None}
    return {key: value for key, value in told.items() if settings.heeds(key)}


def model_told(encoder: Encoder) -> dict[str, Any]:
    """An encoder's size, for a table."""
    return network_told(encoder.network, encoder.family.model_type)


def network_told(network: EncoderNetwork, family: str) -> dict[str, Any]:
    """A network's size, for a table."""
    config = network.config
    return {
        "family": family,
        "layers × width": f"{config.depth} × {config.width}",
        "attention heads": config.heads,
        "feed-forward width": config.ffn,
        "vocabulary": config.vocab,
        "longest input": f"{config.longest:,} tokens",
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
    }


def _generator(networks: Networks, generator: Encoder) -> dict[str, Any]:
    config = generator.config
    return {
        "layers × width": f"{config.depth} × {config.width}",
        "attention heads": config.heads,
        "feed-forward width": config.ffn,
        "embeddings": EMBEDDINGS[networks.sharing],
        "parameters": sum(parameter.numel() for parameter in generator.network.parameters()),
    }


def _speed(reading: Reading) -> dict[str, Any]:
    speed = f"{reading.tokens_per_second:,.0f}"
    return {"tokens a second": speed, "share of the machine's matrix-product rate": f"{reading.share:.0%}"}


def _table(heading: str, values: Mapping[str, Any]) -> str:
    rows = "".join(f"| {key} | {_shown(value)} |\n" for key, value in values.items())
    return f"## {heading}\n| | |\n|---|---|\n{rows}"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "none"
    return f"{value:,}" if type(value) is int else " ".join(str(value).replace("|", "\\|").split())
