"""Writing: beams find what an exhaustive search finds, draws have their probabilities, neighbours do not matter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import permutations, product
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from slow_writing import SLOW
from torch import Tensor

from bothways import Encoder, InputError, Ragged
from bothways.engine.decoding import Decoding, read_decoding
from bothways.engine.generation import CACHED, Way, Writer, generate
from bothways.engine.scores import BLOCK, best, log_top, top

END = 3
PROMPTS = [[7, 9, 12, 40, 9, 12], [5], [8, 8, 20, 33], [41, 6]]


class Table(torch.nn.Module):
    """Scores of the next token by the last one alone, as a network and as its head."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, tokens: Any, memory: object = None) -> Any:
        if isinstance(tokens, Tensor):
            return tokens

        class Output:
            last = Ragged(self.scores[tokens.data], tokens.layout)

        return Output


def table_writer(scores: Tensor, end: tuple[int, ...] = (0,), limit: int | None = None) -> Writer:
    table = Table(scores)
    return Writer(table, table, len(scores), end, limit, SLOW)  # type: ignore[arg-type]


def all_texts(scores: Tensor, first: int, most: int, end: int) -> Iterator[tuple[float, tuple[int, ...]]]:
    """Every text of at most so many tokens, with the sum of its log-probabilities."""
    known = scores.log_softmax(1)
    words = [word for word in range(len(scores)) if word != end]
    texts = [(*some, end) for length in range(most) for some in product(words, repeat=length)]
    for text in [*texts, *product(words, repeat=most)]:
        yield sum(float(known[a, b]) for a, b in zip((first, *text), text)), text


@given(st.integers(0, 10_000), st.sampled_from([0.0, 1.0, 2.0, -0.5]), st.integers(1, 2), st.integers(5, 9))
def test_beams_as_wide_as_the_vocabulary_find_the_best_of_all_texts(
    seed: int, penalty: float, most: int, vocab: int
) -> None:
    scores = 2.0 * torch.randn(vocab, vocab, generator=torch.Generator().manual_seed(seed))
    decoding = Decoding(
        max_new_tokens=most,
        num_beams=vocab,
        num_return_sequences=vocab,
        length_penalty=penalty,
        early_stopping="never",
    )
    (found,) = generate(table_writer(scores), Ragged.of([[1]]), None, decoding)
    wanted = sorted(((s / len(text) ** penalty, text) for s, text in all_texts(scores, 1, most, 0)), reverse=True)
    assert [one.ids for one in found] == [text for _, text in wanted[:vocab]]
    assert [one.score for one in found] == pytest.approx([score for score, _ in wanted[:vocab]], abs=1e-4)


@given(st.integers(0, 10_000), st.sampled_from([1, 2, 8]), st.sampled_from([5, 4096, 5000, 30_522]))
def test_the_best_of_many_columns_are_those_of_a_whole_sort(seed: int, count: int, width: int) -> None:
    scores = torch.randn(3, width, generator=torch.Generator().manual_seed(seed))
    scores[1, -3:] = 9.0 + torch.arange(3)
    values, columns = scores.sort(1, descending=True)
    found = top(scores, count)
    assert torch.equal(found[0], values[:, :count])
    assert torch.equal(found[1], columns[:, :count])
    assert torch.equal(best(scores)[0], values[:, 0])
    assert torch.equal(best(scores)[1], columns[:, 0])
    assert width < 4096 or width % BLOCK == 0 or best(scores)[1][1] == width - 1


DRAWS: dict[str, tuple[dict[str, Any], Callable[[Tensor], Tensor]]] = {
    "all": ({"top_k": 0}, lambda p: p),
    "colder": ({"top_k": 0, "temperature": 0.5}, lambda p: p**2 / (p**2).sum()),
    "three": ({"top_k": 3}, lambda p: torch.where(p >= p.topk(3).values[-1], p, 0.0)),
    "nucleus": ({"top_k": 0, "top_p": 0.8}, lambda p: torch.where(nucleus(p, 0.8), p, 0.0)),
    "at least so likely": ({"top_k": 0, "min_p": 0.3}, lambda p: torch.where(p >= 0.3 * p.max(), p, 0.0)),
    "five, and at least so likely": (
        {"top_k": 5, "min_p": 0.3, "temperature": 2.0},
        lambda p: torch.where((p >= 0.09 * p.max()) & (p >= p.topk(5).values[-1]), p.sqrt(), 0.0),
    ),
    "four, then a nucleus": (
        {"top_k": 4, "top_p": 0.6},
        lambda p: torch.where((p >= p.topk(4).values[-1]) & nucleus(p, 0.6, 4), p, 0.0),
    ),
}


