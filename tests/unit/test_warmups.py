"""Warmups of length and batch size: a step's batches follow from the settings and the place, wherever one starts."""

from __future__ import annotations

import math
import re
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from bothways import ConfigError, InputError
from bothways.data.batch import Batch
from bothways.data.packing import Packed, Packing
from bothways.data.pairs import Pairing, PairPacking
from bothways.objectives.masking import Masking
from bothways.objectives.mlm import MaskedLanguageModelling
from bothways.objectives.reading import Together
from bothways.train.feed import PackedSteps, feed
from bothways.train.loop import Times, Trainer, _after
from bothways.train.material import _check_stages
from bothways.train.optim import AdamSettings
from bothways.train.progress import Cursor, Progress
from bothways.train.settings import CorpusSettings, ObjectiveSettings, PretrainSettings, StepSettings, UpdateSettings
from bothways.train.step import StepResult

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Arrays:
    """40 documents of 5 sentences of 9 tokens."""

    tokens: NDArray[Any]
    words: NDArray[Any]
    sentences: NDArray[Any]
    documents: NDArray[Any]


SHARD = Arrays(
    10 + np.random.default_rng(0).integers(0, 500, 1800), np.ones(1800), np.arange(0, 1801, 9), np.arange(0, 201, 5)
)


def trainer(corpus: CorpusSettings, step: StepSettings) -> Trainer:
    packing = Packing([SHARD], longest=corpus.longest, budget=step.batch_tokens, before=1, after=2, seed=3)
    objective = Together((MaskedLanguageModelling(600, 4, frozenset(range(10)), Masking()),))
    nothing: Any = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(nothing.parameters())
    batches = PackedSteps(packing, objective, 3, corpus, step)
    times = Times(step.steps, 3, 1, 1)
    return Trainer(nothing, objective, optimizer, batches, None, CPU, UpdateSettings(warmup=0), times)


Steps = list[tuple[list[Batch], Progress]]


def steps_from(trained: Trainer, progress: Progress) -> Steps:
    """The batches of each step, and the progress after it."""
    found: Steps = []
    for some in trained.steps(progress):
        place = some[-1][1]
        progress = replace(progress, step=progress.step + 1, epoch=place.epoch, number=place.number)
        found.append(([batch for batch, _ in some], progress))
    return found


def same(some: Steps, others: Steps) -> bool:
    def plain(steps: Steps) -> list[Any]:
        return [
            ([(b.tokens.data.tolist(), b.labels["mlm"].rows, b.labels["mlm"].values) for b in batches], progress.cursor)
            for batches, progress in steps
        ]

    return str(plain(some)) == str(plain(others))


LENGTHS = CorpusSettings(longest=48, longest_start=12, longest_warmup=9, workers=0)
TOKENS = StepSettings(steps=14, step_tokens=420, batch_tokens=100, step_tokens_start=80, step_tokens_warmup=8)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_from_any_step_on_the_batches_are_those_of_a_run_that_never_stopped(workers: int) -> None:
    trained = trainer(replace(LENGTHS, workers=workers), TOKENS)
    whole = steps_from(trained, Progress())
    assert len(whole) == 14
    for stopped in range(13):
        assert same(steps_from(trained, whole[stopped][1]), whole[stopped + 1 :]), stopped


def test_sequences_double_and_batches_are_added_until_all_is_as_without_warmup() -> None:
    found = steps_from(trainer(LENGTHS, TOKENS), Progress())
    assert LENGTHS.stages == ((0, 12), (4, 24), (9, 48))
    longest = [max(batch.tokens.layout.longest for batch in batches) for batches, _ in found]
    room = [dict(LENGTHS.stages)[max(first for first, _ in LENGTHS.stages if first <= step)] for step in range(14)]
    assert all(found <= most for found, most in zip(longest, room))
    assert longest[-1] > 24 >= longest[4] > 12 >= longest[0]
    assert [len(batches) for batches, _ in found] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5, 5, 5, 5]
    for batches, _ in found:
        assert all(50 < batch.tokens.layout.total <= 100 for batch in batches[:-1])


def test_each_length_begins_an_order_of_its_own() -> None:
    found = steps_from(trainer(LENGTHS, TOKENS), Progress())
    firsts = [first for first, _ in LENGTHS.stages[1:]]
    for first in firsts:
        assert found[first][1].epoch > found[first - 1][1].epoch or found[first - 1][1].number == 0


