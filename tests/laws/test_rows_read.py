"""What nobody reads of the last layer is not computed; what is read is what it would be if all were."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import families_with, language_head
from torch import Tensor

from bothways import Encoder, Layout, Ragged
from bothways.data.packing import Packed
from bothways.engine.backends import BACKENDS, place
from bothways.families import FAMILIES
from bothways.nn.heads import MaskDecoder, rows_of_last
from bothways.nn.pooling import POOLINGS, pool, rows_pooled
from bothways.objectives.masking import Masking
from bothways.objectives.mlm import MaskedLanguageModelling
from bothways.objectives.objective import Model
from bothways.objectives.pairs import SegmentPairs
from bothways.objectives.reading import Together

Save = Callable[..., Path]


def texts_of(vocab: int, lengths: list[int], seed: int = 0) -> Ragged:
    generator = torch.Generator().manual_seed(seed)
    return Ragged.of([torch.randint(0, vocab, (length,), generator=generator) for length in lengths])


def chosen(layout: Layout, share: float, seed: int = 0) -> Ragged:
    """Some of the rows, of some sequences perhaps none."""
    taken = torch.rand(layout.total, generator=torch.Generator().manual_seed(seed)) < share
    rows = taken.nonzero()[:, 0]
    return Ragged(rows, Layout.of([int((layout.segments[rows] == i).sum()) for i in range(len(layout))]))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rows_that_are_read_have_the_bits_that_they_have_among_all(
    save_family: Save, variant: tuple[str, dict[str, Any]], precision: str
) -> None:
    family, keys = variant
    encoder = Encoder.from_pretrained(save_family(family, tokenizer=False, **keys))
    network = BACKENDS["eager"](encoder.network, place("cpu", precision))
    longest = encoder.config.longest
    for lengths in ([1], [longest], [3, longest, 1, 2, longest - 1, 5, 5], [2] * 40):
        tokens = texts_of(encoder.config.vocab, lengths)
        with torch.inference_mode():
            every = network(tokens).last
            firsts = rows_pooled(tokens.layout, ("cls",)) or Ragged(torch.arange(len(lengths)), tokens.layout)
            for rows in (firsts, *(chosen(tokens.layout, share) for share in (0.1, 0.5, 1.0))):
                output = network(tokens, rows=rows)
                assert torch.equal(output.last.data, every.data[rows.data])
                assert output.last.layout.lengths == rows.layout.lengths
                assert torch.equal(output.at(rows.data[::2]), every.data[rows.data[::2]])


@pytest.mark.parametrize("share", [0.0, 0.2])
@pytest.mark.parametrize("filling", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_a_loss_over_some_rows_of_all(
    save_family: Save, family: str, filling: bool, checkpointing: bool, share: float
) -> None:
    network = Encoder.from_pretrained(save_family(family, tokenizer=False)).network
    network.filling, network.checkpointing = filling, checkpointing
    tokens = texts_of(network.config.vocab, [7, 1, 12, 3])
    rows, found = chosen(tokens.layout, share), list[tuple[Tensor, ...]]()
    weights = torch.randn(len(rows.data), network.config.width, generator=torch.Generator().manual_seed(2))
    parameters = [one for name, one in network.named_parameters() if not name.startswith("pooler")]
    for states in (network(tokens).last.data[rows.data], network(tokens, rows=rows).last.data):
        found.append((states.detach(), *torch.autograd.grad((states * weights).sum(), parameters, allow_unused=True)))
    for whole, some in zip(*found, strict=True):
        if whole is not None:
            torch.testing.assert_close(torch.zeros_like(whole) if some is None else some, whole, atol=1e-5, rtol=1e-5)


def packed(vocab: int, lengths: list[int], pairs: bool) -> Packed:
    ids = texts_of(vocab, lengths).data.numpy().copy()
    special = np.zeros(len(ids), bool)
    special[np.cumsum([0, *lengths[:-1]])] = True
    said = np.arange(len(lengths)) % 2 if pairs else None
    return Packed(ids, ~special, special, tuple(lengths), None, said)


CASES = [
    *((family, "ForMaskedLM") for family in families_with("ForMaskedLM") if language_head(family) == "mlm"),
    ("bert", "ForPreTraining"),
    ("albert", "ForPreTraining"),
]


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_masked_words_and_pairs_lose_what_they_lose_where_all_rows_are_computed(
    save_family: Save, family: str, kind: str
) -> None:
    pairs = kind == "ForPreTraining"
    encoder = Encoder.from_pretrained(save_family(family, kind=kind, tokenizer=False))
    vocab = encoder.config.vocab
    words = MaskedLanguageModelling(vocab, 4, frozenset({0, 1, 2, 3, 4}), Masking(rate=0.2))
    both = (SegmentPairs("nsp", ("nsp", "sop")),) if pairs else ()
    objective = Together((words, *both))
    batch = objective.corrupt(packed(vocab, [9, 4, 14, 20], pairs), np.random.default_rng(0))
    assert batch.rows is not None
    asked = torch.cat([answers.rows for answers in batch.labels.values() if answers.rows is not None])
    assert batch.rows.data.tolist() == sorted({*asked.tolist()})
    assert len(batch.rows.layout) == 4
    assert batch.rows.layout.total == len(batch.rows.data)
    model = Model(encoder.network, encoder.heads).train(False)
    parameters, found = list(model.parameters()), []
    for one in (batch, replace(batch, rows=None)):
        losses = objective.loss(model, one).losses
        total = torch.stack([part.total for part in losses.values()]).sum()
        found.append([total.detach(), *torch.autograd.grad(total, parameters, allow_unused=True)])
    for some, whole in zip(*found, strict=True):
        if whole is not None:
            torch.testing.assert_close(torch.zeros_like(whole) if some is None else some, whole, atol=1e-5, rtol=1e-4)


def test_where_half_the_rows_are_asked_about_all_are_computed() -> None:
    words = MaskedLanguageModelling(50, 4, frozenset({0, 1, 2, 3, 4}), Masking(rate=0.8))
    batch = Together((words,)).corrupt(packed(50, [30, 30], False), np.random.default_rng(0))
    assert batch.rows is None


def test_a_mask_decoder_with_positions_reads_nothing_of_the_last_layer(save_family: Save) -> None:
    encoder = Encoder.from_pretrained(save_family("deberta-v2", kind="ForMaskedLM", tokenizer=False))
    decoder = MaskDecoder(encoder.network, encoder.heads["mlm"])  # type: ignore[arg-type]
    assert decoder.positions is not None
    torch.nn.init.normal_(decoder.positions.weight)
    tokens = texts_of(encoder.config.vocab, [7, 1, 12, 3])
    rows = chosen(tokens.layout, 0.3)
    none = rows_of_last([decoder], rows)
    assert none is not None
    assert (len(none), none.layout.total) == (4, 0)
    with torch.no_grad():
        whole = decoder.states(encoder.network(tokens))[rows.data]
        some = decoder.states(encoder.network(tokens, rows=none), rows.data)
    torch.testing.assert_close(some, whole, atol=1e-6, rtol=1e-6)
    assert rows_of_last([decoder, encoder.heads["mlm"]], rows) is rows
    assert rows_of_last([decoder], None) is None


@pytest.mark.parametrize("mode", POOLINGS)
@pytest.mark.parametrize("lengths", [[3, 1, 5], [1, 1], [4], [], [2, 0, 3]])
def test_rows_that_a_pooling_reads_are_pooled_to_the_same(mode: str, lengths: list[int]) -> None:
    hidden = Ragged(torch.randn(sum(lengths), 5), Layout.of(lengths))
    rows = rows_pooled(hidden.layout, (mode,))
    assert (rows is not None) == (mode in ("cls", "lasttoken") and 0 not in lengths and sum(lengths) > len(lengths))
    if rows is not None:
        again = pool(Ragged(hidden.data[rows.data], rows.layout), (mode,))
        assert torch.equal(again, pool(hidden, (mode,)))
    assert rows_pooled(hidden.layout, (mode, "mean")) is None
