"""TOKENIZERS: each class of tokenizer as a value, by the name that `tokenizer_config.json` gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from bothways.errors import CheckpointError, ConfigError
from bothways.files import read_lines, read_object
from bothways.text.backends import byte_level, collapsing_blanks, mapped, plain_accents, sentencepiece, wordpiece
from bothways.text.pieces import CONTROL, USER_DEFINED, Pieces, read_pieces

__all__ = ["TOKENIZERS", "TokenizerClass", "options_of"]

Options = Mapping[str, Any]
Special = Mapping[str, str]
Extras = tuple[str | AddedToken, ...]
Built = tuple[Backend, Extras]
Finish = Callable[[Backend, Special, Options], processors.PostProcessor]

# The most sentinels that T5's `extra_ids` may ask for; real ones have 100 to 300.
MOST_SENTINELS = 10_000


@dataclass(frozen=True)
class TokenizerClass:
    """How a class of tokenizer is made from its own files.

    files: what it reads, all in one folder.    special: its special tokens by role, unless config files name others.
    build: (those files, special tokens, options) → a backend without special tokens, and the further tokens that the
    files hold.    finish: what puts special tokens around one text or two, and gives their types.
    options: the keys of `tokenizer_config.json` that change the result, with the value where nothing is said.
    flags: of special tokens by role, where they are not the plain ones.
    behind: roles whose token may be missing from the files and then gets the next free id.
    """

    files: tuple[str, ...]
    special: Special
    build: Callable[[Sequence[Path], Special, Options], Built]
    finish: Finish
    options: Options = field(default_factory=dict)
    flags: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    behind: tuple[str, ...] = ()


def _around(single: str, pair: str) -> Finish:
    """A finish from templates in which special tokens stand by role: "cls $A sep", with ":1" for type 1."""

    roles = sorted({part.split(":")[0] for part in pair.split()} - {"$A", "$B"})

    def finish(backend: Backend, special: Special, options: Options) -> processors.PostProcessor:
        # Under the names of their roles, since templates give ":" and "$" in a token a meaning of their own.
        tokens = {role: _numbered(backend, special[role]) for role in roles}
        named = [{"id": role, "ids": [number], "tokens": [token]} for role, (token, number) in tokens.items()]
        return processors.TemplateProcessing(single=single, pair=pair, special_tokens=named)

    return finish


def _doubled(backend: Backend, special: Special, options: Options) -> processors.PostProcessor:
    """RoBERTa's finish: two separators between texts, all types 0, no blanks at the ends of offsets."""
    sep, cls = (_numbered(backend, special[role]) for role in ("sep", "cls"))
    return processors.RobertaProcessing(
        sep, cls, options.get("trim_offsets", True), options.get("add_prefix_space", False)
    )


def _numbered(backend: Backend, token: str) -> tuple[str, int]:
    number = backend.token_to_id(token)
    if number is None:
        raise ConfigError(f"the special token {token!r} is not in the vocabulary")
    return token, number


def _wordpiece(files: Sequence[Path], special: Special, options: Options) -> Built:
    (path,) = files
    lines = read_lines(path)
    if not any(lines):
        raise CheckpointError(f"{path}: empty; one token a line was expected")
    vocab = {token: i for i, token in enumerate(lines)}
    _check_present(path, vocab, special, ("unk", "cls", "sep"))
    backend = wordpiece(
        vocab,
        special["unk"],
        lowercase=options["do_lower_case"],
        strip_accents=options["strip_accents"],
        chinese_characters=options["tokenize_chinese_chars"],
    )
    return backend, ()


def _byte_level(needed: tuple[str, ...], files: Sequence[Path], special: Special, options: Options) -> Built:
    vocab = read_object(files[0])
    if not vocab or not all(type(number) is int and 0 <= number < 1 << 32 for number in vocab.values()):
        raise CheckpointError(f"{files[0]}: each token must have its id")
    _check_present(files[0], vocab, special, needed)
    merges = _merges(files[1], vocab)
    return byte_level(vocab, merges, prefix_space=options["add_prefix_space"]), ()


def _merges(path: Path, vocab: Mapping[str, int]) -> list[tuple[str, str]]:
    merges = []
    for number, line in enumerate(read_lines(path), 1):
        if line.startswith("#version") or not line:
            continue
        left, _, right = line.partition(" ")
        if not {left, right, left + right} <= vocab.keys():
            raise CheckpointError(f"{path}: line {number} merges pieces that the vocabulary lacks: {line!r:.60}")
        merges.append((left, right))
    return merges


