"""Every family of encoders and of decoders alone, and every kind of pair of both, by the `model_type` of its
`config.json`."""

from bothways.families.albert import ALBERT
from bothways.families.bart import BART
from bothways.families.bert import BERT
from bothways.families.deberta_v2 import DEBERTA_V2
from bothways.families.distilbert import DISTILBERT
from bothways.families.electra import ELECTRA
from bothways.families.family import Family
from bothways.families.gpt2 import GPT2
from bothways.families.modernbert import MODERNBERT
from bothways.families.mpnet import MPNET
from bothways.families.pair import Pair
from bothways.families.roberta import CAMEMBERT, ROBERTA, XLM_ROBERTA
from bothways.families.t5 import MT5, T5

__all__ = ["FAMILIES", "PAIRS", "Family", "Pair"]

FAMILIES: dict[str, Family] = {
    "albert": ALBERT,
    "bert": BERT,
    "camembert": CAMEMBERT,
    "deberta-v2": DEBERTA_V2,
    "distilbert": DISTILBERT,
    "electra": ELECTRA,
    "gpt2": GPT2,
    "modernbert": MODERNBERT,
    "mpnet": MPNET,
    "roberta": ROBERTA,
    "xlm-roberta": XLM_ROBERTA,
}

PAIRS: dict[str, Pair] = {
    "bart": BART,
    "mt5": MT5,
    "t5": T5,
}
"""Encoders and decoders whose folders have one config for both; pairs of FAMILIES are made by `pair.paired`."""
