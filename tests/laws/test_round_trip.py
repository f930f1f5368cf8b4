"""What was loaded can be saved, what was saved loads again, and transformers agrees."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from small_models import SAVE_FAMILY, VARIANTS, families_with, language_head
from torch import Tensor, nn

from bothways import ConfigError, Encoder, InputError, Ragged
from bothways.checkpoint.save import STORED
from bothways.families import FAMILIES
from bothways.families.family import config_from_hf, config_to_hf, expand
from bothways.nn.config import EncoderConfig, LearnedPositions
from bothways.nn.encoder import EncoderNetwork

Save = Callable[..., Path]
Agree = Callable[..., None]

# What checkpoints of every family may hold: (the end of the name of transformers' class, its options).
HELD: dict[str, tuple[str, dict[str, Any]]] = {
    "bare": ("Model", {}),
    "tied head": ("ForMaskedLM", {"num_hidden_layers": 1}),
    "untied head": ("ForMaskedLM", {"tie_word_embeddings": False}),
    "fp16": ("ForMaskedLM", {"dtype": torch.float16}),
    "1 label": ("ForSequenceClassification", {"num_labels": 1}),
    "5 labels": ("ForTokenClassification", {"num_labels": 5}),
    "answers": ("ForQuestionAnswering", {}),
    "choices": ("ForMultipleChoice", {"num_labels": 3}),
}
# … and some alone.
ALONE: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "albert": {"order": ("ForPreTraining", {}), "groups": ("ForMaskedLM", VARIANTS["albert"]["groups"])},
    "bert": {"next sentence": ("ForPreTraining", {}), "next alone": ("ForNextSentencePrediction", {})},
    "deberta-v2": {"convolution": ("ForMaskedLM", VARIANTS["deberta-v2"]["a convolution in groups"])},
    "electra": {"replaced tokens": ("ForPreTraining", {})},
    "modernbert": {"biases": ("ForSequenceClassification", VARIANTS["modernbert"]["with biases"])},
}
CASES = {
    family: {
        **{name: (kind, keys) for name, (kind, keys) in HELD.items() if family in families_with(kind)},
        **ALONE.get(family, {}),
    }
    for family in FAMILIES
}
CASES = {
    **CASES,
    # RoBERTa by other names
    **{family: {name: HELD[name] for name in ("bare", "tied head")} for family in ("camembert", "xlm-roberta")},
}
ALL = [(family, case) for family in FAMILIES for case in CASES[family]]


def state(encoder: Encoder) -> dict[str, Tensor]:
    parts = {"network": encoder.network, **encoder.heads}
    return {f"{part}.{name}": t for part, module in parts.items() for name, t in module.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(params=ALL, ids=[f"{family}-{case}" for family, case in ALL])
def checkpoint(request: pytest.FixtureRequest, save_family: Save) -> Path:
    """A folder of each family with each thing it may hold."""
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


def test_transformers_loads_what_we_save_and_agrees(checkpoint: Path, tmp_path: Path, agree: Agree) -> None:
    encoder = Encoder.from_pretrained(checkpoint)
    assert encoder.unused == ()
    encoder.save_pretrained(tmp_path)
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (checkpoint, tmp_path))
    assert after["architectures"] == before["architectures"]
    theirs, report = getattr(transformers, after["architectures"][0]).from_pretrained(
        tmp_path, output_loading_info=True, dtype=torch.float32
    )
    missing = {name for name in report["missing_keys"] if encoder.network.pooler is not None or "pooler" not in name}
    assert missing == set(report["unexpected_keys"]) == set(report["mismatched_keys"]) == set()
    original = transformers.AutoConfig.from_pretrained(checkpoint)
    for key in ("num_labels", "id2label", "label2id"):
        assert getattr(theirs.config, key) == getattr(original, key)
    agree(encoder, theirs.eval(), most=3)


def test_a_saved_pooler_is_the_one_transformers_runs(save_family: Save, tmp_path: Path) -> None:
    encoder = Encoder.from_pretrained(save_family("bert", kind="ForPreTraining"))
    encoder.save_pretrained(tmp_path)
    theirs = transformers.BertModel.from_pretrained(tmp_path).eval()
    ids = torch.randint(0, encoder.config.vocab, (11,))
    with torch.inference_mode():
        ours = encoder.network.pooler(encoder.network(Ragged.of([ids])).last)
        torch.testing.assert_close(ours, theirs(ids[None]).pooler_output, atol=1e-4, rtol=0)


# transformers reads a ModernBERT's tokenizer from its tokenizer.json only.
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "modernbert"])
def test_the_tokenizer_is_saved_and_transformers_agrees(save_family: Save, family: str, tmp_path: Path) -> None:
    checkpoint = save_family(family)
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
    Encoder.from_pretrained(save_family("bert", kind="ForMaskedLM")).save_pretrained(tmp_path)
    vocab = json.loads((tmp_path / "config.json").read_text())["vocab_size"]
    shapes = [tuple(tensor.shape) for tensor in load_file(tmp_path / "model.safetensors").values()]
    assert sum(shape[0] == vocab and len(shape) == 2 for shape in shapes) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_saving_into_the_folder_a_model_was_loaded_from_keeps_it_whole(save_family: Save, family: str) -> None:
    checkpoint = save_family(family, kind="ForMaskedLM")
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


# Values that no template has, by the field they set.
ODD: dict[str, Any] = {
    **{"vocab": 101, "width": 30, "depth": 3, "heads": 5, "ffn": 77, "types": 3, "activation": "relu"},
    **{"positions.count": 51, "positions.offset": 4, "positions.added": True, "positions.theta": 123.0},
    **{"positions.local_theta": 45.0, "relative.rows": 40, "relative.active": False, "relative.terms": ["c2p", "p2p"]},
    **{"relative.buckets": 6, "relative.span": 9, "relative.shared": True, "relative.norm": "layer_norm"},
    **{"embedding.words": 11, "sharing.groups": 3, "sharing.inner": 2, "local.window": 10},
    **{"convolution.kernel": 3, "convolution.groups": 2, "convolution.act": "relu"},
    **{"biases.norms": True, "biases.attention": True, "biases.feed_forward": True},
    **{"local.kinds": ["sliding_attention", "full_attention", "sliding_attention"]},
}


def raw_config(family: str) -> dict[str, Any]:
    """A config.json in which no value is a default, made from the family's own table of keys."""
    values = {key.theirs: ODD.get(key.ours, 0.013 * (i + 1)) for i, key in enumerate(FAMILIES[family].keys)}
    return {**EXTRAS, "model_type": family, **values}


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
        assert value == key.form.read(raw[key.theirs])
        assert value != reduce(getattr, key.ours.split("."), FAMILIES[family].template), key


