"""Tokenizers in folders: `tokenizer.json`, or the files of one of the TOKENIZERS, and the settings beside them."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from bothways.errors import CheckpointError, ConfigError
from bothways.files import MOST_LISTED_BYTES, read_object, replacing, write_json
from bothways.text.added import Named, add_tokens, content, read_named
from bothways.text.classes import TOKENIZERS, Options, TokenizerClass, Vocabulary, options_of
from bothways.text.guard import check_description, guarded
from bothways.text.tokenizer import Tokenizer
from bothways.text.written import written_finish, written_vocabulary

__all__ = ["load_tokenizer", "save_tokenizer"]

# tokenizer_config.json says "no limit" with numbers around 1e30.
NO_LIMIT = 1 << 24
# The class, in transformers' terms, of a tokenizer that is all in its tokenizer.json; and all that say as much.
AS_WRITTEN = "PreTrainedTokenizerFast"
GENERIC = ("PreTrainedTokenizer", "TokenizersBackend", "PythonBackend")
# Models whose tokenizer.json is taken as written, whatever class is named: released folders name wrong ones.
WRITTEN_WHOLE = ("modernbert",)


def load_tokenizer(folder: Path, default: str = "BertTokenizer") -> Tokenizer | None:
    """The tokenizer of a model's folder; None if it has none.

    Its class is the one that `tokenizer_config.json` (or else `config.json`) names, and where neither does, `default`.
    `tokenizer.json` wins over a class's own files. As in transformers 5, of a class that is one of TOKENIZERS only its
    vocabulary and its added tokens are taken, and what the class and its options say is done with them: a class whose
    options leave `do_lower_case` out lowercases. For any other class, and where no config file is there, all of it is
    taken as written. Tokens that the other files name are added in either case.

    Raises ConfigError, CheckpointError or InputError, naming the file, on one that cannot be read; ConfigError on a
    class that is not one of TOKENIZERS where there is no `tokenizer.json`.
    """
    config, model = _optional(folder / "tokenizer_config.json"), _optional(folder / "config.json")
    named = _class_name(config) or _class_name(model)
    name = named if named in TOKENIZERS else default
    loaded = (
        _from_json(folder, config, "" if _as_written(named, model) else name)
        if (folder / "tokenizer.json").exists()
        else _from_files(folder, config, name, named)
    )
    if loaded is None:
        return None
    backend, roles, written = loaded
    special = {**TOKENIZERS[name].special, **{role: content(token) for role, token in roles.items()}}
    present = {role: token for role, token in special.items() if backend.token_to_id(token) is not None}
    limit = config.get("model_max_length")
    max_length = int(limit) if isinstance(limit, (int, float)) and 0 < limit < NO_LIMIT else None
    return Tokenizer(backend, present, max_length, {**config, "tokenizer_class": written})


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, which transformers reads too."""
    with replacing(folder / "tokenizer.json") as aside:
        aside.write_text(tokenizer.to_json(), encoding="utf-8")
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


def _class_name(config: Mapping[str, Any]) -> str:
    name = config.get("tokenizer_class")
    return name.removesuffix("Fast") if isinstance(name, str) else ""


def _as_written(named: str, model: Mapping[str, Any]) -> bool:
    unsaid = not named and not model
    return unsaid or bool(named and named not in TOKENIZERS) or model.get("model_type") in WRITTEN_WHOLE


def _optional(path: Path) -> dict[str, Any]:
    return read_object(path) if path.exists() else {}


# A backend, the special tokens that files name, and the class that what was made of them is saved as.
Loaded = tuple[Backend, Mapping[str, str | AddedToken], str]


def _from_json(folder: Path, config: Mapping[str, Any], name: str) -> Loaded:
    """name: the class that makes the backend over the file's vocabulary; "": the whole file is taken as written."""
    path = folder / "tokenizer.json"
    description = read_object(path, MOST_LISTED_BYTES)
    with guarded(lambda message: ConfigError(f"{path}: not a tokenizer of the tokenizers library: {message}")):
        check_description(description)
        named = read_named(folder, config, description.get("added_tokens"))
        vocabulary = written_vocabulary(path, description, TOKENIZERS[name].model) if name else None
        if vocabulary is not None:
            kind, options = TOKENIZERS[name], options_of(TOKENIZERS[name], config, folder / "tokenizer_config.json")
            further = dataclasses.replace(vocabulary, extras=kind.extras(options))
            backend = _made(kind, further, options, named)
            if not kind.finishes and (finish := written_finish(description)) is not None:
                backend.post_processor = finish
            return backend, named.roles, config.get("tokenizer_class") or name
        backend = Backend.from_file(str(path))
        add_tokens(backend, [*named.roles.values(), *(named.extras or ())], named.added)
    if name:
        _warn_of_another(path, type(backend.model).__name__, name)
        return backend, named.roles, AS_WRITTEN
    return backend, named.roles, config.get("tokenizer_class") or AS_WRITTEN


def _warn_of_another(path: Path, model: str, name: str) -> None:
    if model != TOKENIZERS[name].model:
        warnings.warn(
            f"{path} has a {model} model, but {name} is {TOKENIZERS[name].model}: taken as written, and the options of "
            "tokenizer_config.json are not followed",
            stacklevel=4,
        )


def _from_files(folder: Path, config: Mapping[str, Any], name: str, named_class: str) -> Loaded | None:
    if named_class and named_class not in (*TOKENIZERS, *GENERIC):
        raise ConfigError(
            f"{folder}: the tokenizer class {named_class} is not known, and there is no tokenizer.json; "
            f"known: {', '.join(TOKENIZERS)}; save it as a tokenizer.json"
        )
    kind, named = TOKENIZERS[name], read_named(folder, config)
    files = [folder / file for file in kind.files]
    if not all(file.exists() for file in files):
        return None
    options = options_of(kind, config, folder / "tokenizer_config.json")
    with guarded(
        lambda message: CheckpointError(f"{files[0]}: not a vocabulary the tokenizers library takes: {message}")
    ):
        backend = _made(kind, kind.read(files, _special(kind, named), options), options, named)
    # Of a class that is one of SentencePiece's other algorithm, a tokenizer.json would not be understood elsewhere.
    as_named = config.get("tokenizer_class") or name
    return backend, named.roles, as_named if type(backend.model).__name__ == kind.model else AS_WRITTEN


def _special(kind: TokenizerClass, named: Named) -> dict[str, str]:
    return {**kind.special, **{role: content(token) for role, token in named.roles.items()}}


def _made(kind: TokenizerClass, vocabulary: Vocabulary, options: Options, named: Named) -> Backend:
    special = _special(kind, named)
    backend = kind.make(vocabulary, special, options)
    # What a file of a whole vocabulary leaves out, and nobody names, has no row in the model either.
    kept = (r for r in special if r in named.roles or r in kind.behind or backend.token_to_id(special[r]) is not None)
    roles = [_flagged(named.roles.get(role, special[role]), kind.flags.get(role)) for role in kept]
    further = vocabulary.extras if named.extras is None else named.extras
    add_tokens(backend, [*roles, *further], named.added)
    backend.post_processor = kind.finish(backend, special, options)
    return backend


def _flagged(token: str | AddedToken, flags: Mapping[str, bool] | None) -> str | AddedToken:
    return AddedToken(token, special=True, **flags) if flags is not None and isinstance(token, str) else token
