"""Small tokenizers of every kind that encoders have, made by the tokenizers library."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from small_models import VOCAB
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

ROLES = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
LINES = [
    "The cat sat on the mat, and the dog ran to the red house.",
    "Ada Lovelace met Charles Babbage in London; it's un-able (50%)!",
    "un café à Zürich, naïve façade: noe\u0308l and e\u0301te\u0301",
    "我喜欢猫 and 東京タワー cost $5,000",
] * 3


def word_pieces() -> Backend:
    backend = Backend(models.WordPiece({token: i for i, token in enumerate(VOCAB)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", VOCAB.index("[CLS]")), ("[SEP]", VOCAB.index("[SEP]"))]
    )
    backend.add_special_tokens(VOCAB[:5])
    return backend


def byte_pairs(trimmed: bool, bare: bool = False) -> Backend:
    """trimmed: offsets without the space before a word, as RoBERTa's; bare: no special tokens, as GPT-2's."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=[*ROLES.values()], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(LINES, trainer)
    if bare:
        backend.post_processor = processors.ByteLevel(trim_offsets=trimmed)
    else:
        backend.post_processor = processors.RobertaProcessing(
            ("</s>", 2), ("<s>", 0), trim_offsets=trimmed, add_prefix_space=False
        )
    return backend


def unigram() -> Backend:
    backend = Backend(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=[*ROLES.values()], unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(LINES, trainer)
    backend.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return backend


MAKE: dict[str, Callable[[], Backend]] = {
    "WordPiece": word_pieces,
    "byte pairs, trimmed": lambda: byte_pairs(trimmed=True),
    "byte pairs": lambda: byte_pairs(trimmed=False),
    "byte pairs, bare": lambda: byte_pairs(trimmed=False, bare=True),
    "Unigram": unigram,
}


@cache
def written(kind: str) -> str:
    """Its tokenizer.json."""
    return MAKE[kind]().to_str()


def roles(kind: str) -> dict[str, str]:
    """Its special tokens, in transformers' words."""
    return dict(zip(ROLES, ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"))) if kind == "WordPiece" else ROLES


def small_tokenizer(kind: str) -> Backend:
    """kind: of MAKE."""
    return Backend.from_str(written(kind))
