"""Vocabularies made from text, on the trainers of the `tokenizers` library, and reports on how well they fit.

WordPiece as BERT has it (https://arxiv.org/abs/1810.04805), byte-level BPE as RoBERTa (https://arxiv.org/abs/1907.11692),
Unigram as ALBERT (https://arxiv.org/abs/1909.11942; the model is https://arxiv.org/abs/1804.10959).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from bothways.errors import InputError, meant
from bothways.text.backends import wordpiece
from bothways.text.tokenizer import Tokenizer

__all__ = ["KINDS", "Fit", "Kind", "fit", "rare_characters", "train"]

# Characters beyond the commonest so many have no piece of their own in a WordPiece vocabulary, as in BERT's.
MOST_CHARACTERS = 1000
# No vocabulary, length or count is larger.
MOST = 1 << 24
# The share of all characters that a Unigram vocabulary must be able to write, as sentencepiece has it.
COVERAGE = 0.9995


@dataclass(frozen=True)
class Kind:
    """A kind of vocabulary: its special tokens by role in the order of their ids, and how it is trained and finished.

    backend: (lowercase) → a tokenizer with everything but a vocabulary.
    trainer: (backend, vocab_size, min_frequency, special tokens, how often each character occurs) → the trainer.
    finish: (backend, lowercase) → the tokenizer with its template of special tokens.
    config: (lowercase) → what transformers wants to read in `tokenizer_config.json`.
    mask_takes_space: whether the mask takes in the space before it.
    coverage: the share of all characters that the vocabulary must be able to write.
    bytes: of text that are enough: of more, a sample of so many is to be trained on, which bounds memory and time.
    """

    special: Mapping[str, str]
    lowercase: bool
    backend: Callable[[bool], Backend]
    trainer: Callable[[Backend, int, int, list[AddedToken], Mapping[str, int]], Any]
    finish: Callable[[Backend, bool], Backend]
    config: Callable[[bool], Mapping[str, Any]]
    mask_takes_space: bool = False
    coverage: float = 1.0
    bytes: int = 1 << 30


def train(
    documents: Iterable[str],
    kind: str,
    vocab_size: int,
    *,
    characters: Mapping[str, int],
    lowercase: bool | None = None,
    special: Sequence[str] = (),
    max_length: int = 512,
    min_frequency: int = 2,
) -> Tokenizer:
    """A tokenizer whose vocabulary fits the documents.

    kind: a name in KINDS.    vocab_size: entries, special tokens included.
    characters: how often each occurs in the documents, as they stand; the rarest get no piece and become unknown
    (in byte-level BPE none does).
    lowercase: None means as the kind's model has it: WordPiece yes, the others no.
    special: further special tokens, behind those of the kind.    max_length: of the model it is for, in tokens.
    min_frequency: how often a pair of pieces must occur to become one (Unigram has no such number).

    The same documents give the same vocabulary; scores of Unigram may differ in their last digits.

    Raises InputError on an unknown kind, on no text, on numbers that cannot be, and on a vocab_size that does not hold
    the alphabet.
    """
    if kind not in KINDS:
        raise InputError(f"kind {kind!r} is not one of {', '.join(KINDS)}{meant(kind, KINDS)}")
    for name, number in (("vocab_size", vocab_size), ("max_length", max_length), ("min_frequency", min_frequency)):
        if not 1 <= number <= MOST:
            raise InputError(f"{name} must be from 1 to {MOST:,}, got {number:,}")
    if not "".join(characters).strip():
        raise InputError("there is no text to train on")
    chosen = KINDS[kind]
    lower = chosen.lowercase if lowercase is None else lowercase
    backend = chosen.backend(lower)
    tokens = _special_tokens(chosen, special)
    read = _Read(documents, rare_characters(characters, chosen.coverage))
    _run(backend, read, chosen.trainer(backend, vocab_size, min_frequency, tokens, characters), vocab_size, len(tokens))
    finished = chosen.finish(backend, lower)
    finished.add_special_tokens(tokens)
    finished = Backend.from_str(finished.to_str())  # with scores as rounded as those in the file will be
    extra = {"additional_special_tokens": list(special)} if special else {}
    return Tokenizer(finished, dict(chosen.special), max_length, {**chosen.config(lower), **extra})


def _special_tokens(kind: Kind, more: Sequence[str]) -> list[AddedToken]:
    mask = kind.special["mask"]
    names = list(dict.fromkeys([*kind.special.values(), *more]))
    return [AddedToken(name, special=True, lstrip=kind.mask_takes_space and name == mask) for name in names]


@dataclass
class _Read:
    """The documents, without rare characters, and what was seen of them: the alphabet, and an error in reading."""

    documents: Iterable[str]
    rare: frozenset[str]
    alphabet: set[str] = field(default_factory=set)
    error: BaseException | None = None

    def __iter__(self) -> Iterator[str]:
        pattern = re.compile(f"[{re.escape(''.join(sorted(self.rare)))}]") if self.rare else None
        try:
            for text in self.documents:
                kept = text if pattern is None or text.isascii() else pattern.sub(" ", text)
                self.alphabet.update(kept)
                yield kept
        except BaseException as error:  # kept, since the Rust side would hand it on as another
            self.error = error
            raise


def _run(backend: Backend, read: _Read, trainer: Any, vocab_size: int, special: int) -> None:
    problem: Exception | None = None
    try:
        backend.train_from_iterator(read, trainer)
    except Exception as error:  # the Rust side raises plain Exception
        problem = error
    if read.error is not None:
        raise read.error
    if not "".join(read.alphabet).strip():
        raise InputError("there is no text to train on")
    unigram = isinstance(backend.model, models.Unigram)  # whose trainer notices only much too small vocabularies
    least = _letters(backend, read.alphabet) + special if unigram else backend.get_vocab_size()
    if least > vocab_size:
        raise InputError(
            f"a vocabulary of {vocab_size:,} does not hold the alphabet; --vocab-size {least} is the least"
        )
    if problem:
        raise InputError(f"a vocabulary of {vocab_size:,} cannot be trained: {problem}")


def _letters(backend: Backend, alphabet: set[str]) -> int:
    """The characters that are left of an alphabet once it is normalised, the mark of a word's beginning, one piece."""
    text = " ".join(sorted(alphabet))
    return len(set(backend.normalizer.normalize_str(text)) - {" "}) + 2


