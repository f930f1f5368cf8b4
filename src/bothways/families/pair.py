"""What an encoder–decoder is: two families, each of one side, whose files are one folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bothways.errors import ConfigError
from bothways.families.family import Family, Key

__all__ = ["OURS", "PAIRED", "Pair", "decoder_of", "paired"]

# The model_type of transformers' EncoderDecoderModel.
PAIRED = "encoder-decoder"
# Stands before the model_type of what transformers would load without a part that it does not know.
OURS = "bothways-"


@dataclass(frozen=True)
class Pair:
    """How one `model_type` of encoder–decoders reads and writes.

    encoder, decoder: of either side; both have the same prefix.    head: the decoder's, that predicts words.
    architecture: the class name in `config.json`.
    words: the name under which files keep the word vectors that both sides share, without the prefix; None where each
    has its own.    copies: names under which old files repeat them.
    written: what is put into a config that lacks it.

    Where `words` is None, `config.json` has the sides' configs as `encoder` and `decoder`, and weights' names begin so.
    """

    model_type: str
    encoder: Family
    decoder: Family
    head: str
    architecture: str
    words: str | None = None
    copies: tuple[str, ...] = ()
    written: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict

    @property
    def nested(self) -> bool:
        """Whether each side has a config of its own."""
        return self.words is None


def paired(encoder: Family, decoder: Family) -> Pair:
    """A family's encoder with another's decoder. Raises ConfigError on a family without such decoders."""
    head = "causal" if "causal" in decoder.heads else "mlm"
    return Pair(PAIRED, encoder, decoder_of(decoder), head, "EncoderDecoderModel")


def decoder_of(family: Family) -> Family:
    """The family of its decoders that read an encoder's rows, which are as wide as their own.

    Raises ConfigError where there are none.
    """
    if not family.cross:
        raise ConfigError(
            f"model_type is {family.model_type}, of which no decoders read an encoder; "
            "bert, camembert, electra, gpt2, roberta and xlm-roberta have such"
        )
    width = next(key for key in family.keys if key.ours == "width")
    return dataclasses.replace(
        family,
        template=dataclasses.replace(family.template, causal=True, memory=family.template.width),
        keys=(*family.keys, Key(width.theirs, "memory")),
        only={**family.only, "is_decoder": (True,), "add_cross_attention": (True,)},
        rules=(*family.rules, *family.cross),
        pooler=(),
        cross=(),
    )
