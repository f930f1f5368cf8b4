"""What objectives may be: two that strain the seam more than those that are here, written as tests of it.

Replaced-token detection (Clark et al. 2020) has two networks, and samples; a contrastive loss with in-batch negatives
(van den Oord et al. 2018, InfoNCE) is no sum over batches.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bothways import Encoder
from bothways.data.batch import Batch
from bothways.data.packing import Packed
from bothways.engine.streams import Streams
from bothways.families import FAMILIES
from bothways.nn.dropout import seeded, uniform
from bothways.nn.encoder import EncoderNetwork
from bothways.nn.heads import Classifier, MaskedLanguageHead
from bothways.nn.layers import initialise
from bothways.objectives.masking import Masking
from bothways.objectives.mlm import MaskedLanguageModelling
from bothways.objectives.objective import Joint, Losses, Model, Objective, Part
from bothways.objectives.pairs import SegmentPairs
from bothways.objectives.reading import Together
from bothways.ragged import Layout, Ragged
from bothways.train.optim import OPTIMIZERS, AdamSettings, optimizer_state, parameter_groups
from bothways.train.step import StepResult, evaluate, train_step

Save = Callable[..., Path]
CPU = torch.device("cpu")
MASK, SPECIAL = 4, frozenset(range(5))
MICRO = [[20, 20, 13], [3], [24, 9, 9, 9, 5], [7, 6]]
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def packed(vocab: int, lengths: Sequence[int], seed: int) -> Packed:
    rng = np.random.default_rng(seed)
    ids, ends = rng.integers(5, vocab, sum(lengths)), np.cumsum(lengths)
    special = np.isin(np.arange(len(ids)), [*(ends - 1), *(ends - lengths)])
    ids[special] = 2
    return Packed(ids, ~special, special, tuple(lengths))


def corrupted(objective: Objective, vocab: int, micro: Sequence[Sequence[int]] = MICRO) -> list[Batch]:
    return [
        objective.corrupt(packed(vocab, lengths, seed), np.random.default_rng(seed))
        for seed, lengths in enumerate(micro)
    ]


def step(model: Model, objective: Objective, batches: Sequence[Batch], lr: float = 0.0, seed: int = 7) -> StepResult:
    """One step; with lr 0 the gradients stay to be looked at, and the weights as they are."""
    optimizer = OPTIMIZERS["adamw"](parameter_groups(model, 0.0), AdamSettings(lr=lr))
    return train_step(model, objective, batches, optimizer, Streams(CPU), seed=seed)


def gradients(model: Model) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_close(some: dict[str, Tensor], others: dict[str, Tensor]) -> None:
    assert some.keys() == others.keys()
    largest = max(float(gradient.abs().max()) for gradient in others.values())
    for name, gradient in some.items():
        torch.testing.assert_close(gradient, others[name], atol=1e-5 * largest, rtol=0, msg=name)


def on_threads(count: int, run: Callable[[], StepResult]) -> StepResult:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        return run()
    finally:
        torch.set_num_threads(before)


# Replaced-token detection: a generator fills the masks, a discriminator says of every token whether it is the true one.


class Generator(nn.Module):
    """A narrower network with its own masked-language head, and the discriminator's word vectors."""

    def __init__(self, network: EncoderNetwork, lm: MaskedLanguageHead) -> None:
        super().__init__()
        self.network, self.lm = network, lm


