"""What objectives may be: those that strain the seam most.

Replaced-token detection (Clark et al. 2020) has two networks, and samples; a contrastive loss with in-batch negatives
(van den Oord et al. 2018, InfoNCE), which is written as a test, is no sum over batches.
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

from bothways import CheckpointError, ConfigError, Encoder
from bothways.data.batch import Batch
from bothways.data.packing import Packed
from bothways.engine.streams import Streams
from bothways.families import FAMILIES
from bothways.families.presets import Generator
from bothways.nn.drawing import BELOW_1, BLOCK, drawn
from bothways.nn.dropout import seeded, uniform
from bothways.nn.encoder import EncoderNetwork
from bothways.nn.heads import MaskedLanguageHead
from bothways.nn.layers import Embedding, initialise
from bothways.nn.sharing import SHARINGS, Sharing, folded, share, shifts, take_over
from bothways.objectives.choice import OBJECTIVES, check_heads, heads_of
from bothways.objectives.masking import Masking
from bothways.objectives.mlm import MaskedLanguageModelling
from bothways.objectives.objective import Joint, Losses, Model, Objective, Part
from bothways.objectives.pairs import SegmentPairs
from bothways.objectives.reading import Together
from bothways.objectives.rtd import ReplacedTokens
from bothways.ragged import Layout, Ragged
from bothways.train.optim import OPTIMIZERS, AdamSettings, optimizer_state, parameter_groups
from bothways.train.report import with_ratios
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


def step(
    model: Model, objective: Objective, batches: Sequence[Batch], lr: float = 0.0, seed: int = 7, clip: float = 0.0
) -> StepResult:
    """One step; with lr 0 the gradients stay to be looked at, and the weights as they are."""
    optimizer = OPTIMIZERS["adamw"](parameter_groups(model, 0.0), AdamSettings(lr=lr))
    return train_step(model, objective, batches, optimizer, Streams(CPU), seed=seed, clip=clip)


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


def electra(sharing: Sharing = "tied", dropout: float = 0.0) -> Model:
    """A discriminator of width 32 and a generator of width 16, with word vectors in common."""
    family = FAMILIES["electra"]
    config = replace(family.template, vocab=90, width=32, depth=2, heads=4, ffn=48, dropout=dropout)
    config = replace(config, embedding=replace(config.embedding, words=12), attention_dropout=dropout, init_std=0.15)
    network = EncoderNetwork(config, pooler=False)
    small = EncoderNetwork(Generator(1 / 2).of(config), pooler=False)
    rng = torch.Generator().manual_seed(0)
    for one in (network, small):
        initialise(one, config.init_std, rng)
    take_over(small, network)
    lm = MaskedLanguageHead(small.config, small.embeddings.words.weight)
    head = family.heads["rtd"].build(network, {}, ())
    for part in (lm.transform, lm.norm, head):
        initialise(part, config.init_std, rng)
    share(network, small, sharing)
    return Model(network, {"rtd": head}, Model(small, {"mlm": lm})).train()


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


def without_tables(found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: gradient for name, gradient in found.items() if not is_table(name)}


def is_table(name: str) -> bool:
    return name.endswith(("words.weight", "embeddings.positions.weight", "types.weight"))


def test_the_generator_learns_nothing_from_the_discriminator(rtd: ReplacedTokens) -> None:
    """Its gradients are those of masked language modelling alone; if disentangled, also those of its tables."""
    batches = corrupted(rtd, 90)
    for sharing in SHARINGS:
        both, alone = electra(sharing), electra(sharing)
        step(both, rtd, batches)
        assert both.generator is not None
        assert alone.generator is not None
        step(alone.generator, Together((rtd.masked,)), batches)
        expected, found = gradients(alone.generator), gradients(both.generator)
        if sharing == "tied":
            assert not expected["network.embeddings.words.weight"].equal(found["network.embeddings.words.weight"])
            expected, found = without_tables(expected), without_tables(found)
        assert_close(found, expected)


@pytest.mark.parametrize("sharing", ["disentangled", "none"])
def test_each_of_two_networks_is_clipped_by_itself(rtd: ReplacedTokens, sharing: Sharing) -> None:
    batches, clip = corrupted(rtd, 90), 0.01
    both, alone = electra(sharing), electra(sharing)
    assert alone.generator is not None
    whole = step(electra(sharing), rtd, batches)
    result = step(both, rtd, batches, clip=clip)
    step(alone.generator, Together((rtd.masked,)), batches, clip=clip)
    assert result.gradient == whole.gradient > clip
    found = {name: gradient for name, gradient in gradients(both).items() if name.startswith("generator.")}
    assert_close(found, {f"generator.{name}": gradient for name, gradient in gradients(alone.generator).items()})
    own = [gradient.norm() for name, gradient in gradients(both).items() if name not in found]
    assert float(torch.stack(own).norm()) == pytest.approx(clip, rel=1e-3)


def test_a_disentangled_shift_learns_what_a_table_of_its_own_would(rtd: ReplacedTokens) -> None:
    """The oracle's discriminator has plain tables with the same numbers; the shifts are not 0."""
    batches = corrupted(rtd, 90)
    shifted, plain = electra("disentangled"), electra("none")
    shared = shifts(shifted.network)
    assert shared.keys() == {"words", "positions", "types"}
    generator = torch.Generator().manual_seed(1)
    for name, shift in shared.items():
        assert not shift.any()
        shift.normal_(0.0, 0.1, generator=generator)
        getattr(plain.network.embeddings, name).weight.detach().add_(shift)
    with folded(shifted.network):
        for (name, one), other in zip(shifted.network.named_parameters(), plain.network.parameters(), strict=True):
            assert one.equal(other), name
    assert shifts(shifted.network).keys() == shared.keys()
    results = [step(model, rtd, batches) for model in (shifted, plain)]
    assert results[0].means == results[1].means
    assert_close(gradients(shifted), gradients(plain))


