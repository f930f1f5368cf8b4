"""What a family is: how its config keys and weight names map onto ours. A mapping is written once, its inverse derived.

Key("hidden_size", "width")                      config.json ↔ EncoderConfig
Rule("layers.{i}.ffn.up.weight", "encoder.layer.{i}.intermediate.dense.weight")
Rule("layers.{i}.attention.qkv.weight", ("…query.weight", "…key.weight", "…value.weight"))   rows stacked
Rule("layers.{i}.attention.qkv.weight", "h.{i}.attn.c_attn.weight", transposed=True)         [in, out] in the file
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bothways.errors import ConfigError
from bothways.nn.config import EncoderConfig
from bothways.nn.encoder import EncoderNetwork

__all__ = [
    "AS_IT_IS",
    "LIST",
    "REQUIRED",
    "Build",
    "Family",
    "Form",
    "Head",
    "Key",
    "Rate",
    "Rule",
    "config_from_hf",
    "config_to_hf",
    "conv1d",
    "expand",
    "linear",
    "stacked",
]

REQUIRED: Any = object()
# What heads over whole texts may read; files of ModernBERT say it, and ours of any family.
POOLED = ("cls", "mean", "max")


@dataclass(frozen=True)
class Form:
    """How a value in `config.json` becomes the field's value, and back: write(read(x)) == x."""

    read: Callable[[Any], Any]
    write: Callable[[Any], Any]


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


AS_IT_IS = Form(lambda value: value, lambda value: value)
LIST = Form(_tuple, list)


@dataclass(frozen=True)
class Key:
    """One key of `config.json` (`theirs`) and the field of EncoderConfig it sets (`ours`, dotted into its parts).

    default: the value an absent key (or null) stands for; REQUIRED where a missing key is an error.
    form: how the value changes on its way.
    """

    theirs: str
    ours: str
    default: Any = REQUIRED
    form: Form = AS_IT_IS


