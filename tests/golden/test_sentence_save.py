"""What `save_pretrained` of a sentence model writes, it reads back to the bit, and sentence-transformers reads too."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from torch import nn

from bothways import AssumedPoolingWarning, CheckpointError, ConfigError, InputError, SentenceEncoder, TruncationWarning
from bothways.checkpoint.sentence import DENSE_ACTIVATIONS, POOLING_KEYS, TRANSFORMER_SETTINGS, load_sentence_model
from bothways.engine.sentence import SIMILARITIES
from bothways.nn.pooling import POOLINGS

TEXTS = ["the cat sat on the mat.", "a dog", "", "Was un able ! do the house RED?", "zebra quick 1234", "x"]
PROMPTS = {"query": "find the cat: ", "document": "", "other": "the house "}


@pytest.fixture(scope="module")
def build(save_bert: Callable[..., Path], new_folder: Callable[[], Path]) -> Callable[..., Path]:
    """(poolings, *more modules, seq=None, include_prompt=True, **SentenceTransformer's options) → their folder."""
    bert = save_bert(max_position_embeddings=64)

    def make(
        poolings: Any, *more: nn.Module, seq: int | None = None, include_prompt: bool = True, **options: Any
    ) -> Path:
        parts = [modules.Transformer(str(bert), max_seq_length=seq), modules.Pooling(32, poolings, include_prompt)]
        folder = new_folder()
        SentenceTransformer(modules=[*parts, *more], device="cpu", **options).save_pretrained(str(folder))
        return folder

    return make


def comes_back(source: Path, saved: Path, **options: Any) -> SentenceEncoder:
    """Save what was loaded; ours then gives the same bits, and sentence-transformers the same vectors, as before."""
    before = SentenceEncoder(source, device="cpu")
    before.save_pretrained(saved)
    after = SentenceEncoder(saved, device="cpu")
    vectors = before.encode(TEXTS, **options)
    assert np.array_equal(after.encode(TEXTS, **options), vectors)
    theirs = SentenceTransformer(str(saved), device="cpu")
    np.testing.assert_allclose(theirs.encode(TEXTS, **options), vectors, atol=1e-5, rtol=0)
    assert theirs.get_embedding_dimension() == vectors.shape[1]
    assert theirs.max_seq_length == after.max_seq_length == before.max_seq_length
    assert theirs.similarity_fn_name == after.similarity_fn_name == before.similarity_fn_name
    assert theirs.default_prompt_name == after.default_prompt_name == before.default_prompt_name
    assert after.prompts == before.prompts
    assert {name: text for name, text in theirs.prompts.items() if text} == {
        n: t for n, t in after.prompts.items() if t
    }
    return after


@pytest.mark.parametrize("poolings", [*POOLINGS, ("cls", "mean"), ("mean", "cls"), tuple(POOLINGS)], ids=str)
def test_every_pooling_comes_back(build: Callable[..., Path], tmp_path: Path, poolings: Any) -> None:
    comes_back(build(poolings), tmp_path)


def test_poolings_are_in_the_spelling_of_all_versions_unless_their_order_needs_the_newer(
    build: Callable[..., Path], tmp_path: Path
) -> None:
    spelt = {}
    for poolings in ("mean", ("cls", "mean"), ("mean", "cls")):
        SentenceEncoder(build(poolings), device="cpu").save_pretrained(tmp_path)
        spelt[poolings] = json.loads((tmp_path / "1_Pooling" / "config.json").read_text())
    assert [key for key in POOLING_KEYS if spelt["mean"][key]] == ["pooling_mode_mean_tokens"]
    assert "pooling_mode" not in spelt["cls", "mean"]
    assert spelt["mean", "cls"]["pooling_mode"] == ["mean", "cls"]
    assert {config.get("word_embedding_dimension", config.get("embedding_dimension")) for config in spelt.values()} == {
        32
    }


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", DENSE_ACTIVATIONS)
def test_every_dense_module_comes_back(build: Callable[..., Path], tmp_path: Path, activation: str, bias: bool) -> None:
    act = getattr(nn, activation.rpartition(".")[2])()
    comes_back(build("mean", modules.Dense(32, 20, bias=bias, activation_function=act)), tmp_path)


def test_several_modules_come_back_in_their_order(build: Callable[..., Path], tmp_path: Path) -> None:
    more = modules.Dense(64, 48), modules.Normalize(), modules.Dense(48, 7, activation_function=nn.Identity())
    comes_back(build(("mean", "max"), *more, modules.Normalize()), tmp_path)
    entries = json.loads((tmp_path / "modules.json").read_text())
    places = ["", "1_Pooling", "2_Dense", "3_Normalize", "4_Dense", "5_Normalize"]
    assert [entry["path"] for entry in entries] == places
    assert [entry["type"].rpartition(".")[2] for entry in entries[1:]] == [place[2:] for place in places[1:]]
    assert not list(tmp_path.rglob("*.bin"))


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("default", [None, "other"])
def test_prompts_come_back(
    build: Callable[..., Path], tmp_path: Path, include_prompt: bool, default: str | None
) -> None:
    folder = build("mean", prompts=PROMPTS, default_prompt_name=default, include_prompt=include_prompt)
    after = comes_back(folder, tmp_path)
    theirs = SentenceTransformer(str(tmp_path), device="cpu")
    for ours, other in ((after.encode_query, theirs.encode_query), (after.encode_document, theirs.encode_document)):
        np.testing.assert_allclose(ours(TEXTS), other(TEXTS), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_every_similarity_comes_back(build: Callable[..., Path], tmp_path: Path, name: str) -> None:
    assert comes_back(build("mean", similarity_fn_name=name), tmp_path).similarity_fn_name == name


def test_a_maximum_length_comes_back(build: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.warns(TruncationWarning, match="cut to 6 tokens"):
        assert comes_back(build("mean", seq=6), tmp_path).max_seq_length == 6


@pytest.mark.parametrize("name", TRANSFORMER_SETTINGS)
def test_settings_of_the_transformer_are_read_under_all_their_names(
    build: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    folder = build("mean")
    (folder / "sentence_bert_config.json").unlink()
    (folder / name).write_text(json.dumps({"max_seq_length": 9, "do_lower_case": True}))
    assert SentenceEncoder(folder, device="cpu").max_seq_length == 9
    assert SentenceTransformer(str(folder), device="cpu").max_seq_length == 9


def test_lowercasing_comes_back(build: Callable[..., Path], tmp_path: Path) -> None:
    folder = build("mean")
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 64, "do_lower_case": True}))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    after = comes_back(folder, tmp_path)
    assert np.array_equal(after.encode("THE CAT"), after.encode("the cat"))


def test_what_is_set_on_an_encoder_is_saved(build: Callable[..., Path], tmp_path: Path) -> None:
    encoder = SentenceEncoder(build("mean"), device="cpu")
    encoder.prompts["query"] = "the red house "
    encoder.default_prompt_name, encoder.similarity_fn_name, encoder.max_seq_length = "query", "dot", 40
    encoder.save_pretrained(tmp_path)
    after = comes_back(tmp_path, tmp_path / "again")
    assert (after.prompts["query"], after.default_prompt_name) == ("the red house ", "query")
    assert (after.similarity_fn_name, after.max_seq_length) == ("dot", 40)


def test_a_plain_encoder_becomes_a_sentence_model(save_bert: Callable[..., Path], tmp_path: Path) -> None:
    comes_back(save_bert(max_position_embeddings=64), tmp_path)


def test_a_transformer_in_a_folder_of_its_own_comes_back_at_the_top(build: Callable[..., Path], tmp_path: Path) -> None:
    folder = build("mean")
    (folder / "0_Transformer").mkdir()
    top = ("modules.json", "config_sentence_transformers.json")
    for path in [path for path in folder.iterdir() if path.is_file() and path.name not in top]:
        path.rename(folder / "0_Transformer" / path.name)
    entries = json.loads((folder / "modules.json").read_text())
    entries[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(entries))
    comes_back(folder, tmp_path)
    assert (tmp_path / "config.json").exists()


def test_the_real_model_comes_back(minilm: Path, tmp_path: Path) -> None:
    comes_back(minilm, tmp_path)


def test_half_precision_comes_back_to_the_bit(save_bert: Callable[..., Path], tmp_path: Path) -> None:
    comes_back(save_bert(max_position_embeddings=64, dtype=torch.float16), tmp_path)


def test_an_encoder_may_be_saved_over_itself(build: Callable[..., Path]) -> None:
    folder = build("mean", modules.Dense(32, 20))
    (folder / "README.md").write_text("mine")
    encoder = SentenceEncoder(folder, device="cpu")
    for length in (20, 30):
        encoder.max_seq_length = length
        encoder.save_pretrained(folder)
    assert comes_back(folder, folder).max_seq_length == 30
    assert (folder / "README.md").read_text() == "mine"


def test_other_settings_are_written_back(build: Callable[..., Path], tmp_path: Path) -> None:
    folder = build("mean")
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "truncate_dim": None, "more": [1]}))
    load_sentence_model(folder).save_pretrained(tmp_path)
    assert json.loads((tmp_path / path.name).read_text()) == json.loads(path.read_text())


