"""BERT (Devlin et al. 2018, https://arxiv.org/abs/1810.04805), and the many encoders saved under its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import nn

from bothways.families.family import Family, Head, Key, Rule
from bothways.nn.config import EncoderConfig, LearnedPositions
from bothways.nn.encoder import EncoderNetwork
from bothways.nn.heads import MaskedLanguageHead

__all__ = ["BERT"]

LAYER = "encoder.layer.{i}."
SELF = LAYER + "attention.self."


def _linear(ours: str, theirs: str) -> tuple[Rule, Rule]:
    return Rule(f"{ours}.weight", f"{theirs}.weight"), Rule(f"{ours}.bias", f"{theirs}.bias")


def _masked_language_head(network: EncoderNetwork, extras: Mapping[str, Any]) -> MaskedLanguageHead:
    tied = extras.get("tie_word_embeddings", True)
    words = cast(nn.Parameter, network.embeddings.words.weight)
    return MaskedLanguageHead(network.config, words if tied else None)


BERT = Family(
    model_type="bert",
    template=EncoderConfig(vocab=30522, width=768, depth=12, heads=12, ffn=3072, positions=LearnedPositions(512)),
    keys=(
        Key("vocab_size", "vocab"),
        Key("hidden_size", "width"),
        Key("num_hidden_layers", "depth"),
        Key("num_attention_heads", "heads"),
        Key("intermediate_size", "ffn"),
        Key("max_position_embeddings", "positions.count", default=512),
        Key("type_vocab_size", "types", default=2),
        Key("hidden_act", "activation", default="gelu"),
        Key("layer_norm_eps", "norm_eps", default=1e-12),
        Key("hidden_dropout_prob", "dropout", default=0.1),
        Key("attention_probs_dropout_prob", "attention_dropout", default=0.1),
        Key("initializer_range", "init_std", default=0.02),
    ),
    only={
        "position_embedding_type": ("absolute", None),
        "is_decoder": (False, None),
        "add_cross_attention": (False, None),
    },
    prefix="bert.",
    architecture="BertModel",
    rules=(
        Rule("embeddings.words.weight", "embeddings.word_embeddings.weight"),
        Rule("embeddings.positions.weight", "embeddings.position_embeddings.weight"),
        Rule("embeddings.types.weight", "embeddings.token_type_embeddings.weight"),
        *_linear("embeddings.norm", "embeddings.LayerNorm"),
        Rule("layers.{i}.attention.qkv.weight", (SELF + "query.weight", SELF + "key.weight", SELF + "value.weight")),
        Rule("layers.{i}.attention.qkv.bias", (SELF + "query.bias", SELF + "key.bias", SELF + "value.bias")),
        *_linear("layers.{i}.attention.out", LAYER + "attention.output.dense"),
        *_linear("layers.{i}.attention_norm", LAYER + "attention.output.LayerNorm"),
        *_linear("layers.{i}.ffn.up", LAYER + "intermediate.dense"),
        *_linear("layers.{i}.ffn.down", LAYER + "output.dense"),
        *_linear("layers.{i}.ffn_norm", LAYER + "output.LayerNorm"),
    ),
    pooler=_linear("pooler.dense", "pooler.dense"),
    heads={
        "mlm": Head(
            build=_masked_language_head,
            architecture="BertForMaskedLM",
            rules=(
                *_linear("transform", "cls.predictions.transform.dense"),
                *_linear("norm", "cls.predictions.transform.LayerNorm"),
                Rule("decoder.weight", "cls.predictions.decoder.weight"),
                Rule("decoder.bias", "cls.predictions.decoder.bias", also=("cls.predictions.bias",)),
            ),
        ),
    },
    renames={".gamma": ".weight", ".beta": ".bias"},
    unused=("embeddings.position_ids", "cls.seq_relationship.", "classifier.", "qa_outputs."),
)
