"""What is told of an evaluation: means of what there was to predict, and nothing of what there was not."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from bothways.data.batch import Answers, Batch
from bothways.engine.streams import Streams
from bothways.nn.encoder import EncoderOutput
from bothways.nn.heads import Classifier
from bothways.objectives.objective import Model
from bothways.objectives.pairs import SegmentPairs
from bothways.objectives.reading import Together
from bothways.ragged import Ragged
from bothways.train.loop import Event, Times, Trainer
from bothways.train.pretrain import _held_out
from bothways.train.progress import Progress
from bothways.train.report import MetricsLog, row
from bothways.train.settings import UpdateSettings
from bothways.train.step import Means, StepResult, evaluate

CPU = torch.device("cpu")
NAN = math.nan


def test_means_are_over_all_rows_and_only_of_what_had_some() -> None:
    means = Means()
    for name, total, count in [("mlm", 6.0, 3), ("nsp", 0.0, 0), ("mlm", 2.0, 1), ("nsp_accuracy", 0.0, 0)]:
        means.add(name, total, count)
    assert means.values() == {"mlm": 2.0}


class Zeros(nn.Module):
    """A network whose hidden states are all zero."""

    def forward(self, tokens: Ragged, types: torch.Tensor | None, *, rows: Ragged | None) -> EncoderOutput:
        states = torch.zeros(len(tokens.data), 8)
        return EncoderOutput(Ragged(states, tokens.layout), states)


def sequence(*labels: int) -> Batch:
    """One, with a label or none."""
    answers = Answers(torch.tensor(labels, dtype=torch.int64), torch.zeros(len(labels), dtype=torch.int64))
    return Batch(Ragged.of([[1, 2, 3]]), None, (0,), labels={"nsp": answers})


def test_an_evaluation_without_a_pair_has_no_word_of_pairs() -> None:
    head = Classifier(8, 2, pooling="cls")
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    network: Any = Zeros()
    model, objective = Model(network, {"nsp": head}), Together((SegmentPairs("nsp", ("nsp",)),))
    assert evaluate(model, objective, [sequence()], Streams(CPU)) == {}
    means = evaluate(model, objective, [sequence(), sequence(0)], Streams(CPU))
    assert means == {"nsp": pytest.approx(math.log(2)), "nsp_accuracy": 1.0}


def best_after(means: list[dict[str, float]], monkeypatch: pytest.MonkeyPatch) -> Progress:
    """The progress of a run of NSP beside another loss whose evaluations, after each step, say this."""
    told = iter(means)
    monkeypatch.setattr("bothways.train.pretrain.evaluate", lambda *_: next(told))
    monkeypatch.setattr("bothways.train.pretrain.held_out", lambda *_: ())
    nothing: Any = nn.Linear(1, 1)

    nothing: Any = nn.Identity()
    objective: Any = SimpleNamespace(steady=True, losses={"mlm": 1.0, "nsp": 1.0})
    optimizer: Any = SimpleNamespace()
    material: Any = SimpleNamespace(objective=objective, held=())
    evaluation = partial(_held_out, nothing, material, 100)
    times = Times(steps=100, seed=0, evaluate_every=1, save_every=100)
    trainer = Trainer(nothing, objective, optimizer, nothing, evaluation, CPU, UpdateSettings(), times)
    progress = Progress()
    for number in range(1, len(means) + 1):
        progress = next(trainer._at_times(replace(progress, step=number), Streams(CPU), stop=False)).progress
    return progress


def test_an_evaluation_without_one_of_its_losses_is_never_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    means = [{"mlm": 1.0}, {"mlm": 3.0, "nsp": 0.5}, {"mlm": 1.0}, {"mlm": 3.0, "nsp": 0.6}, {"mlm": 1.0, "nsp": NAN}]
    progress = best_after(means, monkeypatch)
    assert (progress.best_loss, progress.best_step) == (3.5, 2)


def test_a_log_has_tokens_with_every_row_and_never_nan(tmp_path: Path) -> None:
    at = Progress(step=1, tokens=10)
    failed = StepResult(NAN, {"mlm": NAN, "accuracy": 0.5}, 10, math.inf, applied=False)
    log = MetricsLog(tmp_path, 1, 0)
    log.add(Event("skip", at, failed))
    log.add(Event("evaluate", at, means={"mlm": NAN, "causal": 1.0}))
    log.close()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    skipped, held = [
        json.loads(line, parse_constant=refuse) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    assert skipped["loss"] is skipped["mlm"] is skipped["gradient"] is None
    assert held == {"step": 1, "tokens": 10, "held_out": {"mlm": None, "causal": 1.0, "perplexity": math.e}}
    assert row(Event("evaluate", at, means={})) == {"step": 1, "tokens": 10, "held_out": {}}
