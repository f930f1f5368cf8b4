"""The sizes that encoders are released in, each as the `config.json` of its release has it; and small ones of our own.

Those of our own have the depth and width of bert-tiny, -mini and -small, so that families and objectives can be
compared where they cost the same. They are marked by `ours`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from bothways.families import FAMILIES
from bothways.families.albert import ALBERT
from bothways.families.bert import BERT
from bothways.families.deberta_v2 import DEBERTA_V2
from bothways.families.distilbert import DISTILBERT
from bothways.families.electra import ELECTRA
from bothways.families.gpt2 import GPT2
from bothways.families.modernbert import MODERNBERT
from bothways.families.mpnet import MPNET
from bothways.families.roberta import ROBERTA
from bothways.nn.config import Convolution, DisentangledPositions, EmbeddingMap, EncoderConfig, LocalAttention
from bothways.nn.encoder import EncoderNetwork

__all__ = ["PRESETS", "Generator", "Preset"]

GLOBAL, LOCAL = LocalAttention.KINDS


@dataclass(frozen=True)
class Generator:
    """The size of a network that proposes tokens to replace, as shares of the one that finds them.

    width: of the hidden states, the feed-forward part and the number of heads (ELECTRA, Clark et al. 2020, table 6).
    depth: of the layers (DeBERTa-v3, He et al. 2021). Word vectors have the same width in both, and may be shared.
    """

    width: float = 1.0
    depth: float = 1.0

    def of(self, config: EncoderConfig, shared: bool = True) -> EncoderConfig:
        """The generator's config beside that of the discriminator; attention heads divide its width.

        shared: whether it has the discriminator's word vectors; else its own are as wide as its hidden states, where
        the discriminator's are. Raises ConfigError on a network that cannot be.
        """
        heads = max(1, round(config.heads * self.width))
        width = heads * max(1, round(config.width * self.width / heads))
        ffn, depth = (max(1, round(size)) for size in (config.ffn * self.width, config.depth * self.depth))
        own = config.embedding.words is None and (width == config.width or not shared)
        embedding = replace(config.embedding, words=None if own else config.embed_width)
        sizes = replace(config, local=None, width=width, heads=heads, ffn=ffn, depth=depth, embedding=embedding)
        return replace(sizes, local=_of_depth(config.local, depth))


def _of_depth(local: LocalAttention | None, depth: int) -> LocalAttention | None:
    """Its layers' kinds for another number of layers: again and again in their order."""
    if local is None:
        return None
    kinds = local.kinds * -(-depth // len(local.kinds))
    return replace(local, kinds=kinds[:depth])


@dataclass(frozen=True)
class Preset:
    """A size of a family. family: a name in FAMILIES.    config: of its network.    ours: of no release.

    generator: what replaces its tokens, where it is made to find replaced ones.
    """

    family: str
    config: EncoderConfig
    ours: bool = False
    generator: Generator | None = None

    def network(self) -> EncoderNetwork:
        """The network, without values yet; with a pooler where the family has one."""
        return EncoderNetwork(self.config, pooler=bool(FAMILIES[self.family].pooler))

    def parameters(self) -> int:
        """How many weights the network has, without heads; counted, and nothing is allocated."""
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in self.network().parameters())


def _sized(template: EncoderConfig, depth: int, width: int, heads: int, ffn: int | None = None) -> EncoderConfig:
    """ffn: 4 · width if None."""
    return replace(template, depth=depth, width=width, heads=heads, ffn=4 * width if ffn is None else ffn)


def _modernbert(depth: int, width: int, heads: int, ffn: int) -> EncoderConfig:
    kinds = tuple(LOCAL if layer % 3 else GLOBAL for layer in range(depth))
    return _sized(replace(MODERNBERT.template, depth=depth, local=LocalAttention(128, kinds)), depth, width, heads, ffn)


def _electra(depth: int, width: int, heads: int, words: int) -> EncoderConfig:
    return replace(_sized(ELECTRA.template, depth, width, heads), embedding=EmbeddingMap(words))


ROBERTA_BASE = replace(ROBERTA.template, norm_eps=1e-5)
ROBERTA_LARGE = _sized(ROBERTA_BASE, 24, 1024, 16)
ALBERT_BASE = replace(ALBERT.template, dropout=0.0, attention_dropout=0.0)
DEBERTA_V3_BASE = replace(
    DEBERTA_V2.template,
    relative=DisentangledPositions(terms=("p2c", "c2p"), buckets=256, shared=True, norm=True),
)
HALF_AS_DEEP = Generator(depth=0.5)

