"""ALBERT (Lan et al. 2019, https://arxiv.org/abs/1909.11942): shared layers, narrow word vectors."""

from __future__ import annotations

from bothways.families.bert import BERT, BERT_EMBEDDINGS, BERT_KEYS
from bothways.families.family import Family, Head, Key, Rate, Rule, linear, stacked
from bothways.families.heads import classifier, masked_language, output_only
from bothways.nn.config import EmbeddingMap, EncoderConfig, LayerSharing, LearnedPositions

__all__ = ["ALBERT"]

LAYER = "encoder.albert_layer_groups.{group}.albert_layers.{inner}."
# What an absent key stands for, where it is not what BERT has.
DEFAULTS = {"activation": "gelu_new", "dropout": 0.0, "attention_dropout": 0.0}
DROPOUT = Rate(("classifier_dropout_prob",), 0.1)

ALBERT = Family(
    model_type="albert",
    template=EncoderConfig(
        vocab=30000,
        width=768,
        depth=12,
        heads=12,
        ffn=3072,
        positions=LearnedPositions(512),
        activation="gelu_new",
        embedding=EmbeddingMap(128, always=True),
        sharing=LayerSharing(),
    ),
    keys=(
        *(Key(key.theirs, key.ours, DEFAULTS.get(key.ours, key.default)) for key in BERT_KEYS),
        Key("embedding_size", "embedding.words", default=128),
        Key("num_hidden_groups", "sharing.groups", default=1),
        Key("inner_group_num", "sharing.inner", default=1),
    ),
    only={"position_embedding_type": ("absolute", None)},
    prefix="albert.",
    architectures={
        "AlbertModel": (),
        "AlbertForMaskedLM": ("mlm",),
        "AlbertForPreTraining": ("mlm", "sop"),
        "AlbertForSequenceClassification": ("classify",),
        "AlbertForTokenClassification": ("tag",),
        "AlbertForQuestionAnswering": ("answer",),
        "AlbertForMultipleChoice": ("choose",),
    },
    rules=(
        *BERT_EMBEDDINGS,
        *linear("embeddings.map", "encoder.embedding_hidden_mapping_in"),
        *stacked("layers.{i}.attention.qkv", *(f"{LAYER}attention.{part}" for part in ("query", "key", "value"))),
        *linear("layers.{i}.attention.out", LAYER + "attention.dense"),
        *linear("layers.{i}.attention_norm", LAYER + "attention.LayerNorm"),
        *linear("layers.{i}.ffn.up", LAYER + "ffn"),
        *linear("layers.{i}.ffn.down", LAYER + "ffn_output"),
        *linear("layers.{i}.ffn_norm", LAYER + "full_layer_layer_norm"),
    ),
    pooler=linear("pooler.dense", "pooler"),
    heads={
        "mlm": Head(
            masked_language(),
            (
                *linear("transform", "predictions.dense"),
                *linear("norm", "predictions.LayerNorm"),
                Rule("decoder.weight", "predictions.decoder.weight"),
                Rule("decoder.bias", "predictions.decoder.bias", also=("predictions.bias",)),
            ),
        ),
        "sop": output_only(
            classifier(pooling="cls", dense="pooler", act="tanh"), "sop_classifier.classifier", pools=True
        ),
        "classify": output_only(
            classifier(pooling="cls", dense="pooler", act="tanh"), "classifier", pools=True, dropout=DROPOUT
        ),
        "tag": output_only(classifier(), "classifier", dropout=DROPOUT),
        "answer": output_only(classifier(), "qa_outputs"),
        "choose": output_only(
            classifier(1, pooling="cls", dense="pooler", act="tanh"), "classifier", pools=True, dropout=DROPOUT
        ),
    },
    tokenizer="AlbertTokenizer",
    renames=BERT.renames,
    unused=("embeddings.position_ids",),
)
