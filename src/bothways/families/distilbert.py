"""DistilBERT (Sanh et al. 2019, https://arxiv.org/abs/1910.01108)."""

from __future__ import annotations

from bothways.families.family import Family, Head, Key, Rate, Rule, linear, stacked
from bothways.families.heads import HIDDEN_DROPOUT, classifier, masked_language, output_only
from bothways.nn.config import EncoderConfig, LearnedPositions

__all__ = ["DISTILBERT"]

LAYER = "transformer.layer.{i}."
DROPS = {"dropout": Rate(("seq_classif_dropout",), 0.2)}
PRE_CLASSIFIER = (*linear("dense", "pre_classifier"), *linear("out", "classifier"))

DISTILBERT = Family(
    model_type="distilbert",
    template=EncoderConfig(
        vocab=30522, width=768, depth=6, heads=12, ffn=3072, positions=LearnedPositions(512), types=0
    ),
    keys=(
        Key("vocab_size", "vocab"),
        Key("dim", "width"),
        Key("n_layers", "depth"),
        Key("n_heads", "heads"),
        Key("hidden_dim", "ffn"),
        Key("max_position_embeddings", "positions.count", default=512),
        Key("activation", "activation", default="gelu"),
        Key("dropout", "dropout", default=0.1),
        Key("attention_dropout", "attention_dropout", default=0.1),
        Key("initializer_range", "init_std", default=0.02),
    ),
    only={},
    prefix="distilbert.",
    architectures={
        "DistilBertModel": (),
        "DistilBertForMaskedLM": ("mlm",),
        "DistilBertForSequenceClassification": ("classify",),
        "DistilBertForTokenClassification": ("tag",),
        "DistilBertForQuestionAnswering": ("answer",),
        "DistilBertForMultipleChoice": ("choose",),
    },
    rules=(
        Rule("embeddings.words.weight", "embeddings.word_embeddings.weight"),
        Rule("embeddings.positions.weight", "embeddings.position_embeddings.weight"),
        *linear("embeddings.norm", "embeddings.LayerNorm"),
        *stacked("layers.{i}.attention.qkv", *(f"{LAYER}attention.{part}_lin" for part in "qkv")),
        *linear("layers.{i}.attention.out", LAYER + "attention.out_lin"),
        *linear("layers.{i}.attention_norm", LAYER + "sa_layer_norm"),
        *linear("layers.{i}.ffn.up", LAYER + "ffn.lin1"),
        *linear("layers.{i}.ffn.down", LAYER + "ffn.lin2"),
        *linear("layers.{i}.ffn_norm", LAYER + "output_layer_norm"),
    ),
    pooler=(),
    heads={
        "mlm": Head(
            masked_language(),
            (
                *linear("transform", "vocab_transform"),
                *linear("norm", "vocab_layer_norm"),
                *linear("decoder", "vocab_projector"),
            ),
        ),
        "classify": Head(classifier(pooling="cls", dense="own", act="relu"), PRE_CLASSIFIER, drops=DROPS),
        "tag": output_only(classifier(), "classifier", dropout=HIDDEN_DROPOUT),
        "answer": output_only(classifier(), "qa_outputs", dropout=Rate(("qa_dropout",), 0.1)),
        "choose": Head(classifier(1, pooling="cls", dense="own", act="relu"), PRE_CLASSIFIER, drops=DROPS),
    },
    tokenizer="DistilBertTokenizer",
    unused=("embeddings.position_ids",),
)