PRESETS: dict[str, Preset] = {
    "bert-tiny": Preset("bert", _sized(BERT.template, 2, 128, 2)),
    "bert-mini": Preset("bert", _sized(BERT.template, 4, 256, 4)),
    "bert-small": Preset("bert", _sized(BERT.template, 4, 512, 8)),
    "bert-medium": Preset("bert", _sized(BERT.template, 8, 512, 8)),
    "bert-base": Preset("bert", BERT.template),
    "bert-large": Preset("bert", _sized(BERT.template, 24, 1024, 16)),
    "minilm-l6": Preset("bert", _sized(BERT.template, 6, 384, 12)),
    "minilm-l12": Preset("bert", _sized(BERT.template, 12, 384, 12)),
    "roberta-tiny": Preset("roberta", _sized(ROBERTA_BASE, 2, 128, 2), ours=True),
    "roberta-mini": Preset("roberta", _sized(ROBERTA_BASE, 4, 256, 4), ours=True),
    "roberta-base": Preset("roberta", ROBERTA_BASE),
    "roberta-large": Preset("roberta", ROBERTA_LARGE),
    "xlm-roberta-base": Preset("xlm-roberta", replace(ROBERTA_BASE, vocab=250002)),
    "xlm-roberta-large": Preset("xlm-roberta", replace(ROBERTA_LARGE, vocab=250002)),
    "distilbert-base": Preset("distilbert", DISTILBERT.template),
    "albert-tiny": Preset("albert", _sized(ALBERT_BASE, 2, 128, 2), ours=True),
    "albert-mini": Preset("albert", _sized(ALBERT_BASE, 4, 256, 4), ours=True),
    "albert-base": Preset("albert", ALBERT_BASE),
    "albert-large": Preset("albert", _sized(ALBERT_BASE, 24, 1024, 16)),
    "albert-xlarge": Preset("albert", _sized(ALBERT_BASE, 24, 2048, 16)),
    "electra-tiny": Preset("electra", _electra(2, 128, 2, 128), ours=True, generator=Generator(1 / 2)),
    "electra-mini": Preset("electra", _electra(4, 256, 4, 128), ours=True, generator=Generator(1 / 4)),
    "electra-small": Preset("electra", ELECTRA.template, generator=Generator(1 / 4)),
    "electra-base": Preset("electra", _electra(12, 768, 12, 768), generator=Generator(1 / 3)),
    "electra-large": Preset("electra", _electra(24, 1024, 16, 1024), generator=Generator(1 / 4)),
    "mpnet-base": Preset("mpnet", replace(MPNET.template, norm_eps=1e-5)),
    "deberta-v3-tiny": Preset("deberta-v2", _sized(DEBERTA_V3_BASE, 2, 128, 2), ours=True, generator=HALF_AS_DEEP),
    "deberta-v3-mini": Preset("deberta-v2", _sized(DEBERTA_V3_BASE, 4, 256, 4), ours=True, generator=HALF_AS_DEEP),
    "deberta-v3-xsmall": Preset("deberta-v2", _sized(DEBERTA_V3_BASE, 12, 384, 6), generator=HALF_AS_DEEP),
    "deberta-v3-small": Preset("deberta-v2", replace(DEBERTA_V3_BASE, depth=6), generator=HALF_AS_DEEP),
    "deberta-v3-base": Preset("deberta-v2", DEBERTA_V3_BASE, generator=HALF_AS_DEEP),
    "deberta-v3-large": Preset("deberta-v2", _sized(DEBERTA_V3_BASE, 24, 1024, 16), generator=HALF_AS_DEEP),
    "mdeberta-v3-base": Preset("deberta-v2", replace(DEBERTA_V3_BASE, vocab=251000), generator=HALF_AS_DEEP),
    "deberta-v2-xlarge": Preset(
        "deberta-v2",
        replace(_sized(DEBERTA_V3_BASE, 24, 1536, 24), convolution=Convolution(kernel=3, act="gelu")),
    ),
    "modernbert-tiny": Preset("modernbert", _modernbert(2, 128, 2, 192), ours=True),
    "modernbert-mini": Preset("modernbert", _modernbert(4, 256, 4, 384), ours=True),
    "modernbert-small": Preset("modernbert", _modernbert(4, 512, 8, 768), ours=True),
    "modernbert-base": Preset("modernbert", MODERNBERT.template),
    "modernbert-large": Preset("modernbert", _modernbert(28, 1024, 16, 2624)),
    "gpt2-tiny": Preset("gpt2", _sized(GPT2.template, 2, 128, 2), ours=True),
    "gpt2-mini": Preset("gpt2", _sized(GPT2.template, 4, 256, 4), ours=True),
    "gpt2": Preset("gpt2", GPT2.template),
    "gpt2-medium": Preset("gpt2", _sized(GPT2.template, 24, 1024, 16)),
    "gpt2-large": Preset("gpt2", _sized(GPT2.template, 36, 1280, 20)),
    "gpt2-xl": Preset("gpt2", _sized(GPT2.template, 48, 1600, 25)),
}