@dataclass(frozen=True)
class ReplacedTokens:
    masked: MaskedLanguageModelling
    heads: tuple[str, ...] = ("generator", "rtd")
    losses: Mapping[str, float] = field(default_factory=lambda: {"mlm": 1.0, "rtd": 50.0})

    def corrupt(self, packed: Packed, rng: np.random.Generator) -> Batch:
        return Together((self.masked,)).corrupt(packed, rng)

    def counts(self, batch: Batch) -> Mapping[str, int]:
        return {**self.masked.counts(batch), "rtd": batch.tokens.layout.total}

    def predicted(self, length: float) -> float:
        return self.masked.predicted(length)

    def loss(self, model: Model, batch: Batch) -> Losses:
        generator, head, answers = model.heads["generator"], model.heads["rtd"], batch.labels["mlm"]
        assert isinstance(generator, Generator)
        assert isinstance(head, Classifier)
        assert answers.rows is not None
        output = generator.network(batch.tokens, batch.types)
        rows = generator.lm.states(output).index_select(0, answers.rows)
        total, correct = generator.lm.loss(rows, answers.values)
        filled = self.sampled(generator.lm(rows.detach()).detach().float())
        original = batch.tokens.data.index_copy(0, answers.rows, answers.values)
        ids = batch.tokens.data.index_copy(0, answers.rows, filled)
        scores = head(model.network(Ragged(ids, batch.tokens.layout), batch.types).last)[:, 0].float()
        replaced = (ids != original).float()
        lost = F.binary_cross_entropy_with_logits(scores, replaced, reduction="sum")
        right, masks, tokens = ((scores > 0) == (replaced > 0)).sum(), len(filled), len(ids)
        return Losses(
            {"mlm": Part(total, masks), "rtd": Part(lost, tokens)},
            {"accuracy": Part(correct, masks), "rtd_accuracy": Part(right, tokens)}
            | {"replaced": Part(replaced.sum(), tokens)},
        )

    def sampled(self, scores: Tensor) -> Tensor:
        """A word for each row, by the softmax: one number of chance a row."""
        below = scores.softmax(1).cumsum(1)
        chance = uniform(len(scores), scores.device)[:, None] * below[:, -1:]
        return torch.searchsorted(below, chance, right=True)[:, 0].clamp(max=scores.shape[1] - 1)


def electra(dropout: float = 0.0) -> Model:
    """A discriminator of width 32 and a generator of width 16, with word vectors in common."""
    family = FAMILIES["electra"]
    config = replace(family.template, vocab=90, width=32, depth=2, heads=4, ffn=48, dropout=dropout)
    config = replace(config, embedding=replace(config.embedding, words=12), attention_dropout=dropout, init_std=0.15)
    network = EncoderNetwork(config, pooler=False)
    small = EncoderNetwork(replace(config, width=16, heads=2, ffn=24), pooler=False)
    rng = torch.Generator().manual_seed(0)
    for one in (network, small):
        initialise(one, config.init_std, rng)
    small.embeddings.words.weight = network.embeddings.words.weight
    generator = Generator(small, MaskedLanguageHead(small.config, network.embeddings.words.weight))
    head = family.heads["rtd"].build(network, {}, ())
    for part in (generator.lm.transform, generator.lm.norm, head):
        initialise(part, config.init_std, rng)
    return Model(network, {"generator": generator, "rtd": head}).train()


@pytest.fixture
def rtd() -> ReplacedTokens:
    return ReplacedTokens(MaskedLanguageModelling(90, MASK, SPECIAL, Masking(rate=0.3, mask=1.0, random=0.0)))


def test_two_networks_learn_in_one_step_with_chances_of_the_step(rtd: ReplacedTokens) -> None:
    batches = corrupted(rtd, 90)
    found = []
    for threads, seed in [(1, 7), (2, 7), (1, 8)]:
        model = electra(dropout=0.1)
        result = on_threads(threads, lambda model=model, seed=seed: step(model, rtd, batches, lr=1e-3, seed=seed))
        assert result.applied
        assert result.loss == pytest.approx(result.means["mlm"] + 50 * result.means["rtd"])
        assert 0.1 < result.means["replaced"] < 0.4
        found.append((result, dict(model.named_parameters()), gradients(model)))
    assert found[0][0] == found[1][0] != found[2][0]
    assert all(weight.equal(found[1][1][name]) for name, weight in found[0][1].items())
    assert found[0][2].keys() == dict(electra().named_parameters()).keys()
    assert sum("words.weight" in name for name in found[0][2]) == 1  # shared, and there once


