"""Texts are gathered under a budget of tokens, each once, and progress passes on what it is given."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bothways.data.batch import batch, by_token_budget
from bothways.engine.scheduler import progress, schedule
from bothways.text.formats import wordpiece
from bothways.text.tokenizer import Encoded, Tokenizer

LENGTHS = st.lists(st.integers(0, 60), max_size=60)


@given(LENGTHS, st.integers(1, 150))
def test_batches_cover_each_text_once_longest_first_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = by_token_budget(lengths, budget)
    order = [i for one in batches for i in one]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths, reverse=True)
    assert all(batches)
    assert all(sum(lengths[i] for i in one) <= budget or len(one) == 1 for one in batches)


@given(LENGTHS, st.integers(1, 150))
def test_no_batch_could_have_taken_the_first_text_of_the_next(lengths: list[int], budget: int) -> None:
    batches = by_token_budget(lengths, budget)
    for one, following in pairwise(batches):
        assert sum(lengths[i] for i in one) + lengths[following[0]] > budget


def test_texts_of_equal_length_keep_their_order() -> None:
    assert by_token_budget([2, 5, 2, 5, 2], 100) == [[1, 3, 0, 2, 4]]


@pytest.fixture(scope="module")
def tokenizer(vocab: list[str]) -> Tokenizer:
    return Tokenizer(wordpiece({token: i for i, token in enumerate(vocab)}))


TEXTS = ["the cat", "", "a dog sat on the mat", "x", "the house is red"]


def test_a_batch_holds_the_ids_of_its_texts_and_where_they_came_from(tokenizer: Tokenizer) -> None:
    encoded = tokenizer.encode(TEXTS)
    one = batch(encoded, [2, 0])
    assert one.origin == (2, 0)
    assert [ids.tolist() for ids in one.tokens.unbind()] == [encoded[2].ids, encoded[0].ids]
    assert one.types is None


def test_a_batch_of_pairs_holds_their_types(tokenizer: Tokenizer) -> None:
    encoded = tokenizer.encode(TEXTS, TEXTS[::-1])
    one = batch(encoded, [1, 3])
    assert one.types.tolist() == encoded[1].types + encoded[3].types
    assert set(one.types.tolist()) == {0, 1}


@pytest.mark.parametrize("budget", [1, 7, 1000, None])
def test_a_schedule_brings_every_text_once(tokenizer: Tokenizer, budget: int | None) -> None:
    encoded = tokenizer.encode(TEXTS)
    seen: dict[int, list[int]] = {}
    for one in schedule(encoded, device=torch.device("cpu"), batch_tokens=budget):
        seen |= {i: ids.tolist() for i, ids in zip(one.origin, one.tokens.unbind(), strict=True)}
    assert seen == {i: text.ids for i, text in enumerate(encoded)}


def test_a_schedule_of_nothing_is_empty() -> None:
    nothing: list[Encoded] = []
    assert list(schedule(nothing, device=torch.device("cpu"))) == []


@pytest.mark.parametrize("show", [True, False, None])
@pytest.mark.parametrize("terminal", [True, False])
def test_progress_passes_the_items_on_and_writes_only_to_stderr(
    show: bool | None, terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    items = ["ab", "c", "def"]
    assert list(progress(items, len, 6, "letters", show)) == items
    assert capsys.readouterr().out == ""


def test_progress_takes_an_item_only_when_it_is_asked_for_one() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for i in range(3):
            taken.append(i)
            yield i

    shown = progress(items(), lambda i: 1, 3, "items", False)
    assert (next(shown), taken) == (0, [0])
    assert (next(shown), taken) == (1, [0, 1])


def test_no_bar_is_drawn_where_it_is_not_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    list(progress([1, 2], lambda i: i, 3, "items", False))
    assert capsys.readouterr().err == ""


def test_a_bar_stops_when_the_work_fails(capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="disk"):
        list(progress(broken(), lambda i: i, 2, "items", True))
    with pytest.raises(OSError, match="disk"):  # a bar that was left running would make the next one fail
        list(progress(broken(), lambda i: i, 2, "items", True))