@pytest.mark.parametrize("filled", [True, False])
def test_cut_to_a_length_a_packing_is_the_one_that_has_it(filled: bool) -> None:
    def packing(longest: int) -> Packing:
        return Packing([SHARD], longest=longest, budget=100, before=1, after=2, seed=3, filled=filled)

    def pairs(longest: int) -> Packing:
        said = {"longest": longest, "budget": 100, "before": 1, "after": 2, "seed": 3}
        return PairPacking(Pairing("next", "same"), [SHARD], **said, filled=filled)

    for cut, other in ((packing(48).cut_to(24), packing(24)), (pairs(33).cut_to(24), pairs(24))):
        assert type(cut) is type(other)
        assert cut.batches(1) == other.batches(1)
        for number in range(other.batches(1)):
            assert cut(1, number).lengths == other(1, number).lengths
            np.testing.assert_array_equal(cut(1, number).ids, other(1, number).ids)
            np.testing.assert_array_equal(cut(1, number).types, other(1, number).types)
            np.testing.assert_array_equal(cut(1, number).pairs, other(1, number).pairs)


@given(longest=st.integers(3, 600), start=st.integers(3, 600), warmup=st.integers(1, 50))
def test_lengths_only_rise_from_the_first_to_the_longest(longest: int, start: int, warmup: int) -> None:
    if start > longest:
        with pytest.raises(ConfigError, match="longest_start must be between 0 and longest"):
            CorpusSettings(longest=longest, longest_start=start, longest_warmup=warmup)
        return
    if start == longest:
        with pytest.raises(ConfigError, match=f"longest_start {start} changes nothing"):
            CorpusSettings(longest=longest, longest_start=start, longest_warmup=warmup)
        return
    stages = CorpusSettings(longest=longest, longest_start=start, longest_warmup=warmup).stages
    assert stages[0] == (0, start)
    assert stages[-1] == (warmup, longest)
    assert all(a[0] <= b[0] and a[1] < b[1] <= 2 * a[1] for a, b in pairwise(stages))


