"""What a fine-tuning run begins with: an encoder that is there, a head for the task, and how it shall learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from bothways.checkpoint.encoder import Encoder, tokenizer_of
from bothways.checkpoint.labels import LABEL_KEYS, labels_of, said_of
from bothways.data.labelled import Labels
from bothways.errors import ConfigError
from bothways.nn.encoder import Pooler
from bothways.nn.layers import initialise
from bothways.nn.lora import add_lora
from bothways.tasks.learning import Learnable
from bothways.train.start import fresh_head, set_dropout
from bothways.train.tuning import LossSettings, TuningSettings

__all__ = ["check_heeded", "encoder_of", "numbered", "with_head"]

POOLING = ("classify", "choose")  # heads that read one row of a sequence


def encoder_of(settings: TuningSettings) -> Encoder:
    """The encoder to begin with. Raises ConfigError where none is said, or what loading it raises."""
    if not settings.adapt.model:
        raise ConfigError("model is missing: say which encoder to begin with, a folder or an id on the hub")
    encoder = Encoder.from_pretrained(settings.adapt.model)
    tokenizer_of(encoder, settings.adapt.model)
    return encoder


def numbered(labels: Labels, encoder: Encoder, task: Learnable[Any]) -> Labels:
    """The labels in the order in which the encoder's head has the same ones, so that it is kept."""
    known = labels_of(encoder.extras).names if task.head in encoder.heads else ()
    return replace(labels, names=known) if sorted(known) == sorted(labels.names) else labels


def check_heeded(task: Learnable[Any], labels: Labels, settings: TuningSettings) -> None:
    """Raises ConfigError on a setting that says nothing of such rows."""
    loss, text, usual, heeded = settings.loss, settings.text, LossSettings(), task.weighs(labels)
    for key in ("smoothing", "class_weights"):
        if getattr(loss, key) != getattr(usual, key) and key not in heeded:
            raise ConfigError(f"{key} is for rows that have one of several labels each; leave it out")
    if settings.adapt.pooling is not None and task.head not in POOLING:
        raise ConfigError("pooling is for labels of whole texts and for choices; tags and answers are of each token")
    if "windows" in heeded and text.windows == "cut" and text.stride is not None:
        raise ConfigError("stride is for windows: say windows = mean or max with it, or leave it out")
    if "windows" not in heeded and text.windows != "cut":
        raise ConfigError(f"windows = {text.windows} is for labels of whole texts; tags and answers are always read so")


def with_head(
    encoder: Encoder,
    task: Learnable[Any],
    labels: Labels,
    says: Mapping[str, Any],
    settings: TuningSettings,
    told: Callable[[str], None],
) -> Encoder:
    """The encoder with the task's head alone: its own, if it has one for these labels, or a fresh one.

    says: keys that its config shall have.    told: is told which weights are fresh, and which stay behind.
    """
    name, head = settings.adapt.model, task.head or ""
    family = encoder.family
    if head not in family.heads:
        raise ConfigError(f"{name}: {family.model_type} models have no head for it, only {', '.join(family.heads)}")
    generator = torch.Generator().manual_seed(settings.run.seed)
    named = bool(labels.names) or labels.kind == "regression"
    kept = head in encoder.heads and (not named or _same(labels_of(encoder.extras).names, _said_names(labels)))
    extras = {key: value for key, value in encoder.extras.items() if key not in LABEL_KEYS}
    extras = {**says, **extras, **(said_of(labels) if named else {})}
    if settings.adapt.pooling is not None:
        kept = kept and getattr(encoder.heads[head], "pooling", None) == settings.adapt.pooling
        extras["classifier_pooling"] = settings.adapt.pooling
    pools = encoder.network.pooler is None and family.heads[head].pools
    if pools:
        encoder.network.pooler = Pooler(encoder.config)
        initialise(encoder.network.pooler, encoder.config.init_std, generator)
    module = encoder.heads[head] if kept else fresh_head(head, encoder.network, family, extras, generator)
    fresh = [*([] if kept else [f"head {head}"]), *(["pooler"] if pools else [])]
    left = [f"head {one}" for one in encoder.heads if one != head or not kept] + list(encoder.lost)
    if fresh or left:
        told("; ".join(_counted(what, parts) for what, parts in (("fresh", fresh), ("left behind", left)) if parts))
    if settings.adapt.pooling not in (None, "cls") and family.model_type != "modernbert":
        told(f"pooling {settings.adapt.pooling}: transformers will load the model, but read its first token alone")
    adapted = replace(encoder, heads={head: module}, extras=extras, unused=())
    set_dropout(adapted.network, settings.adapt.dropout, adapted.heads)
    adapt = settings.adapt
    if adapt.lora_rank:
        parts, dropped = adapt.lora_parts, adapt.lora_dropout
        add_lora(adapted.network, adapt.lora_rank, adapt.lora_alpha, dropped, parts, generator)
    return adapted


def _counted(what: str, parts: Sequence[str]) -> str:
    named = ", ".join(parts[:5]) + (f" and {len(parts) - 5} more" if len(parts) > 5 else "")
    return f"{what}: {named}"


def _same(there: Sequence[str], names: Sequence[str]) -> bool:
    """Whether a head is for these labels; LABEL_0, LABEL_1 … say nothing of what they are."""
    unnamed = all(name == f"LABEL_{i}" for i, name in enumerate(there))
    return tuple(there) == tuple(names) or (unnamed and len(there) == len(names))


def _said_names(labels: Labels) -> tuple[str, ...]:
    """The names that a config has for labels."""
    return labels.names or ("LABEL_0",)
