"""What a family is: how its config keys and weight names map onto ours. A mapping is written once, its inverse derived.

Key("hidden_size", "width")                      config.json ↔ EncoderConfig
Rule("layers.{i}.ffn.up.weight", "encoder.layer.{i}.intermediate.dense.weight")
Rule("layers.{i}.attention.qkv.weight", ("…query.weight", "…key.weight", "…value.weight"))   rows stacked
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from bothways.errors import ConfigError
from bothways.nn.config import EncoderConfig
from bothways.nn.encoder import EncoderNetwork

__all__ = ["REQUIRED", "Family", "Head", "Key", "Rule", "config_from_hf", "config_to_hf", "expand"]

REQUIRED: Any = object()


@dataclass(frozen=True)
class Key:
    """One key of `config.json` (`theirs`) and the field of EncoderConfig it sets (`ours`, dotted into sum types).

    default: the value an absent key stands for; REQUIRED where a missing key is an error.
    """

    theirs: str
    ours: str
    default: Any = REQUIRED


@dataclass(frozen=True)
class Rule:
    """One parameter (`ours`) and the tensor or tensors it is made of (`theirs`, stacked along the rows).

    `{i}` runs over the layers.    also: names under which files repeat the tensor, or have it instead.
    """

    ours: str
    theirs: str | tuple[str, ...]
    also: tuple[str, ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.theirs,) if isinstance(self.theirs, str) else self.theirs

    def at(self, layer: int) -> Rule:
        """The rule of one layer."""
        i = str(layer)
        return Rule(self.ours.replace("{i}", i), tuple(name.replace("{i}", i) for name in self.sources), self.also)


@dataclass(frozen=True)
class Head:
    """A head that checkpoints of the family may carry.

    build: (network, extras) → a module, on the network's device.
    architecture: the class name that `config.json` gives a checkpoint with this head.
    rules: of its parameters; a checkpoint has the head if it has the first tensor of the first rule.
    """

    build: Callable[[EncoderNetwork, Mapping[str, Any]], nn.Module]
    architecture: str
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class Family:
    """How one `model_type` of checkpoints reads and writes.

    template: an EncoderConfig whose values stand where no key says otherwise.
    keys: the config keys that shape the network.
    only: config keys that may have just these values, since the network knows no other.
    prefix: of the encoder's weights in checkpoints that have a head.
    architecture: the class name of a checkpoint without a head.
    rules, pooler: of the parameters; heads: by name.    renames: old endings of names → today's.
    unused: beginnings of names of weights that are known and not needed.
    """

    model_type: str
    template: EncoderConfig
    keys: tuple[Key, ...]
    only: Mapping[str, tuple[Any, ...]]
    prefix: str
    architecture: str
    rules: tuple[Rule, ...]
    pooler: tuple[Rule, ...]
    heads: Mapping[str, Head]
    renames: Mapping[str, str]
    unused: tuple[str, ...]


def expand(rules: tuple[Rule, ...], depth: int) -> Iterator[Rule]:
    """The rules with `{i}` filled in for every layer."""
    for rule in rules:
        for layer in range(depth if "{i}" in rule.ours else 1):
            yield rule.at(layer)


def config_from_hf(
    family: Family, raw: Mapping[str, Any], where: str = "config.json"
) -> tuple[EncoderConfig, dict[str, Any]]:
    """An EncoderConfig from a `config.json`, and the keys that do not shape the network, verbatim.

    Raises ConfigError, naming the key, on a missing key or a value that the network cannot have.
    """
    for name, allowed in family.only.items():
        if name in raw and raw[name] not in allowed:
            known = " or ".join(repr(value) for value in allowed)
            raise ConfigError(f"{where}: {name} is {raw[name]!r}; {family.model_type} models here have {known}")
    values: dict[str, Any] = {}
    for key in family.keys:
        value = raw.get(key.theirs, key.default)
        if value is REQUIRED:
            raise ConfigError(f"{where}: the key {key.theirs} is missing")
        values[key.ours] = value
    try:
        config = _replace(family.template, values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {_in_their_words(family, str(error))}") from None
    shaping = {key.theirs for key in family.keys}
    return config, {name: value for name, value in raw.items() if name not in shaping}


def config_to_hf(family: Family, config: EncoderConfig, extras: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `config_from_hf`."""
    return {**extras, **{key.theirs: _get(config, key.ours) for key in family.keys}}


def _replace(config: Any, values: Mapping[str, Any]) -> Any:
    """`dataclasses.replace` that takes dotted names."""
    flat = {name: value for name, value in values.items() if "." not in name}
    nested: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        if "." in name:
            outer, _, inner = name.partition(".")
            nested.setdefault(outer, {})[inner] = value
    for outer, inner_values in nested.items():
        flat[outer] = _replace(getattr(config, outer), inner_values)
    return dataclasses.replace(config, **flat)


def _get(config: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        config = getattr(config, name)
    return config


def _in_their_words(family: Family, message: str) -> str:
    """The message with our field's name, which it starts with, followed by the key in the file."""
    for key in family.keys:
        if message.split(" ")[0] == key.ours.rpartition(".")[2]:
            return f"{key.theirs} {message.partition(' ')[2]}"
    return message
