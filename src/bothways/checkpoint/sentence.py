"""Folders in the layout of sentence-transformers: `modules.json` and a folder for each module."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bothways.checkpoint.encoder import Encoder, tokenizer_of
from bothways.checkpoint.hub import resolve
from bothways.checkpoint.load import load_parts
from bothways.checkpoint.modules import MODULES, read_modules
from bothways.checkpoint.weights import WEIGHTS, read_weights, refuse_pickles, stamp, write_weights
from bothways.errors import AssumedPoolingWarning, CheckpointError, ConfigError
from bothways.files import make_folder, read_object, write_json
from bothways.nn.heads import Dense, Normalize, SentenceHead
from bothways.nn.pooling import POOLINGS
from bothways.text.tokenizer import Tokenizer

__all__ = ["SentenceModel", "load_sentence_model", "stamps"]

# What is read of each folder of a model.
READ = ("*.json", "*.txt", "*.model", "*.safetensors")

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
# What the transformer module is told, by its oldest names too; the first file that says anything counts.
TRANSFORMER_SETTINGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# The names under which every version of sentence-transformers finds its modules.
MODULE_TYPE = "sentence_transformers.models."
MOST_WIDTH = 1 << 16


@dataclass(frozen=True, eq=False)
class SentenceModel:
    """An encoder and what makes sentence vectors of its tokens.

    max_seq_length: tokens a text may have, special ones included.    prompts: put before a text, by name.
    similarity: "cosine", "dot", "euclidean" or "manhattan", the model's own measure.
    lower_case: whether texts are lowercased before the tokenizer sees them.
    extras: what else config_sentence_transformers.json said, written back on saving.
    """

    encoder: Encoder
    tokenizer: Tokenizer
    head: SentenceHead
    max_seq_length: int
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity: str = "cosine"
    lower_case: bool = False
    extras: Mapping[str, Any] = field(default_factory=dict)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that `load_sentence_model` and sentence-transformers load. Raises InputError if it cannot.

        Each file is written whole or not at all, `modules.json` last; other files of the folder are left alone.
        """
        folder = Path(folder)
        self.encoder.save_pretrained(folder)
        settings = {"max_seq_length": self.max_seq_length, "do_lower_case": self.lower_case}
        write_json(folder / TRANSFORMER_SETTINGS[0], settings)
        modules = [("Transformer", ""), *_save_head(self.head, folder)]
        own = {
            "prompts": dict(self.prompts),
            "default_prompt_name": self.default_prompt_name,
            "similarity_fn_name": self.similarity,
        }
        write_json(folder / SETTINGS, {**self.extras, **own})
        entries = [
            {"idx": i, "name": str(i), "path": place, "type": MODULE_TYPE + kind}
            for i, (kind, place) in enumerate(modules)
        ]
        write_json(folder / MODULES, entries)


def load_sentence_model(
    model: str | Path, revision: str | None = None, *, warn_of_pooling: bool = True
) -> SentenceModel:
    """Load a sentence-transformers folder; a plain encoder's folder gets mean pooling, as it does there.

    warn_of_pooling: whether the latter is said with an AssumedPoolingWarning.
    Raises ConfigError or CheckpointError, naming file and key, on whatever does not fit.
    """
    folder = resolve(model, revision)
    modules = _modules(folder)
    transformer = folder / modules[0][1]
    refuse_pickles(transformer, folder)
    encoder = Encoder(**load_parts(transformer))
    tokenizer = tokenizer_of(encoder, f"the model at {transformer}")
    if warn_of_pooling and not (folder / MODULES).exists():
        message = f"{folder}: no {MODULES} in this folder, so mean pooling is assumed"
        warnings.warn(message, AssumedPoolingWarning, stacklevel=3)
    settings = _transformer_settings(transformer)
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
        tokenizer=tokenizer,
        head=_head(folder, modules[1:], encoder.config.width),
        max_seq_length=_max_seq_length(settings.get("max_seq_length"), encoder, transformer),
        prompts=prompts,
        default_prompt_name=named["default_prompt_name"],
        similarity=named["similarity_fn_name"] or "cosine",
        lower_case=bool(settings.get("do_lower_case", False)),
        extras={key: value for key, value in top.items() if key not in ("prompts", *named)},
    )


