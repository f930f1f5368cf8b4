"""RoBERTa (Liu et al. 2019, https://arxiv.org/abs/1907.11692) and what shares its form: XLM-R, CamemBERT, CodeBERT …"""

from __future__ import annotations

from dataclasses import replace

from bothways.families.bert import BERT, BERT_CROSS, BERT_EMBEDDINGS, BERT_KEYS, BERT_LAYER
from bothways.families.family import Family, Form, Head, Key, Rule, linear
from bothways.families.heads import CLASSIFIER_DROPOUT, HIDDEN_DROPOUT, classifier, masked_language, output_only
from bothways.nn.config import EncoderConfig, LearnedPositions

__all__ = ["CAMEMBERT", "DENSE_CLASSIFIER", "LM_HEAD", "ROBERTA", "XLM_ROBERTA"]

# Positions are counted on from the padding id, so the rows up to it belong to no position.
AFTER_PADDING = Form(
    lambda pad: pad + 1 if type(pad) is int else pad, lambda offset: offset - 1 if type(offset) is int else offset
)
LM_HEAD = Head(
    masked_language("gelu"),
    (
        *linear("transform", "lm_head.dense"),
        *linear("norm", "lm_head.layer_norm"),
        Rule("decoder.weight", "lm_head.decoder.weight"),
        Rule("decoder.bias", "lm_head.decoder.bias", also=("lm_head.bias",)),
    ),
)
TWICE = {"dense_dropout": CLASSIFIER_DROPOUT, "dropout": CLASSIFIER_DROPOUT}
DENSE_CLASSIFIER = (*linear("out", "classifier.out_proj"), *linear("dense", "classifier.dense"))


def _architectures(name: str) -> dict[str, tuple[str, ...]]:
    return {
        f"{name}Model": (),
        f"{name}ForMaskedLM": ("mlm",),
        f"{name}ForSequenceClassification": ("classify",),
        f"{name}ForTokenClassification": ("tag",),
        f"{name}ForQuestionAnswering": ("answer",),
        f"{name}ForMultipleChoice": ("choose",),
    }


ROBERTA = Family(
    model_type="roberta",
    template=EncoderConfig(
        vocab=50265, width=768, depth=12, heads=12, ffn=3072, positions=LearnedPositions(514, offset=2), types=1
    ),
    keys=(*BERT_KEYS, Key("pad_token_id", "positions.offset", default=2, form=AFTER_PADDING)),
    only=BERT.only,
    prefix="roberta.",
    architectures=_architectures("Roberta"),
    rules=(*BERT_EMBEDDINGS, *BERT_LAYER),
    pooler=BERT.pooler,
    heads={
        "mlm": LM_HEAD,
        "classify": Head(classifier(pooling="cls", dense="own", act="tanh"), DENSE_CLASSIFIER, drops=TWICE),
        "tag": output_only(classifier(), "classifier", dropout=CLASSIFIER_DROPOUT),
        "answer": output_only(classifier(), "qa_outputs"),
        "choose": output_only(
            classifier(1, pooling="cls", dense="pooler", act="tanh"), "classifier", pools=True, dropout=HIDDEN_DROPOUT
        ),
    },
    tokenizer="RobertaTokenizer",
    renames=BERT.renames,
    unused=("embeddings.position_ids",),
    cross=BERT_CROSS,
)
XLM_ROBERTA = replace(
    ROBERTA,
    model_type="xlm-roberta",
    architectures=_architectures("XLMRoberta"),
    tokenizer="XLMRobertaTokenizer",
)
CAMEMBERT = replace(
    ROBERTA,
    model_type="camembert",
    architectures=_architectures("Camembert"),
    tokenizer="CamembertTokenizer",
)
