"""Pipelines answer as those of transformers do: the same numbers in the same shapes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from bothways import InputError, TruncationWarning, pipeline
from bothways.engine.pipeline import Pipeline

TEXTS = [
    "the [MASK] sat on the mat.",
    "[MASK]",
    "a dog ran to the [MASK] , was it un[MASK]?",
    "the cat [MASK]",
    "[MASK] [MASK] [MASK]",
]


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def folder(request: pytest.FixtureRequest, save_bert: Callable[..., Path]) -> Path:
    return save_bert(kind="BertForMaskedLM", tie_word_embeddings=request.param, max_position_embeddings=40)


@pytest.fixture(scope="module")
def ours(folder: Path) -> Pipeline:
    return pipeline("fill-mask", folder, device="cpu")


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    return transformers.pipeline("fill-mask", str(folder), device="cpu")


def same_answers(ours: Any, theirs: Any) -> None:
    """The same nesting of lists, the same candidates in the same order, the same scores."""
    if isinstance(theirs, list):
        assert isinstance(ours, list)
        assert len(ours) == len(theirs)
        for mine, expected in zip(ours, theirs, strict=True):
            same_answers(mine, expected)
    else:
        assert ours.keys() == theirs.keys() == {"score", "token", "token_str", "sequence"}
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
        assert {key: ours[key] for key in ours if key != "score"} == {
            key: theirs[key] for key in ours if key != "score"
        }
        assert type(ours["score"]) is float
        assert type(ours["token"]) is int


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("options", [{}, {"top_k": 1}, {"top_k": 7}], ids=str)
def test_masks_are_filled_as_by_transformers(ours: Pipeline, theirs: Any, text: str, options: dict) -> None:
    same_answers(ours(text, **options), theirs(text, **options))


def test_a_list_of_texts_gives_a_list_of_answers(ours: Pipeline, theirs: Any) -> None:
    same_answers(ours(TEXTS), [theirs(text) for text in TEXTS])
    same_answers(ours([TEXTS[0]]), [theirs(TEXTS[0])])
    assert ours([]) == []


def test_scores_are_probabilities_best_first(ours: Pipeline) -> None:
    answers = ours(TEXTS[0], top_k=10_000)
    scores = [answer["score"] for answer in answers]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("top_k", [0, -1, 1.5, "3", None, True])
def test_a_top_k_that_is_no_count_is_refused(ours: Pipeline, top_k: object) -> None:
    with pytest.raises(InputError, match="top_k must be a whole number"):
        ours(TEXTS[0], top_k=top_k)


def test_a_long_text_is_cut_and_the_user_is_told(ours: Pipeline) -> None:
    with pytest.warns(TruncationWarning, match="1 of 2 texts were cut to 40 tokens"):
        answers = ours(["the [MASK] " + "cat " * 100, TEXTS[0]])
    assert len(answers) == 2
    with pytest.raises(InputError, match="after it was cut"):
        ours("cat " * 100 + "[MASK]")


@pytest.fixture(scope="module")
def features(folder: Path) -> Pipeline:
    return pipeline("feature-extraction", folder, device="cpu")


PLAIN = ["the cat sat on the mat.", "a dog", "", "was un able ! do the house red?"]


def test_features_are_the_hidden_states_of_transformers(folder: Path, features: Pipeline) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    last, everything = features(PLAIN), features(PLAIN, layers="all")
    for text, one, layers in zip(PLAIN, last, everything, strict=True):
        with torch.inference_mode():
            expected = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
        tokens = len(tokenizer(text)["input_ids"])
        assert isinstance(one, np.ndarray)
        assert one.dtype == layers.dtype == np.float32
        assert one.shape == (1, tokens, 32)
        assert layers.shape == (3, tokens, 32)
        np.testing.assert_allclose(layers, torch.cat(expected).numpy(), atol=1e-4, rtol=0)
        assert np.array_equal(one[0], layers[-1])


def test_features_are_shaped_as_by_the_pipeline_of_transformers(folder: Path, features: Pipeline) -> None:
    theirs = transformers.pipeline("feature-extraction", str(folder), device="cpu")
    np.testing.assert_allclose(features(PLAIN[0]), np.array(theirs(PLAIN[0])), atol=1e-4, rtol=0)
    assert len(features(PLAIN)) == len(theirs(PLAIN)) == len(PLAIN)


def test_one_text_gives_one_array_and_a_list_a_list(features: Pipeline) -> None:
    one = features(PLAIN[0])
    (of_list,) = features([PLAIN[0]])
    assert np.array_equal(one, of_list)
    assert features([]) == []


def test_unknown_layers_are_refused(features: Pipeline) -> None:
    with pytest.raises(InputError, match='"last" or "all"'):
        features(PLAIN, layers="first")


def test_results_own_their_memory_and_may_be_written_to(features: Pipeline) -> None:
    first, second = features([PLAIN[0], PLAIN[0]])
    first += 1
    assert np.abs(first - second).min() > 0.5
