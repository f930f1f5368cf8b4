"""BERT (Devlin et al. 2018, https://arxiv.org/abs/1810.04805), and the many encoders saved under its name."""

from __future__ import annotations

from bothways.families.family import Family, Head, Key, Rule, linear, stacked
from bothways.families.heads import CLASSIFIER_DROPOUT, classifier, masked_language, output_only
from bothways.nn.config import EncoderConfig, LearnedPositions

__all__ = ["BERT", "BERT_CROSS", "BERT_EMBEDDINGS", "BERT_KEYS", "BERT_LAYER"]

LAYER = "encoder.layer.{i}."

BERT_KEYS = (
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
)
BERT_EMBEDDINGS = (
    Rule("embeddings.words.weight", "embeddings.word_embeddings.weight"),
    Rule("embeddings.positions.weight", "embeddings.position_embeddings.weight"),
    Rule("embeddings.types.weight", "embeddings.token_type_embeddings.weight"),
    *linear("embeddings.norm", "embeddings.LayerNorm"),
)
BERT_FEED_FORWARD = (
    *linear("layers.{i}.ffn.up", LAYER + "intermediate.dense"),
    *linear("layers.{i}.ffn.down", LAYER + "output.dense"),
    *linear("layers.{i}.ffn_norm", LAYER + "output.LayerNorm"),
)
BERT_LAYER = (
    *stacked("layers.{i}.attention.qkv", *(f"{LAYER}attention.self.{part}" for part in ("query", "key", "value"))),
    *linear("layers.{i}.attention.out", LAYER + "attention.output.dense"),
    *linear("layers.{i}.attention_norm", LAYER + "attention.output.LayerNorm"),
    *BERT_FEED_FORWARD,
)
BERT_CROSS = (
    *linear("layers.{i}.cross.query", LAYER + "crossattention.self.query"),
    *stacked("layers.{i}.cross.kv", *(f"{LAYER}crossattention.self.{part}" for part in ("key", "value"))),
    *linear("layers.{i}.cross.out", LAYER + "crossattention.output.dense"),
    *linear("layers.{i}.cross_norm", LAYER + "crossattention.output.LayerNorm"),
)

BERT = Family(
    model_type="bert",
    template=EncoderConfig(vocab=30522, width=768, depth=12, heads=12, ffn=3072, positions=LearnedPositions(512)),
    keys=BERT_KEYS,
    only={
        "position_embedding_type": ("absolute", None),
        "is_decoder": (False, None),
        "add_cross_attention": (False, None),
    },
    prefix="bert.",
    architectures={
        "BertModel": (),
        "BertForMaskedLM": ("mlm",),
        "BertForPreTraining": ("mlm", "nsp"),
        "BertForNextSentencePrediction": ("nsp",),
        "BertForSequenceClassification": ("classify",),
        "BertForTokenClassification": ("tag",),
        "BertForQuestionAnswering": ("answer",),
        "BertForMultipleChoice": ("choose",),
    },
    rules=(*BERT_EMBEDDINGS, *BERT_LAYER),
    pooler=linear("pooler.dense", "pooler.dense"),
    heads={
        "mlm": Head(
            masked_language(),
            (
                *linear("transform", "cls.predictions.transform.dense"),
                *linear("norm", "cls.predictions.transform.LayerNorm"),
                Rule("decoder.weight", "cls.predictions.decoder.weight"),
                Rule("decoder.bias", "cls.predictions.decoder.bias", also=("cls.predictions.bias",)),
            ),
        ),
        "nsp": output_only(
            classifier(2, pooling="cls", dense="pooler", act="tanh"), "cls.seq_relationship", pools=True
        ),
        "classify": output_only(
            classifier(pooling="cls", dense="pooler", act="tanh"), "classifier", pools=True, dropout=CLASSIFIER_DROPOUT
        ),
        "tag": output_only(classifier(), "classifier", dropout=CLASSIFIER_DROPOUT),
        "answer": output_only(classifier(), "qa_outputs"),
        "choose": output_only(
            classifier(1, pooling="cls", dense="pooler", act="tanh"),
            "classifier",
            pools=True,
            dropout=CLASSIFIER_DROPOUT,
        ),
    },
    tokenizer="BertTokenizer",
    renames={".gamma": ".weight", ".beta": ".bias"},
    unused=("embeddings.position_ids",),
    cross=BERT_CROSS,
)
