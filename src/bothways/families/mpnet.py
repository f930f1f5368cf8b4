"""MPNet (Song et al. 2020, https://arxiv.org/abs/2004.09297): absolute positions and biases by distance."""

from __future__ import annotations

from bothways.families.bert import BERT, BERT_FEED_FORWARD, BERT_KEYS, LAYER
from bothways.families.family import Family, Head, Key, Rule, linear, stacked
from bothways.families.heads import HIDDEN_DROPOUT, classifier, output_only
from bothways.families.roberta import DENSE_CLASSIFIER, LM_HEAD, ROBERTA
from bothways.nn.config import DistanceBuckets, EncoderConfig, LearnedPositions

__all__ = ["MPNET"]

MPNET = Family(
    model_type="mpnet",
    template=EncoderConfig(
        vocab=30527,
        width=768,
        depth=12,
        heads=12,
        ffn=3072,
        positions=LearnedPositions(514, offset=2),
        relative=DistanceBuckets(32),
        types=0,
    ),
    keys=(
        *(key for key in BERT_KEYS if key.ours != "types"),
        Key("relative_attention_num_buckets", "relative.rows", default=32),
    ),
    only={},
    prefix="mpnet.",
    architectures={name.replace("Roberta", "MPNet"): heads for name, heads in ROBERTA.architectures.items()},
    rules=(
        Rule("embeddings.words.weight", "embeddings.word_embeddings.weight"),
        Rule("embeddings.positions.weight", "embeddings.position_embeddings.weight"),
        *linear("embeddings.norm", "embeddings.LayerNorm"),
        Rule("relative.bias.numbers.weight", "encoder.relative_attention_bias.weight"),
        *stacked("layers.{i}.attention.qkv", *(f"{LAYER}attention.attn.{part}" for part in "qkv")),
        *linear("layers.{i}.attention.out", LAYER + "attention.attn.o"),
        *linear("layers.{i}.attention_norm", LAYER + "attention.LayerNorm"),
        *BERT_FEED_FORWARD,
    ),
    pooler=BERT.pooler,
    heads={
        "mlm": LM_HEAD,
        "classify": Head(
            classifier(pooling="cls", dense="own", act="tanh"),
            DENSE_CLASSIFIER,
            drops={"dense_dropout": HIDDEN_DROPOUT, "dropout": HIDDEN_DROPOUT},
        ),
        "tag": output_only(classifier(), "classifier", dropout=HIDDEN_DROPOUT),
        "answer": ROBERTA.heads["answer"],
        "choose": ROBERTA.heads["choose"],
    },
    tokenizer="MPNetTokenizer",
    renames=BERT.renames,
    unused=("embeddings.position_ids",),
)