def rare_characters(counts: Mapping[str, int], coverage: float) -> frozenset[str]:
    """The rarest characters: those that text can do without and still have `coverage` of its characters written."""
    left = int((1 - coverage) * sum(counts.values()))
    rarest = sorted((count, character) for character, count in counts.items() if not character.isascii())
    sums = accumulate(count for count, _ in rarest)
    return frozenset(character for (_, character), total in zip(rarest, sums) if total <= left)


def _wordpiece(lowercase: bool) -> Backend:
    """BERT's own, but for the vocabulary; `finish` puts the trained one in."""
    return wordpiece({KINDS["wordpiece"].special["unk"]: 0}, lowercase=lowercase)


def _wordpiece_trainer(
    backend: Backend, vocab_size: int, min_frequency: int, special: list[AddedToken], characters: Mapping[str, int]
) -> Any:
    """The trainer numbers the characters inside words as it meets them, in the order of a random hash, and ties between
    merges are settled by these numbers. So they are handed in as special tokens: then every run gives the same."""
    alphabet = _alphabet(backend, characters)
    inside = [f"##{character}" for character in alphabet if _stands_inside_words(backend, character)]
    return trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[*special, *inside],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )


def _alphabet(backend: Backend, characters: Mapping[str, int]) -> list[str]:
    """The commonest characters of normalised text, in the order of their numbers."""
    counts: Counter[str] = Counter()
    for character, count in characters.items():
        for normal in backend.normalizer.normalize_str(character).split():
            counts.update(dict.fromkeys(normal, count))
    return sorted(sorted(counts, key=lambda character: (-counts[character], character))[:MOST_CHARACTERS])


def _stands_inside_words(backend: Backend, character: str) -> bool:
    return len(backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(f"a{character}a"))) == 1


def _finish_wordpiece(backend: Backend, lowercase: bool) -> Backend:
    return _with_template(wordpiece(backend.get_vocab(with_added_tokens=False), lowercase=lowercase))


def _with_template(backend: Backend) -> Backend:
    """BERT's: [CLS] A [SEP], or [CLS] A [SEP] B [SEP] with types 0 and 1."""
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=_with_ids(backend, "[CLS]", "[SEP]"),
    )
    return backend


def _byte_level(lowercase: bool) -> Backend:
    backend = Backend(models.BPE())
    if lowercase:
        backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def _bpe_trainer(
    backend: Backend, vocab_size: int, min_frequency: int, special: list[AddedToken], characters: Mapping[str, int]
) -> Any:
    return trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )


def _finish_byte_level(backend: Backend, lowercase: bool) -> Backend:
    cls, sep = _with_ids(backend, "<s>", "</s>")
    backend.post_processor = processors.RobertaProcessing(sep, cls, trim_offsets=True, add_prefix_space=False)
    return backend


def _bert(lowercase: bool) -> dict[str, Any]:
    return {"tokenizer_class": "BertTokenizer", "do_lower_case": lowercase}


def _roberta(lowercase: bool) -> dict[str, Any]:
    """RoBERTa's class in transformers knows no lower case; the plain one takes tokenizer.json as it is."""
    name = {} if lowercase else {"tokenizer_class": "RobertaTokenizer"}
    return {**_any_class(lowercase), **name}


def _any_class(lowercase: bool) -> dict[str, Any]:
    return {"tokenizer_class": "PreTrainedTokenizerFast"}


def _with_ids(backend: Backend, *tokens: str) -> list[tuple[str, int]]:
    vocab = backend.get_vocab()
    return [(token, vocab[token]) for token in tokens]


