"""What a decoder loses on a source and a target, and the gradients of that, are transformers' own; and how batches are
made of many does not change them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file
from small_pairs import made
from torch import Tensor

from bothways import Encoder, EncoderDecoder
from bothways.data.batch import Batch, Numbers
from bothways.engine.streams import Streams
from bothways.nn.losses import vocabulary_cross_entropy
from bothways.objectives.objective import Model
from bothways.objectives.seq2seq import Continuation, SequenceToSequence
from bothways.train.networks import Networks, PairNetworks
from bothways.train.step import evaluate, train_step
from bothways.train.tables import tables_of

Save = Callable[..., Path]
KINDS = ["bert, bert", "bert, bert of another size", "bert, gpt2", "roberta, roberta", "bart", "t5", "t5, 1.1"]
LENGTHS = [(5, 7), (1, 1), (12, 3), (2, 16), (9, 9), (5, 2), (7, 7)]
START = 2


def rows(vocabs: tuple[int, int], seed: int = 0) -> list[tuple[Numbers, list[int]]]:
    """Sources and targets, without the ids of padding."""
    chance = np.random.default_rng(seed)
    return [
        (
            Numbers(chance.integers(4, vocabs[0], a).astype(np.int32), None, False),
            chance.integers(4, vocabs[1], b).tolist(),
        )
        for a, b in LENGTHS
    ]


def batch(objective: SequenceToSequence | Continuation, some: list[tuple[Numbers, list[int]]]) -> Batch:
    return objective.batch([source for source, _ in some], [target for _, target in some])


def undropped(model: Any) -> Any:
    """A model of transformers that is trained without dropout."""
    for part in model.modules():
        for name in ("p", "dropout", "dropout_prob", "attention_dropout", "activation_dropout", "dropout_rate"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)
    return model.train()


def padded(some: list[tuple[Numbers, list[int]]]) -> dict[str, Tensor]:
    """As transformers is given them."""

    def filled(lists: list[list[int]], value: int) -> Tensor:
        longest = max(map(len, lists))
        return torch.tensor([[*one, *[value] * (longest - len(one))] for one in lists])

    sources = [list(source.ids) for source, _ in some]
    mask = filled([[1] * len(source) for source in sources], 0)
    return {"input_ids": filled(sources, 0), "attention_mask": mask, "labels": filled([list(t) for _, t in some], -100)}


def losses_of(model: Model, objective: Any, parts: list[Batch]) -> float:
    """The mean loss of a step, whose gradients stay in the parameters."""
    for network in model.networks:
        network.filling = True
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.0)
    model.eval()  # nothing is dropped
    return train_step(model, objective, parts, optimizer, Streams(torch.device("cpu")), tables=tables_of(model)).loss


@pytest.fixture(params=KINDS)
def both(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[EncoderDecoder, Any]:
    """Ours and theirs, and the ids that targets begin with."""
    theirs = undropped(made(request.param, tmp_path))
    return EncoderDecoder.from_pretrained(tmp_path), theirs


def vocabs(pair: EncoderDecoder) -> tuple[int, int]:
    return pair.encoder.config.vocab, pair.decoder.config.vocab


def test_losses_and_gradients_are_those_of_transformers(both: tuple[EncoderDecoder, Any], tmp_path: Path) -> None:
    pair, theirs = both
    some = rows(vocabs(pair))
    objective = SequenceToSequence(pair.marks.start)
    model = PairNetworks(pair).model()
    loss = losses_of(model, objective, [batch(objective, some)])
    with pytest.warns(FutureWarning) if "Encoder" in type(theirs).__name__ else torch.enable_grad():
        expected = theirs(**padded(some)).loss
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    expected.backward()
    for parameter in model.parameters():  # the gradients, by the names of transformers
        parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    pair.save_pretrained(tmp_path / "gradients")
    found = load_file(tmp_path / "gradients" / "model.safetensors")
    named = {name: one.grad for name, one in theirs.named_parameters() if one.grad is not None}
    largest = max(float(one.abs().max()) for one in named.values())
    compared = found.keys() & named.keys()
    assert len(compared) >= len(named) - 1
    for name in compared:
        torch.testing.assert_close(found[name], named[name], atol=1e-5 * largest, rtol=1e-4)


def test_smoothed_losses_are_torchs(both: tuple[EncoderDecoder, Any]) -> None:
    pair, theirs = both
    some = rows(vocabs(pair))
    objective = SequenceToSequence(pair.marks.start, 0.2)
    loss = losses_of(PairNetworks(pair).model(), objective, [batch(objective, some)])
    inputs = padded(some)
    with pytest.warns(FutureWarning) if "Encoder" in type(theirs).__name__ else torch.enable_grad():
        logits = theirs(**inputs).logits
    expected = F.cross_entropy(logits.flatten(0, 1), inputs["labels"].flatten(), label_smoothing=0.2)
    assert loss == pytest.approx(expected.item(), rel=1e-5)


def test_a_step_in_parts_is_the_step_as_one(both: tuple[EncoderDecoder, Any]) -> None:
    """In any order, and one by one: the mean is over the tokens of all parts."""
    pair, _ = both
    some = rows(vocabs(pair))
    objective = SequenceToSequence(pair.marks.start, 0.1)
    model = PairNetworks(pair).model()
    whole = losses_of(model, objective, [batch(objective, some)])
    gradients = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    largest = max(float(one.abs().max()) for one in gradients.values())
    for parts in ([some[3:], some[:3]], [[one] for one in reversed(some)]):
        model.zero_grad()
        assert losses_of(model, objective, [batch(objective, part) for part in parts]) == pytest.approx(whole, rel=1e-5)
        for name, one in model.named_parameters():
            if name in gradients:
                torch.testing.assert_close(one.grad, gradients[name], atol=1e-5 * largest, rtol=1e-4)


def test_evaluation_counts_what_is_predicted_right(both: tuple[EncoderDecoder, Any]) -> None:
    pair, theirs = both
    some = rows(vocabs(pair))
    objective = SequenceToSequence(pair.marks.start)
    found = evaluate(
        PairNetworks(pair).model(), objective, [batch(objective, [one]) for one in some], Streams(torch.device("cpu"))
    )
    inputs = padded(some)
    with pytest.warns(FutureWarning) if "Encoder" in type(theirs).__name__ else torch.enable_grad():
        output = theirs(**inputs)
    told = inputs["labels"] != -100
    right = (output.logits.argmax(-1) == inputs["labels"])[told].float().mean()
    assert found == {"words": pytest.approx(output.loss.item(), rel=1e-5), "accuracy": pytest.approx(float(right))}


def test_a_decoder_alone_loses_on_its_targets_only(save_family: Save) -> None:
    folder = save_family("gpt2", kind="LMHeadModel", seed=5)
    theirs = undropped(transformers.GPT2LMHeadModel.from_pretrained(folder))
    encoder = Encoder.from_pretrained(folder)
    some = [one for one in rows((encoder.config.vocab,) * 2) if len(one[0]) + len(one[1]) <= encoder.config.longest]
    objective = Continuation()
    model = Networks(encoder).model()
    loss = losses_of(model, objective, [batch(objective, some[:2]), batch(objective, some[2:])])
    longest = max(len(source) + len(target) for source, target in some)
    ids, labels = (torch.full((len(some), longest), value) for value in (0, -100))
    for i, (source, target) in enumerate(some):
        ids[i, : len(source) + len(target)] = torch.tensor([*source.ids, *target])
        labels[i, len(source) : len(source) + len(target)] = torch.tensor(target)
    expected = theirs(input_ids=ids, labels=labels).loss
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    expected.backward()
    words = theirs.transformer.wte.weight.grad
    torch.testing.assert_close(
        model.network.embeddings.words.weight.grad, words, atol=1e-5 * float(words.abs().max()), rtol=1e-4
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("biased", [False, True])
def test_smoothing_over_a_vocabulary_is_torchs(smoothing: float, biased: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    x, weight = torch.randn(37, 8, generator=generator), torch.randn(211, 8, generator=generator)
    bias = torch.randn(211, generator=generator) if biased else None
    targets = torch.randint(0, 211, (37,), generator=generator)
    sides = [side for side in (x, weight, bias) if side is not None]
    ours, theirs = ([side.clone().requires_grad_() for side in sides] for _ in range(2))
    loss, right = vocabulary_cross_entropy(*ours[:2], ours[2] if biased else None, targets, smoothing=smoothing)
    scores = F.linear(*theirs[:2], theirs[2] if biased else None)
    expected = F.cross_entropy(scores, targets, reduction="sum", label_smoothing=smoothing)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert int(right) == int((scores.argmax(1) == targets).sum())
    for one, other in zip(torch.autograd.grad(loss, ours), torch.autograd.grad(expected, theirs)):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
