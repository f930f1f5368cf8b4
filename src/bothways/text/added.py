"""Tokens that stand apart from a vocabulary's pieces, as the JSON files beside it name them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from bothways.errors import ConfigError
from bothways.files import read_object

__all__ = ["FLAGS", "ROLES", "Named", "add_tokens", "content", "read_named"]

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
"""What a special token can be for, in the order in which transformers adds them behind a vocabulary."""

FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
Token = str | AddedToken
_ID = re.compile("[0-9]{1,9}")


@dataclass(frozen=True)
class Named:
    """The tokens that a folder's files name.

    roles: special tokens by role, those that are named.    extras: further special tokens; None where nothing says.
    added: tokens that a vocabulary was extended by, in the order of their ids.
    """

    roles: Mapping[str, Token]
    extras: tuple[Token, ...] | None
    added: tuple[AddedToken, ...]


def read_named(folder: Path, config: Mapping[str, Any], written: Any = ()) -> Named:
    """What `tokenizer_config.json` (given as `config`), `special_tokens_map.json` and `added_tokens.json` say.

    written: the `added_tokens` of a `tokenizer.json`, if there is one. `added_tokens_decoder` in the config is the
    newer form and stands for all else. Raises ConfigError, naming file and key, on what cannot be understood.
    """
    path = folder / "tokenizer_config.json"
    if "added_tokens_decoder" in config:
        return _named(path, config, _decoder(path, config["added_tokens_decoder"]))
    sources = {**config, **_optional(folder / "special_tokens_map.json")}
    special = {content(token) for token in _named(path, sources, {}).roles.values()}
    special |= {content(token) for token in _extras(path, sources) or ()}
    added = {**_added(folder / "added_tokens.json", special), **_written(folder / "tokenizer.json", written)}
    return _named(path, sources, added)


def content(token: Token) -> str:
    """The text of a token."""
    return token if isinstance(token, str) else token.content


def add_tokens(backend: Backend, named: Iterable[Token], added: Iterable[AddedToken] = ()) -> None:
    """Make the backend see these tokens as wholes; those that its vocabulary lacks get the next free ids.

    named: special tokens, of which those that `added` has keep the flags they have there.
    """
    added = list(added)
    known = {token.content for token in (*added, *backend.get_added_tokens_decoder().values())}
    new = [_special(token) if isinstance(token, str) else token for token in named if content(token) not in known]
    # One call for all: special tokens and others share the ids behind the vocabulary in this order.
    backend.add_tokens([*added, *new])


def _named(path: Path, source: Mapping[str, Any], added: Mapping[int, AddedToken]) -> Named:
    known = {token.content: token for token in added.values()}
    tokens = {role: _token(source.get(f"{role}_token")) for role in ROLES}
    roles = {role: known.get(content(token), token) for role, token in tokens.items() if token is not None}
    for token in roles.values():
        if isinstance(token, AddedToken):
            token.special = True
    return Named(roles, _extras(path, source), tuple(added[number] for number in sorted(added)))


def _extras(path: Path, source: Mapping[str, Any]) -> tuple[Token, ...] | None:
    """What either key lists, the newer one first; an empty list says that there are none."""
    keys = [key for key in ("extra_special_tokens", "additional_special_tokens") if key in source]
    listed = next((key for key in keys if source[key]), None)
    if listed is None:
        return () if keys else None
    values = source[listed]
    if not isinstance(values, (list, dict)):
        raise ConfigError(f"{path}: {listed} must be a list of tokens, got {values!r:.60}")
    tokens = [_token(value) for value in (values.values() if isinstance(values, dict) else values)]
    return tuple(token for token in tokens if token is not None)


def _token(value: Any) -> Token | None:
    """A token as a string or as an object with its flags; None for anything else."""
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        return _special(value["content"], value)
    return value if isinstance(value, str) else None


def _special(text: str, flags: Mapping[str, Any] | None = None) -> AddedToken:
    return AddedToken(text, special=True, **_flags(flags or {}))


def _flags(value: Mapping[str, Any]) -> dict[str, bool]:
    return {flag: value.get(flag) is True for flag in FLAGS}


def _decoder(path: Path, entries: Any) -> dict[int, AddedToken]:
    if not isinstance(entries, dict) or not all(_ID.fullmatch(k) and _whole(value) for k, value in entries.items()):
        raise ConfigError(f"{path}: added_tokens_decoder must map ids to objects that have a content")
    return {int(number): _plain(value) for number, value in entries.items()}


def _written(path: Path, entries: Any) -> dict[int, AddedToken]:
    if not all(_whole(entry) and type(entry.get("id")) is int for entry in entries or ()):
        raise ConfigError(f"{path}: each of its added_tokens must have an id and a content")
    return {entry["id"]: _plain(entry) for entry in entries or ()}


def _plain(value: Mapping[str, Any]) -> AddedToken:
    return AddedToken(value["content"], special=value.get("special") is True, **_flags(value))


def _whole(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("content"), str)


def _added(path: Path, special: set[str]) -> dict[int, AddedToken]:
    entries = _optional(path)
    if not all(type(number) is int for number in entries.values()):
        raise ConfigError(f"{path}: each token must have its id")
    return {
        number: AddedToken(token, special=token in special, normalized=token not in special)
        for token, number in entries.items()
    }


def _optional(path: Path) -> dict[str, Any]:
    return read_object(path) if path.exists() else {}
