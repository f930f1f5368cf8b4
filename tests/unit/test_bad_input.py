"""Whatever is wrong with a model or a request, the user gets one line of ours that names the culprit."""

from __future__ import annotations

import json
import os
import re
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from small_models import MASKED, SAVE_FAMILY
from tokenizers.processors import TemplateProcessing

from bothways import (
    BothwaysError,
    CheckpointError,
    ConfigError,
    Encoder,
    InputError,
    SentenceEncoder,
    pipeline,
)
from bothways.families import FAMILIES
from bothways.families.family import config_from_hf
from bothways.nn.config import MOST
from bothways.tasks import TASKS

WEIGHTS = "model.safetensors"


@contextmanager
def refused(*words: str, kind: type[BothwaysError] = BothwaysError) -> Iterator[None]:
    """One error of ours, in one line that has all these words, soon and without much memory."""
    started = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(kind) as caught:
            yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert "\n" not in message
    assert "\r" not in message
    assert "Traceback" not in message
    assert [word for word in words if word not in message] == [], message
    assert len(message) < 1000
    assert peak < 200_000_000
    assert time.monotonic() - started < 20


@pytest.fixture(scope="module")
def whole(save_bert: Callable[..., Path]) -> Path:
    """A folder in which nothing is wrong."""
    return save_bert(kind="BertForPreTraining", hidden_size=8, intermediate_size=12, num_hidden_layers=1)


@pytest.fixture(scope="module")
def tagger(save_bert: Callable[..., Path]) -> Path:
    """One with a head for tokens."""
    return save_bert(kind="BertForTokenClassification", hidden_size=8, intermediate_size=12, num_hidden_layers=1)


