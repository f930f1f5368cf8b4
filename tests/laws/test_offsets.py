"""What is said of characters is said of the right ones, whatever the text, the tokenizer and the windows."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_tokenizers import MAKE, roles, small_tokenizer

from bothways.tasks.entities import STRATEGIES, entities, first_pieces, joiner, pieces_of
from bothways.text.tokenizer import Encoded, Tokenizer
from bothways.text.windows import Windows, in_windows, speaking

FRAGMENTS = [
    *(
        "the cat",
        " ",
        "  ",
        "\t",
        "\n",
        "Zürich",
        "e\u0301",
        "u\u0301\u0302",
        "noe\u0308l",
        "💜",
        "👩\u200d👩\u200d👧",
        "🇫🇷",
        "猫",
    ),
    *(
        "un-able",
        "(50%)",
        "ﬁne",
        "İ",
        "ǅ",
        "\u200b",
        "\u00a0",
        "\u3000",
        ".",
        "'s",
        "[SEP]",
        "</s>",
        "x" * 30,
        "½",
        "ｆ",
    ),
]
TEXTS = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3), max_size=14).map("".join)
NAMES = ("O", "B-A", "I-A", "B-B", "I-B", "C")


@cache
def tokenizer_of(kind: str) -> Tokenizer:
    return Tokenizer(small_tokenizer(kind), {role.removesuffix("_token"): token for role, token in roles(kind).items()})


def read(kind: str, text: str, length: int, stride: int) -> tuple[Encoded, list[Encoded]]:
    """The whole text, and its windows."""
    tokenizer = tokenizer_of(kind)
    (whole,) = tokenizer.encode([text])
    return whole, in_windows(tokenizer, [text], None, Windows(length, stride), 10_000)


def own(one: Encoded) -> list[int]:
    """The rows of a text's own tokens."""
    return [row for row, special in enumerate(one.special) if not special]


@pytest.mark.parametrize("kind", MAKE)
@given(text=TEXTS, room=st.integers(1, 9), data=st.data())
def test_every_token_is_spoken_for_once_with_the_characters_it_has_in_the_whole_text(
    kind: str, text: str, room: int, data: Any
) -> None:
    special = tokenizer_of(kind).backend.num_special_tokens_to_add(False)
    whole, windows = read(kind, text, room + special, data.draw(st.integers(0, room - 1)))
    places = speaking(windows)
    offsets, ids = [one.offsets for one in windows], [one.ids for one in windows]
    assert [offsets[number][row] for number, row in places] == [whole.offsets[row] for row in own(whole)]
    assert [ids[number][row] for number, row in places] == [whole.ids[row] for row in own(whole)]
    assert len(set(places)) == len(places)
    for number, row in places:  # no other window has more on the poorer side
        token = windows[number].start + row - own(windows[number])[0]
        context = [
            min(at, len(own(one)) - 1 - at) for one in windows for at in [token - one.start] if 0 <= at < len(own(one))
        ]
        here = row - own(windows[number])[0]
        assert min(here, len(own(windows[number])) - 1 - here) == max(context)


@pytest.mark.parametrize("kind", MAKE)
@given(text=TEXTS, seed=st.integers(0, 99), strategy=st.sampled_from(STRATEGIES), room=st.integers(2, 9))
def test_an_entity_is_the_characters_of_its_tokens_without_space_around_them(
    kind: str, text: str, seed: int, strategy: str, room: int
) -> None:
    tokenizer = tokenizer_of(kind)
    special = tokenizer.backend.num_special_tokens_to_add(False)
    whole, windows = read(kind, text, room + special, 1)
    spans = [whole.offsets[row] for row in own(whole)]
    scores = np.random.default_rng(seed).dirichlet(np.full(len(NAMES), 0.3), len(spans)).astype(np.float32)
    pieces = pieces_of(text, windows, speaking(windows), tokenizer)
    assert [piece.span for piece in pieces] == spans
    found = entities(text, pieces, scores, NAMES, strategy, joiner(tokenizer))
    alone = pieces_of(text, [whole], speaking([whole]), tokenizer)
    assert found == entities(text, alone, scores, NAMES, strategy, joiner(tokenizer))
    covered = 0
    for one in found:
        size = 1 if strategy == "none" else tokens_in(one, found, pieces, scores, strategy, covered)
        characters = {i for start, end in spans[covered : covered + size] for i in range(start, end)}
        inside = {i for i in characters if not text[i].isspace()}
        if inside:
            assert (one["start"], one["end"]) == (min(inside), max(inside) + 1)
        else:
            assert one["start"] == one["end"]
        covered += size
    assert covered == len(spans)


def tokens_in(one: dict, found: list[dict], pieces: list, scores: np.ndarray, strategy: str, at: int) -> int:
    """How many tokens an entity has, from the definition: labels of words, then neighbours of one kind."""
    words: list[list[int]] = []
    for i, piece in enumerate(pieces):
        if words and piece.joined and strategy != "simple":
            words[-1].append(i)
        else:
            words.append([i])
    labels = []
    for word in words:
        own_scores = scores[word]
        row = {
            "simple": own_scores[0],
            "first": own_scores[0],
            "average": own_scores.mean(0),
            "max": own_scores[own_scores.max(1).argmax()],
        }[strategy]
        labels.append(NAMES[int(row.argmax())])
    count, first = 0, next(i for i, word in enumerate(words) if word[0] == at)
    for label, word in zip(labels[first:], words[first:]):
        if count and (label.startswith("B-") or label.split("-")[-1] != labels[first].split("-")[-1]):
            break
        count += len(word)
    assert one["entity_group"] == labels[first].split("-")[-1]
    return count


@pytest.mark.parametrize("kind", MAKE)
@given(text=TEXTS)
def test_a_words_first_piece_is_the_first_token_with_one_of_its_characters(kind: str, text: str) -> None:
    (whole,) = tokenizer_of(kind).encode([text])
    spans = [whole.offsets[row] for row in own(whole)]
    words, at = [], 0
    for word in text.split():
        at = text.index(word, at)
        words.append((at, at + len(word)))
        at += len(word)
    expected = [
        next((i for i, (s, e) in enumerate(spans) if any(s <= c < e for c in range(start, end))), None)
        for start, end in words
    ]
    assert first_pieces(spans, words) == expected
