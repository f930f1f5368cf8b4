"""Masked language modelling gives transformers' loss and gradients; losses and steps are those of the formulas."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_models import MASKED, SAVE_FAMILY
from torch import Tensor

from bothways import Encoder
from bothways.data.batch import Batch
from bothways.data.packing import Packed
from bothways.engine.streams import Streams
from bothways.nn.losses import ROWS_AT_A_TIME, vocabulary_cross_entropy
from bothways.objectives.masking import Masking
from bothways.objectives.mlm import MaskedLanguageModelling
from bothways.objectives.objective import Model
from bothways.objectives.reading import Together
from bothways.train.optim import OPTIMIZERS, AdamSettings, parameter_groups
from bothways.train.step import train_step

Save = Callable[..., Path]
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
MASK, SPECIAL = 4, frozenset(range(5))
LENGTHS = (20, 17, 17, 9, 5, 3)


def ragged_batch(vocab: int, seed: int = 0) -> Batch:
    """Six sequences of five lengths, masked; none has the id of padding."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, vocab, sum(LENGTHS))
    ends = np.cumsum(LENGTHS)
    special = np.isin(np.arange(len(ids)), [*(ends - 1), *(ends - LENGTHS)])
    ids[special] = 2
    objective = Together((MaskedLanguageModelling(vocab, MASK, SPECIAL, Masking(rate=0.3)),))
    return objective.corrupt(Packed(ids, ~special, special, LENGTHS), rng)


def padded(batch: Batch, padding: int) -> dict[str, Tensor]:
    """As transformers takes it: rectangles, -100 where nothing is predicted."""
    answers = batch.labels["mlm"]
    assert answers.rows is not None
    labels = torch.full_like(batch.tokens.data, -100).index_copy(0, answers.rows, answers.values)
    rows = list(batch.tokens.layout.lengths)

    def rectangle(x: Tensor, fill: int) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(list(x.split(rows)), batch_first=True, padding_value=fill)

    attention = rectangle(torch.ones_like(labels), 0)
    ids = rectangle(batch.tokens.data, padding)
    return {"input_ids": ids, "attention_mask": attention, "labels": rectangle(labels, -100)}


def without_dropout(folder: Path) -> Path:
    """Every kind of dropout that a family's config has is set to zero."""
    place = folder / "config.json"
    config = json.loads(place.read_text())
    config |= {key: 0.0 for key, value in config.items() if "dropout" in key and isinstance(value, float)}
    place.write_text(json.dumps(config))
    return folder


@torch.no_grad()
def gradients_by_their_names(encoder: Encoder, folder: Path, kind: Any) -> dict[str, Tensor]:
    """Gradients saved in the place of weights, and read back by transformers."""
    for parameter in Model(encoder.network, encoder.heads).parameters():
        parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    encoder.save_pretrained(folder)
    return dict(kind.from_pretrained(folder).named_parameters())


@pytest.mark.parametrize("family", MASKED)
def test_loss_and_all_gradients_are_those_of_transformers(save_family: Save, family: str, tmp_path: Path) -> None:
    folder = without_dropout(save_family(family, kind="ForMaskedLM"))
    kind = SAVE_FAMILY[family].kind("ForMaskedLM")
    encoder, theirs = Encoder.from_pretrained(folder), kind.from_pretrained(folder).train()
    batch = ragged_batch(encoder.config.vocab)
    objective = Together((MaskedLanguageModelling(encoder.config.vocab, MASK, SPECIAL),))
    result = objective.loss(Model(encoder.network, encoder.heads).train(), batch)
    loss = result.losses["mlm"].total / result.losses["mlm"].count
    loss.backward()
    said = theirs(**padded(batch, theirs.config.pad_token_id))
    said.loss.backward()
    torch.testing.assert_close(loss, said.loss, **CLOSE)
    ours = gradients_by_their_names(encoder, tmp_path / "gradients", kind)
    expected = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    assert set(expected) <= set(ours)
    assert len(expected) > 15
    for name, gradient in expected.items():
        torch.testing.assert_close(ours[name].detach(), gradient, **CLOSE, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 7, 2 * ROWS_AT_A_TIME + 3])
