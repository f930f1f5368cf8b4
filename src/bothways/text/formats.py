"""The files tokenizers come in: `tokenizer.json`, and BERT's `vocab.txt`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from bothways.errors import CheckpointError, ConfigError
from bothways.files import read_lines, read_object, replacing, write_json
from bothways.text.tokenizer import Tokenizer

__all__ = ["load_tokenizer", "save_tokenizer", "wordpiece"]

SPECIAL = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
# tokenizer_config.json says "no limit" with numbers around 1e30.
NO_LIMIT = 1 << 24


def load_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer of a model's folder; None if it has none.

    Raises ConfigError or CheckpointError, naming the file, on one that cannot be read.
    """
    config = _optional(folder / "tokenizer_config.json")
    special = _special_tokens(config, _optional(folder / "special_tokens_map.json"))
    if (folder / "tokenizer.json").exists():
        backend = _from_json(folder / "tokenizer.json")
    elif (folder / "vocab.txt").exists():
        backend = _from_vocab(folder / "vocab.txt", config, special)
    else:
        return None
    present = {role: token for role, token in special.items() if backend.token_to_id(token) is not None}
    limit = config.get("model_max_length")
    max_length = int(limit) if isinstance(limit, (int, float)) and 0 < limit < NO_LIMIT else None
    return Tokenizer(backend, present, max_length, config)


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, which transformers reads too."""
    with replacing(folder / "tokenizer.json") as aside:
        aside.write_text(tokenizer.backend.to_str(pretty=True), encoding="utf-8")
    names = {f"{role}_token": token for role, token in tokenizer.special.items()}
    limit = {} if tokenizer.max_length is None else {"model_max_length": tokenizer.max_length}
    write_json(folder / "tokenizer_config.json", {**tokenizer.config, **names, **limit})


def wordpiece(
    vocab: Mapping[str, int],
    special: Mapping[str, str] = SPECIAL,
    *,
    lowercase: bool = True,
    strip_accents: bool | None = None,
    chinese_characters: bool = True,
) -> Backend:
    """BERT's tokenizer over a vocabulary: cleaned, split at spaces and punctuation, then greedy longest pieces.

    strip_accents: None means as `lowercase`.
    """
    backend = Backend(models.WordPiece(dict(vocab), unk_token=special["unk"], max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=chinese_characters,
        strip_accents=strip_accents,
        lowercase=lowercase,
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    cls, sep = special["cls"], special["sep"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, vocab[cls]), (sep, vocab[sep])],
    )
    backend.add_special_tokens([AddedToken(token, special=True) for token in special.values() if token in vocab])
    return backend


def _optional(path: Path) -> dict[str, Any]:
    return read_object(path) if path.exists() else {}


def _special_tokens(*sources: Mapping[str, Any]) -> dict[str, str]:
    """Special tokens by role; earlier sources win, BERT's names stand where none says."""
    special = dict(SPECIAL)
    for source in reversed(sources):
        for role in special:
            token = source.get(f"{role}_token")
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                special[role] = token
    return special


def _from_json(path: Path) -> Backend:
    read_object(path)  # names the place where it is not JSON, which the parser below does not
    try:
        return Backend.from_file(str(path))
    except Exception as error:  # the Rust side raises plain Exception
        raise ConfigError(f"{path}: not a tokenizer of the tokenizers library: {error}") from None


def _from_vocab(path: Path, config: Mapping[str, Any], special: Mapping[str, str]) -> Backend:
    lines = read_lines(path)
    if not any(lines):
        raise CheckpointError(f"{path}: empty; one token a line was expected")
    vocab = {token: i for i, token in enumerate(lines)}
    missing = [special[role] for role in ("unk", "cls", "sep") if special[role] not in vocab]
    if missing:
        raise CheckpointError(f"{path}: the special tokens {', '.join(missing)} are not in the vocabulary")
    switches = {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True} | {
        key: config[key] for key in ("do_lower_case", "strip_accents", "tokenize_chinese_chars") if key in config
    }
    for key, value in switches.items():
        if not isinstance(value, bool) and not (key == "strip_accents" and value is None):
            raise ConfigError(f"{path.with_name('tokenizer_config.json')}: {key} must be true or false, got {value!r}")
    return wordpiece(
        vocab,
        special,
        lowercase=switches["do_lower_case"],
        strip_accents=switches["strip_accents"],
        chinese_characters=switches["tokenize_chinese_chars"],
    )
