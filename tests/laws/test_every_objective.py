"""What is true of every objective of the table, as a run learns it: beside what it needs, in a family that has it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bothways import Encoder
from bothways.data.batch import Answers, Batch
from bothways.data.packing import Packing
from bothways.data.pairs import Pairing, PairPacking
from bothways.engine.streams import Streams
from bothways.objectives.choice import OBJECTIVES, Told, edged_of, edges_of, objective_of
from bothways.objectives.masking import Masking
from bothways.objectives.objective import Model, Objective
from bothways.ragged import Layout, Ragged
from bothways.text.tokenizer import Tokenizer
from bothways.train.generator import starting_networks
from bothways.train.optim import OPTIMIZERS, AdamSettings, parameter_groups
from bothways.train.settings import ModelSettings, ObjectiveSettings, PretrainSettings
from bothways.train.step import StepResult, evaluate, train_step

PRESET = {"mlm": "bert-tiny", "nsp": "bert-tiny", "sop": "albert-tiny", "causal": "gpt2-tiny", "rtd": "electra-tiny"}
EVERY = pytest.mark.parametrize("name", OBJECTIVES)
Lesson = tuple[Model, Objective, list[Batch]]


class Text:
    """Forty documents of four sentences of 3 to 8 tokens, as a shard."""

    lengths = np.random.default_rng(0).integers(3, 9, 160)
    sentences = np.cumsum([0, *lengths])
    tokens = np.random.default_rng(1).integers(5, 90, sentences[-1]).astype("<u2")
    words = np.ones(len(tokens), "u1")
    documents = np.arange(0, 161, 4)


@pytest.fixture(scope="module")
def tokenizer(save_bert: Callable[..., Path]) -> Tokenizer:
    found = Encoder.from_pretrained(save_bert()).tokenizer
    assert found is not None
    return found


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def lesson(name: str, tokenizer: Tokenizer, dropout: float = 0.0) -> Lesson:
    """A fresh model, the objective, and the first two batches of an epoch."""
    names, entry = (*OBJECTIVES[name].beside, name), OBJECTIVES[name]
    settings = PretrainSettings(model=ModelSettings(PRESET[name], dropout=dropout), objective=ObjectiveSettings(names))
    before, after = edges_of(names, tokenizer)
    said: dict[str, Any] = {"longest": 32, "budget": 160, "before": before, "after": after}
    pairs = entry.pairs and PairPacking(Pairing(entry.pairs), [Text()], **said)
    packing = pairs or Packing([Text()], **said, edges=edged_of(names))
    objective = objective_of(names, Told(Masking(rate=0.3), tokenizer))
    batches = [objective.corrupt(packing(0, number), np.random.default_rng(number)) for number in (0, 1)]
    return starting_networks(settings, tokenizer).model().train(), objective, batches


def steps(made: Lesson, count: int, lr: float) -> StepResult:
    model, objective, batches = made
    optimizer = OPTIMIZERS["adamw"](parameter_groups(model, 0.0), AdamSettings(lr=lr))
    streams = Streams(torch.device("cpu"))
    for number in range(count):
        result = train_step(model, objective, batches, optimizer, streams, seed=10 * number, clip=1.0)
    return result


def joined(batches: list[Batch]) -> Batch:
    """The same sequences and questions as one batch."""
    starts = [0, len(batches[0].tokens.data)]
    layout = Layout.of([length for batch in batches for length in batch.tokens.layout.lengths])
    types = [batch.types for batch in batches if batch.types is not None]
    labels = {name: _together([batch.labels[name] for batch in batches], starts) for name in batches[0].labels}
    return Batch(
        Ragged(torch.cat([batch.tokens.data for batch in batches]), layout),
        torch.cat(types) if types else None,
        tuple(range(len(layout))),
        labels=labels,
    )


def _together(answers: list[Answers], starts: list[int]) -> Answers:
    rows = [one.rows + start for one, start in zip(answers, starts) if one.rows is not None]
    return Answers(torch.cat([one.values for one in answers]), torch.cat(rows))


def test_every_objective_is_tried() -> None:
    assert PRESET.keys() == OBJECTIVES.keys()


@EVERY
def test_two_batches_are_learnt_by_heart(name: str, tokenizer: Tokenizer) -> None:
    model, objective, batches = made = lesson(name, tokenizer)
    streams = Streams(torch.device("cpu"))
    before = evaluate(model, objective, batches, streams)
    steps(made, 16, 4e-3)
    after = evaluate(model, objective, batches, streams)
    print(name, {loss: (round(before[loss], 3), round(after[loss], 3)) for loss in objective.losses})
    for loss in objective.losses:
        assert after[loss] < 0.7 * before[loss]


@EVERY
def test_micro_batches_give_the_gradients_of_one_batch(name: str, tokenizer: Tokenizer) -> None:
    if OBJECTIVES[name].generator is not None:
        pytest.skip("what is drawn for each batch differs: see test_objective_seam")
    first, second = lesson(name, tokenizer), lesson(name, tokenizer)
    one, other = steps(first, 1, 0.0), steps((*second[:2], [joined(second[2])]), 1, 0.0)
    assert one.loss == pytest.approx(other.loss, rel=1e-5)
    expected = {key: p.grad for key, p in second[0].named_parameters() if p.grad is not None}
    largest = max(float(slope.abs().max()) for slope in expected.values())
    for key, parameter in first[0].named_parameters():
        assert (parameter.grad is None) == (key not in expected)
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, expected[key], rtol=0, atol=1e-5 * largest)


@EVERY
def test_steps_have_the_same_bits_on_one_and_on_two_threads(
    name: str, tokenizer: Tokenizer, threads: Callable[[int], None]
) -> None:
    found = []
    for count in (1, 2):
        threads(count)
        made = lesson(name, tokenizer, dropout=0.1)
        found.append((steps(made, 2, 1e-3), [p.detach().clone() for p in made[0].parameters()]))
    (one, some), (other, others) = found
    assert replace(one, means={}) == replace(other, means={})
    assert one.means == other.means
    assert all(a.equal(b) for a, b in zip(some, others, strict=True))
