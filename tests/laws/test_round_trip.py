"""What was loaded can be saved, what was saved loads again, and transformers agrees."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from bothways import Encoder, Ragged
from bothways.families import FAMILIES
from bothways.families.family import config_from_hf, config_to_hf, expand
from bothways.nn.encoder import EncoderNetwork

pytestmark = pytest.mark.filterwarnings("ignore::bothways.UnusedWeightsWarning")  # BERT's second head

Save = Callable[..., Path]

# (transformers' class, its options) of what a family's checkpoints may hold.
CASES: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "bert": {
        "bare": ("BertModel", {}),
        "one layer": ("BertModel", {"num_hidden_layers": 1, "hidden_size": 28}),
        "no pooler": ("BertForTokenClassification", {}),
        "tied head": ("BertForMaskedLM", {}),
        "untied head": ("BertForMaskedLM", {"tie_word_embeddings": False}),
        "head and pooler": ("BertForPreTraining", {}),
        "fp16": ("BertForMaskedLM", {"dtype": torch.float16}),
    },
}
ALL = [(family, case) for family in FAMILIES for case in CASES[family]]


def state(encoder: Encoder) -> dict[str, Tensor]:
    parts = {"network": encoder.network, **encoder.heads}
    return {f"{part}.{name}": t for part, module in parts.items() for name, t in module.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(params=ALL, ids=[f"{family}-{case}" for family, case in ALL])
def checkpoint(request: pytest.FixtureRequest, save_family: Save) -> Path:
    family, case = request.param
    kind, options = CASES[family][case]
    return save_family(family, kind=kind, **options)


def test_load_save_load_is_identical(checkpoint: Path, tmp_path: Path) -> None:
    first = Encoder.from_pretrained(checkpoint)
    first.save_pretrained(tmp_path / "once")
    second = Encoder.from_pretrained(tmp_path / "once")
    assert second.config == first.config
    assert second.unused == ()
    assert same(state(second), state(first))
    second.save_pretrained(tmp_path / "twice")
    files = sorted(path.name for path in (tmp_path / "once").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "twice").iterdir())
    for name in files:
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes(), name


def test_transformers_loads_what_we_save_and_agrees(checkpoint: Path, tmp_path: Path) -> None:
    encoder = Encoder.from_pretrained(checkpoint)
    encoder.save_pretrained(tmp_path)
    (architecture,) = json.loads((tmp_path / "config.json").read_text())["architectures"]
    theirs, report = getattr(transformers, architecture).from_pretrained(
        tmp_path, output_loading_info=True, dtype=torch.float32
    )
    pooler = {name for name in report["missing_keys"] if "pooler" in name}
    assert set(report["missing_keys"]) - (pooler if encoder.network.pooler is None else set()) == set()
    assert not report["mismatched_keys"]
    ids = torch.randint(0, encoder.config.vocab, (11,))
    with torch.inference_mode():
        hidden = encoder.network(Ragged.of([ids])).last
        expected = theirs.eval()(ids[None], output_hidden_states=True)
        torch.testing.assert_close(hidden.data, expected.hidden_states[-1][0], atol=1e-4, rtol=0)
        if "mlm" in encoder.heads:
            torch.testing.assert_close(encoder.heads["mlm"](hidden.data), expected.logits[0], atol=1e-4, rtol=0)


def test_a_saved_pooler_is_the_one_transformers_runs(save_family: Save, tmp_path: Path) -> None:
    encoder = Encoder.from_pretrained(save_family("bert", kind="BertForPreTraining"))
    encoder.save_pretrained(tmp_path)
    theirs = transformers.BertModel.from_pretrained(tmp_path).eval()
    ids = torch.randint(0, encoder.config.vocab, (11,))
    with torch.inference_mode():
        ours = encoder.network.pooler(encoder.network(Ragged.of([ids])).last)
        torch.testing.assert_close(ours, theirs(ids[None]).pooler_output, atol=1e-4, rtol=0)


def test_the_tokenizer_is_saved_and_transformers_agrees(checkpoint: Path, tmp_path: Path) -> None:
    text = "The cat's unable, sat on the mat: [MASK] 123!"
    first = Encoder.from_pretrained(checkpoint).tokenizer
    Encoder.from_pretrained(checkpoint).save_pretrained(tmp_path)
    second = Encoder.from_pretrained(tmp_path).tokenizer
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    before = transformers.AutoTokenizer.from_pretrained(checkpoint)
    assert first.encode([text])[0].ids == second.encode([text])[0].ids == theirs(text)["input_ids"]
    assert second.max_length == first.max_length
    assert second.special == first.special
    assert theirs.model_max_length == before.model_max_length
    assert theirs.mask_token == before.mask_token == "[MASK]"


def test_a_saved_file_holds_each_shared_weight_once(save_family: Save, tmp_path: Path) -> None:
    Encoder.from_pretrained(save_family("bert", kind="BertForMaskedLM")).save_pretrained(tmp_path)
    vocab = json.loads((tmp_path / "config.json").read_text())["vocab_size"]
    shapes = [tuple(tensor.shape) for tensor in load_file(tmp_path / "model.safetensors").values()]
    assert sum(shape[0] == vocab and len(shape) == 2 for shape in shapes) == 1


def test_saving_into_the_folder_a_model_was_loaded_from_keeps_it_whole(checkpoint: Path) -> None:
    encoder = Encoder.from_pretrained(checkpoint)
    before = {name: tensor.clone() for name, tensor in state(encoder).items()}
    encoder.save_pretrained(checkpoint)
    assert same(state(encoder), before)
    assert same(state(Encoder.from_pretrained(checkpoint)), before)


def test_changed_weights_are_what_is_saved(save_family: Save, tmp_path: Path) -> None:
    encoder = Encoder.from_pretrained(save_family("bert"))
    with torch.no_grad():
        for parameter in encoder.network.parameters():
            parameter.add_(0.25)
    encoder.save_pretrained(tmp_path)
    assert same(state(Encoder.from_pretrained(tmp_path)), state(encoder))


EXTRAS = {
    "id2label": {"0": "neg", "1": "pos"},
    "use_cache": True,
    "_name_or_path": "some/where",
    "pad_token_id": 0,
    "something unheard of": [1, {"a": None}, "ü"],
    "classifier_dropout": None,
}


def test_keys_that_do_not_shape_the_network_are_carried_verbatim(save_family: Save, tmp_path: Path) -> None:
    folder = save_family("bert")
    config = {**json.loads((folder / "config.json").read_text()), **EXTRAS}
    (folder / "config.json").write_text(json.dumps(config))
    encoder = Encoder.from_pretrained(folder)
    assert {key: encoder.extras[key] for key in EXTRAS} == EXTRAS
    encoder.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == config


def raw_config(family: str) -> dict[str, Any]:
    """A config.json in which no value is a default, made from the family's own table of keys."""
    sizes = {"vocab": 101, "width": 30, "depth": 3, "heads": 5, "ffn": 77, "types": 3, "count": 51}
    raw: dict[str, Any] = {"model_type": family, **EXTRAS}
    for i, key in enumerate(FAMILIES[family].keys):
        leaf = key.ours.rpartition(".")[2]
        raw[key.theirs] = "relu" if leaf == "activation" else sizes.get(leaf, 0.01 * (i + 1))
    return raw


