"""Folders in the layout of sentence-transformers: `modules.json` and a folder for each module."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bothways.checkpoint.encoder import Encoder
from bothways.checkpoint.hub import resolve
from bothways.checkpoint.load import load_parts
from bothways.checkpoint.weights import read_weights
from bothways.errors import CheckpointError, ConfigError
from bothways.files import read_json, read_object
from bothways.nn.heads import Dense, Normalize, SentenceHead
from bothways.nn.pooling import POOLINGS
from bothways.text.tokenizer import Tokenizer

__all__ = ["SentenceModel", "load_sentence_model"]

logger = logging.getLogger(__name__)

# The older spelling of `pooling_mode`: a boolean for each.
POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
DENSE_ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": None,
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.modules.activation.SiLU": "silu",
}
SETTINGS = "config_sentence_transformers.json"
MOST_WIDTH = 1 << 16


@dataclass(frozen=True, eq=False)
class SentenceModel:
    """An encoder and what makes sentence vectors of its tokens.

    max_seq_length: tokens a text may have, special ones included.    prompts: put before a text, by name.
    similarity: "cosine", "dot", "euclidean" or "manhattan", the model's own measure.
    lower_case: whether texts are lowercased before the tokenizer sees them.
    """

    encoder: Encoder
    tokenizer: Tokenizer
    head: SentenceHead
    max_seq_length: int
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity: str = "cosine"
    lower_case: bool = False


def load_sentence_model(model: str | Path, revision: str | None = None) -> SentenceModel:
    """Load a sentence-transformers folder; a plain encoder's folder gets mean pooling, as it does there.

    Raises ConfigError or CheckpointError, naming file and key, on whatever does not fit.
    """
    folder = resolve(model, revision)
    modules = _modules(folder)
    transformer = folder / modules[0][1]
    encoder = Encoder(**load_parts(transformer))
    if encoder.tokenizer is None:
        raise CheckpointError(f"{transformer}: no tokenizer.json and no vocab.txt in this folder")
    settings = _optional(transformer / "sentence_bert_config.json")
    top = _optional(folder / SETTINGS)
    prompts = top.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise ConfigError(f"{folder / SETTINGS}: prompts must be texts by name, got {prompts!r}")
    named = {key: top.get(key) for key in ("default_prompt_name", "similarity_fn_name")}
    for key, value in named.items():
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"{folder / SETTINGS}: {key} must be a name, got {value!r}")
    return SentenceModel(
        encoder=encoder,
        tokenizer=encoder.tokenizer,
        head=_head(folder, modules[1:], encoder.config.width),
        max_seq_length=_max_seq_length(settings.get("max_seq_length"), encoder),
        prompts=prompts,
        default_prompt_name=named["default_prompt_name"],
        similarity=named["similarity_fn_name"] or "cosine",
        lower_case=bool(settings.get("do_lower_case", False)),
    )


def _optional(path: Path) -> dict[str, Any]:
    return read_object(path) if path.exists() else {}


def _modules(folder: Path) -> list[tuple[str, str]]:
    """(kind, folder) of each module, the transformer first."""
    path = folder / "modules.json"
    if not path.exists():
        logger.warning("%s: no modules.json in this folder, so mean pooling is assumed", folder)
        return [("Transformer", "")]
    entries = read_json(path)
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and isinstance(e.get("type"), str) for e in entries
    ):
        raise ConfigError(f"{path}: a list of modules, each with a type and a path, was expected")
    modules = [(entry["type"].rpartition(".")[2], str(entry.get("path", ""))) for entry in entries]
    if not modules or modules[0][0] != "Transformer":
        raise ConfigError(f"{path}: the first module must be a Transformer")
    for _, place in modules:
        if Path(place).is_absolute() or ".." in Path(place).parts:
            raise ConfigError(f"{path}: the path {place!r} leads out of the model's folder")
    return modules


def _max_seq_length(setting: Any, encoder: Encoder) -> int:
    """What the folder says, else the tokenizer's limit; never more than the model has positions for."""
    positions = encoder.config.longest
    limit = encoder.tokenizer.max_length if encoder.tokenizer else None
    if setting is not None and (type(setting) is not int or setting < 1):
        raise ConfigError(f"sentence_bert_config.json: max_seq_length must be a positive number, got {setting!r}")
    return min(positions, setting or limit or positions)


def _head(folder: Path, modules: list[tuple[str, str]], width: int) -> SentenceHead:
    if not modules:
        return SentenceHead(width)
    (kind, place), *rest = modules
    if kind != "Pooling":
        raise ConfigError(f"{folder / 'modules.json'}: the second module is {kind}, but Pooling was expected")
    path = folder / place / "config.json"
    config = read_object(path)
    head = SentenceHead(width, _poolings(config, path), bool(config.get("include_prompt", True)))
    steps: list[nn.Module] = []
    current = head.width
    for kind, place in rest:
        step = _step(folder, kind, place, current)
        current = step.linear.out_features if isinstance(step, Dense) else current
        steps.append(step)
    return SentenceHead(width, head.poolings, head.include_prompt, steps).eval()


def _poolings(config: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """The names of the poolings, in either spelling."""
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [name for key, name in POOLING_KEYS.items() if config.get(key)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or not modes or not all(isinstance(m, str) and m in POOLINGS for m in modes):
        raise ConfigError(f"{path}: unknown pooling {modes!r}; known: {', '.join(POOLINGS)}")
    return tuple(modes)


def _step(folder: Path, kind: str, place: str, width: int) -> nn.Module:
    if kind == "Normalize":
        return Normalize()
    if kind == "Dense":
        return _dense(folder / place, width)
    raise ConfigError(
        f"{folder / 'modules.json'}: unknown module {kind}; known: Transformer, Pooling, Dense, Normalize"
    )


def _dense(folder: Path, width: int) -> Dense:
    path = folder / "config.json"
    config = read_object(path)
    act = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    if not isinstance(act, str) or act not in DENSE_ACTIVATIONS:
        raise ConfigError(f"{path}: unknown activation_function {act!r}; known: {', '.join(DENSE_ACTIVATIONS)}")
    if config.get("use_residual"):
        raise ConfigError(f"{path}: use_residual is not supported")
    if config.get("module_input_name", "sentence_embedding") != "sentence_embedding":
        raise ConfigError(f"{path}: a Dense module over {config['module_input_name']!r} is not supported")
    out = config.get("out_features")
    if type(out) is not int or not 1 <= out <= MOST_WIDTH or config.get("in_features") != width:
        raise ConfigError(f"{path}: {config.get('in_features')} → {out} features do not follow a width of {width}")
    weights = read_weights(folder)
    expected = {"linear.weight": (out, width)} | ({"linear.bias": (out,)} if config.get("bias", True) else {})
    if weights.shapes != expected:
        raise CheckpointError(f"{weights.path}: {weights.shapes} found, {expected} expected")
    with torch.device("meta"):
        dense = Dense(width, out, DENSE_ACTIVATIONS[act], bias=bool(config.get("bias", True)))
    dense.load_state_dict({name: weights.read(name) for name in expected}, assign=True)
    return dense
