"""ELECTRA (Clark et al. 2020, https://arxiv.org/abs/2003.10555): generators and discriminators."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from bothways.errors import ConfigError
from bothways.families.bert import BERT, BERT_CROSS, BERT_EMBEDDINGS, BERT_KEYS, BERT_LAYER
from bothways.families.family import Family, Head, Key, Rate, linear
from bothways.families.heads import CLASSIFIER_DROPOUT, activation_of, classifier, masked_language, output_only
from bothways.nn.config import EmbeddingMap, EncoderConfig, LearnedPositions
from bothways.nn.encoder import EncoderNetwork
from bothways.nn.heads import Classifier
from bothways.nn.layers import Linear

__all__ = ["ELECTRA"]


def _replaced_tokens(network: EncoderNetwork, extras: Mapping[str, Any], names: Collection[str]) -> Classifier:
    width, act = network.config.width, network.config.activation
    return Classifier(width, 1, dense=Linear(width, width), act=act)


def _multiple_choice(network: EncoderNetwork, extras: Mapping[str, Any], names: Collection[str]) -> Classifier:
    """The one head whose form the config can choose; of its choices, the released ones are here."""
    width = network.config.width
    kind, act = extras.get("summary_type", "first"), extras.get("summary_activation", "gelu")
    if kind != "first":
        raise ConfigError(f"summary_type must be 'first', got {kind!r:.80}")
    act = None if act is None else activation_of(extras, "summary_activation")
    dense = Linear(width, width) if extras.get("summary_use_proj", True) else None
    return Classifier(width, 1, pooling="cls", dense=dense, act=act)


ELECTRA = Family(
    model_type="electra",
    template=EncoderConfig(
        vocab=30522,
        width=256,
        depth=12,
        heads=4,
        ffn=1024,
        positions=LearnedPositions(512),
        embedding=EmbeddingMap(128),
    ),
    keys=(*BERT_KEYS, Key("embedding_size", "embedding.words", default=128)),
    only=BERT.only,
    prefix="electra.",
    architectures={
        "ElectraModel": (),
        "ElectraForMaskedLM": ("mlm",),
        "ElectraForPreTraining": ("rtd",),
        "ElectraForSequenceClassification": ("classify",),
        "ElectraForTokenClassification": ("tag",),
        "ElectraForQuestionAnswering": ("answer",),
        "ElectraForMultipleChoice": ("choose",),
    },
    rules=(*BERT_EMBEDDINGS, *linear("embeddings.map", "embeddings_project"), *BERT_LAYER),
    pooler=(),
    heads={
        "mlm": Head(
            masked_language("gelu"),
            (
                *linear("transform", "generator_predictions.dense"),
                *linear("norm", "generator_predictions.LayerNorm"),
                *linear("decoder", "generator_lm_head"),
            ),
        ),
        "rtd": Head(
            _replaced_tokens,
            (
                *linear("dense", "discriminator_predictions.dense"),
                *linear("out", "discriminator_predictions.dense_prediction"),
            ),
        ),
        "classify": Head(
            classifier(pooling="cls", dense="own", act="gelu"),
            (*linear("out", "classifier.out_proj"), *linear("dense", "classifier.dense")),
            drops={"dense_dropout": CLASSIFIER_DROPOUT, "dropout": CLASSIFIER_DROPOUT},
        ),
        "tag": output_only(classifier(), "classifier", dropout=CLASSIFIER_DROPOUT),
        "answer": output_only(classifier(), "qa_outputs"),
        "choose": Head(
            _multiple_choice,
            (*linear("out", "classifier"), *linear("dense", "sequence_summary.summary")),
            drops={
                "dense_dropout": Rate(("summary_first_dropout",), 0.0),
                "dropout": Rate(("summary_last_dropout",), 0.1),
            },
        ),
    },
    tokenizer="ElectraTokenizer",
    renames=BERT.renames,
    unused=("embeddings.position_ids",),
    cross=BERT_CROSS,
)