@pytest.mark.parametrize("sharing", SHARINGS)
def test_only_networks_of_the_same_shape_share(sharing: Sharing) -> None:
    model, narrow = electra("none"), electra("none")
    narrow.network.embeddings.types = Embedding(3, 12)
    other = model.generator
    assert other is not None
    if sharing == "none":
        share(narrow.network, other.network, sharing)
        return
    with pytest.raises(CheckpointError, match="the generator's types have another shape than the discriminator's"):
        share(narrow.network, other.network, sharing)
    if sharing == "tied":
        other.network.embeddings.words.weight.detach()[5, 3] += 1.0
        with pytest.raises(CheckpointError, match="the generator's words differ from the discriminator's; say sharing"):
            share(model.network, other.network, sharing)


def test_held_out_batches_are_sampled_the_same_each_time(rtd: ReplacedTokens) -> None:
    model, batches = electra(), corrupted(rtd, 90)
    means = evaluate(model, rtd, batches, Streams(CPU))
    torch.manual_seed(99)
    assert evaluate(model, rtd, batches, Streams(CPU)) == means
    assert set(means) == {"mlm", "rtd", "accuracy", "rtd_accuracy", "replaced", "flagged", "found"}


@pytest.mark.parametrize("sharing", ["tied", "disentangled"])
def test_two_networks_learn_one_batch_by_heart(rtd: ReplacedTokens, sharing: Sharing) -> None:
    model, batches = electra(sharing), corrupted(rtd, 90, [[20, 15, 9], [12, 12]])
    optimizer = OPTIMIZERS["adamw"](parameter_groups(model, 0.0), AdamSettings(lr=5e-3))
    results = [train_step(model, rtd, batches, optimizer, Streams(CPU), seed=i, clip=1.0) for i in range(60)]
    assert results[-1].means["mlm"] < 0.5 * results[0].means["mlm"]
    assert results[-1].means["rtd_accuracy"] > 0.9
    names = {place.rpartition("/")[0] for place in optimizer_state(model, optimizer)}
    assert names == dict(model.named_parameters()).keys()


