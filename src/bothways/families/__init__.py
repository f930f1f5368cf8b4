"""Every family of encoders, by the `model_type` of its `config.json`."""

from bothways.families.bert import BERT
from bothways.families.family import Family

__all__ = ["FAMILIES", "Family"]

FAMILIES: dict[str, Family] = {
    "bert": BERT,
}
