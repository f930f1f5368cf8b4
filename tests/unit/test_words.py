"""A target's pieces are those its vocabulary has for it at that place in the text."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors

from bothways import InputError
from bothways.tasks.words import filled, pieces_in_place
from bothways.text.backends import wordpiece
from bothways.text.tokenizer import Tokenizer

WORDS = ("the", "cat", "sat", "un", "able", "dog", "s")


def byte_level(trim: bool) -> Tokenizer:
    """GPT-2's kind: a space belongs to the word after it. trim: whether offsets leave that space out."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: list[tuple[str, str]] = []
    pieces = ["<s>", "</s>", "<unk>", "<mask>", *letters]
    for word in ("the", "Ġcat", "cat", "Ġsat", "Ġdog", "able"):
        for end in range(2, len(word) + 1):
            if word[:end] not in pieces:
                pieces.append(word[:end])
                merges.append((word[: end - 1], word[end - 1]))
    backend = Backend(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=trim)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.RobertaProcessing(
        ("</s>", 1), ("<s>", 0), trim_offsets=trim, add_prefix_space=False
    )
    return Tokenizer(backend, {"cls": "<s>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"})


def metaspace() -> Tokenizer:
    """SentencePiece's kind, with a score for each piece."""
    pieces = [("<unk>", 0.0), ("▁", -5.0), *((f"▁{word}", -2.0) for word in WORDS), *((word, -3.0) for word in WORDS)]
    backend = Backend(models.Unigram([*pieces, ("<mask>", 0.0)], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return Tokenizer(backend, {"unk": "<unk>", "mask": "<mask>"})


def pieces_of(tokenizer: Tokenizer, text: str, *words: str) -> list[list[str]]:
    start = text.index("_")
    found = pieces_in_place(text, (start, start + 1), words, tokenizer)
    return [[tokenizer.backend.id_to_token(i) for i in ids] for ids in found]


@pytest.mark.parametrize("trim", [True, False])
def test_after_a_space_a_word_has_the_piece_with_the_space(trim: bool) -> None:
    assert pieces_of(byte_level(trim), "the _ sat", "cat", "dog") == [["Ġcat"], ["Ġdog"]]
    assert pieces_of(byte_level(trim), "_ sat", "cat") == [["cat"]]
    assert pieces_of(byte_level(trim), "the_ sat", "able") == [["able"]]
    assert pieces_of(byte_level(trim), "the _", "cats") == [["Ġcat", "s"]]


def test_sentencepiece_likewise() -> None:
    assert pieces_of(metaspace(), "the _ sat", "cat", "dogs") == [["▁cat"], ["▁dog", "s"]]
    assert pieces_of(metaspace(), "the un_", "able") == [["able"]]


def test_a_word_that_runs_on_into_its_neighbour_is_split_by_itself() -> None:
    vocab = {token: i for i, token in enumerate(["[UNK]", "[CLS]", "[SEP]", "unable", "able", "##s", "un"])}
    tokenizer = Tokenizer(wordpiece(vocab), {"unk": "[UNK]"})
    assert pieces_of(tokenizer, "un_", "able") == [["able"]]
    assert pieces_of(tokenizer, "un_", "s") == [["##s"]]


def test_a_piece_by_its_spelling_is_that_piece_wherever_it_stands() -> None:
    assert pieces_of(metaspace(), "the un_", "▁cat", "cat", "<mask>") == [["▁cat"], ["cat"], ["<mask>"]]
    assert pieces_of(byte_level(True), "_ sat", "Ġcat", " cat", "cat") == [["Ġcat"], ["Ġcat"], ["cat"]]
    assert pieces_of(byte_level(True), "the _ sat", "cat", "cat ") == [["Ġcat"], ["Ġcat"]]


@pytest.mark.parametrize("word", ["☃", "xyz", "the ☃"])
def test_an_unknown_word_is_named(word: str) -> None:
    with pytest.raises(InputError, match=repr(word)):
        pieces_of(metaspace(), "the _ sat", "cat", word)


def test_filling_keeps_types() -> None:
    class Pair:
        ids, types, pair = [1, 2, 3, 4], [0, 0, 1, 1], True

        def __len__(self) -> int:
            return 4

    text = filled(Pair(), 2, (7, 8, 9))
    assert (text.ids, text.types, text.pair) == ([1, 2, 7, 8, 9, 4], [0, 0, 1, 1, 1, 1], True)
    assert len(text) == 6