@dataclass(frozen=True)
class Rule:
    """One parameter (`ours`) and the tensor or tensors it is made of (`theirs`, stacked along the rows).

    `{i}` runs over the layers with weights of their own, `{group}` and `{inner}` over ALBERT's names for them.
    also: names under which files repeat the tensor, or have it instead.
    within: whether a head's tensor is named as one of the encoder's, with the family's prefix.
    transposed: whether files keep each tensor as [in, out], as the convolution that GPT-2 calls it.
    row: whether they keep a vector as a matrix of one row.
    gated: where it is said, the rule is one of networks whose feed-forward part is gated, or is not.
    """

    ours: str
    theirs: str | tuple[str, ...]
    also: tuple[str, ...] = ()
    within: bool = False
    transposed: bool = False
    row: bool = False
    gated: bool | None = None

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.theirs,) if isinstance(self.theirs, str) else self.theirs

    def at(self, layer: int, inner: int = 1) -> Rule:
        """The rule of one layer, where each group has `inner` layers."""
        numbers = {"{i}": str(layer), "{group}": str(layer // inner), "{inner}": str(layer % inner)}

        def numbered(name: str) -> str:
            for place, number in numbers.items():
                name = name.replace(place, number)
            return name

        return dataclasses.replace(self, ours=numbered(self.ours), theirs=tuple(map(numbered, self.sources)))

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of each tensor in a file, where the parameter has this one."""
        rows, *rest = shape
        part = (*(1,) * self.row, rows // len(self.sources), *rest)
        return part[::-1] if self.transposed else part

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """The parameter, of a file's tensors."""
        if self.row:
            return parts[0][0]
        whole = parts[0] if len(parts) == 1 else torch.cat(tuple(parts), dim=-1 if self.transposed else 0)
        return whole.T.contiguous() if self.transposed else whole

    def parts(self, parameter: Tensor) -> dict[str, Tensor]:
        """The inverse of `joined`, by the names of the file's tensors."""
        chunks = [parameter[None]] if self.row else parameter.chunk(len(self.sources))
        return dict(zip(self.sources, (part.T.contiguous() if self.transposed else part for part in chunks)))


def linear(ours: str, theirs: str) -> tuple[Rule, Rule]:
    """The rules of a part with a weight and a bias."""
    return Rule(f"{ours}.weight", f"{theirs}.weight"), Rule(f"{ours}.bias", f"{theirs}.bias")


def conv1d(ours: str, theirs: str) -> tuple[Rule, Rule]:
    """The rules of a linear map whose weight files keep as [in, out]."""
    weight, bias = linear(ours, theirs)
    return dataclasses.replace(weight, transposed=True), bias


def stacked(ours: str, *theirs: str) -> tuple[Rule, Rule]:
    """The rules of a linear map that files keep as several, such as q, k and v."""
    weights, biases = (tuple(f"{name}.{kind}" for name in theirs) for kind in ("weight", "bias"))
    return Rule(f"{ours}.weight", weights), Rule(f"{ours}.bias", biases)


Build = Callable[[EncoderNetwork, Mapping[str, Any], Collection[str]], nn.Module]
"""(network, extras, names of the tensors in the file; none for a fresh head) → the head, on the network's device."""


@dataclass(frozen=True)
class Rate:
    """A rate of dropout in a head: that of the first of `keys` that a `config.json` has, and not as null; else
    `default`; None: as the config's `dropout`.
    """

    keys: tuple[str, ...] = ()
    default: float | None = None

    def read(self, extras: Mapping[str, Any], config: EncoderConfig) -> float:
        """Raises ConfigError, naming the key, on what is no share."""
        for key in self.keys:
            value = extras.get(key)
            if value is not None:
                if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value <= 1.0:
                    raise ConfigError(f"{key} must be a number between 0 and 1, got {value!r:.80}")
                return float(value)
        return config.dropout if self.default is None else self.default


@dataclass(frozen=True)
class Head:
    """A head that checkpoints of the family may carry.

    rules: of its parameters.    pools: whether it needs the network's pooler.
    marks: tensors of which a file with this head has one; by default the first of the rules.
    says: keys that `config.json` must have for a certain head of this kind.
    borrows: whether all its weights may be the network's, so that a file whose config declares it may have no mark.
    drops: its rates of dropout, by the attributes of the head that `build` makes.
    """

    build: Build
    rules: tuple[Rule, ...]
    pools: bool = False
    marks: tuple[str, ...] = ()
    says: Callable[[nn.Module], Mapping[str, Any]] = lambda head: {}
    borrows: bool = False
    drops: Mapping[str, Rate] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.marks:
            object.__setattr__(self, "marks", self.rules[0].sources[:1])

    def made(self, network: EncoderNetwork, extras: Mapping[str, Any], names: Collection[str]) -> nn.Module:
        """What `build` makes, with its dropout and, where one is said, its pooling as the config has them.

        Raises ConfigError on a rate that cannot be, and on a pooling that is not known.
        """
        head = self.build(network, extras, names)
        said = extras.get("classifier_pooling")
        if said is not None and getattr(head, "pooling", None) is not None:
            if said not in POOLED:
                raise ConfigError(f"classifier_pooling must be one of {', '.join(POOLED)}, got {said!r:.80}")
            head.pooling = said
        for attribute, rate in self.drops.items():
            setattr(head, attribute, rate.read(extras, network.config))
        return head

    def dropped(self, head: nn.Module, extras: Mapping[str, Any], config: EncoderConfig) -> dict[str, float]:
        """What `config.json` must say so that `made` gives the head the dropout that it has, where it does not yet."""
        found = {rate: getattr(head, attribute) for attribute, rate in self.drops.items()}
        return {rate.keys[0]: p for rate, p in found.items() if rate.keys and rate.read(extras, config) != p}


@dataclass(frozen=True)
class Family:
    """How one `model_type` of checkpoints reads and writes.

    template: an EncoderConfig whose values stand where no key says otherwise.
    keys: the config keys that shape the network.
    only: config keys that may have just these values, since the network knows no other.
    prefix: of the encoder's weights in checkpoints that have a head.
    architectures: the class names in `config.json`, and the heads that each has.
    rules, pooler: of the parameters; heads: by name.
    tokenizer: the class of the tokenizer, where its files do not say (a name in `text.classes.TOKENIZERS`).
    renames: old endings of names → today's.
    unused: beginnings of names of weights that are known and not needed; `{i}` stands for any layer's number.
    current: a config of an older generation in today's keys.
    cross: rules of the cross-attention that its layers have as those of a decoder beside an encoder; none where the
    family has no such decoders.
    begins_shallow: fresh maps whose output is added to hidden states are smaller by the root of how many there are, as
    GPT-2's and Megatron's are (Radford et al. 2019, section 2.3), so that hidden states do not grow with the depth.
    """

    model_type: str
    template: EncoderConfig
    keys: tuple[Key, ...]
    only: Mapping[str, tuple[Any, ...]]
    prefix: str
    architectures: Mapping[str, tuple[str, ...]]
    rules: tuple[Rule, ...]
    pooler: tuple[Rule, ...]
    heads: Mapping[str, Head]
    tokenizer: str
    renames: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    current: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict
    cross: tuple[Rule, ...] = ()
    begins_shallow: bool = False

    def leaves_out(self, name: str) -> bool:
        """Whether a weight of this name is known and not needed."""
        return re.sub(r"(?<=\.)\d+(?=\.)", "{i}", name).startswith(self.unused)

    def architecture(self, heads: Collection[str]) -> str:
        """The class name of a checkpoint with these heads: the one that has the most of them, and the fewest others."""
        wanted = set(heads)

        def fit(name: str) -> tuple[int, int]:
            has = set(self.architectures[name])
            return len(has & wanted), -len(has - wanted)

        return max(self.architectures, key=fit)


def expand(rules: tuple[Rule, ...], config: EncoderConfig) -> Iterator[Rule]:
    """The rules with the layers' numbers filled in."""
    inner = 1 if config.sharing is None else config.sharing.inner
    for rule in rules:
        if rule.gated is not None and rule.gated != config.gated:
            continue
        for layer in range(config.distinct_layers if "{i}" in rule.ours else 1):
            yield rule.at(layer, inner)


def config_from_hf(
    family: Family, raw: Mapping[str, Any], where: str = "config.json"
) -> tuple[EncoderConfig, dict[str, Any]]:
    """An EncoderConfig from a `config.json`, and the keys that do not shape the network, verbatim.

    Raises ConfigError, naming the key, on a missing key or a value that the network cannot have.
    """
    try:
        raw = family.current(raw)
        values = {key.ours: _read(key, raw) for key in family.keys}
        for name, allowed in family.only.items():
            if name in raw and raw[name] not in allowed:
                known = " or ".join(repr(value) for value in allowed)
                raise ConfigError(f"{name} is {raw[name]!r:.80}; {family.model_type} models here have {known}")
        config = _replace(family.template, values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {_in_their_words(family, str(error))}") from None
    shaping = {key.theirs for key in family.keys}
    return config, {name: value for name, value in raw.items() if name not in shaping}


def _read(key: Key, raw: Mapping[str, Any]) -> Any:
    value = raw.get(key.theirs)
    if value is not None:
        return key.form.read(value)
    if key.default is REQUIRED:
        raise ConfigError(f"the key {key.theirs} is missing")
    return key.default


def config_to_hf(family: Family, config: EncoderConfig, extras: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `config_from_hf`."""
    values = {key.theirs: (key, _get(config, key.ours)) for key in family.keys}
    shaping = {name: key.form.write(value) for name, (key, value) in values.items() if value is not None}
    return {**extras, **shaping}


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