def test_words_are_sampled_by_the_softmax_of_the_generator(rtd: ReplacedTokens) -> None:
    """Each as often as its chance says; so the share of replaced tokens is 1 - that of the true one."""
    head = MaskedLanguageHead(replace(electra().network.config, vocab=7))
    initialise(head, 0.4, torch.Generator().manual_seed(0))
    rows, many = torch.randn(1, 32, generator=torch.Generator().manual_seed(1)), 20_000
    chances = head(rows).softmax(1)[0].detach()
    assert float(chances.max()) < 0.6
    with seeded(5):
        numbers = uniform(many)
    every, targets = rows.expand(many, -1), torch.arange(many) % 7
    loss, correct, words = head.loss_and_words(every, targets, numbers)
    assert (loss, correct) == head.loss(every, targets)
    shares = torch.bincount(words, minlength=7) / many
    assert (shares - chances).abs().max() < 4 * (0.25 / many) ** 0.5
    assert head.loss_and_words(rows[:0], targets[:0], numbers[:0])[2].shape == (0,)
    model, (batch, *_) = electra(), corrupted(rtd, 90)
    answers = batch.labels["mlm"]
    assert answers.rows is not None
    assert model.generator is not None
    model.generator.heads["mlm"].decoder.bias.data[answers.values] += 4.0
    output = model.generator.network(batch.tokens, batch.types)
    scores = model.generator.heads["mlm"](output.last.data[answers.rows]).softmax(1)
    true = scores.gather(1, answers.values[:, None]).detach()
    expected, spread = float((1 - true).sum()), float((true * (1 - true)).sum()) ** 0.5
    counted = []
    for seed in range(100):
        with seeded(seed), torch.no_grad():
            counted.append(float(rtd.loss(model, batch).metrics["replaced"].total))
    assert expected < len(answers.values) - 0.8
    assert np.mean(counted) == pytest.approx(expected, abs=4 * spread / 10)


@pytest.mark.parametrize("vocab", [7, BLOCK, 2 * BLOCK + 90])
def test_a_sampled_word_is_where_its_number_falls_among_the_sums_of_the_chances(vocab: int) -> None:
    """Whatever is summed first; never one without a chance, such as what fills the last block."""
    generator = torch.Generator().manual_seed(vocab)
    scores = 4 * torch.randn(402, vocab, generator=generator)
    scores[:, ::3] = -torch.inf
    chances = torch.cat([torch.rand(400, generator=generator), torch.tensor([0.0, BELOW_1])])
    words = drawn(scores.exp(), chances)[:, None]
    shares = scores.double().softmax(1)
    behind = shares.cumsum(1).gather(1, words)[:, 0]
    before = behind - shares.gather(1, words)[:, 0]
    assert ((before - 1e-6 <= chances) & (chances <= behind + 1e-6)).all()
    assert (shares.gather(1, words) > 0).all()


def test_what_is_told_of_replaced_tokens_is_counted(rtd: ReplacedTokens, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: every second true word is kept, all others are replaced by the word 7; special tokens count, too."""
    model, (batch, *_) = electra(), corrupted(rtd, 90)
    answers = batch.labels["mlm"]
    assert answers.rows is not None
    words = torch.where(torch.arange(len(answers.values)) % 2 == 0, answers.values, 7)
    monkeypatch.setattr("bothways.nn.losses.drawn", lambda weights, chances: words)  # few rows: all at a time
    with torch.no_grad():
        found = rtd.loss(model, batch)
        ids = batch.tokens.data.clone()
        ids[answers.rows] = words
        head = model.heads["rtd"]
        said = head(model.network(Ragged(ids, batch.tokens.layout), batch.types).last)[:, 0] > 0
    replaced = torch.zeros(len(ids), dtype=torch.bool)
    replaced[answers.rows] = words != answers.values
    counts = {"replaced": replaced, "flagged": said, "found": replaced & said, "rtd_accuracy": replaced == said}
    for name, one in counts.items():
        part = found.metrics[name]
        assert (int(part.total), part.count) == (int(one.sum()), len(ids)), name
    shares = {name: float(one.float().mean()) for name, one in counts.items()}
    told = with_ratios(shares)
    assert told["rtd_recall"] == pytest.approx(int((replaced & said).sum()) / int(replaced.sum()))
    assert told["rtd_precision"] == pytest.approx(int((replaced & said).sum()) / int(said.sum()))
    assert "rtd_precision" not in with_ratios({**shares, "flagged": 0.0, "found": 0.0})


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_counts_what_it_loses_and_has_families(name: str) -> None:
    entry = OBJECTIVES[name]
    learning = []
    for family in FAMILIES.values():
        try:
            check_heads([name], family)
        except ConfigError:
            continue
        learning.append(family)
        (head,) = heads_of([name], family)
        assert head in entry.heads
        assert entry.generator is None or entry.generator in family.heads
    assert learning
    assert set(entry.beside) <= OBJECTIVES.keys()


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
    steady = True

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