def stamps(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """What tells whether any file has changed that a model is read from, in its folder or in those of its modules."""
    places = {place for _, place in read_modules(folder)} | {""}
    files = [path for place in places for pattern in READ for path in (folder / place).glob(pattern)]
    return {path: stamp(path) for path in files if path.is_file()}


def _optional(path: Path) -> dict[str, Any]:
    return read_object(path) if path.exists() else {}


def _transformer_settings(folder: Path) -> dict[str, Any]:
    return next(filter(None, (_optional(folder / name) for name in TRANSFORMER_SETTINGS)), {})


def _modules(folder: Path) -> list[tuple[str, str]]:
    """(kind, folder) of each module, the transformer first."""
    if not (folder / MODULES).exists():
        return [("Transformer", "")]
    modules = read_modules(folder)
    if not modules or modules[0][0] != "Transformer":
        raise ConfigError(f"{folder / MODULES}: the first module must be a Transformer")
    return modules


def _max_seq_length(setting: Any, encoder: Encoder, folder: Path) -> int:
    """What the folder says, else the tokenizer's limit; never more than the model has positions for."""
    positions = encoder.config.longest
    limit = encoder.tokenizer.max_length if encoder.tokenizer else None
    if setting is not None and (type(setting) is not int or setting < 1):
        raise ConfigError(
            f"{folder / TRANSFORMER_SETTINGS[0]}: max_seq_length must be a positive number, got {setting!r}"
        )
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
        _check_keys(_optional(folder / place / "config.json"), folder / place / "config.json")
        return Normalize()
    if kind == "Dense":
        return _dense(folder, place, width)
    raise ConfigError(f"{folder / MODULES}: unknown module {kind}; known: Transformer, Pooling, Dense, Normalize")


def _check_keys(config: Mapping[str, Any], path: Path) -> None:
    """Refuse a module that works on anything but sentence vectors."""
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise ConfigError(f"{path}: a module with {key} {config[key]!r} is not supported")


def _dense(model: Path, place: str, width: int) -> Dense:
    path = model / place / "config.json"
    config = read_object(path)
    act = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    if not isinstance(act, str) or act not in DENSE_ACTIVATIONS:
        raise ConfigError(f"{path}: unknown activation_function {act!r}; known: {', '.join(DENSE_ACTIVATIONS)}")
    if config.get("use_residual"):
        raise ConfigError(f"{path}: use_residual is not supported")
    _check_keys(config, path)
    out = config.get("out_features")
    if type(out) is not int or not 1 <= out <= MOST_WIDTH or config.get("in_features") != width:
        raise ConfigError(f"{path}: {config.get('in_features')} → {out} features do not follow a width of {width}")
    weights = read_weights(model / place, model)
    expected = {"linear.weight": (out, width)} | ({"linear.bias": (out,)} if config.get("bias", True) else {})
    if weights.shapes != expected:
        raise CheckpointError(f"{weights.path}: {weights.shapes} found, {expected} expected")
    with torch.device("meta"):
        dense = Dense(width, out, DENSE_ACTIVATIONS[act], bias=bool(config.get("bias", True)))
    dense.load_state_dict({name: weights.read(name) for name in expected}, assign=True)
    return dense


def _save_head(head: SentenceHead, folder: Path) -> list[tuple[str, str]]:
    """Write the folder of each module after the transformer; (kind, folder) of each."""
    modules = [(type(step).__name__, f"{i}_{type(step).__name__}") for i, step in enumerate(head.steps, start=2)]
    for step, (_, place) in zip(head.steps, modules):
        make_folder(folder / place)
        if isinstance(step, Dense):
            _save_dense(step, folder / place)
    make_folder(folder / "1_Pooling")
    write_json(folder / "1_Pooling" / "config.json", _pooling_config(head))
    return [("Pooling", "1_Pooling"), *modules]


def _pooling_config(head: SentenceHead) -> dict[str, Any]:
    """In the older spelling, which all versions read, unless only the newer one can tell the order of the poolings."""
    first = next((step.linear.in_features for step in head.steps if isinstance(step, Dense)), head.width)
    width = first // len(head.poolings)
    old = {key: name in head.poolings for key, name in POOLING_KEYS.items()}
    if tuple(POOLING_KEYS[key] for key, chosen in old.items() if chosen) == head.poolings:
        return {"word_embedding_dimension": width, **old, "include_prompt": head.include_prompt}
    return {"embedding_dimension": width, "pooling_mode": head.poolings, "include_prompt": head.include_prompt}


def _save_dense(dense: Dense, folder: Path) -> None:
    linear = dense.linear
    config = {
        "in_features": linear.in_features,
        "out_features": linear.out_features,
        "bias": linear.bias is not None,
        "activation_function": next(name for name, act in DENSE_ACTIVATIONS.items() if act == dense.act),
    }
    write_weights(folder / WEIGHTS, dense.state_dict())
    write_json(folder / "config.json", config)