def networks(family: str) -> Iterator[tuple[EncoderNetwork, dict[str, nn.Module]]]:
    """A network of each of the family's variants, without values, with every head, fresh and as each mark says."""
    maker, spec = SAVE_FAMILY[family], FAMILIES[family]
    for keys in VARIANTS[family].values():
        raw = maker.config(**keys).to_dict()
        config, extras = config_from_hf(spec, raw)
        for names in ((), *((mark,) for head in spec.heads.values() for mark in head.marks)):
            with torch.device("meta"):
                network = EncoderNetwork(config, pooler=bool(spec.pooler))
                heads = {}
                for name, head in spec.heads.items():
                    with suppress(ConfigError):  # DeBERTa's own mask decoder cannot be where word vectors are mapped
                        heads[name] = head.build(network, {**extras, "tie_word_embeddings": False}, names)
            yield network, heads


@pytest.mark.parametrize("family", FAMILIES)
def test_each_parameter_comes_from_exactly_one_rule_and_each_rule_names_one(family: str) -> None:
    spec, named = FAMILIES[family], set()
    for network, heads in networks(family):
        shared = {id(parameter) for parameter in network.parameters()}
        sources: dict[nn.Module, Counter[str]] = {}
        parts = [(network, spec.rules + spec.pooler), *((heads[name], spec.heads[name].rules) for name in heads)]
        for module, rules in parts:
            own = {name for name, p in module.named_parameters() if module is network or id(p) not in shared}
            expanded = {rule: [one.ours for one in expand((rule,), network.config)] for rule in rules}
            counts = Counter(name for names in expanded.values() for name in names)
            assert [name for name in own if counts[name] != 1] == []
            assert max(counts.values()) == 1
            named |= {rule for rule, names in expanded.items() if own & set(names)}
            present = [one for one in expand(rules, network.config) if one.ours in own]
            sources[module] = Counter(source for one in present for source in one.sources)
            assert max((sources[module] + (sources[network] if module is not network else Counter())).values()) == 1
    every = [*spec.rules, *spec.pooler, *(rule for head in spec.heads.values() for rule in head.rules)]
    assert [rule for rule in every if rule not in named] == []