@pytest.fixture(scope="module")
def made_for(whole: Path, tagger: Path) -> Callable[[str], Path]:
    """task → a folder in which nothing is wrong, with the head that the task needs."""
    return lambda task: {"token-classification": tagger}.get(task, whole)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoilt."""
    copy = tmp_path / "model"
    copytree(whole, copy)
    return copy


@pytest.fixture(scope="module")
def sentence_folder(minilm: Path, save_bert: Callable[..., Path]) -> Path:
    """A sentence-transformers folder with a Dense module in which nothing is wrong."""
    folder = save_bert(max_position_embeddings=64)
    names = ["Transformer", "Pooling", "Dense", "Normalize"]
    entries = [
        {"idx": i, "name": str(i), "path": f"{i}_{n}" if i else "", "type": f"x.{n}"} for i, n in enumerate(names)
    ]
    write(folder / "modules.json", entries)
    (folder / "1_Pooling").mkdir()
    write(folder / "1_Pooling" / "config.json", {"pooling_mode": "mean", "embedding_dimension": 32})
    (folder / "2_Dense").mkdir()
    act = "torch.nn.modules.activation.Tanh"
    write(folder / "2_Dense" / "config.json", {"in_features": 32, "out_features": 5, "activation_function": act})
    save_file({"linear.weight": torch.randn(5, 32), "linear.bias": torch.randn(5)}, folder / "2_Dense" / WEIGHTS)
    return folder


@pytest.fixture
def sentences(sentence_folder: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "sentences"
    copytree(sentence_folder, copy)
    return copy


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def change(path: Path, **keys: Any) -> None:
    write(path, {**json.loads(path.read_text()), **keys})


def test_the_folders_are_whole_before_they_are_spoilt(folder: Path, sentences: Path) -> None:
    assert "mlm" in Encoder.from_pretrained(folder).heads
    assert SentenceEncoder(sentences, device="cpu").encode("the cat").shape == (5,)


# Files


@pytest.mark.parametrize("name", ["no/such/folder", "./nothing", "/nowhere/at all", "no-such-model-here", "", "a b"])
def test_a_missing_folder(name: str) -> None:
    with refused(name):
        Encoder.from_pretrained(name)


def test_a_file_in_place_of_the_folder(folder: Path) -> None:
    with refused("config.json", "folder"):
        Encoder.from_pretrained(folder / "config.json")


def test_a_folder_with_nothing_in_it(tmp_path: Path) -> None:
    with refused("config.json", "no such file"):
        Encoder.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
def test_a_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with refused(str(folder), name):
        Encoder.from_pretrained(folder)


@pytest.mark.parametrize("name", ["config.json", WEIGHTS, "vocab.txt", "tokenizer_config.json"])
def test_an_empty_file(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"")
    with refused(str(folder / name)):
        Encoder.from_pretrained(folder)


@pytest.mark.parametrize("name", ["config.json", WEIGHTS, "vocab.txt", "tokenizer_config.json"])
def test_a_folder_in_place_of_a_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    with refused(str(folder / name)):
        Encoder.from_pretrained(folder)


@pytest.mark.parametrize("name", ["config.json", "vocab.txt", "tokenizer_config.json"])
def test_a_file_that_is_not_utf8(folder: Path, name: str) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:40] + b"\xff\xfe" + path.read_bytes()[40:])
    with refused(str(path), "UTF-8", "byte 40"):
        Encoder.from_pretrained(folder)


BROKEN_JSON = {
    "cut": '{"model_type": "bert", "hidden_size": ',
    "trailing comma": '{"model_type": "bert",}',
    "text": "not json",
    "two values": "{} {}",
    "too deep": "[" * 100_000,
    "too deep inside": '{"model_type": ' + '{"a":' * 50_000,
    "a list": "[1, 2]",
    "a number": "3",
    "null": "null",
    "endless number": '{"hidden_size": ' + "9" * 5000 + "}",
}


@pytest.mark.parametrize("text", BROKEN_JSON.values(), ids=BROKEN_JSON)
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json"])
def test_broken_json(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    with refused(str(folder / name)):
        Encoder.from_pretrained(folder)


def test_broken_json_is_located(folder: Path) -> None:
    (folder / "config.json").write_text('{\n  "a": 1,\n  oops\n}')
    with refused("config.json", "line 3", "column 3"):
        Encoder.from_pretrained(folder)


def test_only_a_pickle(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    with refused("pytorch_model.bin", f"bothways convert {folder}", kind=CheckpointError):
        Encoder.from_pretrained(folder)


# Config values


def test_an_unknown_model_type(folder: Path) -> None:
    change(folder / "config.json", model_type="pegasus")
    with refused("config.json", "model_type 'pegasus'", *FAMILIES, kind=ConfigError):
        Encoder.from_pretrained(folder)


@pytest.mark.parametrize("value", [None, 3, ["bert"], {"bert": 1}, True, "", "bert\nbert"], ids=repr)
def test_a_model_type_that_is_no_name(folder: Path, value: Any) -> None:
    change(folder / "config.json", model_type=value)
    with refused("config.json", "model_type", kind=ConfigError):
        Encoder.from_pretrained(folder)


SIZES = ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"]
SIZES += ["max_position_embeddings", "type_vocab_size"]
NO_SIZES = [-1, 10**12, 10**400, "768", True, False, 7.0, 7.5, float("nan"), float("inf"), [8], {"a": 8}]


@pytest.mark.parametrize("value", NO_SIZES, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("key", SIZES)
def test_a_size_that_is_none(folder: Path, key: str, value: Any) -> None:
    change(folder / "config.json", **{key: value})
    with refused("config.json", key, kind=ConfigError):
        Encoder.from_pretrained(folder)


@pytest.mark.parametrize("key", [size for size in SIZES if size != "type_vocab_size"])
def test_a_size_of_0(folder: Path, key: str) -> None:
    change(folder / "config.json", **{key: 0})
    with refused("config.json", key, kind=ConfigError):
        Encoder.from_pretrained(folder)


@pytest.mark.parametrize("key", SIZES)
def test_the_largest_size_there_may_be_is_refused_for_not_fitting_the_weights_before_anything_is_allocated(
    folder: Path, key: str
) -> None:
    ours = next(k.ours for k in FAMILIES["bert"].keys if k.theirs == key).rpartition(".")[2]
    change(folder / "config.json", **{key: MOST[ours]})
    with refused(str(folder)):
        Encoder.from_pretrained(folder)


@pytest.mark.parametrize("key", [key.theirs for key in FAMILIES["bert"].keys if key.theirs not in SIZES])
@pytest.mark.parametrize("value", [-1, 2, "x", True, [0.1], {}, float("nan"), float("inf"), -float("inf")], ids=repr)
def test_a_rate_or_name_that_is_none(folder: Path, key: str, value: Any) -> None:
    change(folder / "config.json", **{key: value})
    with refused("config.json", key, kind=ConfigError):
        Encoder.from_pretrained(folder)


@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"])
def test_a_missing_key(folder: Path, key: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config[key]
    write(folder / "config.json", config)
    with refused("config.json", f"key {key} is missing", kind=ConfigError):
        Encoder.from_pretrained(folder)


@pytest.mark.parametrize("key", ["max_position_embeddings", "type_vocab_size", "hidden_act", "layer_norm_eps"])
def test_a_null_is_as_an_absent_key(folder: Path, key: str) -> None:
    path = folder / "config.json"
    config = {"vocab_size": 9, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2}
    config["intermediate_size"] = 6
    expected, _ = config_from_hf(FAMILIES["bert"], config, str(path))
    assert config_from_hf(FAMILIES["bert"], {**config, key: None}, str(path))[0] == expected
    with refused("config.json", "vocab_size", kind=ConfigError):
        config_from_hf(FAMILIES["bert"], {**config, "vocab_size": None}, str(path))


NO_VALUES = [{"a": 1}, [1.5], -5, float("nan"), 10**400, "no such\nthing", ["x" * 5000]]
# Any string is a valid one there; what it does not say does not apply.
ANY_STRING = ("norm_rel_ebd",)
SHAPING = [(family, key.theirs) for family in FAMILIES for key in FAMILIES[family].keys]


@pytest.mark.parametrize(("family", "key"), SHAPING)
def test_a_value_of_any_familys_key_that_makes_no_sense(family: str, key: str) -> None:
    config = SAVE_FAMILY[family].config().to_dict()
    config.pop("rope_parameters", None)  # they have the last word on the angles
    for value in NO_VALUES:
        if not (key in ANY_STRING and isinstance(value, str)):
            with refused("somewhere/config.json", key, kind=ConfigError):
                config_from_hf(FAMILIES[family], {**config, key: value}, "somewhere/config.json")


IMPOSSIBLE = [
    ("albert", {"num_hidden_groups": 7}, "num_hidden_groups"),
    ("albert", {"inner_group_num": 1000}, "inner_group_num"),
    ("deberta-v2", {"position_buckets": 1}, "position_buckets"),
    ("deberta-v2", {"pos_att_type": "c2p|p2q"}, "pos_att_type"),
    ("deberta-v2", {"conv_kernel_size": 4}, "conv_kernel_size"),
    ("deberta-v2", {"conv_kernel_size": 3, "conv_groups": 5}, "conv_groups"),
    ("deberta-v2", {"conv_act": "softmax"}, "conv_act"),
    ("distilbert", {"n_heads": 5}, "dim"),
    ("gpt2", {"n_head": 5}, "n_embd"),
    ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ("gpt2", {"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn"),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
    ("modernbert", {"layer_types": ["full_attention"]}, "layer_types"),
    ("modernbert", {"layer_types": []}, "layer_types"),
    ("modernbert", {"layer_types": ["full_attention", "no_attention"]}, "layer_types"),
    ("modernbert", {"layer_types": None, "global_attn_every_n_layers": 0}, "global_attn_every_n_layers"),
    ("modernbert", {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "rope_parameters"),
    ("modernbert", {"num_attention_heads": 32}, "hidden_size"),
    ("mpnet", {"relative_attention_num_buckets": 31}, "relative_attention_num_buckets"),
    ("roberta", {"pad_token_id": 23}, "max_position_embeddings"),
    ("roberta", {"pad_token_id": 1.5}, "pad_token_id"),
    ("roberta", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
    ("camembert", {"is_decoder": True}, "is_decoder"),
]


@pytest.mark.parametrize(("family", "changes", "key"), IMPOSSIBLE, ids=[f"{f} {c}"[:60] for f, c, _ in IMPOSSIBLE])
def test_a_network_that_cannot_be(family: str, changes: dict[str, Any], key: str) -> None:
    config = {**SAVE_FAMILY[family].config().to_dict(), **changes}
    with refused("somewhere/config.json", key, kind=ConfigError):
        config_from_hf(FAMILIES[family], config, "somewhere/config.json")


HEAD_KEYS = [
    ("bert", "ForSequenceClassification", "id2label", {str(i): "x" for i in range(7)}, CheckpointError),
    ("bert", "ForTokenClassification", "num_labels", -1, ConfigError),
    ("bert", "ForTokenClassification", "num_labels", [3], ConfigError),
    ("deberta-v2", "ForSequenceClassification", "pooler_hidden_act", [], ConfigError),
    ("electra", "ForMultipleChoice", "summary_type", "last", ConfigError),
    ("electra", "ForMultipleChoice", "summary_activation", {}, ConfigError),
    ("modernbert", "ForSequenceClassification", "classifier_pooling", "max", ConfigError),
    ("modernbert", "ForSequenceClassification", "classifier_activation", ["gelu"], ConfigError),
]


@pytest.mark.parametrize(("family", "kind", "key", "value", "error"), HEAD_KEYS, ids=[k for _, _, k, _, _ in HEAD_KEYS])
def test_a_key_of_a_head_that_makes_no_sense(
    save_family: Callable[..., Path], family: str, kind: str, key: str, value: Any, error: type[BothwaysError]
) -> None:
    folder = save_family(family, kind=kind, tokenizer=False)
    change(folder / "config.json", **({"id2label": None} if key == "num_labels" else {}), **{key: value})
    with refused("config.json", key if error is ConfigError else "classifier", kind=error):
        Encoder.from_pretrained(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_of_more_layers_than_the_file_has(save_family: Callable[..., Path], family: str) -> None:
    folder, words = save_family(family, tokenizer=False), SAVE_FAMILY[family].words
    raised = {"num_hidden_groups": 3, "num_hidden_layers": 3} if family == "albert" else {"num_hidden_layers": 3}
    layers = {"layer_types": None} if family == "modernbert" else {}
    change(folder / "config.json", **{words.get(key, key): value for key, value in raised.items()}, **layers)
    with refused(WEIGHTS, "missing", "2.", kind=CheckpointError):
        Encoder.from_pretrained(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_weight_of_any_family_with_the_wrong_shape_or_missing(save_family: Callable[..., Path], family: str) -> None:
    """Of every kind of weight one: a second layer is read as the first."""
    folder = save_family(family, tokenizer=False)
    tensors = load_file(folder / WEIGHTS)
    kinds = {re.sub(r"\d+", "", name): name for name in tensors}
    for name in kinds.values():
        cut = {key: tensor[..., :-1].contiguous() if key == name else tensor for key, tensor in tensors.items()}
        save_file(cut, folder / WEIGHTS)
        with refused(WEIGHTS, name, kind=CheckpointError):
            Encoder.from_pretrained(folder)
    last = list(tensors)[-1]
    if not last.startswith("pooler"):
        save_file({key: tensor for key, tensor in tensors.items() if key != last}, folder / WEIGHTS)
        with refused(WEIGHTS, "missing", last, kind=CheckpointError):
            Encoder.from_pretrained(folder)


@pytest.mark.parametrize("family", MASKED)
def test_a_head_that_is_declared_but_absent_is_not_there(save_family: Callable[..., Path], family: str) -> None:
    """As released encoders say in their configs what they were trained with, this is no error before it is needed."""
    folder = save_family(family)
    (declared,) = [name for name, heads in FAMILIES[family].architectures.items() if heads == ("mlm",)]
    change(folder / "config.json", architectures=[declared])
    assert Encoder.from_pretrained(folder).heads == {}
    with refused("no masked-language head", kind=CheckpointError):
        pipeline("fill-mask", folder, device="cpu")


def test_heads_that_do_not_divide_the_width(folder: Path) -> None:
    change(folder / "config.json", num_attention_heads=3)
    with refused("config.json", "hidden_size", "8", "3", kind=ConfigError):
        Encoder.from_pretrained(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [("position_embedding_type", "relative_key"), ("is_decoder", True), ("add_cross_attention", True)],
)
def test_a_mechanism_the_network_lacks(folder: Path, key: str, value: Any) -> None:
    change(folder / "config.json", **{key: value})
    with refused("config.json", key, repr(value), kind=ConfigError):
        Encoder.from_pretrained(folder)


# Weights


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.3, 0.5, 0.9, 0.999])
def test_a_truncated_weight_file(folder: Path, share: float) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: int(len(data) * share)])
    with refused(str(folder / WEIGHTS), kind=CheckpointError):
        Encoder.from_pretrained(folder)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9])
def test_a_weight_file_cut_in_its_first_bytes(folder: Path, count: int) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:count])
    with refused(str(folder / WEIGHTS), kind=CheckpointError):
        Encoder.from_pretrained(folder)


def with_header(path: Path, header: Any, data: bytes = b"\0" * 64) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


HEADERS = {
    "not JSON": b"nonsense",
    "not UTF-8": b'{"\xff": 1}',
    "a list": [],
    "a number": 1,
    "no offsets": {"a": {"dtype": "F32", "shape": [1]}},
    "beyond the end": {"a": {"dtype": "F32", "shape": [100], "data_offsets": [0, 400]}},
    "backwards": {"a": {"dtype": "F32", "shape": [1], "data_offsets": [8, 4]}},
    "negative": {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
    "huge shape": {"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 64]}},
    "unknown type": {"a": {"dtype": "F77", "shape": [16], "data_offsets": [0, 64]}},
    "overlapping": {n: {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]} for n in "ab"},
    "a newline in a name": {"a\nb": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}},
    "a newline in a type": {"a": {"dtype": "F\n32", "shape": [16], "data_offsets": [0, 64]}},
    "nothing": {},
    "quarter bytes": {"a": {"dtype": "F4", "shape": [3], "data_offsets": [0, 64]}},
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_a_weight_file_with_a_broken_header(folder: Path, header: Any) -> None:
    with_header(folder / WEIGHTS, header)
    with refused(str(folder / WEIGHTS), kind=CheckpointError):
        Encoder.from_pretrained(folder)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**40, 100_000_001])
def test_a_weight_file_that_promises_a_huge_header(folder: Path, length: int) -> None:
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", length) + b"{}" * 50)
    with refused(str(folder / WEIGHTS), kind=CheckpointError):
        Encoder.from_pretrained(folder)


def tensors_changed(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS)


WORDS = "bert.embeddings.word_embeddings.weight"
QUERY = "bert.encoder.layer.0.attention.self.query.weight"
TRANSFORM = "cls.predictions.transform.LayerNorm.weight"


@pytest.mark.parametrize("name", [WORDS, QUERY, TRANSFORM, "bert.pooler.dense.bias", "cls.predictions.bias"])
def test_a_missing_weight_is_named(folder: Path, name: str) -> None:
    tensors_changed(folder, lambda tensors: tensors.pop(name))
    with refused(WEIGHTS, "missing", name.removeprefix("bert."), kind=CheckpointError):
        Encoder.from_pretrained(folder)


@pytest.mark.parametrize("name", ["bert.encoder.layer.1.output.dense.bias", "surprise", "bert.embeddings.extra.weight"])
def test_an_unexpected_weight_is_named(folder: Path, name: str) -> None:
    tensors_changed(folder, lambda tensors: tensors.update({name: torch.zeros(2)}))
    with refused(WEIGHTS, "unexpected", name, kind=CheckpointError):
        Encoder.from_pretrained(folder)


def test_a_name_with_a_line_end_does_not_break_the_line(folder: Path) -> None:
    tensors_changed(folder, lambda tensors: tensors.update({"sur\nprise": torch.zeros(2)}))
    with refused(WEIGHTS, "unexpected", kind=CheckpointError):
        Encoder.from_pretrained(folder)


@pytest.mark.parametrize("name", [WORDS, QUERY, TRANSFORM, "bert.pooler.dense.bias"])
@pytest.mark.parametrize("shape", [(), (3,), (8, 9), (2, 2, 2)], ids=str)
def test_a_weight_of_the_wrong_shape_is_named(folder: Path, name: str, shape: tuple[int, ...]) -> None:
    tensors_changed(folder, lambda tensors: tensors.update({name: torch.zeros(shape)}))
    with refused(WEIGHTS, name, kind=CheckpointError):
        Encoder.from_pretrained(folder)


def test_the_same_weight_under_two_names(folder: Path) -> None:
    def double(tensors: dict[str, torch.Tensor]) -> None:
        tensors[WORDS.removeprefix("bert.")] = tensors[WORDS].clone()

    tensors_changed(folder, double)
    with refused(WEIGHTS, WORDS, "twice", kind=CheckpointError):
        Encoder.from_pretrained(folder)


@pytest.mark.parametrize("name", [WORDS, QUERY, TRANSFORM])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_a_weight_that_is_not_finite_is_named(folder: Path, name: str, value: float, dtype: torch.dtype) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name] = tensors[name].to(dtype)
        tensors[name].view(-1)[3] = value

    tensors_changed(folder, spoil)
    with refused(WEIGHTS, name, "NaN", kind=CheckpointError):
        Encoder.from_pretrained(folder)


def test_a_weight_too_large_for_fp32_is_named(folder: Path) -> None:
    tensors_changed(folder, lambda tensors: tensors.update({QUERY: torch.full((8, 8), 1e300, dtype=torch.float64)}))
    with refused(WEIGHTS, QUERY, kind=CheckpointError):
        Encoder.from_pretrained(folder)


def test_large_but_finite_weights_whose_sum_is_not_are_loaded(folder: Path) -> None:
    tensors_changed(folder, lambda tensors: tensors.update({QUERY: torch.full((8, 8), 3e38)}))
    assert Encoder.from_pretrained(folder).network.layers[0].attention.qkv.weight.max() == torch.tensor(3e38)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.uint8, torch.bool])
def test_weights_of_whole_numbers_are_refused(folder: Path, dtype: torch.dtype) -> None:
    tensors_changed(folder, lambda tensors: tensors.update({QUERY: torch.ones(8, 8, dtype=dtype)}))
    with refused(WEIGHTS, QUERY, kind=CheckpointError):
        Encoder.from_pretrained(folder)


# Tokenizers


def test_a_tokenizer_larger_than_the_model(folder: Path) -> None:
    with (folder / "vocab.txt").open("a") as file:
        file.write("more\nthan\nthe\nmodel\nhas\n")
    with refused(str(folder), "tokenizer", kind=CheckpointError):
        Encoder.from_pretrained(folder)


@pytest.mark.parametrize("token", ["[UNK]", "[CLS]", "[SEP]"])
def test_a_vocabulary_without_a_token_that_is_needed(folder: Path, token: str) -> None:
    path = folder / "vocab.txt"
    path.write_text(path.read_text().replace(token, "[OTHER]"))
    with refused("vocab.txt", token):
        Encoder.from_pretrained(folder)


@pytest.mark.parametrize("text", ["\n", "\n\n\n", " \n"])
def test_a_vocabulary_of_blank_lines(folder: Path, text: str) -> None:
    (folder / "vocab.txt").write_text(text)
    with refused("vocab.txt"):
        Encoder.from_pretrained(folder)


@pytest.mark.parametrize("value", [{}, {"model": 3}, {"model": {"type": "WordPiece"}}, {"version": "9"}], ids=str)
def test_a_tokenizer_json_that_is_none(folder: Path, value: Any) -> None:
    write(folder / "tokenizer.json", value)
    with refused("tokenizer.json"):
        Encoder.from_pretrained(folder)


@pytest.mark.parametrize("key", ["do_lower_case", "strip_accents", "tokenize_chinese_chars"])
@pytest.mark.parametrize("value", ["yes", 3, [], {}], ids=str)
def test_a_switch_of_the_tokenizer_that_is_none(folder: Path, key: str, value: Any) -> None:
    change(folder / "tokenizer_config.json", **{key: value})
    with refused("tokenizer_config.json", key):
        Encoder.from_pretrained(folder)


def test_a_model_without_a_tokenizer_cannot_read_texts(folder: Path) -> None:
    (folder / "vocab.txt").unlink()
    for build in (lambda: pipeline("fill-mask", folder), lambda: SentenceEncoder(folder)):
        with refused("tokenizer.json", "vocab.txt"):
            build()


# Sentence-transformers folders


@pytest.mark.parametrize("place", ["../elsewhere", "/etc", "1_Pooling/../../x", ".."])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_module_outside_the_folder(sentences: Path, index: int, place: str) -> None:
    modules = json.loads((sentences / "modules.json").read_text())
    modules[index]["path"] = place
    write(sentences / "modules.json", modules)
    with refused("modules.json", place):
        SentenceEncoder(sentences)


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_an_unknown_module(sentences: Path, index: int) -> None:
    modules = json.loads((sentences / "modules.json").read_text())
    modules[index]["type"] = "some.where.CNN"
    write(sentences / "modules.json", modules)
    with refused("modules.json", "" if index == 0 else "CNN"):
        SentenceEncoder(sentences)


@pytest.mark.parametrize(
    "value", [[], {}, None, 3, [3], [{}], [{"type": 3}], [{"type": "x.Transformer", "path": 3}]], ids=str
)
def test_modules_that_are_no_list_of_modules(sentences: Path, value: Any) -> None:
    write(sentences / "modules.json", value)
    with refused(str(sentences)):
        SentenceEncoder(sentences)


POOLING = "1_Pooling/config.json"
DENSE = "2_Dense/config.json"
BAD_KEYS = [
    (POOLING, "pooling_mode", ["median", "", [], ["mean", "median"], [["mean"]], 3, {}, True]),
    (DENSE, "activation_function", ["torch.nn.Softplus", "os.system", "", 3, [], {}]),
    (DENSE, "in_features", [31, 0, -1, "32", None, True, 2**70]),
    (DENSE, "out_features", [6, 0, -1, "5", None, True, 2**70]),
    (DENSE, "use_residual", [True]),
    (DENSE, "module_input_name", ["token_embeddings", 3]),
    ("sentence_bert_config.json", "max_seq_length", [0, -1, "128", 1.5, True, [], {}]),
    ("config_sentence_transformers.json", "similarity_fn_name", ["nearness", 3, [], {"a": 1}]),
    ("config_sentence_transformers.json", "prompts", [3, "query", ["query"], {"query": 3}]),
    ("config_sentence_transformers.json", "default_prompt_name", ["missing", 3, [1], {"a": 1}]),
]
CASES = [(name, key, value) for name, key, values in BAD_KEYS for value in values]


@pytest.mark.parametrize(("name", "key", "value"), CASES, ids=[f"{key} {value!r}"[:40] for _, key, value in CASES])
def test_a_key_of_a_sentence_model_that_makes_no_sense(sentences: Path, name: str, key: str, value: Any) -> None:
    path = sentences / name
    write(path, {**(json.loads(path.read_text()) if path.exists() else {}), key: value})
    with refused():
        encoder = SentenceEncoder(sentences, device="cpu")
        vectors = encoder.encode(["the cat", "a dog"])
        encoder.similarity(vectors, vectors)


@pytest.mark.parametrize("name", [POOLING, DENSE, "2_Dense/model.safetensors"])
def test_a_module_without_its_file(sentences: Path, name: str) -> None:
    (sentences / name).unlink()
    with refused(name.rpartition("/")[2], name.partition("/")[0]):
        SentenceEncoder(sentences)


@pytest.mark.parametrize(
    "tensors", [{}, {"linear.weight": (5, 31)}, {"linear.weight": (5, 32)}, {"weight": (5, 32)}], ids=str
)
def test_dense_weights_that_do_not_fit(sentences: Path, tensors: dict[str, tuple[int, ...]]) -> None:
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, sentences / "2_Dense" / WEIGHTS)
    with refused("2_Dense", kind=CheckpointError):
        SentenceEncoder(sentences)


# What users ask for


@pytest.fixture(scope="module")
def asked(whole: Path, save_bert: Callable[..., Path]) -> Callable[[str], Path]:
    """(task) → a folder in which nothing is wrong, with the head that the task asks."""
    kinds = {
        "text-classification": "BertForSequenceClassification",
        "token-classification": "BertForTokenClassification",
        "question-answering": "BertForQuestionAnswering",
        "multiple-choice": "BertForMultipleChoice",
    }
    made = {task: save_bert(kind=kind, hidden_size=8) for task, kind in kinds.items()}
    return lambda task: made.get(task, whole)


@pytest.fixture(scope="module")
def encoder(whole: Path) -> SentenceEncoder:
    return SentenceEncoder(whole, device="cpu")


def ask(task: str, pipe: Callable, texts: Any) -> Any:
    """Answers about texts; questions are about them where a task has such."""
    if task == "question-answering":
        return pipe(question=texts, context=["the cat sat"] * 2)
    return pipe(texts, [["cat", "dog"]] * 2) if task == "multiple-choice" else pipe(texts)


@pytest.mark.parametrize(
    "value", [None, 3, b"bytes", float("nan"), ["nested"], object()], ids=lambda v: type(v).__name__
)
def test_what_is_not_a_text(asked: Callable[[str], Path], encoder: SentenceEncoder, value: Any) -> None:
    with refused("text 1", type(value).__name__, kind=InputError):
        encoder.encode(["fine", value])
    with refused("text 1", type(value).__name__, kind=InputError):
        encoder.encode(["fine", value], prompt="before ")
    for task in TASKS:
        place = {"question-answering": "input 1", "multiple-choice": "question 1"}.get(task, "text 1")
        with refused(place, type(value).__name__, kind=InputError):
            ask(task, pipeline(task, asked(task), device="cpu"), ["[MASK]", value])


@pytest.mark.parametrize("value", [None, 3, 2.5], ids=repr)
def test_what_is_neither_a_text_nor_a_list_of_texts(
    asked: Callable[[str], Path], encoder: SentenceEncoder, value: Any
) -> None:
    with refused(type(value).__name__, kind=InputError):
        encoder.encode(value)
    for task in TASKS:
        with refused(type(value).__name__, kind=InputError):
            ask(task, pipeline(task, asked(task), device="cpu"), value)


def test_half_a_surrogate_pair(encoder: SentenceEncoder) -> None:
    with refused("text 0", "character 2", kind=InputError):
        encoder.encode("ab\ud800")


def test_a_text_without_a_mask(whole: Path) -> None:
    fill = pipeline("fill-mask", whole, device="cpu")
    with refused("[MASK]", "the cat sat", kind=InputError):
        fill(["a [MASK]", "the cat sat"])
    with refused("[MASK]", kind=InputError):
        fill("")
    with refused("[MASK]", kind=InputError):
        fill("one\nline\n" * 100)


@pytest.mark.parametrize(
    ("task", "head"),
    [("fill-mask", "masked-language"), ("text-classification", "classification"), ("question-answering",) * 2],
)
def test_a_model_without_the_head_a_task_needs(save_bert: Callable[..., Path], task: str, head: str) -> None:
    with refused("the model at", f"has no {head} head (weights that {task} needs)", kind=CheckpointError):
        pipeline(task, save_bert())


QUESTION = "the cat ?"


@pytest.mark.parametrize(
    ("inputs", "options", "words"),
    [
        ((), {"question": None}, ("a question and a context", "question is NoneType")),
        ((), {"context": None}, ("a question and a context", "context is NoneType")),
        ((), {"context": ""}, ("input 0", "context is empty")),
        ((), {"question": ["a", " \n"], "context": "cat"}, ("input 1", "question is empty")),
        ((), {"question": ["a", "a\udc00"], "context": "cat"}, ("input 1", "question", "surrogate")),
        ((), {"question": "a", "context": ["cat", 3]}, ("input 1", "context", "int")),
        ((), {"question": ["a", "b"], "context": ["cat"] * 3}, ("2 questions", "3")),
        (({"question": "a"},), {}, ("the input", "no context", "question")),
        (([{"question": "a", "context": "cat"}, {"question": "b"}],), {}, ("input 1", "no context")),
        (([{"question": "a", "context": "cat"}, "b"],), {}, ("input 1", "str")),
        (({"question": "a", "context": "cat"},), {"question": "b"}, ("not both",)),
        (("text",), {}, ("str",)),
        ((), {"max_answer_len": 0}, ("max_answer_len", "at least 1")),
        ((), {"top_k": 0}, ("top_k", "at least 1")),
        ((), {"top_k": True}, ("top_k",)),
        ((), {"max_seq_len": 2.5}, ("max_seq_len", "2.5")),
        ((), {"max_question_len": -1}, ("max_question_len",)),
        ((), {"doc_stride": -1}, ("doc_stride", "at least 0")),
        ((), {"doc_stride": 18}, ("input 0", "18", "doc_stride of 18")),
        ((), {"max_seq_len": 6}, ("input 0", "no room", "windows of 6")),
        ((), {"question": QUESTION * 20}, ("input 0", "no room", "windows of 24")),
        ((), {"handle_impossible_answer": "yes"}, ("handle_impossible_answer", "yes")),
        ((), {"top": 3}, ("no option top", "top_k")),
    ],
    ids=str,
)
def test_questions_that_cannot_be_asked(
    asked: Callable[[str], Path], inputs: tuple[Any, ...], options: dict[str, Any], words: tuple[str, ...]
) -> None:
    usual = {} if inputs else {"question": QUESTION, "context": "the cat " * 30}
    with refused(*words, kind=InputError):
        pipeline("question-answering", asked("question-answering"), device="cpu")(*inputs, **{**usual, **options})


def test_a_model_that_cannot_say_that_there_is_no_answer(save_bert: Callable[..., Path]) -> None:
    folder = save_bert("BertForQuestionAnswering")
    asked = {"question": QUESTION, "context": "the cat sat"}
    pipe = pipeline("question-answering", folder, device="cpu")
    pipe.tokenizer.backend.post_processor = TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])
    assert pipe(**asked)["answer"]
    with refused("[CLS]", "no answer", kind=InputError):
        pipe(**asked, handle_impossible_answer=True)


def test_a_tokenizer_without_a_mask_token(folder: Path) -> None:
    path = folder / "vocab.txt"
    path.write_text(path.read_text().replace("[MASK]", "[OTHER]"))
    with refused("no mask token", kind=InputError):
        pipeline("fill-mask", folder, device="cpu")("a [MASK]")


@pytest.mark.parametrize("task", ["fill_mask", "", "translation-ish", None, 3])
def test_an_unknown_task(whole: Path, task: Any) -> None:
    with refused("unknown task", "fill-mask", kind=InputError):
        pipeline(task, whole)


def test_no_model(whole: Path) -> None:
    with refused("name a folder or a hub id", kind=InputError):
        pipeline("fill-mask")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"device": "gpu9000"}, "gpu9000"),
        ({"device": "meta"}, "meta"),
        ({"device": ""}, "device"),
        ({"device": "cpu", "precision": "int8"}, "int8"),
        ({"device": "cpu", "precision": "fp16"}, "fp16"),
        ({"device": "cpu", "precision": "double"}, "double"),
        ({"device": "cpu", "precision": None}, "precision"),
    ],
    ids=str,
)
def test_a_device_or_precision_that_is_not_there(
    whole: Path, asked: Callable[[str], Path], options: dict[str, Any], word: str
) -> None:
    with refused(word, kind=InputError):
        SentenceEncoder(whole, **options)
    for task in TASKS:
        with refused(word, kind=InputError):
            pipeline(task, asked(task), **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7"])
def test_a_gpu_where_there_is_none(whole: Path, device: str) -> None:
    with refused(device, "no CUDA GPU", kind=InputError):
        SentenceEncoder(whole, device=device)


def test_an_unknown_backend(whole: Path) -> None:
    with refused("warp", "eager", kind=InputError):
        SentenceEncoder(whole, backend="warp")


def test_token_ids_longer_than_the_models_positions(whole: Path) -> None:
    from bothways import Ragged

    network = Encoder.from_pretrained(whole).network
    with refused("25", "24", kind=InputError):
        network(Ragged.of([[1] * 25]))


# Saving


def files_under(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_file_where_the_folder_should_be(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with refused("taken", kind=InputError):
        Encoder.from_pretrained(whole).save_pretrained(tmp_path / "taken")
    with refused("taken", kind=InputError):
        Encoder.from_pretrained(whole).save_pretrained(tmp_path / "taken" / "below")
    assert files_under(tmp_path) == {"taken"}
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize("name", ["config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json"])
def test_a_folder_where_a_file_should_be_written_leaves_nothing_half_written(
    whole: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).mkdir()
    with refused(name, kind=InputError):
        Encoder.from_pretrained(whole).save_pretrained(tmp_path)
    assert [path for path in files_under(tmp_path) if "partial" in path] == []
    with pytest.raises(BothwaysError):
        Encoder.from_pretrained(tmp_path)


def test_a_disk_that_fills_up_leaves_the_old_files_whole(
    whole: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: (folder / name).read_bytes() for name in files_under(folder)}

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    def full_to_safetensors(*args: Any, **kwargs: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    encoder = Encoder.from_pretrained(whole)
    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr(Path, "write_text", full)
    monkeypatch.setattr("bothways.checkpoint.weights.save_file", full_to_safetensors)
    with refused("No space left on device", kind=InputError):
        encoder.save_pretrained(folder)
    monkeypatch.undo()
    assert {name: (folder / name).read_bytes() for name in files_under(folder)} == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(whole: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with refused("Permission denied", kind=InputError):
        Encoder.from_pretrained(whole).save_pretrained(tmp_path / "model")
    tmp_path.chmod(0o700)
    assert files_under(tmp_path) == set()