def test_weights_that_changed_or_went_are_not_saved(build: Callable[..., Path], tmp_path: Path) -> None:
    folder = build("mean", modules.Dense(32, 20))
    encoder = SentenceEncoder(folder, device="cpu")
    (folder / "2_Dense" / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"2_Dense/model.safetensors: changed since the model was loaded"):
        encoder.save_pretrained(tmp_path / "new")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model.safetensors: changed since the model was loaded"):
        encoder.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "name",
    ["1_Pooling/config.json", "modules.json", "config.json", "tokenizer.json", "sentence_bert_config.json"],
)
def test_a_description_that_changed_is_not_saved(build: Callable[..., Path], tmp_path: Path, name: str) -> None:
    folder = build("mean")
    encoder = SentenceEncoder(folder, device="cpu")
    text = (folder / name).read_text()
    (folder / name).write_text(text + "\n")
    with pytest.raises(CheckpointError, match=f"{name}: changed since the model was loaded"):
        encoder.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("attribute", "value", "says"),
    [
        ("prompts", {"query": 3}, "prompts must be texts by name"),
        ("prompts", {3: "query: "}, "prompts must be texts by name"),
        ("prompts", ["query: "], "prompts must be texts by name"),
        ("default_prompt_name", "queery", "default_prompt_name 'queery' is none of the prompts"),
        ("default_prompt_name", 3, "default_prompt_name 3 is none of the prompts"),
        ("similarity_fn_name", "cosin", "unknown similarity_fn_name 'cosin'; known: cosine, dot"),
        ("similarity_fn_name", None, "unknown similarity_fn_name None; known: cosine, dot"),
    ],
)
def test_what_nobody_could_load_again_is_not_saved(
    build: Callable[..., Path], tmp_path: Path, attribute: str, value: Any, says: str
) -> None:
    encoder = SentenceEncoder(build("mean"), device="cpu")
    setattr(encoder, attribute, value)
    with pytest.raises(InputError, match=says):
        encoder.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_mean_pooling_is_assumed_aloud_on_loading_and_only_then(save_bert: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.warns(AssumedPoolingWarning, match="mean pooling is assumed") as caught:
        encoder = SentenceEncoder(save_bert(max_position_embeddings=64), device="cpu")
    assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.save_pretrained(tmp_path)
        SentenceEncoder(tmp_path, device="cpu")


@pytest.mark.parametrize("module", ["2_Dense", "3_Normalize"])
@pytest.mark.parametrize("key", ["module_input_name", "module_output_name"])
def test_modules_over_anything_but_sentence_vectors_are_refused(
    build: Callable[..., Path], module: str, key: str
) -> None:
    folder = build("mean", modules.Dense(32, 20), modules.Normalize())
    path = folder / module / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: "token_embeddings"}))
    with pytest.raises(ConfigError, match=f"{module}.*{key} 'token_embeddings' is not supported"):
        SentenceEncoder(folder)


