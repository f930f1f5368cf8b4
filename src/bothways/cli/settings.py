"""Settings of a run from a TOML file and flags: every key is a flag, and every error names the key and the file."""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter, UnknownOptionError
from cyclopts.config import Dict

from bothways.cli.kinds import check_fractions, check_value, told, types_of
from bothways.errors import ConfigError, meant
from bothways.objectives.masking import Masking
from bothways.train.heeded import heeds
from bothways.train.optim import AdamSettings
from bothways.train.recipe import RECIPES, recipe
from bothways.train.settings import (
    CorpusSettings,
    ModelSettings,
    ObjectiveSettings,
    PretrainSettings,
    RunSettings,
    StepSettings,
    UpdateSettings,
)

__all__ = ["PARTS", "RunFlags", "known_keys", "read_parts", "read_settings"]

FLAT = Parameter(name="*")
PARTS = {
    "model": ModelSettings,
    "corpus": CorpusSettings,
    "masking": Masking,
    "adam": AdamSettings,
    "step": StepSettings,
    "update": UpdateSettings,
    "run": RunSettings,
    "objective": ObjectiveSettings,
}


@dataclass(frozen=True)
class RunFlags:
    """What is said of a run beside its settings.

    output: the folder of the run.    resume: go on with the run in it; without one, begin.
    device: cpu, or a GPU: cuda, cuda:1.
    """

    output: Path = Path("run")
    resume: bool = False
    device: str = "cpu"


def known_keys() -> list[str]:
    """Every key that a file or a flag may have."""
    return [field.name for part in (*PARTS.values(), RunFlags) for field in fields(part)]


def read_settings(path: Path, flags: Sequence[str], command: str = "pretrain") -> tuple[PretrainSettings, RunFlags]:
    """The settings of a file or, where there is no such file, of the recipe of that name; and over them the flags'.
    Tables of a file group keys as they like.

    command: which one has them on its line.
    Raises ConfigError on neither file nor recipe, unknown keys (with the nearest that is known) and values that cannot
    be.
    """
    if str(path).startswith("-"):
        usage = f"bothways {command} CONFIG [--key value …]"
        raise ConfigError(
            f"CONFIG is missing: a TOML file or a recipe, before {path} and all other flags; usage: {usage}"
        )
    given = read_parts(path, flags, {**PARTS, "where": RunFlags}, "pretrain", partial(_recipe, flags=flags))
    where = given.pop("where")
    try:
        return PretrainSettings(**given), where
    except ConfigError as error:
        raise ConfigError(f"{error} ({path}, or a flag)") from None


def read_parts(
    path: Path | None,
    flags: Sequence[str],
    parts: Mapping[str, type[Any]],
    command: str,
    otherwise: Callable[[Path], str] | None = None,
) -> dict[str, Any]:
    """The parts of a run's settings, values of these classes: from a file's keys, and over them the flags'.

    path: None for flags alone.    otherwise: gives the text of what is no file.
    Raises ConfigError on unknown keys (with the nearest that is known) and values that cannot be.
    """
    types = {key: hint for part in parts.values() for key, hint in types_of(part).items()}
    keys = {} if path is None else _flat(path, types, otherwise)
    app = App(
        name=command,
        config=(check_fractions, Dict(keys, source=str(path), use_commands_as_keys=False)),
        result_action="return_value",
        help_flags=[],
        version_flags=[],
    )
    app.default(_reader(parts))
    try:
        found: dict[str, Any] = app(list(flags), exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise ConfigError(_said(error, path, list(types))) from None
    except ConfigError as error:
        raise ConfigError(f"{error} ({'a flag' if path is None else f'{path}, or a flag'})") from None
    return found


def _reader(parts: Mapping[str, type[Any]]) -> Callable[..., dict[str, Any]]:
    """A function with a parameter for each part, whose keys are flags of their own."""

    def read(**given: Any) -> dict[str, Any]:
        return {name: given.get(name, part()) for name, part in parts.items()}

    kinds = {name: Annotated[part, FLAT] for name, part in parts.items()}
    read.__annotations__ = {**kinds, "return": dict[str, Any]}
    signature: Any = inspect.Signature(
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=parts[name](), annotation=kind)
            for name, kind in kinds.items()
        ]
    )
    read.__signature__ = signature  # type: ignore[attr-defined]
    return read


def _flat(path: Path, types: Mapping[str, Any], otherwise: Callable[[Path], str] | None) -> dict[str, Any]:
    """The keys of a file. Its tables mean nothing: their keys are as good as keys outside any."""
    flat: dict[str, Any] = {}
    for key, value in _leaves(_table(path, otherwise)):
        if key in flat:
            raise ConfigError(f"{path}: {key} is given twice")
        check_value(key, value, types.get(key), path)
        flat[key] = value
    return flat


def _table(path: Path, otherwise: Callable[[Path], str] | None) -> dict[str, Any]:
    try:
        there = otherwise is None or (path.exists() and not _is_recipe(path))
        return tomllib.loads(path.read_text(encoding="utf-8-sig") if there or otherwise is None else otherwise(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 (byte {error.start}); convert the file first") from None
    except RecursionError:
        raise ConfigError(f"{path}: not TOML that can be read: too deep") from None
    except ConfigError:
        raise
    except ValueError as error:  # not TOML, or numbers of thousands of digits
        raise ConfigError(f"{path}: not TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def _is_recipe(path: Path) -> bool:
    """Whether a folder has the name of a recipe, as that of a run may."""
    return path.is_dir() and any(str(path) in names for names in RECIPES.values())


def _recipe(path: Path, flags: Sequence[str]) -> str:
    """A recipe's text, without keys that say nothing of the objectives that flags give instead of its own, and without
    its preset where they say what to start from."""
    try:
        text = recipe(str(path))
    except ConfigError as error:
        raise ConfigError(f"{path}: no such file, and {error}") from None
    said = _given("objectives", flags)
    names = tomllib.loads(text)["objectives"] if said is None else said.split(",")
    left = {"preset"} if _given("start", flags) is not None else set()
    lines = ((line.partition("=")[0].strip(), line) for line in text.splitlines(keepends=True))
    return "".join(line for key, line in lines if key not in left and heeds(key, names))


def _given(key: str, flags: Sequence[str]) -> str | None:
    """What a flag says, as it stands; None where it is not given."""
    for flag, value in zip(flags, [*flags[1:], ""]):
        name, equals, own = flag.partition("=")
        if name == f"--{key}":
            return own if equals else value
    return None


def _leaves(table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        else:
            yield key.replace("-", "_"), value


def _said(error: CycloptsError, path: Path | None, known: Sequence[str]) -> str:
    message = told(error)
    if isinstance(error, UnknownOptionError) and (said := re.search(r"\[(\w+)\]|(--[\w-]+)", message)):
        key = said[1] or said[2]
        hint = meant(key.lstrip("-").replace("-", "_"), known, f"; known are {', '.join(known)}")
        return f"{path}: unknown key {key}{hint}" if said[1] else f"unknown flag {key}{hint}"
    of_a_flag = "--" in message
    return message if of_a_flag or str(path) in message else f"{message} ({path})"
