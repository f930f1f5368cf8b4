"""Which parameter is which tensor of a file: the family's rules for one network, shared by loading and saving."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from bothways.errors import CheckpointError
from bothways.families.family import Family, Rule, expand
from bothways.nn.encoder import EncoderNetwork

__all__ = ["normalised", "plan", "repeated"]


def plan(family: Family, network: EncoderNetwork, heads: Mapping[str, nn.Module]) -> list[tuple[nn.Module, Rule]]:
    """Each parameter's module and rule; one that a head shares with the network appears once, in the network."""
    config = network.config
    rules = family.rules + (family.pooler if network.pooler is not None else ())
    shared = {id(parameter) for parameter in network.parameters()}
    steps: list[tuple[nn.Module, Rule]] = [(network, rule) for rule in _existing(network, expand(rules, config))]
    for name, head in heads.items():
        own = _existing(head, expand(family.heads[name].rules, config))
        steps += [(head, rule) for rule in own if id(head.get_parameter(rule.ours)) not in shared]
    return steps


def repeated(family: Family, network: EncoderNetwork, heads: Mapping[str, nn.Module]) -> set[str]:
    """Names under which a file may repeat tensors that heads share with the network; those are not read."""
    planned = {(id(module), rule.ours) for module, rule in plan(family, network, heads)}
    own = [(head, rule) for name, head in heads.items() for rule in _existing(head, family.heads[name].rules)]
    return {source for head, rule in own if (id(head), rule.ours) not in planned for source in rule.sources}


def _existing(module: nn.Module, rules: Iterable[Rule]) -> list[Rule]:
    """The rules of parameters the module has (an encoder without token types has no such table)."""
    parameters = dict(module.named_parameters())
    return [rule for rule in rules if rule.ours in parameters]


def normalised(family: Family, stored_names: Mapping[str, object], where: object) -> dict[str, str]:
    """Name without the family's prefix and in today's spelling → name in the file.

    Raises CheckpointError where two names in the file mean the same weight.
    """
    names: dict[str, str] = {}
    for stored in stored_names:
        name = stored.removeprefix(family.prefix)
        for old, new in family.renames.items():
            name = name.removesuffix(old) + new if name.endswith(old) else name
        if name in names and family.leaves_out(name):
            name = f"{name} as {stored}"  # nobody reads either of them
        if name in names:
            raise CheckpointError(f"{where}: {stored} and {names[name]} are the same weight twice")
        names[name] = stored
    return names
