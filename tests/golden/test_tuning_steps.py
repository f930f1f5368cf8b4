"""Steps of fine-tuning are faster than the obvious ones, and the same: rows of filler, gradients of tables as rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import given
from hypothesis import strategies as st
from small_models import families_with
from test_mlm_training import without_dropout
from torch import Tensor

from bothways import Encoder
from bothways.data.batch import Batch
from bothways.data.labelled import Example
from bothways.engine.streams import Streams
from bothways.nn.attention import attend
from bothways.nn.dropout import Draw, seeded
from bothways.nn.layers import Embedding
from bothways.objectives.objective import Model
from bothways.ragged import Layout
from bothways.tasks import TASKS, Facts
from bothways.tasks.learning import Supervised
from bothways.train.gradients import gradients_in_order
from bothways.train.optim import OPTIMIZERS, AdamSettings, parameter_groups
from bothways.train.rows import dealt
from bothways.train.step import StepResult, train_step
from bothways.train.tables import Table, tables_of

Save = Callable[..., Path]
KIND = "ForSequenceClassification"
WORDS = ("the", "cat", "dog", "ran", "red", "house", "mat", "blue")
TEXTS = [" ".join(WORDS[(7 * i + 3 * j) % len(WORDS)] for j in range(i % 11)) for i in range(24)]
TASK = TASKS["text-classification"]


def samples_of(encoder: Encoder) -> tuple[Supervised, list[Batch]]:
    """Learning to classify, and two batches of it."""
    assert encoder.tokenizer is not None
    facts = Facts(encoder.tokenizer, encoder.extras, encoder.config.longest)
    rows = [Example(text, None, f"LABEL_{i % 2}", f"row {i}") for i, text in enumerate(TEXTS)]
    objective = Supervised(TASK, "classify")  # type: ignore[arg-type]
    samples = TASK.samples(rows, TASK.labels_of(rows), facts, None, None)  # type: ignore[attr-defined]
    return objective, [objective.batch(samples[:9]), objective.batch(samples[9:])]


def taught(
    model: Model, objective: Supervised, batches: Sequence[Batch], steps: int, tables: Sequence[Table] = ()
) -> list[StepResult]:
    optimizer = OPTIMIZERS["adamw"](parameter_groups(model, 0.01), AdamSettings(lr=1e-3))
    streams = Streams(torch.device("cpu"))
    return [
        train_step(model, objective, batches, optimizer, streams, seed=i, clip=0.5, tables=tables) for i in range(steps)
    ]


@pytest.mark.parametrize("family", families_with(KIND))
def test_filler_and_rows_change_nothing_in_any_family(save_family: Save, family: str) -> None:
    sizes = dict.fromkeys(("pad_token_id", "resid_pdrop", "attn_pdrop", "embd_pdrop"), 0) if family == "gpt2" else {}
    folder = without_dropout(save_family(family, kind=KIND, num_labels=2, **sizes))
    encoder = Encoder.from_pretrained(folder)
    objective, batches = samples_of(encoder)
    plain = Model(encoder.network, encoder.heads).train()
    fast = deepcopy(plain)
    fast.network.filling = True
    expected = taught(plain, objective, batches, 1)
    (table,) = tables_of(fast)
    found = taught(fast, objective, batches, 1, (table,))
    assert found[0].loss == pytest.approx(expected[0].loss, rel=1e-5)
    assert found[0].gradient == pytest.approx(expected[0].gradient, rel=1e-4)
    largest = max(float(p.grad.abs().max()) for p in plain.parameters() if p.grad is not None)
    ours = dict(fast.named_parameters())
    for name, parameter in plain.named_parameters():
        if parameter.grad is not None:
            gradient = ours[name].grad
            assert gradient is not None, name
            assert float((gradient - parameter.grad).abs().max()) < 1e-5 * largest, name


def test_fifty_steps_have_the_losses_of_a_loop_of_transformers(save_bert: Save) -> None:
    folder = without_dropout(save_bert(kind=f"Bert{KIND}", num_labels=2))
    encoder = Encoder.from_pretrained(folder)
    objective, batches = samples_of(encoder)
    model = Model(encoder.network, encoder.heads).train()
    model.network.filling = True
    found = [result.loss for result in taught(model, objective, batches, 50, tables_of(model))]
    theirs = transformers.BertForSequenceClassification.from_pretrained(folder).train()
    decaying = [p for p in theirs.parameters() if p.dim() > 1]
    others = [p for p in theirs.parameters() if p.dim() == 1]
    groups = [{"params": decaying, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), eps=1e-6)
    inputs = transformers.BertTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    expected = []
    for _ in range(50):
        loss = theirs(**inputs, labels=torch.arange(len(TEXTS)) % 2).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        expected.append(float(loss.detach()))
    assert expected[-1] < 0.8 * expected[0]
    assert found == pytest.approx(expected, abs=1e-4)


def test_a_tables_gradient_is_the_dense_one_in_every_step() -> None:
    """Whatever rows the step before had, and whichever ids come twice or in several batches."""
    weight = torch.randn(50, 6)
    embedding = Embedding(50, 6, _weight=weight.clone())
    table, generator = Table(embedding), torch.Generator().manual_seed(3)
    for _ in range(4):
        parts = [torch.randint(0, 50, (count,), generator=generator) for count in (7, 1, 12)]
        slopes = [torch.randn(len(ids), 6, generator=generator) for ids in parts]
        naive = weight.clone().requires_grad_()
        sum((F.embedding(ids, naive) * slope).sum() for ids, slope in zip(parts, slopes)).backward()
        table.clear()
        with gradients_in_order([embedding.weight], [table]) as gradients:
            for number, (ids, slope) in enumerate(zip(parts, slopes)):
                with gradients.turn(number):
                    gradients.of((embedding(ids) * slope).sum())
        table.write()
        assert naive.grad is not None
        torch.testing.assert_close(embedding.weight.grad, naive.grad)
        assert table.rows.tolist() == sorted({i for ids in parts for i in ids.tolist()})


def test_tables_that_a_head_reads_whole_that_learn_nothing_or_whose_losses_are_scaled_stay_dense(
    save_bert: Save,
) -> None:
    encoder = Encoder.from_pretrained(save_bert(kind="BertForMaskedLM"))
    assert tables_of(Model(encoder.network, encoder.heads)) == ()
    alone = Model(encoder.network, {})
    assert len(tables_of(alone)) == 1
    assert tables_of(alone, scaled=True) == ()
    encoder.network.embeddings.words.weight.requires_grad_(False)
    assert tables_of(alone) == ()


def alone(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int]) -> Tensor:
    """Attention of each sequence by itself."""
    parts = []
    for sides in zip(*(x[: sum(lengths)].split(list(lengths)) for x in (q, k, v))):
        a, b, c = (side.transpose(0, 1) for side in sides)
        parts.append((torch.softmax(a @ b.transpose(1, 2) * q.shape[-1] ** -0.5, -1) @ c).transpose(0, 1))
    return torch.cat(parts)


@given(st.lists(st.integers(1, 70), min_size=1, max_size=12), st.booleans())
def test_attention_with_filler_is_that_of_each_sequence_and_filler_has_no_gradient(
    lengths: list[int], causal: bool
) -> None:
    total, filler = sum(lengths), -sum(lengths) % 32
    generator = torch.Generator().manual_seed(total)
    q, k, v = (torch.randn(total + filler, 2, 8, generator=generator).requires_grad_() for _ in range(3))
    layout = Layout.of(lengths)
    out = attend(q, k, v, layout, layout, filler=filler, causal=causal)
    assert out.shape == q.shape
    expected = (
        alone(q, k, v, lengths) if not causal else attend(q[:total], k[:total], v[:total], layout, layout, causal=True)
    )
    torch.testing.assert_close(out[:total], expected, rtol=1e-4, atol=1e-5)
    slope = torch.randn(total, 2, 8, generator=generator)
    found = torch.autograd.grad(out, (q, k, v), F.pad(slope, (0, 0, 0, 0, 0, filler)))
    wanted = torch.autograd.grad(expected, (q, k, v), slope)
    for ours, naive in zip(found, wanted):
        torch.testing.assert_close(ours[:total], naive[:total], rtol=1e-4, atol=1e-5)
        assert not ours[total:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_dropped_is_the_same_on_the_way_there_and_back(dtype: torch.dtype) -> None:
    x = torch.randn(37, 11).to(dtype)
    with seeded(5):
        draw = Draw(0.3)
        found = draw.first(x)
    kept = draw.again(x).bool()
    assert torch.equal(found, torch.where(kept, x, 0))
    assert 0.6 < float(kept.float().mean()) < 0.8


@given(st.lists(st.integers(1, 400), min_size=1, max_size=64), st.integers(1, 4096))
def test_rows_are_dealt_out_by_their_tokens_to_two_parts_at_least(lengths: list[int], budget: int) -> None:
    parts = dealt(range(len(lengths)), lengths, budget)
    assert sorted(row for part in parts for row in part) == list(range(len(lengths)))
    assert all(parts)
    assert len(parts) == min(len(lengths), max(2, -(-sum(lengths) // budget)))


@pytest.mark.parametrize("longest", [0.0, 1e-3, 0.7, 1e3])
def test_clipping_is_that_of_torch_bit_for_bit(save_bert: Save, longest: float) -> None:
    encoder = Encoder.from_pretrained(without_dropout(save_bert(kind=f"Bert{KIND}", num_labels=2)))
    objective, batches = samples_of(encoder)
    model = Model(encoder.network, encoder.heads).train()
    optimizer = OPTIMIZERS["adamw"](parameter_groups(model, 0.0), AdamSettings(lr=0.0))
    streams = Streams(torch.device("cpu"))
    train_step(model, objective, batches, optimizer, streams)
    naive = deepcopy(model)
    for one, other in zip(naive.parameters(), model.parameters()):
        one.grad = None if other.grad is None else other.grad.clone()
    length = torch.nn.utils.clip_grad_norm_(naive.parameters(), longest or torch.inf)
    assert train_step(model, objective, batches, optimizer, streams, clip=longest).gradient == float(length)
    for one, other in zip(naive.parameters(), model.parameters()):
        assert (one.grad is None and other.grad is None) or torch.equal(one.grad, other.grad)  # type: ignore[arg-type]
