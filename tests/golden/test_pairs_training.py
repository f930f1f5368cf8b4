"""Masked words beside next sentences, and beside sentence order, give transformers' losses and gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from test_mlm_training import MASK, SPECIAL, gradients_by_their_names, without_dropout
from torch import Tensor

from bothways import Encoder
from bothways.data.batch import Batch
from bothways.data.pairs import Pairing, PairPacking
from bothways.engine.streams import Streams
from bothways.objectives.masking import Masking
from bothways.objectives.mlm import MaskedLanguageModelling
from bothways.objectives.objective import Model
from bothways.objectives.pairs import SegmentPairs
from bothways.objectives.reading import Together
from bothways.train.optim import OPTIMIZERS, AdamSettings, parameter_groups
from bothways.train.step import train_step

Save = Callable[..., Path]
CLOSE = 1e-5


class Text:
    """Six documents of six sentences of 3 to 8 tokens and twelve of one, as a shard."""

    lengths = np.random.default_rng(0).integers(3, 9, 48)
    sentences = np.cumsum([0, *lengths])
    tokens = np.random.default_rng(1).integers(5, 90, sentences[-1]).astype("<u2")
    words = np.ones(len(tokens), "u1")
    documents = np.array([*range(0, 36, 6), *range(36, 49)])


def ragged_batch(name: str, kind: Pairing) -> tuple[Together, Batch]:
    objective = Together((MaskedLanguageModelling(90, MASK, SPECIAL, Masking(rate=0.3)), SegmentPairs(name, (name,))))
    packing = PairPacking(kind, [Text()], longest=24, budget=192, before=2, after=3, seed=2)
    return objective, objective.corrupt(packing(0, 0), np.random.default_rng(0))


def padded(batch: Batch, padding: int, name: str) -> dict[str, Tensor]:
    """As transformers takes it: -100 where nothing is predicted, also for sequences that are no pair."""
    words, pairs = batch.labels["mlm"], batch.labels[name]
    assert words.rows is not None
    assert pairs.rows is not None
    assert batch.types is not None
    lengths = list(batch.tokens.layout.lengths)

    def rectangle(x: Tensor, fill: int) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(list(x.split(lengths)), batch_first=True, padding_value=fill)

    every = torch.full_like(batch.tokens.data, -100)
    firsts = torch.tensor(batch.tokens.layout.starts)
    return {
        "input_ids": rectangle(batch.tokens.data, padding),
        "token_type_ids": rectangle(batch.types, 0),
        "attention_mask": rectangle(torch.ones_like(every), 0),
        "labels": rectangle(every.index_copy(0, words.rows, words.values), -100),
        ("next_sentence_label" if name == "nsp" else "sentence_order_label"): every.index_copy(
            0, pairs.rows, pairs.values
        )[firsts],
    }


@pytest.mark.parametrize(
    ("family", "kind", "name", "pairing"),
    [
        ("bert", transformers.BertForPreTraining, "nsp", Pairing("next")),
        ("bert", transformers.BertForPreTraining, "nsp", Pairing("next", "same")),
        ("albert", transformers.AlbertForPreTraining, "sop", Pairing("order")),
    ],
    ids=["nsp", "nsp-same", "sop"],
)
def test_losses_and_all_gradients_are_those_of_transformers(
    save_family: Save, family: str, kind: Any, name: str, pairing: Pairing, tmp_path: Path
) -> None:
    folder = without_dropout(save_family(family, kind="ForPreTraining"))
    encoder, theirs = Encoder.from_pretrained(folder), kind.from_pretrained(folder).train()
    assert list(encoder.heads) == ["mlm", name]
    objective, batch = ragged_batch(name, pairing)
    labels = batch.labels[name].values
    assert 0 < int(labels.sum()) < len(labels) < len(batch.tokens)  # both kinds, and sequences that are no pair
    assert len(set(batch.tokens.layout.lengths)) > 2
    model = Model(encoder.network, encoder.heads).train()
    optimizer = OPTIMIZERS["adamw"](parameter_groups(model, 0.0), AdamSettings(lr=0.0))
    result = train_step(model, objective, [batch], optimizer, Streams(torch.device("cpu")))
    said = theirs(**padded(batch, theirs.config.pad_token_id, name))
    said.loss.backward()
    assert result.loss == pytest.approx(float(said.loss.detach()), rel=CLOSE)
    ours = gradients_by_their_names(encoder, tmp_path / "gradients", kind)
    expected = {key: p.grad for key, p in theirs.named_parameters() if p.grad is not None}
    assert expected.keys() == dict(theirs.named_parameters()).keys() == ours.keys()
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    furthest = max(float((ours[key].detach() - gradient).abs().max()) for key, gradient in expected.items()) / largest
    print(f"{kind.__name__}: loss {result.loss - float(said.loss.detach()):.1e}, gradients {furthest:.1e}")
    assert furthest < CLOSE
    logits = said.seq_relationship_logits if name == "nsp" else said.sop_logits
    pairs = batch.labels[name].rows
    assert pairs is not None
    rows = [i for i, start in enumerate(batch.tokens.layout.starts) if start in pairs.tolist()]
    assert result.means[f"{name}_accuracy"] == pytest.approx(float((logits[rows].argmax(1) == labels).float().mean()))
