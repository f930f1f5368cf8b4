"""`SentenceEncoder` gives the vectors of sentence-transformers, for the real model and for every module it may have."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer, SimilarityFunction
from sentence_transformers.sentence_transformer import modules
from torch import nn

from bothways import InputError, SentenceEncoder, TruncationWarning
from bothways.checkpoint.sentence import DENSE_ACTIVATIONS, POOLING_KEYS
from bothways.engine.sentence import SIMILARITIES
from bothways.nn.pooling import POOLINGS

CLOSE = {"atol": 1e-5, "rtol": 0}
TEXTS = [
    "the cat sat on the mat.",
    "a dog",
    "",
    "was un able ! do the house red?",
    "the cat sat on the mat.",
    "zebra quick 1234",
    "x",
    "the red cat ran to the blue house, is the dog able to do it?",
]


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


# The real model


@pytest.fixture(scope="module")
def oracle(minilm: Path) -> SentenceTransformer:
    return SentenceTransformer(str(minilm), device="cpu")


@pytest.fixture(scope="module")
def encoder(minilm: Path) -> SentenceEncoder:
    return SentenceEncoder(minilm, device="cpu")


@pytest.fixture(scope="module")
def vectors_of_topics(oracle: SentenceTransformer, topics: list[str]) -> np.ndarray:
    return oracle.encode(topics[::2])


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.99999), ("bf16", 0.999)])
def test_real_sentences_have_the_vectors_of_sentence_transformers(
    minilm: Path, topics: list[str], vectors_of_topics: np.ndarray, precision: str, least: float
) -> None:
    ours = SentenceEncoder(minilm, device="cpu", precision=precision).encode(topics[::2])
    assert ours.dtype == np.float32
    assert ours.shape == vectors_of_topics.shape == (150, 384)
    assert cosines(ours, vectors_of_topics).min() >= least


def test_the_capital_of_france(encoder: SentenceEncoder) -> None:
    answers = [
        "Paris is the capital city of France.",
        "The Eiffel Tower is in Paris.",
        "Python is a programming language.",
    ]
    vectors = encoder.encode(["What is the capital of France?", *answers])
    similarities = encoder.similarity(vectors[0], vectors[1:])
    assert similarities.shape == (1, 3)
    np.testing.assert_allclose(similarities[0], [0.824, 0.412, 0.134], atol=0.001)


@pytest.mark.parametrize("limit", [3, 8, 64, 256, 512])
def test_texts_are_cut_where_sentence_transformers_cuts_them_and_the_user_is_told(
    minilm: Path, limit: int, topics: list[str]
) -> None:
    theirs, ours = SentenceTransformer(str(minilm), device="cpu"), SentenceEncoder(minilm, device="cpu")
    assert ours.max_seq_length == theirs.max_seq_length == 256
    theirs.max_seq_length = ours.max_seq_length = limit
    long = " ".join(topics[:60])
    texts = [long, "one two three four five six seven", "a b"]
    with pytest.warns(TruncationWarning, match=f"of 3 texts were cut to {limit} tokens") as caught:
        vectors = ours.encode(texts)
    assert len(caught) == 1
    np.testing.assert_allclose(vectors, theirs.encode(texts), **CLOSE)


def test_the_warning_of_cut_texts_counts_them_and_says_how_long_the_longest_was(encoder: SentenceEncoder) -> None:
    with pytest.warns(TruncationWarning, match=r"2 of 3 texts were cut to 256 tokens \(the longest had 1,002\)"):
        encoder.encode(["short", "word " * 300, "word " * 1000])


def test_no_length_beyond_the_models_positions_can_be_set(minilm: Path) -> None:
    encoder = SentenceEncoder(minilm, device="cpu")
    for tokens in (0, -1, 513):
        with pytest.raises(InputError, match="between 1 and the model's 512 positions"):
            encoder.max_seq_length = tokens
    assert encoder.max_seq_length == 256


def test_one_string_gives_one_vector_and_a_list_a_matrix_in_its_order(encoder: SentenceEncoder) -> None:
    matrix = encoder.encode(TEXTS)
    assert matrix.shape == (len(TEXTS), 384)
    for text, row in zip(TEXTS, matrix, strict=True):
        one = encoder.encode(text)
        assert one.shape == (384,)
        assert np.array_equal(one, row)
    assert encoder.encode(["a dog"]).shape == (1, 384)
    assert encoder.encode(("a dog", "x")).shape == (2, 384)


def test_no_texts_give_no_vectors(encoder: SentenceEncoder) -> None:
    assert encoder.encode([]).shape == (0, 384)
    assert encoder.encode([]).dtype == np.float32


def test_a_tensor_is_given_where_one_is_asked_for(encoder: SentenceEncoder) -> None:
    tensor = encoder.encode(TEXTS, convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor)
    assert np.array_equal(tensor.numpy(), encoder.encode(TEXTS))
    assert encoder.encode("x", convert_to_tensor=True).shape == (384,)


@pytest.mark.parametrize(
    "options", [{"truncate_dim": 5}, {"truncate_dim": 384}, {"truncate_dim": 5, "normalize_embeddings": True}]
)
def test_vectors_are_shortened_as_by_sentence_transformers(
    encoder: SentenceEncoder, oracle: SentenceTransformer, options: dict
) -> None:
    ours = encoder.encode(TEXTS, **options)
    assert ours.shape == (len(TEXTS), options["truncate_dim"])
    np.testing.assert_allclose(ours, oracle.encode(TEXTS, **options), **CLOSE)


def test_its_width_is_known(encoder: SentenceEncoder) -> None:
    assert encoder.get_embedding_dimension() == 384


@pytest.mark.parametrize("option", ["batch_tokens", "truncate_dim"])
@pytest.mark.parametrize("value", [0, -1])
def test_impossible_sizes_are_refused(encoder: SentenceEncoder, option: str, value: int) -> None:
    with pytest.raises(InputError, match=f"{option} must be at least 1, got {value}"):
        encoder.encode(TEXTS, **{option: value})


def test_a_progress_bar_changes_nothing(encoder: SentenceEncoder, capsys: pytest.CaptureFixture[str]) -> None:
    expected = encoder.encode(TEXTS, show_progress_bar=False)
    assert capsys.readouterr().err == ""
    assert np.array_equal(encoder.encode(TEXTS, show_progress_bar=True), expected)
    assert capsys.readouterr().out == ""


# Small random models, built and saved by sentence-transformers


@pytest.fixture(scope="module")
def build(save_bert: Callable[..., Path], new_folder: Callable[[], Path]) -> Callable[..., Path]:
    """(poolings, *more modules, seq=None, include_prompt=True, **SentenceTransformer's options) → a saved folder."""
    bert = save_bert(max_position_embeddings=64)

    def make(
        poolings: Any, *more: nn.Module, seq: int | None = None, include_prompt: bool = True, **options: Any
    ) -> Path:
        transformer = modules.Transformer(str(bert), max_seq_length=seq)
        pooling = modules.Pooling(32, poolings, include_prompt=include_prompt)
        folder = new_folder()
        SentenceTransformer(modules=[transformer, pooling, *more], device="cpu", **options).save_pretrained(str(folder))
        return folder

    return make


def both(folder: Path) -> tuple[SentenceEncoder, SentenceTransformer]:
    return SentenceEncoder(folder, device="cpu"), SentenceTransformer(str(folder), device="cpu")


def agree(folder: Path, **options: Any) -> np.ndarray:
    ours, theirs = both(folder)
    vectors = ours.encode(TEXTS, **options)
    np.testing.assert_allclose(vectors, theirs.encode(TEXTS, **options), **CLOSE)
    assert ours.get_embedding_dimension() == vectors.shape[1]
    return vectors


def rewrite(path: Path, change: Callable[[Any], Any]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def in_old_spelling(config: dict[str, Any]) -> dict[str, Any]:
    modes = config["pooling_mode"]
    chosen = [modes] if isinstance(modes, str) else modes
    old = {key: mode in chosen for key, mode in POOLING_KEYS.items()}
    return {"word_embedding_dimension": config["embedding_dimension"], **old}


TWO = [("mean", "cls"), ("cls", "mean"), ("lasttoken", "max"), tuple(POOLINGS)]


@pytest.mark.parametrize("poolings", [*POOLINGS, *TWO], ids=str)
def test_every_pooling_is_that_of_sentence_transformers(build: Callable[..., Path], poolings: Any) -> None:
    vectors = agree(build(poolings))
    assert vectors.shape[1] == 32 * (1 if isinstance(poolings, str) else len(poolings))


@pytest.mark.parametrize("poolings", [*POOLINGS, *TWO], ids=str)
def test_every_pooling_is_understood_in_its_old_spelling(build: Callable[..., Path], poolings: Any) -> None:
    folder = build(poolings)
    rewrite(folder / "1_Pooling" / "config.json", in_old_spelling)
    agree(folder)


def test_poolings_that_are_known_are_those_of_sentence_transformers() -> None:
    assert set(POOLINGS) == set(modules.Pooling.POOLING_MODES)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", DENSE_ACTIVATIONS)
def test_dense_modules_are_those_of_sentence_transformers(
    build: Callable[..., Path], activation: str, bias: bool
) -> None:
    act = getattr(nn, activation.rpartition(".")[2])()
    dense = modules.Dense(32, 20, bias=bias, activation_function=act)
    assert agree(build("mean", dense)).shape[1] == 20


def test_several_modules_follow_each_other(build: Callable[..., Path]) -> None:
    folder = build(
        ("mean", "max"), modules.Dense(64, 48), modules.Normalize(), modules.Dense(48, 7), modules.Normalize()
    )
    vectors = agree(folder)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_vectors_can_be_normalised_on_the_way_out(build: Callable[..., Path]) -> None:
    folder = build("mean")
    assert np.abs(np.linalg.norm(agree(folder), axis=1) - 1).max() > 0.1
    vectors = agree(folder, normalize_embeddings=True)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


PROMPTS = {"query": "find the cat: ", "document": "a dog ", "other": "the house "}


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_prompts_are_put_before_texts_and_pooled_or_not(
    build: Callable[..., Path], pooling: str, include_prompt: bool
) -> None:
    folder = build(pooling, prompts=PROMPTS, include_prompt=include_prompt)
    plain = agree(folder)
    named = agree(folder, prompt_name="other")
    assert np.abs(named - plain).max() > 0.01
    spelt = agree(folder, prompt="the house ")
    assert np.array_equal(named, spelt)
    ours, theirs = both(folder)
    np.testing.assert_allclose(ours.encode_query(TEXTS), theirs.encode_query(TEXTS), **CLOSE)
    np.testing.assert_allclose(ours.encode_document(TEXTS), theirs.encode_document(TEXTS), **CLOSE)
    assert np.array_equal(ours.encode_query(TEXTS), ours.encode(TEXTS, prompt_name="query"))


@pytest.mark.parametrize("name", ["document", "passage", "corpus"])
def test_documents_take_whichever_prompt_there_is_for_them(build: Callable[..., Path], name: str) -> None:
    folder = build("mean")
    prompts = {"query": "find ", name: "the dog "}
    rewrite(folder / "config_sentence_transformers.json", lambda config: {**config, "prompts": prompts})
    ours = SentenceEncoder(folder, device="cpu")
    assert np.array_equal(ours.encode_document(TEXTS), ours.encode(TEXTS, prompt="the dog "))
    assert np.array_equal(ours.encode_query(TEXTS), ours.encode(TEXTS, prompt="find "))


@pytest.mark.parametrize("default", ["query", "other"])
def test_the_default_prompt_is_taken_where_none_is_named(build: Callable[..., Path], default: str) -> None:
    folder = build("mean", prompts=PROMPTS, default_prompt_name=default)
    assert np.array_equal(agree(folder), agree(folder, prompt_name=default))
    agree(folder, prompt="")
    agree(folder, prompt_name="document")
    ours, theirs = both(folder)
    np.testing.assert_allclose(ours.encode_query(TEXTS), theirs.encode_query(TEXTS), **CLOSE)
    np.testing.assert_allclose(ours.encode_document(TEXTS), theirs.encode_document(TEXTS), **CLOSE)


def test_queries_and_documents_do_not_fall_back_to_the_default_prompt(build: Callable[..., Path]) -> None:
    folder = build("mean", prompts=PROMPTS, default_prompt_name="other")
    prompts = {"other": PROMPTS["other"]}
    rewrite(folder / "config_sentence_transformers.json", lambda config: {**config, "prompts": prompts})
    ours, theirs = both(folder)
    np.testing.assert_allclose(ours.encode_query(TEXTS), theirs.encode_query(TEXTS), **CLOSE)
    np.testing.assert_allclose(ours.encode_document(TEXTS), theirs.encode_document(TEXTS), **CLOSE)


def test_a_model_without_prompts_encodes_queries_and_documents_alike(build: Callable[..., Path]) -> None:
    ours, theirs = both(build("mean"))
    np.testing.assert_allclose(ours.encode_query(TEXTS), theirs.encode_query(TEXTS), **CLOSE)
    assert np.array_equal(ours.encode_document(TEXTS), ours.encode_query(TEXTS))


def test_an_unknown_prompt_is_refused_with_the_names_there_are(build: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=r"unknown prompt 'qeury'; this model has: .*query"):
        SentenceEncoder(build("mean", prompts=PROMPTS), device="cpu").encode(TEXTS, prompt_name="qeury")


@pytest.mark.parametrize("include_prompt", [True, False])
def test_a_prompt_takes_its_share_of_the_tokens_a_text_may_have(
    build: Callable[..., Path], include_prompt: bool
) -> None:
    folder = build("mean", prompts=PROMPTS, include_prompt=include_prompt, seq=10)
    with pytest.warns(TruncationWarning, match="cut to 10 tokens"):
        agree(folder, prompt_name="query")


@pytest.mark.parametrize("name", SIMILARITIES)
def test_every_similarity_is_that_of_sentence_transformers(build: Callable[..., Path], name: str) -> None:
    ours, theirs = both(build("mean", similarity_fn_name=name))
    vectors = ours.encode(TEXTS)
    matrix = ours.similarity(vectors[:3], vectors)
    assert isinstance(matrix, np.ndarray)
    np.testing.assert_allclose(matrix, theirs.similarity(vectors[:3], vectors).numpy(), atol=1e-4, rtol=1e-5)
    tensor = ours.similarity(torch.from_numpy(vectors[:3]), torch.from_numpy(vectors))
    assert isinstance(tensor, torch.Tensor)
    assert np.array_equal(tensor.numpy(), matrix)
    assert ours.similarity(vectors[0], vectors[1]).shape == (1, 1)


def test_similarities_are_those_that_sentence_transformers_knows() -> None:
    of_many_vectors_a_text = {"maxsim", "meanmaxsim"}
    assert set(SIMILARITIES) == set(SimilarityFunction.possible_values()) - of_many_vectors_a_text


@pytest.mark.parametrize("limit", [4, 9, 64])
def test_a_maximum_length_in_the_folder_is_kept(build: Callable[..., Path], limit: int) -> None:
    folder = build("mean", seq=limit)
    ours, theirs = both(folder)
    assert ours.max_seq_length == theirs.max_seq_length == limit
    if limit == 64:
        agree(folder)
    else:
        with pytest.warns(TruncationWarning, match=f"cut to {limit} tokens"):
            agree(folder)


def test_a_maximum_length_in_the_old_place_is_kept(build: Callable[..., Path]) -> None:
    folder = build("mean")
    rewrite(folder / "sentence_bert_config.json", lambda old: {"max_seq_length": 9, "do_lower_case": False})
    assert SentenceEncoder(folder, device="cpu").max_seq_length == 9
    with pytest.warns(TruncationWarning, match="cut to 9 tokens"):
        agree(folder)


def test_texts_are_lowercased_where_the_folder_says_so(build: Callable[..., Path], vocab: list[str]) -> None:
    folder = build("mean")
    rewrite(folder / "sentence_bert_config.json", lambda old: {"max_seq_length": 64, "do_lower_case": True})
    rewrite(folder / "tokenizer_config.json", lambda old: {**old, "do_lower_case": False})
    ours = SentenceEncoder(folder, device="cpu")
    assert np.array_equal(ours.encode("THE Cat"), ours.encode("the cat"))
    rewrite(folder / "sentence_bert_config.json", lambda old: {**old, "do_lower_case": False})
    assert not np.array_equal(SentenceEncoder(folder, device="cpu").encode("THE Cat"), ours.encode("the cat"))


def test_a_transformer_in_a_folder_of_its_own_is_found(build: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    copytree(build("mean", prompts=PROMPTS, seq=30), folder)
    expected = agree(folder, prompt_name="query")
    (folder / "0_Transformer").mkdir()
    top = ("modules.json", "config_sentence_transformers.json")
    for path in [path for path in folder.iterdir() if path.is_file() and path.name not in top]:
        path.rename(folder / "0_Transformer" / path.name)
    rewrite(folder / "modules.json", lambda ms: [{**m, "path": m["path"] or "0_Transformer"} for m in ms])
    assert np.array_equal(agree(folder, prompt_name="query"), expected)


def test_a_plain_encoders_folder_gets_mean_pooling(save_bert: Callable[..., Path]) -> None:
    folder = save_bert(max_position_embeddings=64)
    agree(folder)


def test_a_folder_of_the_oldest_kind_needs_no_second_config(build: Callable[..., Path]) -> None:
    folder = build("mean")
    (folder / "config_sentence_transformers.json").unlink()
    (folder / "sentence_bert_config.json").unlink()
    rewrite(
        folder / "modules.json",
        lambda ms: [{**m, "type": "sentence_transformers.models." + m["type"].rpartition(".")[2]} for m in ms],
    )
    ours = SentenceEncoder(folder, device="cpu")
    assert ours.max_seq_length == 64
    agree(folder)