def nucleus(probabilities: Tensor, top_p: float, top_k: int = 7) -> Tensor:
    """Which words make up so much, of the likeliest few."""
    values, order = probabilities.sort(descending=True)
    values = values[:top_k] / values[:top_k].sum()
    count = next(i for i in range(1, len(values) + 1) if values[:i].sum() >= top_p)
    return torch.isin(torch.arange(len(probabilities)), order[:count])


@pytest.mark.parametrize("name", DRAWS)
def test_tokens_are_drawn_by_their_probabilities(name: str) -> None:
    settings, exact = DRAWS[name]
    scores = torch.randn(7, 7)
    decoding = Decoding(do_sample=True, max_new_tokens=1, num_return_sequences=3000, seed=5, **settings)
    (found,) = generate(table_writer(scores), Ragged.of([[2]]), None, decoding)
    wanted = exact(scores[2].double().softmax(0))
    wanted = 3000 * wanted / wanted.sum()
    counts = Counter(one.ids[0] for one in found)
    assert all(wanted[word] > 0 for word in counts)
    some = [word for word in range(7) if wanted[word] > 0]
    assert len(some) == 1 or chisquare([counts[w] for w in some], [float(wanted[w]) for w in some]).pvalue > 1e-3


def test_beams_are_drawn_without_putting_back() -> None:
    """Four steps are drawn, and the best two of them are the texts."""
    scores, sources = torch.randn(6, 6), 1500
    decoding = Decoding(do_sample=True, num_beams=2, num_return_sequences=2, max_new_tokens=1, top_k=0, seed=1)
    found = generate(table_writer(scores, end=()), Ragged.of([[1]] * sources), None, decoding)
    counts = Counter(tuple(one.ids[0] for one in own) for own in found)
    p = scores[1].double().softmax(0).tolist()
    wanted: Counter[tuple[int, ...]] = Counter()
    for drawn in permutations(range(6), 4):
        chance, left = 1.0, 1.0
        for word in drawn:
            chance, left = chance * p[word] / left, left - p[word]
        wanted[tuple(sorted(drawn, key=lambda word: -p[word])[:2])] += chance  # type: ignore[assignment]
    assert sum(counts.values()) == sources
    assert chisquare([counts[pair] for pair in wanted], [sources * wanted[pair] for pair in wanted]).pvalue > 1e-3


@pytest.fixture(scope="module")
def gpt2(save_family: Callable[..., Path]) -> Encoder:
    encoder = Encoder.from_pretrained(save_family("gpt2", kind="ForMaskedLM", seed=3))
    encoder.network.eval()
    return encoder


def gpt2_writer(encoder: Encoder, way: Way = CACHED) -> Writer:
    config = encoder.config
    return Writer(encoder.network, encoder.heads["causal"], config.vocab, (END,), config.longest, way)


SOME = (
    Decoding(max_new_tokens=9, repetition_penalty=1.2, no_repeat_ngram_size=2),
    Decoding(max_new_tokens=9, num_beams=3, num_return_sequences=2, no_repeat_ngram_size=2),
    Decoding(max_new_tokens=9, do_sample=True, top_k=8, num_return_sequences=3, seed=2),
    Decoding(max_new_tokens=9, do_sample=True, top_p=0.9, num_beams=2, seed=2),
    Decoding(do_sample=True, temperature=1.4, seed=9),
)


@pytest.mark.parametrize("decoding", SOME)
def test_with_a_cache_the_same_is_written_as_without(gpt2: Encoder, decoding: Decoding) -> None:
    fast, slow = (
        generate(gpt2_writer(gpt2, way), Ragged.of(PROMPTS), None, decoding, log_probabilities=True)
        for way in (CACHED, SLOW)
    )
    assert [[one.ids for one in own] for own in fast] == [[one.ids for one in own] for own in slow]
    for one, other in zip((one for own in fast for one in own), (one for own in slow for one in own)):
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-4)


