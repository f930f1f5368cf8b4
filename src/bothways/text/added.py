"""Tokens that stand apart from a vocabulary's pieces, as the JSON files beside it name them."""

from __future__ import annotations

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


@dataclass(frozen=True)
class Named:
    """The tokens that a folder's files name.

    roles: special tokens by role, those that are named.    extras: further special tokens; None where nothing says.
    added: tokens that a vocabulary was extended by, in the order of their ids.
    """

    roles: Mapping[str, Token]
    extras: tuple[Token, ...] | None
    added: tuple[AddedToken, ...]


def read_named(folder: Path, config: Mapping[str, Any]) -> Named:
    """What `tokenizer_config.json` (given as `config`), `special_tokens_map.json` and `added_tokens.json` say.

    `added_tokens_decoder` in the config is the newer form and stands for both other files. Raises ConfigError, naming
    file and key, on one that cannot be understood.
    """
    if "added_tokens_decoder" in config:
        added = _decoder(folder / "tokenizer_config.json", config["added_tokens_decoder"])
        return _named(config, added)
    sources = {**config, **_optional(folder / "special_tokens_map.json")}
    special = {content(token) for token in _named(sources, ()).roles.values()} | set(_contents(sources))
    return _named(sources, _added(folder / "added_tokens.json", special))


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


def _named(source: Mapping[str, Any], added: tuple[AddedToken, ...]) -> Named:
    known = {token.content: token for token in added}
    tokens = {role: _token(source.get(f"{role}_token")) for role in ROLES}
    roles = {role: known.get(content(token), token) for role, token in tokens.items() if token is not None}
    for token in roles.values():
        if isinstance(token, AddedToken):
            token.special = True
    return Named(roles, _extras(source), added)


def _extras(source: Mapping[str, Any]) -> tuple[Token, ...] | None:
    for key in ("extra_special_tokens", "additional_special_tokens"):
        if values := source.get(key):
            values = values.values() if isinstance(values, dict) else values
            tokens = [_token(value) for value in values] if isinstance(values, Iterable) else [None]
            return tuple(token for token in tokens if token is not None)
    return None


def _contents(source: Mapping[str, Any]) -> list[str]:
    return [content(token) for token in _extras(source) or ()]


def _token(value: Any) -> Token | None:
    """A token as a string or as an object with its flags; None for anything else."""
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        return _special(value["content"], value)
    return value if isinstance(value, str) else None


def _special(text: str, flags: Mapping[str, Any] | None = None) -> AddedToken:
    return AddedToken(text, special=True, **_flags(flags or {}))


def _flags(value: Mapping[str, Any]) -> dict[str, bool]:
    return {flag: value.get(flag) is True for flag in FLAGS}


def _decoder(path: Path, entries: Any) -> tuple[AddedToken, ...]:
    if not isinstance(entries, dict) or not all(key.isdecimal() and _whole(value) for key, value in entries.items()):
        raise ConfigError(f"{path}: added_tokens_decoder must map ids to objects that have a content")
    ordered = sorted(entries.items(), key=lambda entry: int(entry[0]))
    return tuple(
        AddedToken(value["content"], special=value.get("special") is True, **_flags(value)) for _, value in ordered
    )


def _whole(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("content"), str)


def _added(path: Path, special: set[str]) -> tuple[AddedToken, ...]:
    entries = _optional(path)
    if not all(type(number) is int for number in entries.values()):
        raise ConfigError(f"{path}: each token must have its id")
    ordered = sorted(entries, key=lambda token: entries[token])
    return tuple(AddedToken(token, special=token in special, normalized=token not in special) for token in ordered)


def _optional(path: Path) -> dict[str, Any]:
    return read_object(path) if path.exists() else {}
