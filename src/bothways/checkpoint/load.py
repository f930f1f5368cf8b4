"""Loading a folder: every shape is checked against the config before any weight is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bothways.checkpoint.names import normalised, plan, repeated
from bothways.checkpoint.weights import WeightFile, read_weights
from bothways.errors import CheckpointError, ConfigError
from bothways.families import FAMILIES, PAIRS, Family
from bothways.families.family import Head, Rule, config_from_hf, expand
from bothways.families.pair import OURS, PAIRED
from bothways.files import read_object
from bothways.nn.config import EncoderConfig
from bothways.nn.encoder import EncoderNetwork
from bothways.text.formats import load_tokenizer
from bothways.text.tokenizer import Tokenizer

__all__ = ["Read", "load_parts", "read_network", "tokenizer_for"]


def load_parts(folder: Path) -> dict[str, Any]:
    """The fields of an `Encoder`, from its folder."""
    raw = read_object(folder / "config.json")
    family = _family(raw, folder / "config.json")
    config, extras = config_from_hf(family, raw, str(folder / "config.json"))
    read = read_network(family, config, extras, read_weights(folder), raw, folder)
    return {
        "network": read.network,
        "family": family,
        "tokenizer": tokenizer_for(folder, family.tokenizer, config.vocab),
        "heads": read.heads,
        "extras": read.extras,
        "unused": read.unused,
    }


@dataclass(frozen=True)
class Read:
    """A network and its heads, as files have them; extras: as the weights correct them."""

    network: EncoderNetwork
    heads: dict[str, nn.Module]
    extras: dict[str, Any]
    unused: tuple[str, ...]


def read_network(
    family: Family,
    config: EncoderConfig,
    extras: dict[str, Any],
    weights: WeightFile,
    raw: Mapping[str, Any],
    folder: Path,
    only: Collection[str] | None = None,
) -> Read:
    """The network and heads of a file. raw: its config.    only: heads that it must have; None: those that it has.

    Raises CheckpointError on weights that are missing, unexpected or of another shape.
    """
    names = normalised(family, weights.shapes, weights)
    _check_layers(family, config, names, weights)
    present = _heads_in(family, names, raw) if only is None else only
    pools = any(family.heads[name].pools for name in present)
    with torch.device("meta"):
        network = EncoderNetwork(config, pooler=pools or _any_in(names, family.pooler))
        heads = {name: _built(family.heads[name], network, extras, names, folder) for name in present}
        if _untied(family, network, heads, names, weights):
            extras = {**extras, "tie_word_embeddings": False}
            heads = {name: _built(family.heads[name], network, extras, names, folder) for name in present}
    steps = plan(family, network, heads)
    _use_repeats(names, steps)
    again = {names[name] for name in repeated(family, network, heads) if name in names}
    unused = _unused(family, names, steps, again)
    _check(weights, names, steps, again | set(unused))
    for module, rule in steps:
        _set(module, rule.ours, _read(weights, names, rule))
    for head in heads.values():
        _tie(head, network)
    return Read(network.eval(), {name: head.eval() for name, head in heads.items()}, extras, unused)


def _family(raw: Mapping[str, Any], where: Path) -> Family:
    if "model_type" not in raw:
        raise ConfigError(f"{where}: the key model_type is missing")
    model_type = raw["model_type"]
    if isinstance(model_type, str) and model_type.removeprefix(OURS) in (PAIRED, *PAIRS):
        raise ConfigError(f"{where}: {model_type} is an encoder with a decoder; load it with bothways.EncoderDecoder")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ConfigError(f"{where}: unknown model_type {model_type!r}; known: {', '.join(FAMILIES)}")
    return FAMILIES[model_type]


def _check_layers(family: Family, config: EncoderConfig, names: Mapping[str, str], weights: WeightFile) -> None:
    """Refuse a depth the file has no weights for, before a network of that depth is built."""
    every = next(rule for rule in family.rules if "{i}" in rule.ours)  # the first one is of a part that all layers have
    missing = [s for rule in expand((every,), config) for s in rule.sources if s not in names]
    _refuse(weights, "missing", missing, hint=f"; the file has, among others, {next(iter(names.values()), 'nothing')}")


def _heads_in(family: Family, names: Collection[str], raw: Mapping[str, Any]) -> list[str]:
    """The heads that the file has: those its config declares, and others that are whole and cannot be mistaken."""
    classes = raw.get("architectures") or ()
    classes = [name for name in classes if isinstance(name, str)] if isinstance(classes, list) else []
    endings = {_ending(name): heads for name, heads in family.architectures.items()}
    declared = {head for name in classes for head in endings.get(_ending(name), ())}
    sources = {name: {s for rule in head.rules for s in rule.sources} for name, head in family.heads.items()}
    counts = Counter(source for one in sources.values() for source in one)

    def has(name: str) -> bool:
        head = family.heads[name]
        marked = any(mark in names for mark in head.marks)
        if name in declared:
            return marked or head.borrows or head.rules[0].sources[0] in names
        alone = all(counts[source] == 1 for source in sources[name])
        return marked and alone and (not head.pools or _any_in(names, family.pooler))

    return [name for name in family.heads if has(name)]


def _ending(architecture: str) -> str:
    """What classes of related families share: many XLM-R checkpoints say RobertaForTokenClassification."""
    return architecture[max(0, architecture.find("For")) :]


def _untied(
    family: Family,
    network: EncoderNetwork,
    heads: Mapping[str, nn.Module],
    names: Mapping[str, str],
    weights: WeightFile,
) -> bool:
    """Whether the file has a decoder of its own, which differs from the word embeddings that it should share.

    The weights are right then and the config is wrong, as in transformers.
    """
    words = next(rule.sources[0] for rule in family.rules if rule.ours == "embeddings.words.weight")
    again = [names[name] for name in repeated(family, network, heads) if name in names]
    if words not in names or not again:
        return False
    expected = weights.read(names[words])
    return any(not torch.equal(weights.read(name), expected) for name in again)


def _built(head: Head, network: EncoderNetwork, extras: Mapping[str, Any], names: Collection[str], folder: Path) -> Any:
    try:
        return head.made(network, extras, names)
    except ConfigError as error:
        raise ConfigError(f"{folder / 'config.json'}: {error}") from None


def _any_in(names: Collection[str], rules: Iterable[Rule]) -> bool:
    return any(source in names for rule in rules for source in rule.sources)


def _use_repeats(names: dict[str, str], steps: list[tuple[nn.Module, Rule]]) -> None:
    """Where a tensor is absent but the file has it under another of its names, take that one."""
    for _, rule in steps:
        for source, other in product(rule.sources, rule.also):
            if source not in names and other in names:
                names[source] = names[other]


def _unused(
    family: Family, names: Mapping[str, str], steps: list[tuple[nn.Module, Rule]], again: Collection[str]
) -> tuple[str, ...]:
    """The tensors that are known but not needed here, by their names in the file; without repetitions."""
    used = {names[name] for _, rule in steps for name in (*rule.sources, *rule.also) if name in names}
    head_names = [name for head in family.heads.values() for rule in head.rules for name in (*rule.sources, *rule.also)]
    used |= set(again)

    def known(name: str) -> bool:
        return family.leaves_out(name) or name.startswith(tuple(head_names))

    return tuple(stored for name, stored in names.items() if stored not in used and known(name))


def _check(weights: WeightFile, names: Mapping[str, str], steps: list[tuple[nn.Module, Rule]], known: set[str]) -> None:
    """Raise CheckpointError on missing, unexpected or misshapen tensors, naming them."""
    sources = [(source, rule) for _, rule in steps for source in rule.sources]
    _refuse(weights, "missing", [" or ".join((s, *rule.also)) for s, rule in sources if s not in names])
    expected = {names[name] for s, rule in sources for name in (s, *rule.also) if name in names} | known
    _refuse(weights, "unexpected", [stored for stored in weights.shapes if stored not in expected])
    for module, rule in steps:
        wanted = rule.stored_shape(tuple(module.get_parameter(rule.ours).shape))
        for source in rule.sources:
            stored = names[source]
            if weights.shapes[stored] != wanted:
                found, said = _by(weights.shapes[stored]), _by(wanted)
                raise CheckpointError(f"{weights}: {stored} is {found}, but config.json makes it {said}")


def _refuse(weights: WeightFile, what: str, names: list[str], most: int = 5, hint: str = "") -> None:
    if names:
        more = f" and {len(names) - most} more" if len(names) > most else ""
        raise CheckpointError(f"{weights}: {what} weights: {', '.join(names[:most])}{more}{hint}")


def _by(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "a single number"


def _read(weights: WeightFile, names: Mapping[str, str], rule: Rule) -> Tensor:
    return rule.joined([weights.read(names[source]) for source in rule.sources])


def _set(module: nn.Module, name: str, value: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(owner), leaf, nn.Parameter(value))


def _tie(head: nn.Module, network: EncoderNetwork) -> None:
    """Where a head still holds the placeholder of the word embeddings, give it the loaded ones."""
    for name, parameter in list(head.named_parameters()):
        if parameter.is_meta:
            owner, _, leaf = name.rpartition(".")
            setattr(head.get_submodule(owner), leaf, network.embeddings.words.weight)


def tokenizer_for(folder: Path, default: str, vocab: int) -> Tokenizer | None:
    """The tokenizer, if the model has a row for every id that it can give."""
    tokenizer = load_tokenizer(folder, default)
    if tokenizer is None:
        return None
    if tokenizer.vocab_size > vocab:
        raise CheckpointError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size:,} entries, but the model only {vocab:,} rows"
        )
    # What stands around texts need not be in the vocabulary: a post-processor carries ids of its own.
    around = [*tokenizer.encode([""]), *tokenizer.encode([""], [""])]
    largest = max((i for encoded in around for i in encoded.ids), default=0)
    if largest >= vocab:
        raise CheckpointError(
            f"{folder}: the tokenizer puts the id {largest:,} around texts, but the model has only {vocab:,} rows"
        )
    return tokenizer
