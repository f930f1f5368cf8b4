"""Looking at a text: what is shown belongs together, and what cannot be shown is refused in one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import bothways
from bothways import CheckpointError, Encoder, InputError, Layout, TruncationWarning, attend
from bothways.nn.attention import weights


@pytest.fixture(scope="module")
def encoder(save_bert: Callable[..., Path]) -> Encoder:
    return Encoder.from_pretrained(save_bert(num_hidden_layers=3))


def test_a_token_stands_beside_the_text_it_covers(encoder: Encoder) -> None:
    text, pair = "The  CAT was unable!", "dogs 猫"
    seen = bothways.inspect(encoder, text, pair)
    assert seen.tokens == (
        *("[CLS]", "the", "cat", "was", "un", "##able", "!", "[SEP]"),
        *("dog", "##s", "猫", "[SEP]"),
    )
    assert seen.texts == ("", "The", "CAT", "was", "un", "able", "!", "", "dog", "s", "猫", "")
    assert seen.segments == (0,) * 8 + (1,) * 4
    assert seen.positions == tuple(range(12))
    assert [i for i, special in enumerate(seen.special) if special] == [0, 7, 11]
    assert len(seen) == 12


def test_shapes(encoder: Encoder) -> None:
    seen = bothways.inspect(encoder, "the cat sat.")
    assert seen.attention.shape == (4, 6, 6)
    assert seen.norms.shape == (4, 6)
    assert seen.kept.shape == (3, 6)
    assert seen.similarity.shape == (4, 4)
    assert (seen.layer, seen.heads) == (2, (0, 1, 2, 3))
    np.testing.assert_allclose(np.diag(seen.similarity), 1.0, atol=1e-6)
    np.testing.assert_allclose(np.diag(seen.similarity, 1), seen.kept.mean(-1), atol=1e-6)


def test_one_head_and_the_mean_are_those_of_all(encoder: Encoder) -> None:
    every = bothways.inspect(encoder, "the cat sat.", layer=1)
    one = bothways.inspect(encoder, "the cat sat.", layer=-2, head=-1)
    mean = bothways.inspect(encoder, "the cat sat.", layer=1, head="mean")
    assert (one.layer, one.heads, mean.heads) == (1, (3,), ("mean",))
    assert np.array_equal(one.attention[0], every.attention[3])
    np.testing.assert_allclose(mean.attention[0], every.attention.mean(0), atol=1e-7)


def test_an_empty_text_has_its_special_tokens(encoder: Encoder) -> None:
    assert bothways.inspect(encoder, "").tokens == ("[CLS]", "[SEP]")


def test_a_long_text_is_cut_and_the_user_is_told(encoder: Encoder) -> None:
    with pytest.warns(TruncationWarning, match="the text was cut to 24 tokens"):
        assert len(bothways.inspect(encoder, "cat " * 100)) == 24


@pytest.mark.parametrize("layer", [3, -4, 1.0, True, "1"])
def test_a_layer_that_is_not_there_is_refused(encoder: Encoder, layer: object) -> None:
    with pytest.raises(InputError, match=r"layer must be a whole number from 0 to 2 \(or from -3 to -1\), got"):
        bothways.inspect(encoder, "the cat", layer=layer)  # type: ignore[arg-type]


@pytest.mark.parametrize("head", [4, -5, "most", 0.0])
def test_a_head_that_is_not_there_is_refused(encoder: Encoder, head: object) -> None:
    with pytest.raises(InputError, match="head must be a whole number from 0 to 3"):
        bothways.inspect(encoder, "the cat", head=head)  # type: ignore[arg-type]


def test_what_is_no_text_is_refused(encoder: Encoder) -> None:
    with pytest.raises(InputError, match="not a string but int"):
        bothways.inspect(encoder, 3)  # type: ignore[arg-type]


def test_a_model_without_a_tokenizer_is_refused(save_bert: Callable[..., Path], tmp_path: Path) -> None:
    without = save_bert(tokenizer=False)
    with pytest.raises(CheckpointError, match=r"the model at .* has no tokenizer: put tokenizer.json, or vocab.txt"):
        bothways.inspect(without, "the cat")
    with pytest.raises(CheckpointError, match="the model has no tokenizer"):
        bothways.inspect(Encoder.from_pretrained(without), "the cat")
    with pytest.raises(CheckpointError, match=r"the model at .* has no tokenizer"):
        bothways.SentenceEncoder(without)
    folder = save_bert()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folder / name, tmp_path)
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        bothways.inspect(tmp_path, "the cat")


def test_a_pair_on_a_model_of_one_type_is_refused(save_bert: Callable[..., Path]) -> None:
    folder = save_bert(type_vocab_size=1)
    assert len(bothways.inspect(folder, "the cat")) == 4
    with pytest.raises(InputError, match="type 1, but the model knows 1"):
        bothways.inspect(folder, "the cat", "a dog")


def test_too_many_weights_are_refused_before_they_are_computed(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bothways.engine.inspect.MOST_WEIGHTS", 100)
    with pytest.raises(InputError, match=r"6 tokens have 144 attention weights in 4 heads .* give a shorter text"):
        bothways.inspect(encoder, "the cat sat.", head=0)  # all heads are computed


def test_weights_are_limited_by_the_heads_asked_for(encoder: Encoder) -> None:
    assert bothways.inspect(encoder, "the cat sat.", head=0, most_weights=36).attention.shape == (1, 6, 6)
    assert bothways.inspect(encoder, "the cat sat.", head="mean", most_weights=36).attention.shape == (1, 6, 6)
    with pytest.raises(InputError, match=r"6 tokens have 144 .* in 4 heads .* at most 143: ask for one head"):
        bothways.inspect(encoder, "the cat sat.", most_weights=143)


def test_looking_changes_nothing(save_bert: Callable[..., Path]) -> None:
    encoder = Encoder.from_pretrained(save_bert())
    before = {name: value.clone() for name, value in encoder.network.state_dict().items()}
    first = bothways.inspect(encoder, "the cat sat.")
    encoder.network.train()
    second = bothways.inspect(encoder, "the cat sat.")
    assert encoder.network.training
    assert np.array_equal(first.attention, second.attention)
    assert all(torch.equal(before[name], value) for name, value in encoder.network.state_dict().items())


@given(
    lengths=st.lists(st.integers(0, 9), max_size=5), window=st.none() | st.integers(0, 4), scale=st.floats(0.01, 2.0)
)
def test_weights_times_values_are_what_attention_gives(lengths: list[int], window: int | None, scale: float) -> None:
    layout = Layout.of(lengths)
    q, k, v = torch.randn(3, layout.total, 2, 4)

    def bias(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return torch.linspace(-1, 1, q.shape[2])[:, None] * q.mean(-1, keepdim=True)

    found = weights(q, k, layout, layout, bias=bias, window=window, scale=scale)
    expected = attend(q, k, v, layout, layout, bias=bias, window=window, scale=scale).split(lengths)
    assert [one.shape for one in found] == [(2, length, length) for length in lengths]
    for one, values, out in zip(found, v.split(lengths), expected, strict=True):
        torch.testing.assert_close((one @ values.transpose(0, 1)).transpose(0, 1), out, atol=1e-5, rtol=1e-5)