# DeBERTa's table of absolute positions belongs to one of its heads, which most files have not, and its norm of vectors
# to files with such vectors.
NEEDED_BY_SOME = {"deberta-v2": ("embeddings.position_embeddings.weight", "lm_predictions.", "encoder.LayerNorm.")}


@pytest.mark.parametrize("family", FAMILIES)
def test_no_known_but_unused_name_hides_a_weight_that_is_needed(family: str) -> None:
    spec, config = FAMILIES[family], EncoderConfig(9, 4, 2, 2, 4, LearnedPositions(9))
    heads = [rule for head in spec.heads.values() for rule in head.rules]
    needed = [source for rule in expand((*spec.rules, *spec.pooler, *heads), config) for source in rule.sources]
    hidden = [name for name in needed if spec.leaves_out(name)]
    assert [name for name in hidden if not name.startswith(NEEDED_BY_SOME.get(family, ("no name",)))] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_a_gradient_reaches_every_parameter(save_family: Save, family: str) -> None:
    kinds = ("ForMaskedLM", "ForTokenClassification", "ForMultipleChoice")
    for kind in (kind for kind in kinds if family in families_with(kind)):
        encoder = Encoder.from_pretrained(save_family(family, kind=kind, tokenizer=False))
        output = encoder.network(Ragged.of([[7, 8, 9, 10, 11], [12, 13, 14]]))
        ((name, head),) = encoder.heads.items()
        answers = head(head.states(output)) if name == language_head(family) else head(output.last)
        (answers * torch.randn(answers.shape)).sum().backward()
        reached = [
            p.grad is not None and bool(p.grad.any()) for p in (*encoder.network.parameters(), *head.parameters())
        ]
        assert all(reached)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_takes_half_the_room(save_family: Save, tmp_path: Path, precision: str) -> None:
    encoder = Encoder.from_pretrained(save_family("modernbert", kind="ForMaskedLM"))
    for name in ("fp32", precision):
        encoder.save_pretrained(tmp_path / name, precision=name)
    whole, half = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("fp32", precision))
    assert half < 0.6 * whole
    dtype = STORED[precision]
    kept = Encoder.from_pretrained(tmp_path / precision)
    assert same(state(kept), {name: tensor.to(dtype).float() for name, tensor in state(encoder).items()})
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / precision)
    assert theirs.dtype == dtype
    kept.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["dtype"] == "float32"


def test_weights_that_half_precision_cannot_hold_are_refused(save_family: Save, tmp_path: Path) -> None:
    encoder = Encoder.from_pretrained(save_family("bert"))
    encoder.network.layers[0].attention.out.weight.data[0, 0] = 1e6
    with pytest.raises(InputError, match=r"layer\.0\.attention.* too large for fp16; save it in bf16 or fp32"):
        encoder.save_pretrained(tmp_path / "a", precision="fp16")
    assert not (tmp_path / "a").exists()
    with pytest.raises(InputError, match="precision must be one of fp32, bf16, fp16, got 'int8'"):
        encoder.save_pretrained(tmp_path / "a", precision="int8")