def _check_present(path: Path, vocab: Mapping[str, int], special: Special, roles: Sequence[str]) -> None:
    missing = [special[role] for role in roles if special[role] not in vocab]
    if missing:
        raise CheckpointError(f"{path}: the special tokens {', '.join(missing)} are not in the vocabulary")


def _albert(files: Sequence[Path], special: Special, options: Options) -> Built:
    pieces = read_pieces(files[0])
    normalizer = plain_accents(pieces, lowercase=options["do_lower_case"], keep_accents=options["keep_accents"])
    return _in_words(
        pieces, _as_they_are(pieces), pieces.unknown, normalizer, special, prefix_space=options["add_prefix_space"]
    )


def _xlnet(files: Sequence[Path], special: Special, options: Options) -> Built:
    pieces = read_pieces(files[0])
    normalizer = plain_accents(pieces, lowercase=options["do_lower_case"])
    return _in_words(pieces, _as_they_are(pieces), pieces.unknown, normalizer, special)


def _xlm_roberta(files: Sequence[Path], special: Special, options: Options) -> Built:
    """fairseq's ids: its own four special tokens before the file's pieces, whose first three they replace."""
    pieces = read_pieces(files[0])
    first = [(special[role], 0.0) for role in ("bos", "pad", "eos", "unk")]
    vocab = [*first, *_as_they_are(pieces)[3:], (special["mask"], 0.0)]
    return _in_words(pieces, vocab, 3, mapped(pieces), special, prefix_space=options["add_prefix_space"])


def _camembert(files: Sequence[Path], special: Special, options: Options) -> Built:
    """fairseq's ids once more, with places that no text reaches."""
    pieces = read_pieces(files[0])
    first = [("<s>NOTUSED", 0.0), (special["pad"], 0.0), ("</s>NOTUSED", 0.0), (special["unk"], 0.0)]
    vocab = [*first, ("<unk>NOTUSED", -100.0), *_as_they_are(pieces)[1:], (special["mask"], 0.0)]
    return _in_words(pieces, vocab, 3, mapped(pieces), special, prefix_space=options["add_prefix_space"])


def _t5(files: Sequence[Path], special: Special, options: Options) -> Built:
    """The file's pieces, and behind them the sentinels of T5's objective, the last first."""
    pieces = read_pieces(files[0])
    sentinels = [f"<extra_id_{i}>" for i in range(options["extra_ids"])]
    vocab = [*_as_they_are(pieces), *((token, 0.0) for token in reversed(sentinels))]
    backend, extras = _in_words(pieces, vocab, pieces.unknown, mapped(pieces), special)
    return backend, (*extras, *sentinels)


def _deberta_v2(files: Sequence[Path], special: Special, options: Options) -> Built:
    pieces = read_pieces(files[0])
    backend = sentencepiece(
        pieces,
        _as_they_are(pieces),
        pieces.unknown,
        collapsing_blanks(lowercase=options["do_lower_case"]),
        split=pre_tokenizers.Punctuation(behavior="isolated") if options["split_by_punct"] else None,
        prefix="always" if options["add_prefix_space"] else "first",
    )
    return backend, _standing_apart(pieces, special)


def _in_words(
    pieces: Pieces,
    vocab: Sequence[tuple[str, float]],
    unknown: int,
    normalizer: normalizers.Normalizer | None,
    special: Special,
    *,
    prefix_space: bool = True,
) -> Built:
    words, prefix = pre_tokenizers.WhitespaceSplit(), "always" if prefix_space else "never"
    backend = sentencepiece(pieces, vocab, unknown, normalizer, split=words, prefix=prefix)
    return backend, _standing_apart(pieces, special)


def _as_they_are(pieces: Pieces) -> list[tuple[str, float]]:
    return [(piece.text, piece.score) for piece in pieces.pieces]


def _standing_apart(pieces: Pieces, special: Special) -> Extras:
    """The pieces that a text is searched for before all else; control pieces are special, and named ones."""
    names = set(special.values())
    return tuple(
        AddedToken(piece.text, normalized=False, special=piece.kind == CONTROL or piece.text in names)
        for piece in pieces.pieces
        if piece.kind in (CONTROL, USER_DEFINED)
    )