def test_the_generator_learns_nothing_from_the_discriminator(rtd: ReplacedTokens) -> None:
    """Its gradients are those of masked language modelling alone."""
    both, alone = electra(), electra()
    batches = corrupted(rtd, 90)
    step(both, rtd, batches)
    generator = alone.heads["generator"]
    assert isinstance(generator, Generator)
    only = Model(generator.network, {"mlm": generator.lm}).train()
    step(only, Together((rtd.masked,)), batches)
    expected = {f"heads.generator.{name}": g for name, g in gradients(only).items() if "words" not in name}
    found = {name: g for name, g in gradients(both).items() if name.startswith("heads.generator")}
    renamed = {name.replace("heads.generator.heads.mlm", "heads.generator.lm"): g for name, g in expected.items()}
    assert_close(found, renamed)


def test_held_out_batches_are_sampled_the_same_each_time(rtd: ReplacedTokens) -> None:
    model, batches = electra(), corrupted(rtd, 90)
    means = evaluate(model, rtd, batches, Streams(CPU))
    torch.manual_seed(99)
    assert evaluate(model, rtd, batches, Streams(CPU)) == means
    assert set(means) == {"mlm", "rtd", "accuracy", "rtd_accuracy", "replaced"}


def test_two_networks_learn_one_batch_by_heart(rtd: ReplacedTokens) -> None:
    model, batches = electra(), corrupted(rtd, 90, [[20, 15, 9], [12, 12]])
    optimizer = OPTIMIZERS["adamw"](parameter_groups(model, 0.0), AdamSettings(lr=5e-3))
    results = [train_step(model, rtd, batches, optimizer, Streams(CPU), seed=i, clip=1.0) for i in range(80)]
    assert results[-1].means["mlm"] < 0.5 * results[0].means["mlm"]
    assert results[-1].means["rtd_accuracy"] > 0.9
    names = {place.rpartition("/")[0] for place in optimizer_state(model, optimizer)}
    assert names == dict(model.named_parameters()).keys()


def test_chances_are_even_and_those_of_the_seed() -> None:
    with seeded(3):
        first = uniform(100_000)
    with seeded(3):
        assert uniform(100_000).equal(first)
    assert first.min() >= 0
    assert first.max() < 1
    assert float(first.mean()) == pytest.approx(0.5, abs=0.005)
    assert not uniform(5).equal(uniform(5))


# A contrastive loss: each sequence is to be nearest to itself under another dropout, or another mask.


