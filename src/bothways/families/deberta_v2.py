"""DeBERTa-v2 and v3 (He et al. 2020, 2021, https://arxiv.org/abs/2006.03654, https://arxiv.org/abs/2111.09543)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from bothways.errors import ConfigError
from bothways.families.bert import BERT, BERT_EMBEDDINGS, BERT_FEED_FORWARD, BERT_KEYS, LAYER
from bothways.families.family import LIST, Family, Form, Head, Key, Rate, Rule, linear, stacked
from bothways.families.heads import HIDDEN_DROPOUT, activation_of, classifier, label_count, output_only, tied_words
from bothways.nn.config import DisentangledPositions, EmbeddingMap, EncoderConfig, LearnedPositions
from bothways.nn.encoder import EncoderNetwork
from bothways.nn.heads import Classifier, MaskDecoder, MaskedLanguageHead
from bothways.nn.layers import Linear

__all__ = ["DEBERTA_V2"]

SELF = LAYER + "attention.self."
TERMS = Form(
    lambda terms: tuple(t.strip() for t in terms.lower().split("|")) if isinstance(terms, str) else LIST.read(terms),
    list,
)
NORM = Form(
    lambda norm: "layer_norm" in norm if isinstance(norm, str) else norm, lambda norm: "layer_norm" if norm else "none"
)
# What an absent key stands for, where it is not what BERT has.
DEFAULTS = {"types": 0, "norm_eps": 1e-7}
POSITIONS = "embeddings.position_embeddings.weight"


def _masked_language(network: EncoderNetwork, extras: Mapping[str, Any], names: Collection[str]) -> nn.Module:
    """As the file has it: `cls.` is transformers' own head, `lm_predictions.` the paper's, which is made anew too."""
    if any(name.startswith("cls.predictions.") for name in names):
        return MaskedLanguageHead(network.config, tied_words(network, extras))
    if network.config.embed_mapped:
        raise ConfigError("embedding_size must be that of hidden_size for a model with lm_predictions")
    biased = network.embeddings.positions is not None
    head = MaskedLanguageHead(network.config, tied_words(network, {}))
    return MaskDecoder(network, head, positions=not biased and (POSITIONS in names or not names))


def _pooled(labels: int | None) -> Head:
    def build(network: EncoderNetwork, extras: Mapping[str, Any], names: Collection[str]) -> Classifier:
        width, act = network.config.width, activation_of(extras, "pooler_hidden_act")
        return Classifier(width, labels or label_count(extras), pooling="cls", dense=Linear(width, width), act=act)

    rates = {"dense_dropout": Rate(("pooler_dropout",), 0.0), "dropout": Rate(("cls_dropout",))}
    return Head(build, (*linear("out", "classifier"), *linear("dense", "pooler.dense")), drops=rates)


DEBERTA_V2 = Family(
    model_type="deberta-v2",
    template=EncoderConfig(
        vocab=128100,
        width=768,
        depth=12,
        heads=12,
        ffn=3072,
        positions=LearnedPositions(512, added=False),
        relative=DisentangledPositions(),
        types=0,
        norm_eps=1e-7,
        embedding=EmbeddingMap(before_norm=True, bias=False),
    ),
    keys=(
        *(Key(key.theirs, key.ours, DEFAULTS.get(key.ours, key.default)) for key in BERT_KEYS),
        Key("position_biased_input", "positions.added", default=True),
        Key("relative_attention", "relative.active", default=False),
        Key("pos_att_type", "relative.terms", default=(), form=TERMS),
        Key("position_buckets", "relative.buckets", default=-1),
        Key("max_relative_positions", "relative.span", default=-1),
        Key("share_att_key", "relative.shared", default=False),
        Key("norm_rel_ebd", "relative.norm", default=False, form=NORM),
        Key("embedding_size", "embedding.words", default=None),
        Key("conv_kernel_size", "convolution.kernel", default=0),
        Key("conv_groups", "convolution.groups", default=1),
        Key("conv_act", "convolution.act", default="tanh"),
    ),
    only={},
    prefix="deberta.",
    architectures={
        "DebertaV2Model": (),
        "DebertaV2ForMaskedLM": ("mlm",),
        "DebertaV2ForSequenceClassification": ("classify",),
        "DebertaV2ForTokenClassification": ("tag",),
        "DebertaV2ForQuestionAnswering": ("answer",),
        "DebertaV2ForMultipleChoice": ("choose",),
    },
    rules=(
        *BERT_EMBEDDINGS,
        Rule("embeddings.map.weight", "embeddings.embed_proj.weight"),
        Rule("relative.vectors.vectors.weight", "encoder.rel_embeddings.weight"),
        *linear("relative.vectors.norm", "encoder.LayerNorm"),
        *stacked("layers.{i}.attention.qkv", *(f"{SELF}{part}_proj" for part in ("query", "key", "value"))),
        *linear("layers.{i}.attention.relative.query", SELF + "pos_query_proj"),
        *linear("layers.{i}.attention.relative.key", SELF + "pos_key_proj"),
        *linear("layers.{i}.attention.out", LAYER + "attention.output.dense"),
        *linear("layers.{i}.attention_norm", LAYER + "attention.output.LayerNorm"),
        *BERT_FEED_FORWARD,
        *linear("convolution", "encoder.conv.conv"),
        *linear("convolution.norm", "encoder.conv.LayerNorm"),
    ),
    pooler=(),
    heads={
        "mlm": Head(
            _masked_language,
            (
                *linear("transform", "cls.predictions.transform.dense"),
                *linear("norm", "cls.predictions.transform.LayerNorm"),
                Rule("decoder.weight", "cls.predictions.decoder.weight"),
                Rule("decoder.bias", "cls.predictions.decoder.bias", also=("cls.predictions.bias",)),
                *linear("lm.transform", "lm_predictions.lm_head.dense"),
                *linear("lm.norm", "lm_predictions.lm_head.LayerNorm"),
                Rule("lm.decoder.bias", "lm_predictions.lm_head.bias"),
                Rule("positions.weight", POSITIONS, within=True),
            ),
            marks=("cls.predictions.transform.dense.weight", "lm_predictions.lm_head.dense.weight"),
            says=lambda head: {"legacy": not isinstance(head, MaskDecoder)},
        ),
        "classify": _pooled(None),
        "tag": output_only(classifier(), "classifier", dropout=HIDDEN_DROPOUT),
        "answer": output_only(classifier(), "qa_outputs"),
        "choose": _pooled(1),
    },
    tokenizer="DebertaV2Tokenizer",
    renames=BERT.renames,
    unused=("embeddings.position_ids", POSITIONS, "mask_predictions.", "lm_predictions.", "encoder.LayerNorm."),
)