# The calls of sentence-transformers


def test_batch_size_is_taken_and_changes_nothing(minilm: Path) -> None:
    encoder = SentenceEncoder(minilm, device="cpu")
    assert np.array_equal(encoder.encode(TEXTS, batch_size=2), encoder.encode(TEXTS))
    with pytest.raises(InputError, match="batch_size must be at least 1, got 0"):
        encoder.encode(TEXTS, batch_size=0)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, np.ndarray),
        ({"convert_to_numpy": True}, np.ndarray),
        ({"convert_to_numpy": False}, torch.Tensor),
        ({"convert_to_tensor": True}, torch.Tensor),
        ({"convert_to_numpy": True, "convert_to_tensor": True}, torch.Tensor),
    ],
    ids=str,
)
def test_vectors_come_as_what_was_asked_for(minilm: Path, options: dict[str, bool], kind: type) -> None:
    encoder = SentenceEncoder(minilm, device="cpu")
    vectors = encoder.encode(TEXTS, **options)
    assert type(vectors) is kind
    assert np.array_equal(np.asarray(vectors), encoder.encode(TEXTS))


def test_an_encoder_says_what_it_is(minilm: Path) -> None:
    encoder = SentenceEncoder(minilm, device="cpu", precision="bf16")
    assert repr(encoder) == f"SentenceEncoder({str(minilm)!r}, bf16 on cpu, width 384, max_seq_length 256)"
