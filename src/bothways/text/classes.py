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
from bothways.files import MOST_LISTED_BYTES, read_lines, read_object
from bothways.text.backends import byte_level, collapsing_blanks, mapped, plain_accents, sentencepiece, wordpiece
from bothways.text.pieces import CONTROL, USER_DEFINED, Pieces, read_pieces

__all__ = ["TOKENIZERS", "Options", "TokenizerClass", "Vocabulary", "checked_ids", "options_of"]

Options = Mapping[str, Any]
Special = Mapping[str, str]
Extras = tuple[str | AddedToken, ...]
NO_PIECES = Pieces(())
Finish = Callable[[Backend, Special, Options], processors.PostProcessor]

# What counts as blank at the end of a line of vocab.txt: Unicode's White_Space, some of which Python counts otherwise.
RUST_BLANKS = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
# The most sentinels that T5's `extra_ids` may ask for; real ones have 100 to 300.
MOST_SENTINELS = 10_000


@dataclass(frozen=True)
class Vocabulary:
    """What a backend is made over, from a class's own files or from a `tokenizer.json`.

    numbered, merges: ids by piece, and what is merged first, of WordPiece and byte pairs.
    scored, unknown: (piece, log probability) by id, and the id that stands for all else, of SentencePiece.
    pieces: what a `.model` file says beyond that.    extras: further tokens, where no other file names any.
    """

    numbered: Mapping[str, int] = field(default_factory=dict)
    merges: Sequence[tuple[str, str]] = ()
    scored: Sequence[tuple[str, float]] = ()
    unknown: int = 0
    pieces: Pieces = NO_PIECES
    extras: Extras = ()


@dataclass(frozen=True)
class TokenizerClass:
    """How a class of tokenizer is made from its own files, or over the vocabulary of a `tokenizer.json`.

    files: what it reads, all in one folder.    special: its special tokens by role, unless config files name others.
    model: its algorithm, as a `tokenizer.json` calls it.
    read: (those files, special tokens, options) → the vocabulary.
    make: (vocabulary, special tokens, options) → a backend without special tokens.
    finish: what puts special tokens around one text or two, and gives their types.
    options: the keys of `tokenizer_config.json` that change the result, with the value where nothing is said.
    flags: of special tokens by role, where they are not the plain ones.
    behind: roles whose token may be missing from the files and then gets the next free id.
    extras: options → the further tokens over a `tokenizer.json`, where no other file names any.
    finishes: whether `finish` replaces what a `tokenizer.json` says of its own.
    """

    files: tuple[str, ...]
    special: Special
    model: str
    read: Callable[[Sequence[Path], Special, Options], Vocabulary]
    make: Callable[[Vocabulary, Special, Options], Backend]
    finish: Finish
    options: Options = field(default_factory=dict)
    flags: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    behind: tuple[str, ...] = ()
    extras: Callable[[Options], Extras] = lambda options: ()
    finishes: bool = True


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


def _read_words(files: Sequence[Path], special: Special, options: Options) -> Vocabulary:
    (path,) = files
    lines = [line.rstrip(RUST_BLANKS) for line in read_lines(path)]
    if not any(lines):
        raise CheckpointError(f"{path}: empty; one token a line was expected")
    vocab = {token: i for i, token in enumerate(lines)}
    _check_present(path, vocab, special, ("unk", "cls", "sep"))
    return Vocabulary(vocab)


def _wordpiece(vocabulary: Vocabulary, special: Special, options: Options) -> Backend:
    return wordpiece(
        vocabulary.numbered,
        special["unk"],
        lowercase=options["do_lower_case"],
        strip_accents=options["strip_accents"],
        chinese_characters=options["tokenize_chinese_chars"],
    )


def _read_byte_pairs(needed: tuple[str, ...], files: Sequence[Path], special: Special, options: Options) -> Vocabulary:
    vocab = checked_ids(files[0], read_object(files[0], MOST_LISTED_BYTES))
    _check_present(files[0], vocab, special, needed)
    return Vocabulary(vocab, _merges(files[1], vocab))


def _byte_level(vocabulary: Vocabulary, special: Special, options: Options) -> Backend:
    return byte_level(vocabulary.numbered, vocabulary.merges, prefix_space=options["add_prefix_space"])


