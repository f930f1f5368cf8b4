"""BART (Lewis et al. 2019, https://arxiv.org/abs/1910.13461): an encoder and a decoder that share their words."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from bothways.families.family import Family, Form, Head, Key, Rule, linear, stacked
from bothways.families.heads import tied_words
from bothways.families.pair import Pair
from bothways.nn.config import EncoderConfig, LearnedPositions
from bothways.nn.encoder import EncoderNetwork
from bothways.nn.heads import LanguageModelHead

__all__ = ["BART"]

# Files count positions from 0, and their tables have two rows before.
BEHIND_TWO = Form(
    lambda count: count + 2 if type(count) is int else count, lambda rows: rows - 2 if type(rows) is int else rows
)


def _keys(side: str) -> tuple[Key, ...]:
    return (
        Key("vocab_size", "vocab", default=50265),
        Key("d_model", "width", default=1024),
        Key(f"{side}_layers", "depth", default=12),
        Key(f"{side}_attention_heads", "heads", default=16),
        Key(f"{side}_ffn_dim", "ffn", default=4096),
        Key("max_position_embeddings", "positions.count", default=1026, form=BEHIND_TWO),
        Key("activation_function", "activation", default="gelu"),
        Key("scale_embedding", "embedding.grown", default=False),
        Key("dropout", "dropout", default=0.1),
        Key("attention_dropout", "attention_dropout", default=0.0),
        Key("activation_dropout", "inner_dropout", default=0.0),
        Key("init_std", "init_std", default=0.02),
    )


def _attention(ours: str, theirs: str) -> tuple[Rule, ...]:
    qkv = stacked(f"{ours}.qkv", *(f"{theirs}.{part}_proj" for part in "qkv"))
    return (*qkv, *linear(f"{ours}.out", f"{theirs}.out_proj"))


def _rules(side: str) -> tuple[Rule, ...]:
    layer = side + ".layers.{i}."
    return (
        Rule("embeddings.words.weight", "shared.weight"),
        Rule("embeddings.positions.weight", f"{side}.embed_positions.weight"),
        *linear("embeddings.norm", f"{side}.layernorm_embedding"),
        *_attention("layers.{i}.attention", layer + "self_attn"),
        *linear("layers.{i}.attention_norm", layer + "self_attn_layer_norm"),
        *linear("layers.{i}.ffn.up", layer + "fc1"),
        *linear("layers.{i}.ffn.down", layer + "fc2"),
        *linear("layers.{i}.ffn_norm", layer + "final_layer_norm"),
    )


def _cross(layer: str) -> tuple[Rule, ...]:
    theirs = layer + "encoder_attn."
    return (
        *linear("layers.{i}.cross.query", theirs + "q_proj"),
        *stacked("layers.{i}.cross.kv", theirs + "k_proj", theirs + "v_proj"),
        *linear("layers.{i}.cross.out", theirs + "out_proj"),
        *linear("layers.{i}.cross_norm", layer + "encoder_attn_layer_norm"),
    )


def _head(network: EncoderNetwork, extras: Mapping[str, Any], names: Collection[str]) -> LanguageModelHead:
    own = "lm_head.weight" in names or (not names and not extras.get("tie_word_embeddings", True))
    words = None if own else tied_words(network, {})
    return LanguageModelHead(network.config, words, bias="final_logits_bias" in names)


ENCODER = EncoderConfig(
    vocab=50265,
    width=1024,
    depth=12,
    heads=16,
    ffn=4096,
    positions=LearnedPositions(1026, offset=2, skips=False),
    types=0,
    norm_eps=1e-5,
)
DECODER = EncoderConfig(
    vocab=50265,
    width=1024,
    depth=12,
    heads=16,
    ffn=4096,
    positions=LearnedPositions(1026, offset=2, skips=False),
    types=0,
    norm_eps=1e-5,
    causal=True,
    memory=1024,
)


def _family(side: str, template: EncoderConfig, keys: tuple[Key, ...], rules: tuple[Rule, ...]) -> Family:
    return Family(
        model_type="bart",
        template=template,
        keys=keys,
        # What old files say of other forms.
        only={
            "normalize_before": (False, None),
            "normalize_embedding": (True, None),
            "add_final_layer_norm": (False, None),
            "static_position_embeddings": (False, None),
            "is_encoder_decoder": (True, None),
        },
        prefix="model.",
        architectures={"BartForConditionalGeneration": ("causal",)},
        rules=rules,
        pooler=(),
        heads={
            "causal": Head(
                _head,
                (Rule("decoder.weight", "lm_head.weight"), Rule("decoder.bias", "final_logits_bias", row=True)),
                borrows=True,
            )
        },
        tokenizer="BartTokenizer",
    )


BART = Pair(
    model_type="bart",
    encoder=_family("encoder", ENCODER, _keys("encoder"), _rules("encoder")),
    decoder=_family(
        "decoder",
        DECODER,
        (*_keys("decoder"), Key("d_model", "memory", default=1024)),
        (*_rules("decoder"), *_cross("decoder.layers.{i}.")),
    ),
    head="causal",
    architecture="BartForConditionalGeneration",
    words="shared.weight",
    copies=("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"),
)
