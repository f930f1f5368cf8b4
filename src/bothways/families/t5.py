"""T5 (Raffel et al. 2019, https://arxiv.org/abs/1910.10683), its version 1.1 (FLAN-T5 too), and mT5
(Xue et al. 2020, https://arxiv.org/abs/2010.11934): positions are distances, norms take root mean squares.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

from bothways.errors import ConfigError
from bothways.families.family import Build, Family, Head, Key, Rule
from bothways.families.heads import tied_words
from bothways.families.pair import Pair
from bothways.nn.config import Biases, DistanceBuckets, EncoderConfig, HeadForm, LearnedPositions
from bothways.nn.encoder import EncoderNetwork
from bothways.nn.heads import LanguageModelHead

__all__ = ["MT5", "T5"]


def _current(feed_forward: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """What `feed_forward_proj` says ("relu", "gated-gelu"), or where it is absent this, as what the keys below read;
    and as many decoder's layers as encoder's where nothing is said."""

    def current(raw: Mapping[str, Any]) -> dict[str, Any]:
        said = raw.get("feed_forward_proj") or feed_forward
        gate, _, act = said.rpartition("-") if isinstance(said, str) else ("", "", None)
        if gate not in ("", "gated"):
            raise ConfigError(f"feed_forward_proj must be an activation, or gated- and one, got {said!r:.80}")
        act = "gelu_new" if said == "gated-gelu" else act
        layers = raw.get("num_decoder_layers")
        layers = raw.get("num_layers") if layers is None else layers
        return {**raw, "dense_act_fn": act, "is_gated_act": gate == "gated", "num_decoder_layers": layers}

    return current


def _written(config: Mapping[str, Any]) -> dict[str, Any]:
    """`feed_forward_proj`, which transformers reads, where only what it stands for is there."""
    if config.get("feed_forward_proj"):
        return {}
    act = "gelu" if config["is_gated_act"] and config["dense_act_fn"] == "gelu_new" else config["dense_act_fn"]
    return {"feed_forward_proj": f"gated-{act}" if config["is_gated_act"] else act}


def _keys(layers: str) -> tuple[Key, ...]:
    return (
        Key("vocab_size", "vocab", default=32128),
        Key("d_model", "width"),
        Key(layers, "depth"),
        Key("num_heads", "heads"),
        Key("d_kv", "head.columns", default=64),
        Key("d_ff", "ffn"),
        Key("n_positions", "positions.count", default=512),
        Key("relative_attention_num_buckets", "relative.buckets", default=32),
        Key("relative_attention_num_buckets", "relative.rows", default=32),
        Key("relative_attention_max_distance", "relative.furthest", default=128),
        Key("dense_act_fn", "activation"),
        Key("is_gated_act", "gated"),
        Key("layer_norm_epsilon", "norm_eps", default=1e-6),
        Key("dropout_rate", "dropout", default=0.1),
        Key("dropout_rate", "attention_dropout", default=0.1),
        Key("dropout_rate", "inner_dropout", default=0.1),
    )


def _stack(ours: str, *theirs: str) -> Rule:
    return Rule(f"{ours}.weight", tuple(f"{name}.weight" for name in theirs))


def _rules(side: str, feed_forward: int) -> tuple[Rule, ...]:
    """feed_forward: its number among the parts of a layer."""
    layer = side + ".block.{i}.layer."
    own, dense = f"{layer}0.SelfAttention.", f"{layer}{feed_forward}.DenseReluDense."
    return (
        Rule("embeddings.words.weight", "shared.weight"),
        Rule("relative.bias.numbers.weight", f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
        _stack("layers.{i}.attention_norm", f"{layer}0.layer_norm"),
        _stack("layers.{i}.attention.qkv", own + "q", own + "k", own + "v"),
        _stack("layers.{i}.attention.out", own + "o"),
        _stack("layers.{i}.ffn_norm", f"{layer}{feed_forward}.layer_norm"),
        dataclasses.replace(_stack("layers.{i}.ffn.up", dense + "wi"), gated=False),
        dataclasses.replace(_stack("layers.{i}.ffn.up", dense + "wi_0", dense + "wi_1"), gated=True),
        _stack("layers.{i}.ffn.down", dense + "wo"),
        _stack("norm", f"{side}.final_layer_norm"),
    )


def _cross() -> tuple[Rule, ...]:
    layer = "decoder.block.{i}.layer.1."
    theirs = layer + "EncDecAttention."
    return (
        _stack("layers.{i}.cross_norm", layer + "layer_norm"),
        _stack("layers.{i}.cross.query", theirs + "q"),
        _stack("layers.{i}.cross.kv", theirs + "k", theirs + "v"),
        _stack("layers.{i}.cross.out", theirs + "o"),
    )


def _scaled_head(network: EncoderNetwork, extras: Mapping[str, Any], names: Collection[str]) -> LanguageModelHead:
    """Version 1.0 scales what it reads; 1.1 does not, and says so by `tie_word_embeddings`, whether they are or not."""
    scales = extras.get("scale_decoder_outputs", extras.get("tie_word_embeddings") is not False)
    return _language_model(network, extras, names, network.config.width**-0.5 if scales else 1.0)


def _plain_head(network: EncoderNetwork, extras: Mapping[str, Any], names: Collection[str]) -> LanguageModelHead:
    return _language_model(network, extras, names, 1.0)


def _language_model(
    network: EncoderNetwork, extras: Mapping[str, Any], names: Collection[str], scale: float
) -> LanguageModelHead:
    own = "lm_head.weight" in names or (not names and extras.get("tie_word_embeddings") is False)
    return LanguageModelHead(network.config, None if own else tied_words(network, {}), scale=scale)


ENCODER = EncoderConfig(
    vocab=32128,
    width=512,
    depth=6,
    heads=8,
    ffn=2048,
    positions=LearnedPositions(512, added=False),
    relative=DistanceBuckets(32),
    types=0,
    activation="relu",
    norm_first=True,
    norm_eps=1e-6,
    embedding_norm=False,
    rms=True,
    head=HeadForm(64, scaled=False),
    biases=Biases(attention=False, feed_forward=False, norms=False),
    inner_dropout=0.1,
)
DECODER = dataclasses.replace(ENCODER, relative=DistanceBuckets(32, ahead=False), causal=True, memory=512)


def _family(
    model_type: str, template: EncoderConfig, keys: tuple[Key, ...], rules: tuple[Rule, ...], head: Build, current: str
) -> Family:
    return Family(
        model_type=model_type,
        template=template,
        keys=keys,
        only={"is_encoder_decoder": (True, None)},
        prefix="",
        architectures={f"{model_type.upper()}ForConditionalGeneration": ("causal",)},
        rules=rules,
        pooler=(),
        heads={"causal": Head(head, (Rule("decoder.weight", "lm_head.weight"),), borrows=True)},
        tokenizer="T5Tokenizer",
        # A table that old files keep, and nothing reads.
        unused=("decoder.block.{i}.layer.{i}.EncDecAttention.relative_attention_bias.",),
        current=_current(current),
    )


def _pair(model_type: str, head: Build, feed_forward: str) -> Pair:
    return Pair(
        model_type=model_type,
        encoder=_family(model_type, ENCODER, _keys("num_layers"), _rules("encoder", 1), head, feed_forward),
        decoder=_family(
            model_type,
            DECODER,
            (*_keys("num_decoder_layers"), Key("d_model", "memory")),
            (*_rules("decoder", 2), *_cross()),
            head,
            feed_forward,
        ),
        head="causal",
        architecture=f"{model_type.upper()}ForConditionalGeneration",
        words="shared.weight",
        copies=("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"),
        written=_written,
    )


T5 = _pair("t5", _scaled_head, "relu")
MT5 = _pair("mt5", _plain_head, "gated-gelu")