def checked_ids(path: Path, vocab: Any) -> Mapping[str, int]:
    """The same map, if it is one from pieces to ids. Raises CheckpointError on another."""
    if not vocab or not isinstance(vocab, dict):
        raise CheckpointError(f"{path}: a vocabulary that maps tokens to ids was expected")
    if not all(type(number) is int and 0 <= number < 1 << 32 for number in vocab.values()):
        raise CheckpointError(f"{path}: each token must have its id")
    return vocab


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


def _read_pieces(files: Sequence[Path], special: Special, options: Options) -> Vocabulary:
    pieces = read_pieces(files[0])
    return _scored(pieces, _as_they_are(pieces), pieces.unknown, special)


def _read_xlm_roberta(files: Sequence[Path], special: Special, options: Options) -> Vocabulary:
    """fairseq's ids: its own four special tokens before the file's pieces, whose first three they replace."""
    pieces = read_pieces(files[0])
    first = [(special[role], 0.0) for role in ("bos", "pad", "eos", "unk")]
    return _scored(pieces, [*first, *_as_they_are(pieces)[3:], (special["mask"], 0.0)], 3, special)


def _read_camembert(files: Sequence[Path], special: Special, options: Options) -> Vocabulary:
    """fairseq's ids once more, with places that no text reaches."""
    pieces = read_pieces(files[0])
    first = [("<s>NOTUSED", 0.0), (special["pad"], 0.0), ("</s>NOTUSED", 0.0), (special["unk"], 0.0)]
    vocab = [*first, ("<unk>NOTUSED", -100.0), *_as_they_are(pieces)[1:], (special["mask"], 0.0)]
    return _scored(pieces, vocab, 3, special)


def _read_t5(files: Sequence[Path], special: Special, options: Options) -> Vocabulary:
    """The file's pieces, and behind them the sentinels of T5's objective, the last first."""
    pieces, sentinels = read_pieces(files[0]), _sentinels(options)
    vocab = [*_as_they_are(pieces), *((token, 0.0) for token in reversed(sentinels))]
    return _scored(pieces, vocab, pieces.unknown, special, sentinels)


def _sentinels(options: Options) -> tuple[str, ...]:
    return tuple(f"<extra_id_{i}>" for i in range(options["extra_ids"]))


def _scored(
    pieces: Pieces,
    vocab: Sequence[tuple[str, float]],
    unknown: int,
    special: Special,
    further: Extras = (),
) -> Vocabulary:
    return Vocabulary(
        scored=vocab, unknown=unknown, pieces=pieces, extras=(*_standing_apart(pieces, special), *further)
    )


def _albert(vocabulary: Vocabulary, special: Special, options: Options) -> Backend:
    normalizer = plain_accents(
        vocabulary.pieces, lowercase=options["do_lower_case"], keep_accents=options["keep_accents"]
    )
    return _in_words(vocabulary, normalizer, prefix_space=options["add_prefix_space"])


def _xlnet(vocabulary: Vocabulary, special: Special, options: Options) -> Backend:
    return _in_words(vocabulary, plain_accents(vocabulary.pieces, lowercase=options["do_lower_case"]))


def _fairseq(vocabulary: Vocabulary, special: Special, options: Options) -> Backend:
    return _in_words(vocabulary, mapped(vocabulary.pieces), prefix_space=options["add_prefix_space"])


def _t5(vocabulary: Vocabulary, special: Special, options: Options) -> Backend:
    return _in_words(vocabulary, mapped(vocabulary.pieces))


def _deberta_v2(vocabulary: Vocabulary, special: Special, options: Options) -> Backend:
    return sentencepiece(
        vocabulary.pieces,
        vocabulary.scored,
        vocabulary.unknown,
        collapsing_blanks(lowercase=options["do_lower_case"]),
        split=pre_tokenizers.Punctuation(behavior="isolated") if options["split_by_punct"] else None,
        prefix="always" if options["add_prefix_space"] else "first",
    )


