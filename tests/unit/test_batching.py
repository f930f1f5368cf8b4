"""Texts are gathered under a budget of tokens, each once, and progress passes on what it is given."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bothways.data.batch import Batch, batch, by_token_budget
from bothways.engine.scheduler import progress, schedule
from bothways.engine.streams import Streams
from bothways.text.formats import load_tokenizer
from bothways.text.tokenizer import Tokenizer

CPU = torch.device("cpu")
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
def tokenizer(vocab: list[str], new_folder: Callable[[], Path]) -> Tokenizer:
    folder = new_folder()
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    return load_tokenizer(folder)


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


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("budget", [1, 7, 1000, None])
def test_a_schedule_brings_every_text_once(tokenizer: Tokenizer, budget: int | None, threads: int) -> None:
    encoded = tokenizer.encode(TEXTS)
    seen: list[tuple[int, list[int]]] = []

    def work(one: Batch) -> None:
        seen.extend((i, ids.tolist()) for i, ids in zip(one.origin, one.tokens.unbind(), strict=True))

    done = list(schedule(encoded, work, Streams(CPU), device=CPU, batch_tokens=budget))
    assert sum(done) == len(encoded)
    assert sorted(seen) == [(i, text.ids) for i, text in enumerate(encoded)]


def test_streams_share_out_the_cores_and_give_them_back(tokenizer: Tokenizer, threads: int) -> None:
    used: set[tuple[str, int]] = set()

    def work(one: Batch) -> None:
        used.add((threading.current_thread().name, torch.get_num_threads()))

    list(schedule(tokenizer.encode(TEXTS), work, Streams(CPU), device=CPU, batch_tokens=1))
    assert {count for _, count in used} == {1}
    assert torch.get_num_threads() == threads
    seen_by_a_new_thread: list[int] = []
    thread = threading.Thread(target=lambda: seen_by_a_new_thread.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert seen_by_a_new_thread == [threads]


def test_an_error_in_a_stream_reaches_the_caller(tokenizer: Tokenizer, threads: int) -> None:
    def work(one: Batch) -> None:
        raise RuntimeError("as it must")

    with pytest.raises(RuntimeError, match="as it must"):
        list(schedule(tokenizer.encode(TEXTS), work, Streams(CPU), device=CPU, batch_tokens=1))
    assert torch.get_num_threads() == threads


def test_a_schedule_of_nothing_does_nothing() -> None:
    called: list[Batch] = []
    assert list(schedule([], called.append, Streams(CPU), device=CPU)) == []
    assert called == []


def test_leaving_a_loop_over_streams_cancels_what_has_not_begun(threads: int) -> None:
    begun: list[int] = []
    gate = threading.Event()

    def wait_at_the_gate(i: int) -> int:
        begun.append(i)
        if i:
            gate.wait()
        return i

    results = Streams(CPU).map(wait_at_the_gate, range(20_000))
    assert next(results) == 0
    gate.set()
    results.close()
    assert len(begun) < 20_000


def test_two_callers_share_the_streams(tokenizer: Tokenizer, threads: int) -> None:
    streams = Streams(CPU)
    results: list[list[int]] = []
    callers = [threading.Thread(target=lambda: results.append(list(streams.map(abs, range(-50, 0))))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert results == [list(range(50, 0, -1))] * 4
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("show", [True, False, None])
@pytest.mark.parametrize("terminal", [True, False])
def test_progress_passes_the_steps_on_and_writes_only_to_stderr(
    show: bool | None, terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert list(progress([2, 1, 3], 6, "letters", show)) == [2, 1, 3]
    assert capsys.readouterr().out == ""


def test_progress_takes_a_step_only_when_it_is_asked_for_one() -> None:
    taken: list[int] = []

    def steps() -> Iterator[int]:
        for i in range(3):
            taken.append(i)
            yield i

    shown = progress(steps(), 3, "items", False)
    assert (next(shown), taken) == (0, [0])
