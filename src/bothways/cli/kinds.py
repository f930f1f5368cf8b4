"""What kinds of values flags and keys of files take: said in words, and never rounded or guessed."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from cyclopts import App, ArgumentCollection, CoercionError, CycloptsError, MissingArgumentError, Parameter

from bothways.errors import ConfigError, InputError

__all__ = ["Config", "check_fractions", "check_value", "told", "types_of"]

Config = Annotated[Path, Parameter(allow_leading_hyphen=True)]  # `read_settings` says what a flag in its place means


@dataclass(frozen=True)
class Kind:
    """said: what a value must be.    fits: whether a value of a TOML file is one."""

    said: str
    fits: Callable[[Any], bool]


def _one_of(*types: type) -> Callable[[Any], bool]:
    """Exactly: true is no whole number."""
    return lambda value: type(value) in types


def _texts(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) for one in value))


TEXT = Kind("a text", _one_of(str))
KINDS: dict[Any, Kind] = {
    int: Kind("a whole number", _one_of(int)),
    float: Kind("a number", _one_of(int, float)),
    bool: Kind("true or false", _one_of(bool)),
    str: TEXT,
    Path: TEXT,
    Literal: TEXT,
    tuple[str, ...]: Kind("a text or a list of texts", _texts),
}


def _kind(hint: Any) -> Kind | None:
    """Of a type; of `int | None` that of int."""
    if get_origin(hint) in (Union, UnionType):
        first, *more = (one for one in get_args(hint) if one is not NoneType)
        return None if more else _kind(first)
    return KINDS.get(Literal if get_origin(hint) is Literal else hint)


def types_of(part: type[Any]) -> Mapping[str, Any]:
    """The types of a dataclass's fields, by name."""
    hints = get_type_hints(part)
    return {field.name: hints[field.name] for field in fields(part)}


def check_value(key: str, value: Any, hint: Any, path: Path) -> None:
    """Raises ConfigError where a value of a TOML file is not of the key's kind."""
    kind = _kind(hint)
    if kind is not None and not kind.fits(value):
        raise ConfigError(f"{key} must be {kind.said}, got {json.dumps(value, default=str):.60} ({path})")


def check_fractions(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Raises InputError on a fraction for a whole number, which cyclopts would round."""
    for argument in arguments:
        if _kind(argument.hint) is KINDS[int]:
            for token in argument.tokens:
                if "." in token.value:
                    raise InputError(_must(token.keyword or argument.name, KINDS[int], token.value))


def told(error: CycloptsError) -> str:
    """The error in a line, without the names that kinds have in Python."""
    if isinstance(error, CoercionError) and error.token is not None and error.token.keyword is not None:
        kind = _kind(error.target_type)
        if kind not in (None, TEXT):
            return _must(error.token.keyword, kind, error.token.value)
    if isinstance(error, MissingArgumentError) and error.argument is not None and error.argument.name[0] != "-":
        name, command = error.argument.name, " ".join(error.command_chain or ())
        return f"{name} is missing; usage: bothways {command} {_positions(error, name)} …, and --help says more"
    return " ".join(str(error).split())


def _positions(error: CycloptsError, missing: str) -> str:
    """What a command wants before its flags, up to what is missing."""
    if error.target is None:
        return missing
    every = inspect.signature(error.target).parameters.values()
    names = [one.name.upper() for one in every if one.kind is one.POSITIONAL_ONLY]
    return " ".join(names[: names.index(missing) + 1] if missing in names else [missing])


def _must(name: str, kind: Kind, text: str) -> str:
    return f"{name} must be {kind.said}, got {text!r:.60}"