@given(
    full=st.integers(1, 5000),
    start=st.integers(1, 5000),
    batch=st.integers(1, 700),
    steps=st.integers(1, 60),
    warmup=st.integers(1, 60),
)
def test_steps_only_rise_from_the_tokens_of_the_first_to_all(
    full: int, start: int, batch: int, steps: int, warmup: int
) -> None:
    start, warmup = min(start, full), min(warmup, steps)
    said = {"steps": steps, "step_tokens": full, "batch_tokens": batch}
    whole = StepSettings(**said)
    first = -(-start // whole.batch)  # batches
    if first == whole.batches(0):
        with pytest.raises(ConfigError, match=f"step_tokens_start {start} changes nothing"):
            StepSettings(**said, step_tokens_start=start, step_tokens_warmup=warmup)
        return
    settings = StepSettings(**said, step_tokens_start=start, step_tokens_warmup=warmup)
    tokens = [settings.batches(step) * settings.batch for step in range(steps + 1)]
    assert start <= tokens[0] < start + settings.batch
    assert tokens[0] < tokens[warmup] == tokens[-1]
    assert full <= tokens[-1] < full + settings.batches(steps)
    assert all(a <= b for a, b in pairwise(tokens))
    assert settings.tokens == sum(tokens[:steps])
    assert settings.batch == whole.batch <= batch


@given(full=st.integers(3, 3000), batch=st.integers(3, 700), longest=st.integers(3, 700))
def test_a_step_has_the_tokens_that_are_asked_for_or_is_refused_with_the_ways_out(
    full: int, batch: int, longest: int
) -> None:
    longest = min(full, batch, longest)
    corpus, said = CorpusSettings(longest=longest), {"steps": 9, "step_tokens": full, "batch_tokens": batch}
    step = StepSettings(**said)
    if step.batch >= longest:
        assert PretrainSettings(corpus=corpus, step=step).step.batch >= longest
        return
    with pytest.raises(ConfigError, match="less than one sequence") as caught:
        PretrainSettings(corpus=corpus, step=step)
    ways = [int(number) for number in re.findall(r" = (\d+)", str(caught.value))]
    for key, value in zip(("step_tokens", "batch_tokens"), ways, strict=True):
        found = PretrainSettings(corpus=corpus, step=StepSettings(**{**said, key: value})).step
        assert found.step_tokens <= found.batches(9) * found.batch < found.step_tokens + found.batches(9)


def test_batches_prepared_ahead_are_few_at_first_and_the_same() -> None:
    packing, asked = Packing([SHARD], longest=48, budget=100, before=1, after=2, seed=3), []

    class Told(Together):
        def corrupt(self, packed: Packed, rng: np.random.Generator) -> Batch:
            asked.append(len(packed.lengths))
            return super().corrupt(packed, rng)

    objective = Told((MaskedLanguageModelling(600, 4, frozenset(range(10)), Masking()),))
    with closing(feed(packing, objective, 3, Cursor(), workers=4)) as batches:
        first = [next(batches)[0]]
        assert len(asked) <= 4
        first += [batch for batch, _ in islice(batches, 30)]
    alone = [batch for batch, _ in islice(feed(packing, objective, 3, Cursor(), workers=0), 31)]
    assert [one.tokens.data.tolist() for one in first] == [one.tokens.data.tolist() for one in alone]
    with pytest.raises(ConfigError, match="workers must be at most 64, got 65"):
        CorpusSettings(workers=65)


def test_every_length_of_a_run_is_tried_before_it_begins() -> None:
    """Sequences of 11 tokens pair the first document's sentences, those of 88 the second's; those between pair none."""
    sentences = np.cumsum([0, *[4] * 4, *[40] * 4])
    shard = Arrays(np.arange(10, 186), np.ones(176), sentences, np.array([0, 4, 8]))
    packing = PairPacking(Pairing("next", "same"), [shard], longest=88, budget=100, before=1, after=2)
    corpus = CorpusSettings(Path("shards"), longest=88, longest_start=11, longest_warmup=9)
    with pytest.raises(InputError, match=r"^shards: train split: no .*; say .* \(longest is 22 from step 3\)$"):
        _check_stages(PretrainSettings(corpus=corpus, step=StepSettings(steps=10)), packing)


def test_a_spike_that_stays_is_usual_in_time() -> None:
    """Gradients ten times as long from one step on: some are skipped, and the run goes on."""
    progress, skipped = Progress(step=50, gradient=1.0), 0
    while skipped < 200:
        limit = 2.0 * (progress.gradient or 0.0)
        result = StepResult(1.0, {}, 10, 10.0, applied=limit >= 10.0)
        progress = _after(progress, result, Cursor(), limit)
        if result.applied:
            break
        skipped += 1
    assert 60 < skipped < 120
    assert progress.skipped == skipped
    endless = StepResult(math.inf, {}, 10, math.inf, applied=False)
    assert _after(progress, endless, Cursor(), 4.0).gradient == progress.gradient


@pytest.mark.parametrize("key", ["clip", "spike"])
def test_what_json_has_no_number_for_is_no_setting(key: str) -> None:
    for value in (math.inf, math.nan):
        with pytest.raises(ConfigError, match=f"{key} must be a finite number, got {value}; 0 stands for none"):
            UpdateSettings(**{key: value})


def test_objectives_are_in_the_order_of_their_table() -> None:
    one, other = (ObjectiveSettings(names) for names in (("nsp", "mlm"), ("mlm,nsp",)))
    assert one == other
    assert one.objectives == ("mlm", "nsp")


def test_momentum_is_muon_s() -> None:
    adam = AdamSettings(momentum=0.5)
    with pytest.raises(ConfigError, match="momentum says something only with muon, and optimizer is adamw; leave it"):
        PretrainSettings(adam=adam)
    assert PretrainSettings(adam=adam, update=UpdateSettings(optimizer="muon")).adam.momentum == 0.5


def test_without_warmup_every_step_is_whole() -> None:
    settings = StepSettings(steps=1000, step_tokens=1000, batch_tokens=300)
    assert {settings.batches(step) for step in range(1000)} == {4}
    assert settings.tokens == 1_000_000
    assert CorpusSettings(longest=128).stages == ((0, 128),)


@pytest.mark.parametrize(
    ("corpus", "step", "said"),
    [
        ({"longest_start": 64}, {}, "longest_start says nothing without longest_warmup; give both or none"),
        ({"longest_warmup": 64}, {}, "longest_warmup says nothing without longest_start"),
        ({"longest_start": -1}, {}, "longest_start must be 0 or more, got -1"),
        ({"longest_start": 2, "longest_warmup": 9}, {}, "longest_start must be at least 3"),
        ({"longest_start": 9, "longest_warmup": 11}, {}, "longest_warmup must be between 0 and the 10 steps, got 11"),
        ({"longest_start": 9, "longest_warmup": -1}, {}, "longest_warmup must be 0 or more, got -1"),
        ({}, {"step_tokens_start": 9}, "step_tokens_start says nothing without step_tokens_warmup"),
        ({}, {"step_tokens_start": 5000, "step_tokens_warmup": 1}, "step_tokens_start must be between 0 and step_tok"),
        ({}, {"step_tokens_start": 9, "step_tokens_warmup": 11}, "step_tokens_warmup must be between 0 and the 10 st"),
    ],
)
def test_warmups_that_cannot_be_are_one_line(corpus: dict[str, Any], step: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PretrainSettings(corpus=CorpusSettings(**corpus), step=StepSettings(steps=10, **step))
    assert str(caught.value).startswith(said)