@pytest.mark.parametrize("decoding", SOME)
def test_a_text_does_not_depend_on_its_neighbours(gpt2: Encoder, decoding: Decoding) -> None:
    write = gpt2_writer(gpt2)
    names = [f"{prompt}" for prompt in PROMPTS]
    together = generate(write, Ragged.of(PROMPTS), None, decoding, names=names)
    alone = [generate(write, Ragged.of([p]), None, decoding, names=[n])[0] for p, n in zip(PROMPTS, names)]
    assert [[one.ids for one in own] for own in together] == [[one.ids for one in own] for own in alone]
    backwards = generate(write, Ragged.of(PROMPTS[::-1]), None, decoding, names=names[::-1])
    assert [[one.ids for one in own] for own in backwards[::-1]] == [[one.ids for one in own] for own in alone]


def test_other_seeds_give_other_texts_and_no_seed_another_one_each_time(gpt2: Encoder) -> None:
    def written(seed: int | None) -> tuple[int, ...]:
        decoding = Decoding(max_new_tokens=12, do_sample=True, temperature=3.0, seed=seed)
        return generate(gpt2_writer(gpt2), Ragged.of([[5, 6]]), None, decoding)[0][0].ids

    assert written(1) == written(1)
    assert len({written(seed) for seed in (1, 2, None, None)}) == 4


@pytest.mark.parametrize("decoding", SOME[:4])
def test_log_probabilities_are_the_models_own(gpt2: Encoder, decoding: Decoding) -> None:
    found = generate(gpt2_writer(gpt2), Ragged.of(PROMPTS), None, decoding, log_probabilities=True)
    for prompt, own in zip(PROMPTS, found):
        for one in own:
            output = gpt2.network(Ragged.of([[*prompt, *one.ids]]))
            known = gpt2.heads["causal"](output.last.data).log_softmax(1)
            wanted = known[len(prompt) - 1 : -1].gather(1, torch.tensor(one.ids)[:, None])[:, 0]
            assert one.log_probabilities == pytest.approx(wanted.tolist(), abs=1e-4)


def test_a_search_goes_by_the_sum_divided_by_the_length(gpt2: Encoder) -> None:
    decoding = Decoding(max_new_tokens=6, num_beams=3, length_penalty=0.7)
    for (one,) in generate(gpt2_writer(gpt2), Ragged.of(PROMPTS), None, decoding, log_probabilities=True):
        assert one.log_probabilities is not None
        assert one.score == pytest.approx(sum(one.log_probabilities) / len(one.ids) ** 0.7, abs=1e-4)


def test_tokens_are_told_as_they_come(gpt2: Encoder) -> None:
    told: dict[tuple[int, int], list[int]] = {}
    decoding = Decoding(max_new_tokens=9, do_sample=True, num_return_sequences=2, seed=0)
    found = generate(
        gpt2_writer(gpt2),
        Ragged.of(PROMPTS),
        None,
        decoding,
        on_token=lambda source, which, token: told.setdefault((source, which), []).append(token),
    )
    assert told == {(i, k): list(one.ids) for i, own in enumerate(found) for k, one in enumerate(own)}


def test_finished_sources_leave_the_batch() -> None:
    """Each of them is asked for as many tokens as it has, and no more."""
    scores = torch.full((6, 6), -9.0)
    for before, after in ((5, 4), (4, 2), (2, 0)):
        scores[before, after] = 9.0
    asked: list[int] = []

    class Counted(Table):
        def forward(self, tokens: Any, memory: object = None) -> Any:
            if not isinstance(tokens, Tensor):
                asked.append(int(tokens.data[-1]))
            return super().forward(tokens)

    table = Counted(scores)
    write = Writer(table, table, 6, (0,), None, SLOW)  # type: ignore[arg-type]
    found = generate(write, Ragged.of([[5], [4], [2]]), None, Decoding(max_new_tokens=8))
    assert [own[0].ids for own in found] == [(4, 2, 0), (2, 0), (0,)]
    assert asked == [5, 4, 2, 4, 2, 2]


def test_a_model_without_an_end_writes_as_much_as_is_asked_for() -> None:
    found = generate(table_writer(torch.eye(5), end=()), Ragged.of([[2]]), None, Decoding(max_new_tokens=4))
    assert found[0][0].ids == (2, 2, 2, 2)
    assert not found[0][0].ended


