"""Laws of training: what a step does depends neither on how its tokens are batched nor on threads nor on memory."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import MASKED
from torch import Tensor

from bothways import Encoder
from bothways.data.batch import Answers, Batch
from bothways.data.packing import Packed
from bothways.engine.streams import Streams
from bothways.nn import losses
from bothways.nn.dropout import dropout, seeded
from bothways.nn.losses import vocabulary_cross_entropy
from bothways.objectives.masking import Masking
from bothways.objectives.mlm import MaskedLanguageModelling
from bothways.objectives.objective import Model
from bothways.objectives.reading import Together
from bothways.ragged import Layout, Ragged
from bothways.train.gradients import gradients_in_order
from bothways.train.optim import OPTIMIZERS, AdamSettings, parameter_groups
from bothways.train.schedule import SCHEDULES, learning_rate
from bothways.train.step import StepResult, evaluate, train_step

Save = Callable[..., Path]
CPU = torch.device("cpu")
MASK, SPECIAL = 4, frozenset(range(5))


def objective(vocab: int, rate: float = 0.3) -> Together:
    return Together((MaskedLanguageModelling(vocab, MASK, SPECIAL, Masking(rate=rate)),))


def masked(vocab: int, lengths: Sequence[int], seed: int = 0, rate: float = 0.3) -> Batch:
    rng = np.random.default_rng(seed)
    ids, ends = rng.integers(5, vocab, sum(lengths)), np.cumsum(lengths)
    special = np.isin(np.arange(len(ids)), [*(ends - 1), *(ends - lengths)])
    ids[special] = 2
    return objective(vocab, rate).corrupt(Packed(ids, ~special, special, tuple(lengths)), rng)


def joined(batches: Sequence[Batch]) -> Batch:
    """The same sequences and masks as one batch."""
    starts = np.cumsum([0, *(len(batch.tokens.data) for batch in batches)]).tolist()
    answers = [batch.labels["mlm"] for batch in batches]
    rows = [one.rows + start for one, start in zip(answers, starts) if one.rows is not None]
    layout = Layout.of([length for batch in batches for length in batch.tokens.layout.lengths])
    tokens = Ragged(torch.cat([batch.tokens.data for batch in batches]), layout)
    labels = {"mlm": Answers(torch.cat([one.values for one in answers]), torch.cat(rows))}
    return Batch(tokens, None, tuple(range(len(layout))), labels=labels)


def fresh(folder: Path, dropped: float | None = None) -> Model:
    encoder = Encoder.from_pretrained(folder)
    model = Model(encoder.network, encoder.heads).train()
    if dropped is not None:
        assert encoder.config.dropout == encoder.config.attention_dropout == dropped
    return model


def step(model: Model, batches: Sequence[Batch], lr: float = 0.0, seed: int = 7) -> StepResult:
    """One step; with lr 0 the gradients stay to be looked at, and the weights as they are."""
    adam = AdamSettings(lr=lr)
    optimizer = OPTIMIZERS["adamw"](parameter_groups(model, adam.weight_decay), adam)
    vocab = model.network.config.vocab
    return train_step(model, objective(vocab), batches, optimizer, Streams(CPU), seed=seed, clip=1.0)


def gradients(model: Model) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same_bits(some: dict[str, Tensor], others: dict[str, Tensor]) -> None:
    assert some.keys() == others.keys()
    assert [name for name in some if not some[name].equal(others[name])] == []


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
MICRO = [([20, 20, 13], 0.5), ([3], 0.3), ([24, 9, 9, 9, 5], 0.05), ([7, 6], 0.9)]


def test_micro_batches_give_the_gradients_of_one_batch(save_bert: Save) -> None:
    """Of very unequal counts of masked tokens, where means of means would be wrong."""
    folder = save_bert(kind="BertForMaskedLM", **NO_DROPOUT)
    one, many = fresh(folder), fresh(folder)
    vocab = one.network.config.vocab
    batches = [masked(vocab, lengths, seed, rate) for seed, (lengths, rate) in enumerate(MICRO)]
    counts = [len(batch.labels["mlm"].values) for batch in batches]
    assert max(counts) > 10 * min(counts)
    whole, parts = step(one, [joined(batches)]), step(many, batches)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
    assert parts.means["accuracy"] == whole.means["accuracy"]
    assert parts.gradient == pytest.approx(whole.gradient, rel=1e-5)
    assert parts.tokens == whole.tokens == sum(sum(lengths) for lengths, _ in MICRO)
    expected = gradients(one)
    largest = max(float(g.abs().max()) for g in expected.values())
    for name, gradient in gradients(many).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5 * largest, rtol=0, msg=name)


def test_a_batch_in_which_nothing_is_masked_counts_for_nothing(save_bert: Save) -> None:
    folder = save_bert(kind="BertForMaskedLM", **NO_DROPOUT)
    alone, together, idle = fresh(folder), fresh(folder), fresh(folder)
    vocab = alone.network.config.vocab
    some, none = masked(vocab, [9, 8]), masked(vocab, [2, 2])
    assert len(none.labels["mlm"].values) == 0
    step(alone, [some])
    step(together, [none, some])
    assert_same_bits(gradients(alone), gradients(together))
    assert step(idle, [none]).loss == 0.0


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("family", MASKED)
def test_steps_have_the_same_bits_on_one_and_on_two_threads(
    save_family: Save, family: str, dtype: torch.dtype | None, threads: Callable[[int], None]
) -> None:
    folder = save_family(family, kind="ForMaskedLM")
    results: list[tuple[list[float], dict[str, Tensor]]] = []
    for count in (1, 2, 2):
        threads(count)
        model = fresh(folder)
        model.network.dtype = dtype
        vocab, losses = model.network.config.vocab, []
        adam = AdamSettings(lr=1e-3)
        optimizer = OPTIMIZERS["adamw"](parameter_groups(model, adam.weight_decay), adam)
        streams = Streams(CPU)
        for number in range(2):
            batches = [masked(vocab, lengths, seed + 10 * number) for seed, (lengths, _) in enumerate(MICRO)]
            batches = [batch for batch in batches if batch.tokens.layout.longest <= model.network.config.longest]
            result = train_step(model, objective(vocab), batches, optimizer, streams, seed=number, clip=1.0)
            assert result.applied
            losses.append(result.loss)
        results.append((losses, dict(model.named_parameters())))
    for losses, weights in results[1:]:
        assert losses == results[0][0]
        assert_same_bits(weights, results[0][1])


def test_a_large_step_has_the_same_bits_on_one_and_on_two_threads(
    save_bert: Save, threads: Callable[[int], None]
) -> None:
    """At sizes where torch does share the work of one operation out over its threads."""
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "max_position_embeddings": 128, "vocab_size": 3000}
    folder = save_bert(kind="BertForMaskedLM", tokenizer=False, **sizes)
    found = []
    for count in (1, 2):
        threads(count)
        model = fresh(folder, 0.1)
        batches = [masked(3000, [128] * 6 + [77, 60, 41], seed) for seed in range(4)]
        found.append((step(model, batches, lr=1e-3).loss, gradients(model), dict(model.named_parameters())))
    assert found[0][0] == found[1][0]
    assert_same_bits(found[0][1], found[1][1])
    assert_same_bits(found[0][2], found[1][2])


@pytest.mark.parametrize("family", MASKED)
def test_computing_activations_again_changes_no_bit(save_family: Save, family: str) -> None:
    folder = save_family(family, kind="ForMaskedLM")
    kept, again = fresh(folder), fresh(folder)
    again.network.checkpointing = True
    batches = [masked(kept.network.config.vocab, lengths, seed) for seed, lengths in enumerate([[17, 17, 9], [12, 4]])]
    assert step(kept, batches).loss == step(again, batches).loss
    assert_same_bits(gradients(again), gradients(kept))
    other = fresh(folder)
    assert step(other, batches, seed=8).loss != step(kept, batches).loss or not has_dropout(other)


def has_dropout(model: Model) -> bool:
    return model.network.config.dropout > 0 or model.network.config.attention_dropout > 0


def test_gradients_are_added_in_the_order_of_batches_whichever_is_first() -> None:
    shared, rare = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    slow = threading.Event()

    def lose(number: int) -> None:
        with added.turn(number):
            if number == 0:
                slow.wait(5)  # the later ones have long been computed
            added.of((shared * 10**number).sum() + (rare.sum() if number == 2 else 0.0))
            order.append(number)

    order: list[int] = []
    with gradients_in_order([shared, rare]) as added, ThreadPoolExecutor(3) as pool:
        done = [pool.submit(lose, number) for number in range(3)]
        time.sleep(0.1)
        assert order == []
        assert shared.grad is None
        slow.set()
        assert all(one.result() is None for one in done)
    assert shared.grad is not None
    assert shared.grad.tolist() == [111.0] * 3
    assert rare.grad is not None
    assert rare.grad.tolist() == [1.0] * 3


def test_gradients_that_share_their_memory_are_held_apart() -> None:
    one, other = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    with gradients_in_order([one, other]) as added:
        for number in range(2):
            with added.turn(number):
                added.of((one + other).square().sum() + (one + other).sum())
    assert one.grad is not None
    assert other.grad is not None
    assert one.grad.tolist() == other.grad.tolist() == [2.0, 2.0]


@pytest.mark.parametrize("failing", [0, 1])
def test_a_batch_that_fails_ends_the_step(save_bert: Save, failing: int) -> None:
    model = fresh(save_bert(kind="BertForMaskedLM"))
    vocab = model.network.config.vocab
    batches = [masked(vocab, [9, 8], seed) for seed in range(4)]
    batches[failing].tokens.data[0] = vocab + 7
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises((IndexError, RuntimeError)):
            step(model, batches)
    finally:
        torch.set_num_threads(threads)
    assert step(model, batches[2:]).applied  # and the next one is as good as ever


def test_the_error_of_a_step_is_that_of_the_first_batch_that_fails() -> None:
    weight = torch.nn.Parameter(torch.ones(3))

    def lose(number: int) -> None:
        with added.turn(number):
            if number == 1:
                raise MemoryError("the real reason")
            time.sleep(0.05 * (number == 0))  # the first is on its way back when the second fails
            added.of(weight.sum())

    with gradients_in_order([weight]) as added, ThreadPoolExecutor(3) as pool:
        done = [pool.submit(lose, number) for number in range(3)]
        assert done[0].result() is None
        with pytest.raises(MemoryError, match="the real reason"):
            done[1].result()
        with pytest.raises(RuntimeError, match="a batch before this one"):
            done[2].result()


def test_without_gradients_the_vocabulary_loss_makes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.randn(5, 4), torch.nn.Parameter(torch.randn(9, 4))
    targets = torch.arange(5)
    expected = vocabulary_cross_entropy(x, weight, None, targets)[0]
    seen: list[bool] = []
    inner = losses._scores_to_slopes
    monkeypatch.setattr(
        losses, "_scores_to_slopes", lambda *a, slopes: (seen.append(slopes), inner(*a, slopes=slopes))[1]
    )
    with torch.no_grad():
        assert vocabulary_cross_entropy(x, weight, None, targets)[0] == pytest.approx(float(expected), rel=1e-6)
    assert seen == [False]


def test_dropout_of_a_seed_is_scaled_and_always_the_same() -> None:
    x = torch.ones(200_000, requires_grad=True)
    with seeded(3):
        first, second = dropout(x, 0.1), dropout(x, 0.1)
        with seeded(4):
            other = dropout(x, 0.1)
    with seeded(3):
        assert dropout(x, 0.1).equal(first)
    assert not first.equal(second)
    assert not first.equal(other)
    assert (first == 0).float().mean() == pytest.approx(0.1, abs=0.003)
    torch.testing.assert_close(first[first > 0], torch.full_like(first[first > 0], 1 / 0.9))
    first.sum().backward()
    assert x.grad is not None
    assert x.grad.equal(first.detach())
    assert dropout(x, 0.1, training=False) is x


@pytest.mark.parametrize(
    ("family", "name"),
    [("bert", "adamw"), ("deberta-v2", "adamw"), ("modernbert", "adamw"), ("bert", "muon"), ("bert", "stable-adamw")],
)
def test_one_batch_is_learned_by_heart(save_family: Save, family: str, name: str) -> None:
    model = fresh(save_family(family, kind="ForMaskedLM", std=0.05))
    vocab = model.network.config.vocab
    batches = [masked(vocab, [20, 15, 9]), masked(vocab, [12, 12], 1)]
    adam = AdamSettings(lr=5e-3, weight_decay=0.0)
    optimizer = OPTIMIZERS[name](parameter_groups(model, 0.0), adam)
    for number in range(150):
        if train_step(model, objective(vocab), batches, optimizer, Streams(CPU), seed=number, clip=1.0).loss < 0.01:
            break
    means = evaluate(model, objective(vocab), batches, Streams(CPU))
    assert means["accuracy"] == 1.0
    assert means["mlm"] < 0.02


def test_evaluation_has_no_dropout_changes_nothing_and_means_over_rows(save_bert: Save) -> None:
    model = fresh(save_bert(kind="BertForMaskedLM"), 0.1)
    before = copy.deepcopy(model.state_dict())
    vocab = model.network.config.vocab
    batches = [masked(vocab, lengths, seed, rate) for seed, (lengths, rate) in enumerate(MICRO)]
    first = evaluate(model, objective(vocab), batches, Streams(CPU))
    assert evaluate(model, objective(vocab), batches, Streams(CPU)) == first
    assert first["mlm"] == pytest.approx(
        evaluate(model, objective(vocab), [joined(batches)], Streams(CPU))["mlm"], rel=1e-6
    )
    assert model.training
    assert_same_bits(model.state_dict(), before)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_number_that_is_not_finite_leaves_weights_and_moments_alone(save_bert: Save, name: str) -> None:
    model = fresh(save_bert(kind="BertForMaskedLM"))
    vocab = model.network.config.vocab
    optimizer = OPTIMIZERS[name](parameter_groups(model, 0.01), AdamSettings())
    batch = masked(vocab, [9, 8])
    train_step(model, objective(vocab), [batch], optimizer, Streams(CPU))
    weight = next(model.network.layers[0].parameters())
    with torch.no_grad():
        kept, weight[0] = weight[0].clone(), torch.nan
    before = copy.deepcopy(dict(model.named_parameters())), copy.deepcopy(optimizer.state_dict())
    result = train_step(model, objective(vocab), [batch], optimizer, Streams(CPU), clip=1.0)
    assert not result.applied
    assert np.isnan(result.loss)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, before[0][name], equal_nan=True, atol=0, rtol=0)
    for i, state in optimizer.state_dict()["state"].items():
        assert_same_bits(state, before[1]["state"][i])
    with torch.no_grad():
        weight[0] = kept
    assert train_step(model, objective(vocab), [batch], optimizer, Streams(CPU), clip=1.0).applied


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_learning_rates_rise_then_fall(schedule: str) -> None:
    rates = [learning_rate(step, 1000, 100, schedule) for step in range(1000)]
    np.testing.assert_allclose(rates[:100], np.arange(1, 101) / 100)
    assert rates[100] == 1.0
    assert all(after <= before for before, after in pairwise(rates[100:]))
    assert all(rate > 0 for rate in rates)
    assert learning_rate(0, 1, 0, schedule) == 1.0
    assert rates[-1] == 1.0 if schedule == "constant" else rates[-1] < 0.04