BERT_SPECIAL = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
DEBERTA_SPECIAL = {"bos": "[CLS]", "eos": "[SEP]", **BERT_SPECIAL}
ALBERT_SPECIAL = {**DEBERTA_SPECIAL, "unk": "<unk>", "pad": "<pad>"}
ROBERTA_SPECIAL = {
    **{"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>"},
    **{"pad": "<pad>", "cls": "<s>", "mask": "<mask>"},
}
XLNET_SPECIAL = {**ROBERTA_SPECIAL, "sep": "<sep>", "cls": "<cls>"}
T5_SPECIAL = {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"}
GPT2_SPECIAL = {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>"}

CASE = {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True}
PREFIX_SPACE = {"add_prefix_space": True}
NO_PREFIX_SPACE = {"add_prefix_space": False}

# The mask stands for a word, and words take the blank before them along.
AFTER_BLANK = {"lstrip": True}

BERT_FINISH = _around("cls $A sep", "cls $A sep $B:1 sep:1")
FAIRSEQ_FINISH = _around("bos $A eos", "bos $A eos eos $B eos")

BYTE_PAIRS = ("vocab.json", "merges.txt")
EVERY_ROLE = tuple(ROBERTA_SPECIAL)

BERT = TokenizerClass(("vocab.txt",), BERT_SPECIAL, _wordpiece, BERT_FINISH, CASE)

TOKENIZERS: Mapping[str, TokenizerClass] = {
    "BertTokenizer": BERT,
    "DistilBertTokenizer": BERT,
    "ElectraTokenizer": BERT,
    "MPNetTokenizer": TokenizerClass(
        ("vocab.txt",),
        {**ROBERTA_SPECIAL, "unk": "[UNK]"},
        _wordpiece,
        _doubled,
        CASE,
        flags={"mask": AFTER_BLANK},
    ),
    "RobertaTokenizer": TokenizerClass(
        BYTE_PAIRS,
        ROBERTA_SPECIAL,
        partial(_byte_level, ("cls", "sep")),
        _doubled,
        {**NO_PREFIX_SPACE, "trim_offsets": True},
    ),
    "DebertaTokenizer": TokenizerClass(
        BYTE_PAIRS,
        DEBERTA_SPECIAL,
        partial(_byte_level, ("cls", "sep")),
        _around("cls $A sep", "cls $A sep sep $B sep"),
        NO_PREFIX_SPACE,
    ),
    "GPT2Tokenizer": TokenizerClass(
        BYTE_PAIRS, GPT2_SPECIAL, partial(_byte_level, ()), _around("$A", "$A $B:1"), NO_PREFIX_SPACE
    ),
    "AlbertTokenizer": TokenizerClass(
        ("spiece.model",),
        ALBERT_SPECIAL,
        _albert,
        BERT_FINISH,
        {"do_lower_case": True, "keep_accents": False, **PREFIX_SPACE},
        behind=EVERY_ROLE,
    ),
    "XLMRobertaTokenizer": TokenizerClass(
        ("sentencepiece.bpe.model",), ROBERTA_SPECIAL, _xlm_roberta, FAIRSEQ_FINISH, PREFIX_SPACE, behind=EVERY_ROLE
    ),
    "CamembertTokenizer": TokenizerClass(
        ("sentencepiece.bpe.model",),
        ROBERTA_SPECIAL,
        _camembert,
        FAIRSEQ_FINISH,
        PREFIX_SPACE,
        flags={"mask": AFTER_BLANK},
        behind=EVERY_ROLE,
    ),
    "DebertaV2Tokenizer": TokenizerClass(
        ("spm.model",),
        DEBERTA_SPECIAL,
        _deberta_v2,
        BERT_FINISH,
        {"do_lower_case": False, "split_by_punct": False, **PREFIX_SPACE},
        behind=EVERY_ROLE,
    ),
    "T5Tokenizer": TokenizerClass(
        ("spiece.model",), T5_SPECIAL, _t5, _around("$A eos", "$A eos $B eos"), {"extra_ids": 100}, behind=EVERY_ROLE
    ),
    "XLNetTokenizer": TokenizerClass(
        ("spiece.model",),
        XLNET_SPECIAL,
        _xlnet,
        _around("$A sep cls:2", "$A sep $B:1 sep:1 cls:2"),
        {"do_lower_case": False},
        flags={"mask": AFTER_BLANK},
        behind=EVERY_ROLE,
    ),
}
"""A class of tokenizer by its name in `tokenizer_config.json`, without "Fast"."""


def options_of(kind: TokenizerClass, config: Mapping[str, Any], path: Path) -> Options:
    """The options of a class as `config` (read from `path`) sets them. Raises ConfigError on another type."""
    chosen = {key: config.get(key, default) for key, default in kind.options.items()}
    for key, value in chosen.items():
        if type(kind.options[key]) is int:
            if type(value) is not int or not 0 <= value <= MOST_SENTINELS:
                raise ConfigError(f"{path}: {key} must be a number up to {MOST_SENTINELS:,}, got {value!r:.60}")
        elif not isinstance(value, bool) and not (value is None and kind.options[key] is None):
            raise ConfigError(f"{path}: {key} must be true or false, got {value!r:.60}")
    return chosen