@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_read_and_written_is_the_same_config(family: str) -> None:
    raw = raw_config(family)
    config, extras = config_from_hf(FAMILIES[family], raw)
    assert config_to_hf(FAMILIES[family], config, extras) == raw
    again, _ = config_from_hf(FAMILIES[family], config_to_hf(FAMILIES[family], config, extras))
    assert again == config


@pytest.mark.parametrize("family", FAMILIES)
def test_every_shaping_key_reaches_its_own_field(family: str) -> None:
    raw = raw_config(family)
    config, _ = config_from_hf(FAMILIES[family], raw)
    ours = [key.ours for key in FAMILIES[family].keys]
    assert len(set(ours)) == len(ours)
    for key in FAMILIES[family].keys:
        value: Any = config
        for part in key.ours.split("."):
            value = getattr(value, part)
        assert value == raw[key.theirs]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_parameter_comes_from_exactly_one_rule_and_each_rule_names_one(family: str) -> None:
    spec = FAMILIES[family]
    config, _ = config_from_hf(spec, raw_config(family))
    with torch.device("meta"):
        network = EncoderNetwork(config)
        heads = {name: head.build(network, {"tie_word_embeddings": False}) for name, head in spec.heads.items()}
    rules = list(expand(spec.rules + spec.pooler, config.depth))
    assert Counter(rule.ours for rule in rules) == Counter(name for name, _ in network.named_parameters())
    sources = Counter(source for rule in rules for source in rule.sources)
    for name, head in heads.items():
        own = list(expand(spec.heads[name].rules, config.depth))
        assert Counter(rule.ours for rule in own) == Counter(name for name, _ in head.named_parameters())
        sources.update(source for rule in own for source in rule.sources)
    assert set(sources.values()) == {1}


@pytest.mark.parametrize("family", FAMILIES)
def test_no_known_but_unused_name_hides_a_weight_that_is_needed(family: str) -> None:
    spec = FAMILIES[family]
    heads = [rule for head in spec.heads.values() for rule in head.rules]
    needed = [source for rule in expand((*spec.rules, *spec.pooler, *heads), 2) for source in rule.sources]
    assert [name for name in needed if name.startswith(spec.unused)] == []
