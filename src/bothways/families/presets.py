"""The sizes that encoders are released in, each as the `config.json` of its release has it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from bothways.families import FAMILIES
from bothways.families.albert import ALBERT
from bothways.families.bert import BERT
from bothways.families.deberta_v2 import DEBERTA_V2
from bothways.families.distilbert import DISTILBERT
from bothways.families.electra import ELECTRA
from bothways.families.modernbert import MODERNBERT
from bothways.families.mpnet import MPNET
from bothways.families.roberta import ROBERTA
from bothways.nn.config import Convolution, DisentangledPositions, EmbeddingMap, EncoderConfig, LocalAttention
from bothways.nn.encoder import EncoderNetwork

__all__ = ["PRESETS", "Preset"]

GLOBAL, LOCAL = LocalAttention.KINDS


@dataclass(frozen=True)
class Preset:
    """A size of a family. family: a name in FAMILIES.    config: of its network."""

    family: str
    config: EncoderConfig

    def network(self) -> EncoderNetwork:
        """The network, without values yet; with a pooler where the family has one."""
        return EncoderNetwork(self.config, pooler=bool(FAMILIES[self.family].pooler))

    def parameters(self) -> int:
        """How many weights the network has, without heads; counted, and nothing is allocated."""
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in self.network().parameters())


ROBERTA_BASE = replace(ROBERTA.template, norm_eps=1e-5)
ROBERTA_LARGE = replace(ROBERTA_BASE, depth=24, width=1024, heads=16, ffn=4096)
ALBERT_BASE = replace(ALBERT.template, dropout=0.0, attention_dropout=0.0)
DEBERTA_V3_BASE = replace(
    DEBERTA_V2.template,
    relative=DisentangledPositions(terms=("p2c", "c2p"), buckets=256, shared=True, norm=True),
)

PRESETS: dict[str, Preset] = {
    "bert-tiny": Preset("bert", replace(BERT.template, depth=2, width=128, heads=2, ffn=512)),
    "bert-mini": Preset("bert", replace(BERT.template, depth=4, width=256, heads=4, ffn=1024)),
    "bert-small": Preset("bert", replace(BERT.template, depth=4, width=512, heads=8, ffn=2048)),
    "bert-medium": Preset("bert", replace(BERT.template, depth=8, width=512, heads=8, ffn=2048)),
    "bert-base": Preset("bert", BERT.template),
    "bert-large": Preset("bert", replace(BERT.template, depth=24, width=1024, heads=16, ffn=4096)),
    "minilm-l6": Preset("bert", replace(BERT.template, depth=6, width=384, heads=12, ffn=1536)),
    "minilm-l12": Preset("bert", replace(BERT.template, depth=12, width=384, heads=12, ffn=1536)),
    "roberta-base": Preset("roberta", ROBERTA_BASE),
    "roberta-large": Preset("roberta", ROBERTA_LARGE),
    "xlm-roberta-base": Preset("xlm-roberta", replace(ROBERTA_BASE, vocab=250002)),
    "xlm-roberta-large": Preset("xlm-roberta", replace(ROBERTA_LARGE, vocab=250002)),
    "distilbert-base": Preset("distilbert", DISTILBERT.template),
    "albert-base": Preset("albert", ALBERT_BASE),
    "albert-large": Preset("albert", replace(ALBERT_BASE, depth=24, width=1024, heads=16, ffn=4096)),
    "albert-xlarge": Preset("albert", replace(ALBERT_BASE, depth=24, width=2048, heads=16, ffn=8192)),
    "electra-small": Preset("electra", ELECTRA.template),
    "electra-base": Preset(
        "electra", replace(ELECTRA.template, width=768, heads=12, ffn=3072, embedding=EmbeddingMap(768))
    ),
    "electra-large": Preset(
        "electra", replace(ELECTRA.template, depth=24, width=1024, heads=16, ffn=4096, embedding=EmbeddingMap(1024))
    ),
    "mpnet-base": Preset("mpnet", replace(MPNET.template, norm_eps=1e-5)),
    "deberta-v3-xsmall": Preset("deberta-v2", replace(DEBERTA_V3_BASE, width=384, heads=6, ffn=1536)),
    "deberta-v3-small": Preset("deberta-v2", replace(DEBERTA_V3_BASE, depth=6)),
    "deberta-v3-base": Preset("deberta-v2", DEBERTA_V3_BASE),
    "deberta-v3-large": Preset("deberta-v2", replace(DEBERTA_V3_BASE, depth=24, width=1024, heads=16, ffn=4096)),
    "mdeberta-v3-base": Preset("deberta-v2", replace(DEBERTA_V3_BASE, vocab=251000)),
    "deberta-v2-xlarge": Preset(
        "deberta-v2",
        replace(
            DEBERTA_V3_BASE, depth=24, width=1536, heads=24, ffn=6144, convolution=Convolution(kernel=3, act="gelu")
        ),
    ),
    "modernbert-base": Preset("modernbert", MODERNBERT.template),
    "modernbert-large": Preset(
        "modernbert",
        replace(
            MODERNBERT.template,
            depth=28,
            width=1024,
            heads=16,
            ffn=2624,
            local=LocalAttention(128, tuple(LOCAL if layer % 3 else GLOBAL for layer in range(28))),
        ),
    ),
}