def _unigram(lowercase: bool) -> Backend:
    backend = Backend(models.Unigram())
    steps = [normalizers.Nmt(), normalizers.NFKC(), *([normalizers.Lowercase()] if lowercase else [])]
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    return backend


def _unigram_trainer(
    backend: Backend, vocab_size: int, min_frequency: int, special: list[AddedToken], characters: Mapping[str, int]
) -> Any:
    return trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=special, unk_token="<unk>", show_progress=False
    )


def _finish_unigram(backend: Backend, lowercase: bool) -> Backend:
    return _with_template(backend)


KINDS: dict[str, Kind] = {
    "wordpiece": Kind(
        special={"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
        lowercase=True,
        backend=_wordpiece,
        trainer=_wordpiece_trainer,
        finish=_finish_wordpiece,
        config=_bert,
    ),
    "bpe": Kind(
        special={"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
        | {"bos": "<s>", "eos": "</s>"},
        lowercase=False,
        backend=_byte_level,
        trainer=_bpe_trainer,
        finish=_finish_byte_level,
        config=_roberta,
        mask_takes_space=True,
    ),
    "unigram": Kind(
        special={"pad": "<pad>", "unk": "<unk>", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
        lowercase=False,
        backend=_unigram,
        trainer=_unigram_trainer,
        finish=_finish_unigram,
        config=_any_class,
        mask_takes_space=True,
        coverage=COVERAGE,
        bytes=1 << 26,  # its trainer goes over all different words some forty times, on one core
    ),
}


@dataclass(frozen=True)
class Fit:
    """How well a vocabulary fits texts.

    Words are runs of letters and digits, taken as they stand in running text.
    kept_whole: the share of words that are one piece.    fertility: pieces a word.
    unknown: the share of tokens that are unknown.    characters_per_token: of the whole texts.
    scripts: the same for the words of each script, the commonest first: name → (words, kept_whole, fertility, unknown),
    the last one the share of words with an unknown piece.
    """

    words: int
    tokens: int
    kept_whole: float
    fertility: float
    unknown: float
    characters_per_token: float
    scripts: Mapping[str, Mapping[str, float]]


def fit(tokenizer: Tokenizer, texts: Sequence[str]) -> Fit:
    """How well a vocabulary fits texts. Raises InputError if they have no words."""
    words = Counter(word for text in texts for word in re.findall(r"[^\W_]+", text))
    if not words:
        raise InputError("there are no words to judge the vocabulary by")
    table = _pieces(tokenizer, list(words))
    scripts: dict[str, _Tally] = {}
    whole = _Tally()
    for (word, count), (pieces, unknown) in zip(words.items(), table):
        for tally in (whole, scripts.setdefault(_script(word), _Tally())):
            tally.add(count, pieces, unknown)
    tokens, unknown_tokens = _tokens(tokenizer, texts)
    ordered = sorted(scripts.items(), key=lambda item: (-item[1].words, item[0]))
    return Fit(
        words=whole.words,
        tokens=tokens,
        kept_whole=whole.rates()["kept_whole"],
        fertility=whole.rates()["fertility"],
        unknown=unknown_tokens / max(tokens, 1),
        characters_per_token=sum(map(len, texts)) / max(tokens, 1),
        scripts={name: tally.rates() for name, tally in ordered},
    )


@dataclass
class _Tally:
    words: int = 0
    pieces: int = 0
    whole: int = 0
    unknown: int = 0

    def add(self, count: int, pieces: int, unknown: bool) -> None:
        self.words += count
        self.pieces += count * pieces
        self.whole += count * (pieces == 1 and not unknown)
        self.unknown += count * unknown

    def rates(self) -> dict[str, float]:
        return {
            "words": self.words,
            "kept_whole": self.whole / self.words,
            "fertility": self.pieces / self.words,
            "unknown": self.unknown / self.words,
        }


def _pieces(tokenizer: Tokenizer, words: list[str]) -> Iterator[tuple[int, bool]]:
    """Of each word, how many pieces it has, and whether one is unknown. The space makes it stand in running text."""
    unk = tokenizer.id_of("unk")
    for encoding in tokenizer.backend.encode_batch_fast([" " + word for word in words], add_special_tokens=False):
        yield len(encoding), unk in encoding.ids


def _tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[int, int]:
    """All tokens of the texts, and how many of them are unknown."""
    unk = tokenizer.id_of("unk")
    ids = [e.ids for e in tokenizer.backend.encode_batch_fast(list(texts), add_special_tokens=False)]
    return sum(map(len, ids)), sum(i.count(unk) for i in ids) if unk is not None else 0


def _script(word: str) -> str:
    """The first word of its first character's name (latin, greek, cjk …), or digit, or other."""
    category = unicodedata.category(word[0])
    if category == "Lm" or category[0] not in "LN":
        return "other"
    if category[0] == "N":
        return "digit"
    return unicodedata.name(word[0], "OTHER").split()[0].split("-")[0].lower()