def test_where_no_token_is_allowed_a_text_ends() -> None:
    for beams in (1, 2):
        decoding = Decoding(max_new_tokens=9, num_beams=beams, no_repeat_ngram_size=1)
        (found,) = generate(table_writer(torch.randn(4, 4), end=()), Ragged.of([[2]]), None, decoding)
        assert sorted(found[0].ids) == [0, 1, 3]


def test_without_a_number_as_much_is_written_as_there_are_positions_for() -> None:
    write = table_writer(torch.eye(5), end=(0,), limit=6)
    found = generate(write, Ragged.of([[2], [1, 1, 1], [4] * 6]), None, Decoding())
    assert [len(own[0].ids) for own in found] == [6, 4, 1]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number from 1"),
        ({"max_new_tokens": 2.5}, "max_new_tokens must be a whole number"),
        ({"max_new_tokens": True}, "max_new_tokens must be a whole number"),
        ({"num_beams": 0}, "num_beams"),
        ({"temperature": 0.0, "do_sample": True}, "leave do_sample out"),
        ({"temperature": -1.0}, "temperature must be above 0"),
        ({"temperature": float("nan")}, "temperature must be a number"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"top_p": 1.2}, "top_p must be above 0 and at most 1, got 1.2"),
        ({"top_k": -1}, "top_k"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be above 0"),
        ({"repetition_penalty": 10**30}, "repetition_penalty must be from 1e-06 to 1e"),
        ({"temperature": 1e-40}, "temperature must be from 1e-06 to 1e"),
        ({"length_penalty": -500}, "length_penalty must be from -32 to 32, got -500"),
        ({"length_penalty": 10**6}, "length_penalty must be from -32 to 32"),
        ({"num_return_sequences": 3, "num_beams": 2}, "num_return_sequences 3 is more than num_beams 2"),
        ({"num_return_sequences": 2}, "do_sample"),
        ({"min_new_tokens": 5, "max_new_tokens": 4}, "min_new_tokens 5 is more than max_new_tokens 4"),
        ({"early_stopping": "often"}, "early_stopping"),
        ({"num_beam": 2}, "num_beams"),
    ],
)
def test_settings_that_cannot_be_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_decoding(settings)


def test_a_search_that_draws_keeps_its_beams_where_nothing_ends_a_text() -> None:
    settings = Decoding(max_new_tokens=4, num_beams=3, num_return_sequences=3, do_sample=True, top_k=1)
    (found,) = generate(table_writer(torch.randn(6, 6), end=()), Ragged.of([[1]]), None, settings)
    assert len({one.ids for one in found}) == 3


@pytest.mark.parametrize("lowest", [-1e9, -torch.inf])
def test_a_word_that_can_never_come_changes_no_other_log_probability(lowest: float) -> None:
    logits = torch.randn(3, 9)
    logits[:, 0] = lowest
    values, columns = log_top(logits.clone(), 4, without=[1])
    wanted = logits.log_softmax(1)[:, 2:].topk(4)
    torch.testing.assert_close(values, wanted.values)
    assert torch.equal(columns, wanted.indices + 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}, {"do_sample": True}])
def test_scores_that_are_no_numbers_are_an_error_that_names_the_text(value: float, settings: dict[str, Any]) -> None:
    scores = torch.randn(5, 5)
    scores[4, 2] = value
    with pytest.raises(InputError, match="text 1: the model's scores of token 1 are no numbers"):
        generate(table_writer(scores), Ragged.of([[1], [4]]), None, Decoding(max_new_tokens=1, **settings))


def test_what_has_no_room_is_an_error() -> None:
    write = table_writer(torch.eye(5), limit=4)
    with pytest.raises(InputError, match="text 0: 5 new tokens are more than the model's 4 positions"):
        generate(write, Ragged.of([[1]]), None, Decoding(max_new_tokens=5))
    with pytest.raises(InputError, match="text 1: 3 new tokens after the 3 it begins with"):
        generate(write, Ragged.of([[1], [1, 2, 2]]), None, Decoding(max_new_tokens=3))
    with pytest.raises(InputError, match="text 0: nothing to go on from"):
        generate(write, Ragged.of([[]]), None, Decoding())
    with pytest.raises(InputError, match="num_beams 6 is more than the 5 words"):
        generate(write, Ragged.of([[1]]), None, Decoding(num_beams=6))
