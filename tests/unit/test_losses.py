"""Losses over the rows of each sequence: what a naive loop gives, in value and gradient; bad input is one line."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bothways import InputError
from bothways.nn import losses
from bothways.nn.drawing import drawn
from bothways.nn.losses import sampled_cross_entropy, segment_cross_entropy, vocabulary_cross_entropy
from bothways.ragged import Layout


def naive(scores: Tensor, lengths: list[int], targets: list[int]) -> tuple[Tensor, int]:
    loss, right, start = torch.zeros((), dtype=torch.float64), 0, 0
    for length, target in zip(lengths, targets):
        own = scores[start : start + length].double()
        loss = loss - (own - own.logsumexp(0))[target]
        right += own.tolist().index(max(own.tolist())) == target
        start += length
    return loss, right


@given(st.data())
def test_each_sequence_chooses_among_its_own_rows(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 9), max_size=8))
    targets = [data.draw(st.integers(0, length - 1)) for length in lengths]
    level = st.sampled_from([-1e4, -3.0, 0.0, 0.5, 2.0, 90.0])  # equal ones too
    scores = [data.draw(level) for _ in range(sum(lengths))]
    ours, theirs = (torch.tensor(scores, dtype=torch.float32).requires_grad_() for _ in range(2))
    loss, right = segment_cross_entropy(ours, Layout.of(lengths), torch.tensor(targets, dtype=torch.int64))
    expected, correct = naive(theirs, lengths, targets)
    torch.testing.assert_close(loss.double(), expected, atol=1e-4, rtol=1e-6)
    assert int(right) == correct
    (found,) = torch.autograd.grad(loss, ours)
    if lengths:
        torch.testing.assert_close(found, *torch.autograd.grad(expected, theirs), atol=1e-6, rtol=1e-5)


def test_half_precision_is_summed_in_fp32() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = [300, 7, 300, 1]
    scores = torch.randn(sum(lengths), generator=generator).bfloat16().requires_grad_()
    targets = torch.tensor([299, 3, 0, 0])
    loss, _ = segment_cross_entropy(scores, Layout.of(lengths), targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), naive(scores, lengths, targets.tolist())[0], atol=1e-4, rtol=1e-6)
    assert torch.autograd.grad(loss, scores)[0].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("rows", "lengths", "targets", "said"),
    [
        (3, [3, 0], [0, 0], "sequence 1 has no rows"),
        (4, [3], [0], "4 scores and 1 targets do not fit 1 sequences of 3 rows"),
        (3, [3], [0, 1], "3 scores and 2 targets do not fit"),
    ],
)
def test_what_does_not_fit_is_one_line(rows: int, lengths: list[int], targets: list[int], said: str) -> None:
    with pytest.raises(InputError, match=said):
        segment_cross_entropy(torch.zeros(rows), Layout.of(lengths), torch.tensor(targets))


def test_each_row_has_its_own_chance_whatever_is_computed_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*size, generator=generator) for size in ((50, 8), (40, 8), (40,)))
    targets, chances = torch.arange(50) % 40, torch.rand(50, generator=generator)
    words = drawn((x @ weight.T + bias).softmax(1), chances)
    monkeypatch.setattr(losses, "ROWS_AT_A_TIME", 20)
    monkeypatch.setattr(losses, "SCORES_AT_A_TIME", {"cpu": 7 * 40})
    loss, correct, found = sampled_cross_entropy(x, weight, bias, targets, chances)
    assert found.tolist() == words.tolist()
    assert (loss, correct) == vocabulary_cross_entropy(x, weight, bias, targets)
