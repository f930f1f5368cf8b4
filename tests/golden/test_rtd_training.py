"""Replaced-token detection gives the losses and gradients of transformers' ELECTRA: of generator and discriminator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from test_mlm_training import LENGTHS, MASK, SPECIAL, gradients_by_their_names, padded, without_dropout
from torch import Tensor

from bothways import Encoder
from bothways.data.batch import Batch
from bothways.data.packing import Packed
from bothways.engine.streams import Streams
from bothways.nn.sharing import take_over
from bothways.objectives.masking import Masking
from bothways.objectives.mlm import MaskedLanguageModelling
from bothways.objectives.rtd import ReplacedTokens
from bothways.train.networks import Networks
from bothways.train.optim import OPTIMIZERS, AdamSettings, parameter_groups
from bothways.train.step import train_step

Save = Callable[..., Path]
CLOSE = 1e-5
TABLES = ("word_embeddings", "position_embeddings", "token_type_embeddings")
SMALLER = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}


def masked_batch(objective: ReplacedTokens, vocab: int) -> Batch:
    """Six sequences of five lengths, each with tokens that are special."""
    rng = np.random.default_rng(0)
    ids, ends = rng.integers(5, vocab, sum(LENGTHS)), np.cumsum(LENGTHS)
    special = np.isin(np.arange(len(ids)), [*(ends - 1), *(ends - LENGTHS)])
    ids[special] = 2
    return objective.corrupt(Packed(ids, ~special, special, LENGTHS), rng)


def judged(batch: Batch, words: Tensor, padding: int) -> dict[str, Tensor]:
    """What the discriminator of transformers gets: the words in their places, 1 where they are not the true ones."""
    answers = batch.labels["mlm"]
    assert answers.rows is not None
    original = batch.tokens.data.index_copy(0, answers.rows, answers.values)
    ids = original.index_copy(0, answers.rows, words)
    lengths = list(batch.tokens.layout.lengths)

    def rectangle(x: Tensor, fill: int) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(list(x.split(lengths)), batch_first=True, padding_value=fill)

    attention = rectangle(torch.ones_like(ids), 0)
    return {
        "input_ids": rectangle(ids, padding),
        "attention_mask": attention,
        "labels": rectangle((ids != original).long(), 0),
    }


def theirs(discriminator: Path, generator: Path, sharing: str) -> tuple[Any, Any]:
    """Both models of transformers; tied they have the same tables."""
    first = transformers.ElectraForPreTraining.from_pretrained(discriminator).train()
    second = transformers.ElectraForMaskedLM.from_pretrained(generator).train()
    if sharing == "tied":
        for name in TABLES:
            setattr(second.electra.embeddings, name, getattr(first.electra.embeddings, name))
        second.tie_weights()
    return first, second


@pytest.mark.parametrize("sharing", ["tied", "none"])
def test_losses_and_all_gradients_are_those_of_transformers(
    save_family: Save, sharing: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = without_dropout(save_family("electra", kind="ForPreTraining"))
    beside = without_dropout(save_family("electra", kind="ForMaskedLM", seed=1, **SMALLER))
    first, second = theirs(folder, beside, sharing)
    encoder, generator = Encoder.from_pretrained(folder), Encoder.from_pretrained(beside)
    if sharing == "tied":
        take_over(generator.network, encoder.network)
    Networks(encoder, generator).save(tmp_path / "both")
    both = Networks.read(tmp_path / "both", sharing)
    assert both.generator is not None
    vocab, padding = encoder.config.vocab, first.config.pad_token_id
    objective = ReplacedTokens(MaskedLanguageModelling(vocab, MASK, SPECIAL, Masking(rate=0.3)))
    batch = masked_batch(objective, vocab)
    targets = batch.labels["mlm"].values
    words = torch.where(torch.arange(len(targets)) % 3 == 0, targets, (targets + 5) % vocab)
    monkeypatch.setattr("bothways.nn.losses.drawn", lambda weights, chances: words)  # few rows: all at a time
    model = both.model().train()
    optimizer = OPTIMIZERS["adamw"](parameter_groups(model, 0.0), AdamSettings(lr=0.0))
    result = train_step(model, objective, [batch], optimizer, Streams(torch.device("cpu")))
    said, filled = first(**judged(batch, words, padding)), second(**padded(batch, padding))
    assert result.means["rtd"] == pytest.approx(float(said.loss.detach()), rel=CLOSE)
    assert result.means["mlm"] == pytest.approx(float(filled.loss.detach()), rel=CLOSE)
    (filled.loss + 50.0 * said.loss).backward()
    furthest, largest = 0.0, 0.0
    for ours, model_of_theirs, kind in [
        (both.encoder, first, transformers.ElectraForPreTraining),
        (both.generator, second, transformers.ElectraForMaskedLM),
    ]:
        found = gradients_by_their_names(ours, tmp_path / kind.__name__, kind)
        expected = {key: p.grad for key, p in model_of_theirs.named_parameters() if p.grad is not None}
        assert found.keys() == expected.keys()
        largest = max(largest, *(float(gradient.abs().max()) for gradient in expected.values()))
        furthest = max(furthest, *(float((found[key].detach() - one).abs().max()) for key, one in expected.items()))
    print(f"{sharing}: gradients {furthest / largest:.1e} of the largest")
    assert furthest < CLOSE * largest
