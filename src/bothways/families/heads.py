"""How families build the heads their checkpoints carry."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal, cast

from torch import nn

from bothways.errors import ConfigError
from bothways.families.family import Build, Head, Rate, Rule, linear
from bothways.nn.activations import ACTIVATIONS
from bothways.nn.encoder import EncoderNetwork
from bothways.nn.heads import Classifier, LanguageModelHead, MaskedLanguageHead
from bothways.nn.layers import Linear

__all__ = [
    "CLASSIFIER_DROPOUT",
    "HIDDEN_DROPOUT",
    "MOST_LABELS",
    "activation_of",
    "classifier",
    "label_count",
    "language_model",
    "masked_language",
    "output_only",
    "tied_words",
]

MOST_LABELS = 1 << 20
HIDDEN_DROPOUT = Rate()
CLASSIFIER_DROPOUT = Rate(("classifier_dropout",))


def label_count(extras: Mapping[str, Any]) -> int:
    """How many labels a checkpoint's config names; 2 if it says nothing, as in transformers.

    Raises ConfigError where that is no number of labels.
    """
    named = extras.get("id2label")
    count = len(named) if isinstance(named, dict) and named else extras.get("num_labels", 2)
    if type(count) is not int or not 1 <= count <= MOST_LABELS:
        raise ConfigError(f"num_labels must be a whole number of at least 1, got {count!r:.80}")
    return count


def activation_of(extras: Mapping[str, Any], key: str, default: str = "gelu") -> str:
    """The activation that a key of the config names. Raises ConfigError, naming the key, on one that is not known."""
    act = extras.get(key, default)
    if not isinstance(act, str) or act not in ACTIVATIONS:
        raise ConfigError(f"{key} must be one of {', '.join(ACTIVATIONS)}, got {act!r:.80}")
    return act


def tied_words(network: EncoderNetwork, extras: Mapping[str, Any]) -> nn.Parameter | None:
    """The word embeddings, where the head's last product shares them."""
    if not extras.get("tie_word_embeddings", True):
        return None
    return cast(nn.Parameter, network.embeddings.words.weight)


def masked_language(act: str | None = None) -> Build:
    """A masked-language head; act: of its transform, if the family does not take the config's."""

    def build(network: EncoderNetwork, extras: Mapping[str, Any], names: Collection[str]) -> MaskedLanguageHead:
        return MaskedLanguageHead(network.config, tied_words(network, extras), act=act)

    return build


def language_model(network: EncoderNetwork, extras: Mapping[str, Any], names: Collection[str]) -> LanguageModelHead:
    """A head that predicts the next word, whose weights are the word embeddings unless the config says otherwise."""
    return LanguageModelHead(network.config, tied_words(network, extras))


def classifier(
    labels: int | None = None,
    *,
    pooling: str | None = None,
    dense: Literal["pooler", "own"] | None = None,
    act: str | None = None,
    bias: bool = True,
) -> Build:
    """A classifier. labels: how many; None: as the config says.    dense: the pooler's layer, one of its own, none.

    bias: of the last layer.
    """

    def build(network: EncoderNetwork, extras: Mapping[str, Any], names: Collection[str]) -> Classifier:
        width = network.config.width
        layer: nn.Module | None = None
        if dense == "pooler":
            assert network.pooler is not None
            layer = network.pooler.dense
        elif dense == "own":
            layer = Linear(width, width)
        return Classifier(width, labels or label_count(extras), pooling=pooling, dense=layer, act=act, bias=bias)

    return build


def output_only(build: Build, theirs: str, *, pools: bool = False, dropout: Rate | None = None) -> Head:
    """A head of which files have the last layer alone, under the name `theirs`. dropout: before it, if there is any."""
    rules: tuple[Rule, ...] = linear("out", theirs)
    return Head(build, rules, pools=pools, drops={} if dropout is None else {"dropout": dropout})