def test_cross_entropy_over_a_vocabulary_is_torchs(rows: int, bias: bool) -> None:
    x, w = torch.randn(rows, 16), torch.randn(97, 16)
    b = torch.randn(97) if bias else None
    targets = torch.randint(0, 97, (rows,))
    ours = [None if t is None else t.clone().requires_grad_() for t in (x, w, b)]
    theirs = [None if t is None else t.clone().requires_grad_() for t in (x, w, b)]
    loss, correct = vocabulary_cross_entropy(*ours, targets)  # type: ignore[arg-type]
    scores = F.linear(*theirs)  # type: ignore[arg-type]
    expected = F.cross_entropy(scores, targets, reduction="sum")
    (loss * 0.3).backward()
    (expected * 0.3).backward()
    torch.testing.assert_close(loss, expected, atol=1e-3, rtol=1e-5)
    assert correct == (scores.argmax(1) == targets).sum()
    for one, other in zip(ours, theirs):
        if one is not None and other is not None:
            torch.testing.assert_close(one.grad, other.grad, atol=1e-4, rtol=1e-5)


def test_cross_entropy_in_half_precision_is_near_and_sums_in_fp32() -> None:
    rows = 2 * ROWS_AT_A_TIME + 3
    x, w, b, targets = torch.randn(rows, 64) / 4, torch.randn(997, 64) / 4, torch.randn(997), torch.arange(rows) % 997
    half = x.bfloat16().requires_grad_()
    whole = [t.clone().requires_grad_() for t in (x, w, b)]
    ours = [half, w.clone().requires_grad_(), b.clone().requires_grad_()]
    loss, _ = vocabulary_cross_entropy(*ours, targets)  # type: ignore[arg-type]
    expected = F.cross_entropy(F.linear(*whole), targets, reduction="sum")
    (loss / rows).backward()
    (expected / rows).backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, atol=0, rtol=2e-3)
    for one, other in zip(ours, whole):
        assert one.grad is not None
        assert one.grad.dtype == one.dtype
        torch.testing.assert_close(one.grad.float(), other.grad, atol=0.02 * float(other.grad.abs().max()), rtol=0)


def test_scores_that_no_number_can_be_made_of_are_not_hidden() -> None:
    loss, _ = vocabulary_cross_entropy(torch.full((2, 4), torch.inf), torch.randn(9, 4), None, torch.tensor([1, 2]))
    assert not torch.isfinite(loss)


def test_a_step_is_adamw_by_the_formula_after_clipping(save_family: Save) -> None:
    """Loshchilov & Hutter 2017, algorithm 2: matrices decay, vectors do not; the gradient is cut to length 0.1."""
    encoder = Encoder.from_pretrained(without_dropout(save_family("bert", kind="ForMaskedLM")))
    model = Model(encoder.network, encoder.heads).train()
    adam = AdamSettings(lr=1e-2, beta1=0.8, beta2=0.95, eps=1e-5, weight_decay=0.1)
    optimizer = OPTIMIZERS["adamw"](parameter_groups(model, adam.weight_decay), adam)
    objective = Together((MaskedLanguageModelling(encoder.config.vocab, MASK, SPECIAL),))
    names = [name for name, _ in model.named_parameters()]
    first = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    second = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for step in (1, 2, 3):
        batch = ragged_batch(encoder.config.vocab, seed=step)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        part = objective.loss(model, batch).losses["mlm"]
        grads = torch.autograd.grad(part.total / part.count, list(model.parameters()), materialize_grads=True)
        length = torch.stack([g.double().square().sum() for g in grads]).sum().sqrt()
        assert length > 0.1
        result = train_step(model, objective, [batch], optimizer, Streams(torch.device("cpu")), clip=0.1)
        assert result.gradient == pytest.approx(float(length), rel=1e-5)
        for name, grad in zip(names, grads):
            g = grad * (0.1 / float(length))
            first[name] = adam.beta1 * first[name] + (1 - adam.beta1) * g
            second[name] = adam.beta2 * second[name] + (1 - adam.beta2) * g * g
            mean, spread = first[name] / (1 - adam.beta1**step), second[name] / (1 - adam.beta2**step)
            decayed = before[name] * (1 - adam.lr * adam.weight_decay * (before[name].dim() > 1))
            expected = decayed - adam.lr * mean / (spread.sqrt() + adam.eps)
            torch.testing.assert_close(model.get_parameter(name).detach(), expected, atol=3e-5, rtol=0, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_of_equal_scores_the_first_one_is_what_was_said(dtype: torch.dtype) -> None:
    """In half precision many are equal; those of chance are right as often as there are words, and no oftener."""
    rng = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(size, 16, generator=rng).to(dtype) for size in (4_000, 100))
    targets = torch.randint(100, (4_000,), generator=rng)
    _, correct = vocabulary_cross_entropy(x, weight, None, targets)
    assert int(correct) == int(((x @ weight.T).argmax(1) == targets).sum()) < 60
    constant = torch.ones(4_000, 1, dtype=dtype)
    _, correct = vocabulary_cross_entropy(constant, torch.ones(100, 1, dtype=dtype), None, targets)
    assert int(correct) == int((targets == 0).sum())
