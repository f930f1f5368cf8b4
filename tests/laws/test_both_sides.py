"""The laws of families hold on both sides of every encoder–decoder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import SAVE_FAMILY
from small_pairs import BART, MAKERS, T5, made
from torch import Tensor, nn

from bothways import EncoderDecoder, Ragged
from bothways.engine.backends import eager, place
from bothways.families import FAMILIES, PAIRS, Family
from bothways.families.family import config_from_hf, config_to_hf, expand
from bothways.families.pair import decoder_of
from bothways.nn.encoder import EncoderNetwork

DECODERS = [name for name, family in FAMILIES.items() if family.cross]
T5S = [{**T5, "feed_forward_proj": "relu"}, {**T5, "feed_forward_proj": "gated-gelu"}]
SIDES: dict[str, tuple[Family, list[dict[str, Any]]]] = {
    **{
        f"{name} {side}": (getattr(pair, side), [BART] if name == "bart" else T5S)
        for name, pair in PAIRS.items()
        for side in ("encoder", "decoder")
    },
    **{f"{name} as a decoder": (decoder_of(FAMILIES[name]), [{}]) for name in DECODERS},
}


def raw_configs(side: str) -> list[dict[str, Any]]:
    family, configs = SIDES[side]
    maker = SAVE_FAMILY.get(family.model_type)
    decoding = {"is_decoder": True, "add_cross_attention": True}
    return configs if maker is None else [{**maker.config().to_dict(), **decoding}]


def test_every_family_with_such_decoders_and_every_pair_is_tried() -> None:
    made_of = [name.split(", ") for name in MAKERS]
    assert {names[1].split()[0] for names in made_of if names[0] in FAMILIES} == set(DECODERS)
    assert {names[0] for names in made_of} >= set(PAIRS)


@pytest.mark.parametrize("side", SIDES)
def test_each_parameter_comes_from_exactly_one_rule_and_each_rule_names_one(side: str) -> None:
    family, named = SIDES[side][0], set()
    for raw in raw_configs(side):
        config, extras = config_from_hf(family, raw)
        with torch.device("meta"):
            network = EncoderNetwork(config, pooler=False)
            head = "causal" if "causal" in family.heads else "mlm"
            names: Collection[str] = ("lm_head.weight", "final_logits_bias")
            built = family.heads[head].build(network, {**extras, "tie_word_embeddings": False}, names)
        parts: list[tuple[nn.Module, Any]] = [(network, family.rules), (built, family.heads[head].rules)]
        for module, rules in parts:
            own = {name for name, _ in module.named_parameters()}
            expanded = {rule: [one.ours for one in expand((rule,), config)] for rule in rules}
            counts = Counter(name for names in expanded.values() for name in names)
            assert [name for name in own if counts[name] != 1] == []
            named |= {rule for rule, names in expanded.items() if own & set(names)}
            sources = Counter(s for one in expand(rules, config) if one.ours in own for s in one.sources)
            assert max(sources.values()) == 1
    biases = () if family.template.biases.attention else ("bias",)
    every = [*family.rules, *family.heads[head].rules]
    assert [rule for rule in every if rule not in named and not rule.ours.endswith(biases)] == []


@pytest.mark.parametrize("side", SIDES)
def test_a_config_read_and_written_is_the_same_config(side: str) -> None:
    family = SIDES[side][0]
    for raw in raw_configs(side):
        config, extras = config_from_hf(family, raw)
        written = config_to_hf(family, config, extras)
        assert {key: value for key, value in written.items() if key in raw} == {
            key: (written[key] if value is None else value) for key, value in raw.items()
        }
        assert config_from_hf(family, written)[0] == config
        assert (config.memory is None) == side.endswith(" encoder")
        assert config.memory in (None, config.width)


@pytest.mark.parametrize("name", ["bert, gpt2", "bart", "t5, 1.1"])
def test_a_gradient_reaches_every_parameter(name: str, tmp_path: Path) -> None:
    made(name, tmp_path)
    model = EncoderDecoder.from_pretrained(tmp_path)
    targets = Ragged.of([[7, 8, 9, 10], [12, 13], [3, 3, 3, 3, 3]])
    output = model.decoder(targets, memory=model.memory(Ragged.of([[5, 6, 7, 8, 9], [4], [7, 7]])))
    loss, _ = model.head.loss(output.last.data, torch.randint(0, 40, (targets.layout.total,)))
    loss.backward()
    parts = {"encoder": model.encoder, "decoder": model.decoder, "head": model.head, "adapter": model.adapter}
    silent = [
        f"{part}.{where}"
        for part, module in parts.items()
        for where, p in ([] if module is None else module.named_parameters())
        if "pooler" not in where and (p.grad is None or not bool(p.grad.any()))
    ]
    assert silent == []


@pytest.mark.parametrize("name", ["bert, bert", "bart", "t5"])
@torch.inference_mode()
def test_prepared_pairs_give_a_source_the_same_bits_in_every_batch(name: str, tmp_path: Path) -> None:
    made(name, tmp_path)
    model = EncoderDecoder.from_pretrained(tmp_path)
    placement = place("cpu", "fp32")
    encoder, decoder = eager(model.encoder, placement), eager(model.decoder, placement)
    sources, targets = (
        [torch.randint(0, 40, (n,)) for n in lengths] for lengths in ((1, 5, 20, 7, 5, 22), (3, 22, 1, 8, 22, 5))
    )

    def run(numbers: list[int]) -> list[Tensor]:
        memory = encoder(Ragged.of([sources[i] for i in numbers])).last
        return decoder(Ragged.of([targets[i] for i in numbers]), memory=memory).last.unbind()

    alone = [run([i])[0] for i in range(6)]
    for numbers in ([*range(6)], [5, 4, 3, 2, 1, 0], [1, 4, 1], [2, 2, 2, 2, 0]):
        for i, rows in zip(numbers, run(numbers), strict=True):
            assert torch.equal(rows, alone[i]), f"pair {i} among {numbers}"


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_takes_half_the_room(precision: str, tmp_path: Path) -> None:
    made("t5", tmp_path / "fp32")
    model = EncoderDecoder.from_pretrained(tmp_path / "fp32")
    model.save_pretrained(tmp_path / "half", precision=precision)
    whole, half = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("fp32", "half"))
    assert half < 0.65 * whole
    kept = EncoderDecoder.from_pretrained(tmp_path / "half")
    for ours, theirs in zip(kept.decoder.parameters(), model.decoder.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("name", ["bert, bert", "t5"])
def test_training_in_half_precision_goes_on_in_the_memorys_own(name: str, tmp_path: Path) -> None:
    made(name, tmp_path)
    model = EncoderDecoder.from_pretrained(tmp_path)
    model.encoder.dtype = model.decoder.dtype = torch.bfloat16
    memory = model.memory(Ragged.of([[5, 6, 7, 8, 9], [4]]))
    output = model.decoder(Ragged.of([[7, 8, 9], [1, 2]]), memory=memory)
    assert output.last.data.dtype == memory.data.dtype == torch.bfloat16
    output.last.data.float().sum().backward()
    assert model.encoder.layers[0].attention.qkv.weight.grad is not None
