"""ModernBERT (Warner et al. 2024, https://arxiv.org/abs/2412.13663): rotary, gated, local and global layers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from bothways.errors import ConfigError
from bothways.families.family import LIST, Build, Family, Head, Key, Rate, Rule, linear
from bothways.families.heads import activation_of, label_count, tied_words
from bothways.nn.config import Biases, EncoderConfig, LocalAttention, RotaryPositions
from bothways.nn.encoder import EncoderNetwork
from bothways.nn.heads import Classifier, MaskedLanguageHead
from bothways.nn.layers import Linear, norm

__all__ = ["MODERNBERT"]

LAYER = "layers.{i}."
GLOBAL, LOCAL = LocalAttention.KINDS
POOLINGS = ("cls", "mean")


def _current(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The kinds of layers by name, and the rotary bases as keys of their own."""
    current = {key: value for key, value in raw.items() if key not in ("rope_parameters", "rope_scaling")}
    rope = raw.get("rope_parameters") or {}
    if raw.get("rope_scaling") is not None:
        raise ConfigError(f"rope_scaling is {raw['rope_scaling']!r:.80}; modernbert models here have None")
    if not isinstance(rope, dict) or not all(one is None or isinstance(one, dict) for one in rope.values()):
        raise ConfigError(f"rope_parameters must be an object for each kind of layer, got {rope!r:.80}")
    for kind, key in ((GLOBAL, "global_rope_theta"), (LOCAL, "local_rope_theta")):
        of_kind = rope.get(kind) or {}
        plain = {of_kind.get("rope_type", "default"), of_kind.get("type", "default")} == {"default"}
        if not plain or of_kind.keys() - {"rope_type", "type", "rope_theta"}:
            raise ConfigError(f"rope_parameters: {of_kind!r:.80} is not known, only 'default' with a rope_theta")
        current[key] = of_kind.get("rope_theta", raw.get(key))
    depth, every = raw.get("num_hidden_layers"), raw.get("global_attn_every_n_layers", 3)
    if raw.get("layer_types") is None and type(depth) is int and 0 < depth <= 1 << 10:
        if type(every) is not int or every < 1:
            raise ConfigError(f"global_attn_every_n_layers must be a whole number of at least 1, got {every!r:.80}")
        current["layer_types"] = [LOCAL if layer % every else GLOBAL for layer in range(depth)]
    return current


def _dense(network: EncoderNetwork, extras: Mapping[str, Any]) -> tuple[Linear, str]:
    """The head's dense layer and its activation, which all heads have."""
    width, act = network.config.width, activation_of(extras, "classifier_activation")
    return Linear(width, width, bias=bool(extras.get("classifier_bias", False))), act


def _masked_language(network: EncoderNetwork, extras: Mapping[str, Any], names: Collection[str]) -> MaskedLanguageHead:
    dense, act = _dense(network, extras)
    bias = bool(extras.get("decoder_bias", True))
    words = tied_words(network, extras)
    return MaskedLanguageHead(network.config, words, act=act, bias=dense.bias is not None, decoder_bias=bias)


def _classifier(labels: int | None = None, pooled: bool = False) -> Build:
    def build(network: EncoderNetwork, extras: Mapping[str, Any], names: Collection[str]) -> Classifier:
        (dense, act), config = _dense(network, extras), network.config
        pooling = extras.get("classifier_pooling", "cls") if pooled else None
        if pooled and pooling not in POOLINGS:
            raise ConfigError(f"classifier_pooling must be one of {', '.join(POOLINGS)}, got {pooling!r:.80}")
        count = labels or label_count(extras)
        return Classifier(config.width, count, pooling=pooling, dense=dense, act=act, norm=norm(config))

    return build


CLASSIFIER = (*linear("out", "classifier"), *linear("dense", "head.dense"), *linear("norm", "head.norm"))
DROPS = {"dropout": Rate(("classifier_dropout",), 0.0)}

MODERNBERT = Family(
    model_type="modernbert",
    template=EncoderConfig(
        vocab=50368,
        width=768,
        depth=22,
        heads=12,
        ffn=1152,
        positions=RotaryPositions(8192),
        types=0,
        gated=True,
        norm_first=True,
        norm_eps=1e-5,
        local=LocalAttention(128, tuple(LOCAL if layer % 3 else GLOBAL for layer in range(22))),
        biases=Biases(attention=False, feed_forward=False, norms=False),
        dropout=0.0,
        embedding_dropout=0.0,
        attention_dropout=0.0,
    ),
    keys=(
        Key("vocab_size", "vocab"),
        Key("hidden_size", "width"),
        Key("num_hidden_layers", "depth"),
        Key("num_attention_heads", "heads"),
        Key("intermediate_size", "ffn"),
        Key("max_position_embeddings", "positions.count", default=8192),
        Key("global_rope_theta", "positions.theta", default=160_000.0),
        Key("local_rope_theta", "positions.local_theta", default=10_000.0),
        Key("local_attention", "local.window", default=128),
        Key("layer_types", "local.kinds", form=LIST),
        Key("hidden_activation", "activation", default="gelu"),
        Key("norm_eps", "norm_eps", default=1e-5),
        Key("norm_bias", "biases.norms", default=False),
        Key("attention_bias", "biases.attention", default=False),
        Key("mlp_bias", "biases.feed_forward", default=False),
        Key("mlp_dropout", "dropout", default=0.0),
        Key("embedding_dropout", "embedding_dropout", default=0.0),
        Key("attention_dropout", "attention_dropout", default=0.0),
        Key("initializer_range", "init_std", default=0.02),
    ),
    only={},
    prefix="model.",
    architectures={
        "ModernBertModel": (),
        "ModernBertForMaskedLM": ("mlm",),
        "ModernBertForSequenceClassification": ("classify",),
        "ModernBertForTokenClassification": ("tag",),
        "ModernBertForQuestionAnswering": ("answer",),
        "ModernBertForMultipleChoice": ("choose",),
    },
    rules=(
        Rule("embeddings.words.weight", "embeddings.tok_embeddings.weight"),
        *linear("embeddings.norm", "embeddings.norm"),
        *linear("layers.{i}.attention.qkv", LAYER + "attn.Wqkv"),
        *linear("layers.{i}.attention.out", LAYER + "attn.Wo"),
        *linear("layers.{i}.attention_norm", LAYER + "attn_norm"),
        *linear("layers.{i}.ffn.up", LAYER + "mlp.Wi"),
        *linear("layers.{i}.ffn.down", LAYER + "mlp.Wo"),
        *linear("layers.{i}.ffn_norm", LAYER + "mlp_norm"),
        *linear("norm", "final_norm"),
    ),
    pooler=(),
    heads={
        "mlm": Head(
            _masked_language,
            (*linear("transform", "head.dense"), *linear("norm", "head.norm"), *linear("decoder", "decoder")),
            marks=("decoder.bias", "decoder.weight"),
        ),
        "classify": Head(_classifier(pooled=True), CLASSIFIER, drops=DROPS),
        "tag": Head(_classifier(), CLASSIFIER, drops=DROPS),
        "answer": Head(_classifier(), CLASSIFIER, drops=DROPS),
        "choose": Head(_classifier(1, pooled=True), CLASSIFIER, drops=DROPS),
    },
    tokenizer="GPT2Tokenizer",
    current=_current,
    begins_shallow=True,
)
