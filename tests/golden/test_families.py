"""Random small models of transformers give the same numbers here, whatever their shape and however they were stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from small_models import SAVE_FAMILY, families_with, language_head
from torch import Tensor

from bothways import Encoder, Ragged
from bothways.families import FAMILIES
from bothways.families.family import config_from_hf

CLOSE = {"atol": 1e-4, "rtol": 0.0}
Save = Callable[..., Path]
Agree = Callable[..., None]


def oracle(folder: Path, kind: str = "Model", family: str = "bert") -> Any:
    return (
        SAVE_FAMILY[family].kind(kind).from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    )


@pytest.mark.parametrize("kind", ["Model", "ForMaskedLM"])
def test_every_layer_and_every_word_of_every_variant_is_that_of_transformers(
    save_family: Save, variant: tuple[str, dict[str, Any]], kind: str, agree: Agree
) -> None:
    family, keys = variant
    folder = save_family(family, kind=kind, tokenizer=False, **keys)
    agree(Encoder.from_pretrained(folder), oracle(folder, kind, family), most=9 if kind == "Model" else 4)


def test_every_length_of_text_has_the_numbers_of_transformers(save_family: Save, agree: Agree) -> None:
    folder = save_family("bert", tokenizer=False, max_position_embeddings=40)
    agree(Encoder.from_pretrained(folder), oracle(folder), seed=1, most=44)


HEADS = {
    "ForPreTraining": {"bert": ["mlm", "nsp"], "albert": ["mlm", "sop"], "electra": ["rtd"]},
    "ForNextSentencePrediction": {"bert": ["nsp"]},
    "ForMaskedLM": {family: [language_head(family)] for family in FAMILIES},
    "ForSequenceClassification": {family: ["classify"] for family in FAMILIES},
    "ForTokenClassification": {family: ["tag"] for family in FAMILIES},
    "ForQuestionAnswering": {family: ["answer"] for family in FAMILIES},
    "ForMultipleChoice": {family: ["choose"] for family in families_with("ForMultipleChoice")},
}
LABELS = {"ForSequenceClassification": (1, 2, 5), "ForTokenClassification": (1, 5)}
WITH_HEADS = [
    pytest.param(family, kind, {"num_labels": count}, heads, id=f"{family}-{kind}-{count}")
    for kind, families in HEADS.items()
    for family, heads in families.items()
    for count in LABELS.get(kind, (2,))
] + [
    pytest.param(family, "ForMaskedLM", {"tie_word_embeddings": False}, [language_head(family)], id=f"{family}-untied")
    for family in FAMILIES
]


@pytest.mark.parametrize(("family", "kind", "keys", "heads"), WITH_HEADS)
def test_the_logits_of_every_head_are_those_of_transformers(
    save_family: Save, family: str, kind: str, keys: dict[str, Any], heads: list[str], agree: Agree
) -> None:
    folder = save_family(family, kind=kind, tokenizer=False, **keys)
    encoder = Encoder.from_pretrained(folder)
    assert sorted(encoder.heads) == heads
    assert encoder.unused == ()
    agree(encoder, oracle(folder, kind, family), most=4)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("kind", ["ForSequenceClassification", "ForMultipleChoice"])
def test_modernberts_classifiers_pool_as_the_config_says(
    save_family: Save, kind: str, pooling: str, agree: Agree
) -> None:
    folder = save_family("modernbert", kind=kind, classifier_pooling=pooling, tokenizer=False)
    agree(Encoder.from_pretrained(folder), oracle(folder, kind, "modernbert"), most=4)


def test_no_types_means_all_of_the_first_type(save_bert: Save) -> None:
    encoder = Encoder.from_pretrained(save_bert(tokenizer=False))
    tokens = Ragged.of([[2, 5, 3], [2, 3]])
    with torch.inference_mode():
        zeros = encoder.network(tokens, torch.zeros(5, dtype=torch.int64)).last.data
        assert torch.equal(encoder.network(tokens).last.data, zeros)


def test_types_of_pairs_reach_the_network(save_bert: Save) -> None:
    folder = save_bert(max_position_embeddings=32)
    reference, encoder = oracle(folder), Encoder.from_pretrained(folder)
    (encoded,) = encoder.tokenizer.encode(["the cat sat"], ["on the mat"])
    theirs = transformers.AutoTokenizer.from_pretrained(folder)("the cat sat", "on the mat", return_tensors="pt")
    with torch.inference_mode():
        ours = encoder.network(Ragged.of([encoded.ids]), torch.tensor(encoded.types)).last.data
        torch.testing.assert_close(ours, reference(**theirs).last_hidden_state[0], **CLOSE)


# How checkpoints are stored. Each entry rewrites the tensors of a saved BertForPreTraining-like file.

OLD_NAMES = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}


def with_old_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in tensors.items():
        for new, old in OLD_NAMES.items():
            name = name.replace(new, old)
        renamed[name] = tensor
    return renamed


SPELLINGS: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "as saved": lambda tensors: tensors,
    "with the prefix": lambda tensors: {f"bert.{name}": t for name, t in tensors.items()},
    "gamma and beta": with_old_names,
    "gamma and beta with the prefix": lambda ts: {f"bert.{name}": t for name, t in with_old_names(ts).items()},
    "with position_ids": lambda tensors: {**tensors, "embeddings.position_ids": torch.arange(24)[None]},
}


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS)
def test_every_spelling_of_weight_names_loads_to_the_same_network(save_bert: Save, spell: Callable) -> None:
    folder = save_bert(tokenizer=False)
    expected = Encoder.from_pretrained(folder).network.state_dict()
    save_file(spell(load_file(folder / "model.safetensors")), folder / "model.safetensors")
    loaded = Encoder.from_pretrained(folder).network.state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_stored_in_another_precision_is_computed_in_fp32(
    save_family: Save, family: str, dtype: torch.dtype, agree: Agree
) -> None:
    folder = save_family(family, dtype=dtype, kind="ForMaskedLM", tokenizer=False)
    encoder = Encoder.from_pretrained(folder)
    assert {p.dtype for p in encoder.network.parameters()} == {torch.float32}
    agree(encoder, oracle(folder, "ForMaskedLM", family), most=3)


@pytest.mark.parametrize("prefixed", [True, False], ids=["from a head's class", "from the base class"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_network_is_loaded_with_and_without_the_prefix(
    save_family: Save, family: str, prefixed: bool, agree: Agree
) -> None:
    folder = save_family(family, tokenizer=False)
    reference, prefix = oracle(folder, family=family), FAMILIES[family].prefix if prefixed else ""
    tensors = load_file(folder / "model.safetensors")
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    agree(Encoder.from_pretrained(folder), reference, most=3)


@pytest.mark.parametrize("family", [family for family in FAMILIES if FAMILIES[family].renames])
def test_old_names_of_norms_load_to_the_same_network(save_family: Save, family: str) -> None:
    folder = save_family(family, kind="ForMaskedLM", tokenizer=False)
    expected = Encoder.from_pretrained(folder).network.state_dict()
    save_file(with_old_names(load_file(folder / "model.safetensors")), folder / "model.safetensors")
    loaded = Encoder.from_pretrained(folder).network.state_dict()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def rewritten(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> Path:
    """The folder, with its config changed."""
    config = json.loads((folder / "config.json").read_text())
    edit(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_modernbert_config_of_the_first_generation(save_family: Save, agree: Agree) -> None:
    """As transformers 4.48 wrote it: bases of the angles and every how many layers are keys of their own."""
    keys = {"num_hidden_layers": 4, "global_attn_every_n_layers": 3}
    rope = {
        "full_attention": {"rope_type": "default", "rope_theta": 500.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 70.0},
    }
    folder = save_family("modernbert", tokenizer=False, rope_parameters=rope, **keys)
    reference, today = oracle(folder, family="modernbert"), Encoder.from_pretrained(folder)
    agree(today, reference)
    for key in ("layer_types", "rope_parameters"):
        rewritten(folder, lambda config, key=key: config.pop(key))
    rewritten(folder, lambda config: config.update(keys, global_rope_theta=500.0, local_rope_theta=70.0))
    encoder = Encoder.from_pretrained(folder)
    assert encoder.config == today.config
    agree(encoder, reference)


@pytest.mark.parametrize("terms", ["p2c|c2p", "P2C | C2P", "c2p", ["p2c"]], ids=str)
def test_a_deberta_config_with_terms_in_a_string_and_without_legacy(
    save_family: Save, terms: Any, agree: Agree
) -> None:
    split = [term.strip() for term in terms.lower().split("|")] if isinstance(terms, str) else terms
    folder = save_family("deberta-v2", tokenizer=False, kind="ForMaskedLM", pos_att_type=split)
    reference = oracle(folder, "ForMaskedLM", "deberta-v2")
    rewritten(folder, lambda config: [config.pop("legacy", None), config.update(pos_att_type=terms)])
    agree(Encoder.from_pretrained(folder), reference, most=4)


# Keys that must be there; of others the family's defaults are those of transformers.
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_without_its_optional_keys_has_the_defaults_of_transformers(family: str, tmp_path: Path) -> None:
    """Where a released config may leave a key out, that is what both make of it."""
    spec, words = FAMILIES[family], SAVE_FAMILY[family].words
    sizes = {words.get(key, key): SAVE_FAMILY[family].config().to_dict()[words.get(key, key)] for key in SIZES}
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "cls_token_id", "sep_token_id", "eos_token_id"), 0)
    raw = {"model_type": family, **sizes, **(ids if family == "modernbert" else {})}
    theirs = json.loads(
        getattr(transformers, SAVE_FAMILY[family].name + "Config")(**raw).to_json_string(use_diff=False)
    )
    ours, _ = config_from_hf(spec, raw)
    full, _ = config_from_hf(spec, {**theirs, **raw})
    assert ours == full


def test_a_tied_head_may_repeat_the_shared_weights_in_its_file(save_bert: Save) -> None:
    folder = save_bert(kind="BertForMaskedLM", tokenizer=False)
    tensors = load_file(folder / "model.safetensors")
    words = tensors["bert.embeddings.word_embeddings.weight"]
    repeated = {
        "cls.predictions.decoder.weight": words.clone(),
        "cls.predictions.decoder.bias": tensors["cls.predictions.bias"].clone(),
    }
    save_file({**tensors, **repeated}, folder / "model.safetensors")
    encoder = Encoder.from_pretrained(folder)
    assert encoder.heads["mlm"].decoder.weight is encoder.network.embeddings.words.weight
    assert set(encoder.unused) <= set(repeated)
