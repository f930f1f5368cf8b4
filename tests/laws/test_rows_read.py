"""What nobody reads of the last layer is not computed; what is read is what it would be if all were."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import families_with, language_head
from torch import Tensor

import bothways
from bothways import Encoder, Layout, Ragged, SentenceEncoder
from bothways.data.packing import Packed
from bothways.engine.backends import BACKENDS, place
from bothways.engine.frozen import states_of
from bothways.engine.pipeline import Pipeline
from bothways.errors import InputError
from bothways.families import FAMILIES
from bothways.nn.heads import MaskDecoder, rows_of_last
from bothways.nn.layers import FILLED_ROWS
from bothways.nn.pooling import POOLINGS, pool, rows_pooled
from bothways.objectives.masking import Masking
from bothways.objectives.mlm import MaskedLanguageModelling
from bothways.objectives.objective import Model
from bothways.objectives.pairs import SegmentPairs
from bothways.objectives.reading import Together
from bothways.objectives.rtd import ReplacedTokens
from bothways.tasks import TASKS
from bothways.tasks.learning import Sample, Supervised

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


def test_rows_go_with_neither_a_memory_nor_all_hidden_states_and_no_others_can_be_read(save_family: Save) -> None:
    network = Encoder.from_pretrained(save_family("bert", tokenizer=False)).network
    tokens = texts_of(network.config.vocab, [7, 3])
    rows = Ragged(torch.tensor([1, 8]), Layout.of([1, 1]))
    with pytest.raises(InputError, match="together with memory or keep"):
        network(tokens, rows=rows, keep=True)
    with pytest.raises(InputError, match="together with memory or keep"):
        network(tokens, rows=rows, memory=tokens)
    output = network(tokens, rows=rows)
    assert torch.equal(output.at(torch.tensor([8])), output.last.data[1:])
    for wrong in ([2], [9], [0, 1]):
        with pytest.raises(ValueError, match="not asked for these rows"):
            output.at(torch.tensor(wrong))


def counting(network: Any) -> list[int]:
    """How many rows the feed-forward part of the last layer works on, each time."""
    seen: list[int] = []
    up = network.layers[network.config.order[-1]].ffn.up
    up.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    return seen


TEXTS = ["the cat sat on the mat", "a dog", "the red house is blue", "a dog ran to the red house"]


def test_labels_of_texts_take_one_row_of_each(save_family: Save) -> None:
    folder = save_family("bert", kind="ForSequenceClassification")
    pipe = bothways.pipeline("text-classification", folder, device="cpu")
    assert isinstance(pipe, Pipeline)
    seen = counting(pipe._network)
    pipe(TEXTS)
    assert sum(seen) == len(TEXTS)
    encoder = Encoder.from_pretrained(folder)
    assert encoder.tokenizer is not None
    encoded: Any = encoder.tokenizer.encode(TEXTS)
    objective, model = Supervised(TASKS["text-classification"], "classify"), Model(encoder.network, encoder.heads)
    batch, seen = objective.batch([Sample((one,), 0) for one in encoded]), counting(encoder.network)
    objective.loss(model, batch)
    with torch.no_grad():
        objective.loss(model, batch)
    assert seen == [FILLED_ROWS, len(TEXTS)]


def test_states_that_are_kept_for_a_head_take_one_row_of_each(
    save_family: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, seen = Encoder.from_pretrained(save_family("bert", kind="ForSequenceClassification")), list[list[int]]()
    assert encoder.tokenizer is not None
    eager = BACKENDS["eager"]

    def watched(module: Any, placement: Any, *, share: bool = False) -> Any:
        ready = eager(module, placement, share=share)
        seen.append(counting(ready))
        return ready

    monkeypatch.setitem(BACKENDS, "eager", watched)
    encoded: Any = encoder.tokenizer.encode(TEXTS)
    states_of(encoder.network, encoder.heads["classify"], encoded, lambda number, rows: None, torch.device("cpu"))
    assert sum(seen[0]) == len(TEXTS)


def test_sentences_that_are_pooled_at_their_first_token_take_that_alone(save_family: Save, tmp_path: Path) -> None:
    folder = tmp_path / "sentences"
    shutil.copytree(save_family("bert"), folder)
    (folder / "1_Pooling").mkdir()
    said = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(said))
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    sentences = SentenceEncoder(folder, device="cpu")
    seen = counting(sentences._network)
    found = sentences.encode(TEXTS)
    assert sum(seen) == len(TEXTS)
    encoder = Encoder.from_pretrained(folder)
    assert encoder.tokenizer is not None
    tokens = Ragged.of([one.ids for one in encoder.tokenizer.encode(TEXTS)])
    with torch.no_grad():
        torch.testing.assert_close(torch.as_tensor(found), encoder.network(tokens).last.first(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["mlm", "rtd"])
def test_objectives_take_masked_rows_filled_to_few_numbers_of_them(save_family: Save, kind: str) -> None:
    """oneDNN keeps kernels for every number of rows: where that is left to chance, they would be hundreds."""
    encoder = Encoder.from_pretrained(save_family("electra", kind="ForMaskedLM", tokenizer=False))
    vocab, seen = encoder.config.vocab, counting(encoder.network)
    words = MaskedLanguageModelling(vocab, 4, frozenset({0, 1, 2, 3, 4}), Masking(rate=0.2))
    objective = Together((words,)) if kind == "mlm" else ReplacedTokens(words)
    batch, model = (
        objective.corrupt(packed(vocab, [20] * 12, False), np.random.default_rng(0)),
        Model(encoder.network, encoder.heads),
    )
    if isinstance(objective, ReplacedTokens):
        objective.propose(Model(encoder.network, {}, model), batch)
    else:
        objective.loss(model, batch)
    (rows,) = seen
    assert batch.rows is not None
    assert rows < batch.tokens.layout.total / 2
    assert rows - FILLED_ROWS < len(batch.rows.data) <= rows
    assert rows % FILLED_ROWS == 0
