"""Laws of training in fp16, whose losses are scaled: on a CPU, where the arithmetic is the same as on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bothways import Encoder
from bothways.data.packing import Packing
from bothways.engine.streams import Streams
from bothways.objectives.masking import Masking
from bothways.objectives.mlm import MaskedLanguageModelling
from bothways.objectives.objective import Model
from bothways.objectives.reading import Together
from bothways.train.feed import PackedSteps, held_out
from bothways.train.loop import Event, Times, Trainer
from bothways.train.networks import Networks
from bothways.train.optim import OPTIMIZERS, AdamSettings, parameter_groups
from bothways.train.progress import Progress
from bothways.train.settings import CorpusSettings, StepSettings, UpdateSettings
from bothways.train.state import restore, save_checkpoint
from bothways.train.step import evaluate

CPU = torch.device("cpu")
STEPS = StepSettings(steps=12, step_tokens=128, batch_tokens=64)
UPDATE = UpdateSettings(precision="fp16")
Start = Callable[[], tuple[Encoder, Trainer]]


class Text:
    """Twenty documents of a sentence each, as a shard."""

    tokens = np.random.default_rng(0).integers(5, 90, 400).astype("<u2")
    words = np.ones(400, "u1")
    sentences = np.arange(0, 401, 20)
    documents = np.arange(21)


def optimizer_of(model: Model) -> torch.optim.Optimizer:
    return OPTIMIZERS["adamw"](parameter_groups(model, 0.01), AdamSettings(lr=1e-3))


def trainer(encoder: Encoder, model: Model, optimizer: torch.optim.Optimizer) -> Trainer:
    encoder.network.dtype = torch.float16
    masked = MaskedLanguageModelling(encoder.config.vocab, 4, frozenset(range(5)), Masking(rate=0.3))
    packing = Packing([Text()], longest=32, budget=64, before=2, after=3)
    corpus = CorpusSettings(longest=32, workers=0)
    objective = Together((masked,))
    batches = PackedSteps(packing, objective, 0, corpus, STEPS)
    return Trainer(model, objective, optimizer, batches, None, CPU, UPDATE, Times(STEPS.steps, 0, 500, 100))


@pytest.fixture
def start(save_bert: Callable[..., Path]) -> Start:
    folder = save_bert(kind="BertForMaskedLM", tokenizer=False)

    def starting() -> tuple[Encoder, Trainer]:
        encoder = Encoder.from_pretrained(folder)
        model = Model(encoder.network, encoder.heads)
        return encoder, trainer(encoder, model, optimizer_of(model))

    return starting


def steps(events: Iterator[Event]) -> list[Event]:
    return [event for event in events if event.result is not None]


def loss_of_all(of: Trainer) -> float:
    """Over the whole text, with the same masks each time: batches differ more than twelve steps can teach."""
    return evaluate(of.model, of.objective, held_out(of.steps.packing, of.objective, 1000), Streams(CPU))["mlm"]


def weights(of: Trainer) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in of.model.named_parameters()}


def assert_same_bits(some: dict[str, Tensor], others: dict[str, Tensor]) -> None:
    assert [name for name in some if not some[name].equal(others[name])] == []


def test_an_overflow_skips_the_step_and_halves_the_scale(start: Start) -> None:
    _, run = start()
    before, scale = weights(run), 2.0**26
    events = run.events(Progress(scale=scale))
    for event in events:
        if event.kind != "skip":
            break
        scale /= 2
        assert event.progress.scale == scale
        assert event.result is not None
        assert not event.result.applied
        assert_same_bits(weights(run), before)
        assert all(float(state["step"]) == 0.0 for state in run.optimizer.state.values())
    assert scale < 2.0**26
    assert event.kind == "step"
    assert any(not value.equal(before[name]) for name, value in weights(run).items())


def test_the_scale_changes_no_loss_and_no_gradient_by_much(start: Start) -> None:
    """Powers of two: what differs is only what is too small for fp16."""
    losses = []
    for scale in (2.0**8, 2.0**14):
        _, run = start()
        before = loss_of_all(run)
        losses.append([event.result.loss for event in steps(run.events(Progress(scale=scale))) if event.result])
        assert loss_of_all(run) < before
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_scale_below_one_is_no_excuse(start: Start) -> None:
    """A loss that is no number at any scale stops the run in the end."""
    _, run = start()
    with torch.no_grad():
        next(run.model.network.layers[0].parameters())[0] = torch.nan
    kinds = [event.kind for event in run.events(Progress(scale=4.0))]
    assert kinds == ["skip", "skip", "stop"]


@pytest.mark.parametrize("stop", [1, 5, 9])
def test_resumed_anywhere_the_scale_and_all_else_go_on(
    stop: int, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a scale that begins too high, and grows again soon."""
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device: scaler(device, init_scale=2.0**20, growth_interval=3))
    _, run = start()
    whole = steps(run.events(Progress()))
    assert {event.kind for event in whole} == {"skip", "step"}
    scales = [event.progress.scale for event in whole]
    assert any(later > earlier for earlier, later in pairwise(scales) if later and earlier)

    encoder, first = start()
    done = list(islice(first.events(Progress()), stop))[-1]
    save_checkpoint(tmp_path, Networks(encoder), first.optimizer, done.progress, {})
    restored = restore(tmp_path, Networks.of, lambda model: (optimizer_of(model), None))
    assert restored is not None
    assert restored.progress == whole[stop - 1].progress
    second = trainer(restored.networks.encoder, restored.model, restored.optimizer)
    rest = steps(second.events(restored.progress))
    assert [repr(event.result) for event in rest] == [repr(event.result) for event in whole[stop:]]  # some are NaN
    assert [event.progress for event in rest] == [event.progress for event in whole[stop:]]
    assert_same_bits(weights(second), weights(run))