@dataclass(frozen=True)
class Contrastive:
    """Means of two sequences that follow each other are to be near; all others of the step are in the way."""

    heads: tuple[str, ...] = ("scale",)
    losses: Mapping[str, float] = field(default_factory=lambda: {"contrastive": 1.0})

    def corrupt(self, packed: Packed, rng: np.random.Generator) -> Batch:
        return Together(()).corrupt(packed, rng)

    def counts(self, batch: Batch) -> Mapping[str, int]:
        return {"contrastive": len(batch.tokens) // 2}

    def predicted(self, length: float) -> float:
        return 0.0

    def loss(self, model: Model, batch: Batch) -> Losses:
        return self.joint(model, [self.states(model, batch)], [batch])

    def states(self, model: Model, batch: Batch) -> Tensor:
        return F.normalize(model.network(batch.tokens, batch.types).last.mean(), dim=1)

    def joint(self, model: Model, states: Sequence[Tensor], batches: Sequence[Batch]) -> Losses:
        pairs = torch.cat(list(states)).unflatten(0, (-1, 2))
        scores = model.heads["scale"](pairs[:, 0] @ pairs[:, 1].T)
        gold = torch.arange(len(pairs))
        right = (scores.argmax(1) == gold).sum()
        lost = F.cross_entropy(scores, gold, reduction="sum")
        return Losses({"contrastive": Part(lost, len(pairs))}, {"accuracy": Part(right, len(pairs))})


class Scale(nn.Module):
    """A temperature that is learnt: the loss itself has a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(5.0))

    def forward(self, scores: Tensor) -> Tensor:
        return scores * self.factor


PAIRS = [[20, 17, 9, 9], [5, 4], [24, 3, 9, 12, 5, 6]]


def joined(batches: Sequence[Batch]) -> Batch:
    layout = Layout.of([length for batch in batches for length in batch.tokens.layout.lengths])
    tokens = Ragged(torch.cat([batch.tokens.data for batch in batches]), layout)
    return Batch(tokens, None, tuple(range(len(layout))))


def contrasting(folder: Path) -> Model:
    return Model(Encoder.from_pretrained(folder).network, {"scale": Scale()}).train()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_loss_over_all_batches_has_the_gradients_of_one_batch(
    save_bert: Save, threads: int, checkpointing: bool
) -> None:
    objective, folder = Contrastive(), save_bert(tokenizer=False, **NO_DROPOUT)
    assert isinstance(objective, Joint)
    one, many = contrasting(folder), contrasting(folder)
    many.network.checkpointing = checkpointing
    batches = corrupted(objective, 90, PAIRS)
    whole = step(one, objective, [joined(batches)])
    parts = on_threads(threads, lambda: step(many, objective, batches))
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    assert parts.means["accuracy"] == whole.means["accuracy"]
    assert parts.gradient == pytest.approx(whole.gradient, rel=1e-4)
    assert_close(gradients(many), gradients(one))
    assert float(gradients(many)["heads.scale.factor"].abs()) > 0
    alone = [step(contrasting(folder), objective, [batch]).loss for batch in batches]
    assert whole.loss > max(alone)  # it is no mean of the batches' own losses


@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_dropout_dropped_is_dropped_again_on_the_way_back(save_bert: Save, checkpointing: bool) -> None:
    """The oracle keeps all batches' graphs, and goes back once."""
    objective, folder = Contrastive(), save_bert(tokenizer=False)
    one, many = contrasting(folder), contrasting(folder)
    many.network.checkpointing = checkpointing
    assert one.network.config.dropout == 0.1
    batches = corrupted(objective, 90, PAIRS)
    states = []
    for number, batch in enumerate(batches):
        with seeded(7 + number):
            states.append(objective.states(one, batch))
    part = objective.joint(one, states, batches).losses["contrastive"]
    (part.total / part.count).backward()
    result = step(many, objective, batches)
    assert result.loss == pytest.approx(float(part.total.detach()) / part.count, rel=1e-6)
    assert_close(gradients(many), gradients(one))


# Readings of one forward.


def test_readings_together_add_what_each_alone_would_give(save_bert: Save) -> None:
    """Gradients of the sum of two means with counts of their own."""
    folder = save_bert(kind="BertForPreTraining", tokenizer=False, **NO_DROPOUT)
    masked, pairs = MaskedLanguageModelling(90, MASK, SPECIAL, Masking(rate=0.3)), SegmentPairs("nsp", ("nsp",))
    models = []
    for _ in range(3):
        encoder = Encoder.from_pretrained(folder)
        models.append(Model(encoder.network, encoder.heads).train())
    both = Together((masked, pairs))
    assert both.heads == ("mlm", "nsp")
    assert both.losses == {"mlm": 1.0, "nsp": 1.0}
    batches = []
    for seed, lengths in enumerate(MICRO):
        labels = np.random.default_rng(seed).integers(-1, 2, len(lengths)) if len(lengths) > 1 else np.array([-1])
        source = packed(90, lengths, seed)
        paired = Packed(source.ids, source.words, source.special, source.lengths, np.zeros_like(source.ids), labels)
        batches.append(both.corrupt(paired, np.random.default_rng(seed)))
    counts = [both.counts(batch) for batch in batches]
    assert any(count["nsp"] == 0 for count in counts)
    result = step(models[0], both, batches)
    first, second = step(models[1], Together((masked,)), batches), step(models[2], Together((pairs,)), batches)
    assert result.loss == pytest.approx(first.loss + second.loss)
    assert result.means == pytest.approx({**first.means, **second.means})
    expected = copy.deepcopy(gradients(models[1]))
    for name, gradient in gradients(models[2]).items():
        expected[name] = gradient + expected[name] if name in expected else gradient
    assert_close(gradients(models[0]), expected)
    assert set(result.means) == {"mlm", "accuracy", "nsp", "nsp_accuracy"}
