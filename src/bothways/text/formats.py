"""Tokenizers in folders: `tokenizer.json`, or the files of one of the TOKENIZERS, and the settings beside them."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from bothways.errors import BothwaysError, CheckpointError, ConfigError
from bothways.files import read_object, replacing, write_json
from bothways.text.added import Named, add_tokens, content, read_named
from bothways.text.classes import TOKENIZERS, TokenizerClass, options_of
from bothways.text.pieces import checked_charsmap
from bothways.text.tokenizer import Tokenizer

__all__ = ["load_tokenizer", "save_tokenizer"]

# tokenizer_config.json says "no limit" with numbers around 1e30.
NO_LIMIT = 1 << 24
# The class, in transformers' terms, of a tokenizer that is all in its tokenizer.json.
AS_WRITTEN = "PreTrainedTokenizerFast"


def load_tokenizer(folder: Path, default: str = "BertTokenizer") -> Tokenizer | None:
    """The tokenizer of a model's folder; None if it has none.

    `tokenizer.json` wins; else the files of the class that `tokenizer_config.json` names; else, and for a class that
    is not one of TOKENIZERS, those of `default`.

    Raises ConfigError, CheckpointError or InputError, naming the file, on one that cannot be read.
    """
    config = read_object(path) if (path := folder / "tokenizer_config.json").exists() else {}
    name = _class_name(config, default)
    kind, named = TOKENIZERS[name], read_named(folder, config)
    special = {**kind.special, **{role: content(token) for role, token in named.roles.items()}}
    if (folder / "tokenizer.json").exists():
        backend, written = _from_json(folder / "tokenizer.json"), AS_WRITTEN
    elif all((folder / file).exists() for file in kind.files):
        options = options_of(kind, config, folder / "tokenizer_config.json")
        backend, written = _from_files(folder, kind, options, named, special), name
    else:
        return None
    present = {role: token for role, token in special.items() if backend.token_to_id(token) is not None}
    limit = config.get("model_max_length")
    max_length = int(limit) if isinstance(limit, (int, float)) and 0 < limit < NO_LIMIT else None
    classed = {**config, "tokenizer_class": config.get("tokenizer_class") or written}
    return Tokenizer(backend, present, max_length, classed)


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, which transformers reads too."""
    with replacing(folder / "tokenizer.json") as aside:
        aside.write_text(tokenizer.backend.to_str(pretty=True), encoding="utf-8")
    names = {f"{role}_token": token for role, token in tokenizer.special.items()}
    limit = {} if tokenizer.max_length is None else {"model_max_length": tokenizer.max_length}
    written = {"tokenizer_class": AS_WRITTEN, **_further(tokenizer)}
    write_json(folder / "tokenizer_config.json", {**written, **tokenizer.config, **names, **limit})


def _further(tokenizer: Tokenizer) -> dict[str, list[str]]:
    """Special tokens without a role, which some of transformers' classes make up where nothing says."""
    if "extra_special_tokens" in tokenizer.config:
        return {}
    added = tokenizer.backend.get_added_tokens_decoder().values()
    roles = tokenizer.special.values()
    return {"additional_special_tokens": [t.content for t in added if t.special and t.content not in roles]}


def _class_name(config: Mapping[str, Any], default: str) -> str:
    name = config.get("tokenizer_class")
    name = name.removesuffix("Fast") if isinstance(name, str) else ""
    return name if name in TOKENIZERS else default


def _from_json(path: Path) -> Backend:
    description = read_object(path)  # names the place where it is not JSON, which the parser below does not
    try:
        _check_maps(description.get("normalizer"))
        return Backend.from_file(str(path))
    except Exception as error:  # the Rust side raises plain Exception
        raise ConfigError(f"{path}: not a tokenizer of the tokenizers library: {error}") from None


def _check_maps(normalizer: Any) -> None:
    """Refuse character maps that would lead the backend out of its memory; everything else it checks itself."""
    if isinstance(normalizer, dict):
        encoded = normalizer.get("precompiled_charsmap")
        if isinstance(encoded, str) and encoded:
            checked_charsmap(b64decode(encoded))
        inner = normalizer.get("normalizers")
        for part in inner if isinstance(inner, list) else ():
            _check_maps(part)


def _from_files(
    folder: Path, kind: TokenizerClass, options: Mapping[str, Any], named: Named, special: Mapping[str, str]
) -> Backend:
    files = [folder / file for file in kind.files]
    with _refused(files[0]):
        backend, extras = kind.build(files, special, options)
        # What a file of a whole vocabulary leaves out, and nobody names, has no row in the model either.
        kept = (
            r for r in special if r in named.roles or r in kind.behind or backend.token_to_id(special[r]) is not None
        )
        roles = [_flagged(named.roles.get(role, special[role]), kind.flags.get(role)) for role in kept]
        further = extras if named.extras is None else named.extras
        add_tokens(backend, [*roles, *further], named.added)
        backend.post_processor = kind.finish(backend, special, options)
    return backend


def _flagged(token: str | AddedToken, flags: Mapping[str, bool] | None) -> str | AddedToken:
    return AddedToken(token, special=True, **flags) if flags is not None and isinstance(token, str) else token


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """What the Rust side raises, as one line that names the file."""
    try:
        yield
    except BothwaysError:
        raise
    except Exception as error:
        raise CheckpointError(f"{path}: not a vocabulary the tokenizers library takes: {error}") from None