def _in_words(
    vocabulary: Vocabulary, normalizer: normalizers.Normalizer | None, *, prefix_space: bool = True
) -> Backend:
    words, prefix = pre_tokenizers.WhitespaceSplit(), "always" if prefix_space else "never"
    return sentencepiece(
        vocabulary.pieces, vocabulary.scored, vocabulary.unknown, normalizer, split=words, prefix=prefix
    )


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

BERT = TokenizerClass(("vocab.txt",), BERT_SPECIAL, "WordPiece", _read_words, _wordpiece, BERT_FINISH, CASE)
ROBERTA = TokenizerClass(
    BYTE_PAIRS,
    ROBERTA_SPECIAL,
    "BPE",
    partial(_read_byte_pairs, ("cls", "sep")),
    _byte_level,
    _doubled,
    {**NO_PREFIX_SPACE, "trim_offsets": True},
)

TOKENIZERS: Mapping[str, TokenizerClass] = {
    "BertTokenizer": BERT,
    "DistilBertTokenizer": BERT,
    "ElectraTokenizer": BERT,
    "MPNetTokenizer": TokenizerClass(
        ("vocab.txt",),
        {**ROBERTA_SPECIAL, "unk": "[UNK]"},
        "WordPiece",
        _read_words,
        _wordpiece,
        _doubled,
        CASE,
        flags={"mask": AFTER_BLANK},
    ),
    "RobertaTokenizer": ROBERTA,
    "BartTokenizer": ROBERTA,
    "DebertaTokenizer": TokenizerClass(
        BYTE_PAIRS,
        DEBERTA_SPECIAL,
        "BPE",
        partial(_read_byte_pairs, ("cls", "sep")),
        _byte_level,
        _around("cls $A sep", "cls $A sep sep $B sep"),
        NO_PREFIX_SPACE,
    ),
    "GPT2Tokenizer": TokenizerClass(
        BYTE_PAIRS,
        GPT2_SPECIAL,
        "BPE",
        partial(_read_byte_pairs, ()),
        _byte_level,
        _around("$A", "$A $B:1"),
        NO_PREFIX_SPACE,
        finishes=False,
    ),
    "AlbertTokenizer": TokenizerClass(
        ("spiece.model",),
        ALBERT_SPECIAL,
        "Unigram",
        _read_pieces,
        _albert,
        BERT_FINISH,
        {"do_lower_case": True, "keep_accents": False, **PREFIX_SPACE},
        behind=EVERY_ROLE,
        finishes=False,
    ),
    "XLMRobertaTokenizer": TokenizerClass(
        ("sentencepiece.bpe.model",),
        ROBERTA_SPECIAL,
        "Unigram",
        _read_xlm_roberta,
        _fairseq,
        FAIRSEQ_FINISH,
        PREFIX_SPACE,
        behind=EVERY_ROLE,
    ),
    "CamembertTokenizer": TokenizerClass(
        ("sentencepiece.bpe.model",),
        ROBERTA_SPECIAL,
        "Unigram",
        _read_camembert,
        _fairseq,
        FAIRSEQ_FINISH,
        PREFIX_SPACE,
        flags={"mask": AFTER_BLANK},
        behind=EVERY_ROLE,
        extras=lambda options: ("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"),
    ),
    "DebertaV2Tokenizer": TokenizerClass(
        ("spm.model",),
        DEBERTA_SPECIAL,
        "Unigram",
        _read_pieces,
        _deberta_v2,
        BERT_FINISH,
        {"do_lower_case": False, "split_by_punct": False, **PREFIX_SPACE},
        behind=EVERY_ROLE,
    ),
    "T5Tokenizer": TokenizerClass(
        ("spiece.model",),
        T5_SPECIAL,
        "Unigram",
        _read_t5,
        _t5,
        _around("$A eos", "$A eos $B eos"),
        {"extra_ids": 100},
        behind=EVERY_ROLE,
        extras=_sentinels,
    ),
    "XLNetTokenizer": TokenizerClass(
        ("spiece.model",),
        XLNET_SPECIAL,
        "Unigram",
        _read_pieces,
        _xlnet,
        _around("$A sep cls:2", "$A sep $B:1 sep:1 cls:2"),
        {"do_lower_case": False},
        flags={"mask": AFTER_BLANK},
        behind=EVERY_ROLE,
        extras=lambda options: ("<eop>", "<eod>"),
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
