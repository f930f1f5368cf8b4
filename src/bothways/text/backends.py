"""The algorithms that tokenizers run on, each over a vocabulary in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from bothways.text.pieces import NORMAL, UNIGRAM, Pieces

__all__ = [
    "byte_level",
    "collapsing_blanks",
    "mapped",
    "plain_accents",
    "sentencepiece",
    "sentencepiece_bpe",
    "wordpiece",
]

BLANK = "▁"
# The most merges that pieces may be made by; a quarter of a million pieces have half a million.
MOST_MERGES = 1 << 21
Vocab = Sequence[tuple[str, float]]


def wordpiece(
    vocab: Mapping[str, int],
    unknown: str = "[UNK]",
    *,
    lowercase: bool = True,
    strip_accents: bool | None = None,
    chinese_characters: bool = True,
) -> Backend:
    """BERT's algorithm: cleaned, split at spaces and punctuation, then greedy longest pieces.

    strip_accents: None means as `lowercase`.    Paper: Devlin et al., 2018, https://arxiv.org/abs/1810.04805
    """
    backend = Backend(models.WordPiece(dict(vocab), unk_token=unknown, max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=chinese_characters,
        strip_accents=strip_accents,
        lowercase=lowercase,
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return backend


def byte_level(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], *, prefix_space: bool = False) -> Backend:
    """GPT-2's algorithm: byte-pair encoding over bytes, so that nothing is unknown; a blank belongs to its next word.

    Paper: Radford et al., 2019, "Language Models are Unsupervised Multitask Learners".
    """
    model = models.BPE(dict(vocab), list(merges), continuing_subword_prefix="", end_of_word_suffix="")
    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    backend.decoder = decoders.ByteLevel()
    return backend


def sentencepiece(
    pieces: Pieces,
    vocab: Vocab,
    unknown: int,
    normalizer: normalizers.Normalizer | None,
    *,
    split: pre_tokenizers.PreTokenizer | None,
    prefix: str = "always",
) -> Backend:
    """SentencePiece's algorithm over pieces in a family's own order.

    vocab: (piece, log probability) by id.    split: what cuts a text before blanks become "▁"; None: nothing.
    prefix: whether words get a "▁" in front: "always", "first", "never".
    Papers: Kudo, 2018, https://arxiv.org/abs/1804.10959; Sennrich et al., 2016, https://arxiv.org/abs/1508.07909
    """
    unigram = pieces.algorithm == UNIGRAM
    backend = Backend(
        models.Unigram(list(vocab), unknown, False) if unigram else sentencepiece_bpe(pieces, vocab, unknown)
    )
    if normalizer is not None:
        backend.normalizer = normalizer
    blanks = pre_tokenizers.Metaspace(replacement=BLANK, prepend_scheme=prefix)
    backend.pre_tokenizer = pre_tokenizers.Sequence([blanks] if split is None else [split, blanks])
    backend.decoder = decoders.Metaspace(replacement=BLANK, prepend_scheme=prefix)
    return backend


def sentencepiece_bpe(pieces: Pieces, vocab: Vocab, unknown: int) -> models.BPE:
    """Byte-pair encoding from pieces: each is a merge of every two pieces that it consists of, the likeliest first."""
    ids = {text: i for i, (text, _) in enumerate(vocab)}
    mergeable = {piece.text: piece.score for piece in pieces.pieces if piece.kind == NORMAL}
    ordered = sorted(mergeable, key=lambda text: -mergeable[text])
    every = (
        (text[:i], text[i:])
        for text in ordered
        for i in range(1, len(text))
        if text[:i] in mergeable and text[i:] in mergeable
    )
    merges = list(islice(every, MOST_MERGES + 1))
    if len(merges) > MOST_MERGES:
        raise ValueError(f"its pieces are merges of each other in more than {MOST_MERGES:,} ways")
    return models.BPE(ids, merges, unk_token=vocab[unknown][0], fuse_unk=True, byte_fallback=pieces.byte_fallback)


def mapped(pieces: Pieces) -> normalizers.Normalizer | None:
    """The normaliser a `.model` file carries (most often NFKC with blanks collapsed); None if it carries none."""
    return None if pieces.charsmap is None else normalizers.Precompiled(pieces.charsmap)


def plain_accents(pieces: Pieces, *, lowercase: bool, keep_accents: bool = False) -> normalizers.Normalizer:
    """ALBERT's and XLNet's: one kind of quotes, no accents, lowercase if asked; then the file's own."""
    accents = [] if keep_accents else [normalizers.NFKD(), normalizers.StripAccents()]
    case = [normalizers.Lowercase()] if lowercase else []
    own = [] if (normalizer := mapped(pieces)) is None else [normalizer]
    quotes = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    return normalizers.Sequence([*quotes, *accents, *case, *own])


def collapsing_blanks(*, lowercase: bool) -> normalizers.Normalizer:
    """DeBERTa's: runs of blanks and line ends become one blank, accents are composed, the end is trimmed."""
    case = [normalizers.Lowercase()] if lowercase else []
    blanks = normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " ")
    return normalizers.Sequence([*case, blanks, normalizers.NFC(), normalizers.Strip(left=False, right=True)])
