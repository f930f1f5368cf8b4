"""`inspect`: what a model sees in a text, for people who want to look: tokens, attention weights, hidden states."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bothways.checkpoint.encoder import Encoder, tokenizer_of
from bothways.checkpoint.encoder_decoder import EncoderDecoder
from bothways.data.batch import batch
from bothways.engine.backends import BACKENDS, place
from bothways.engine.parts import is_pair
from bothways.engine.pipeline import check_types
from bothways.errors import InputError
from bothways.nn.config import EncoderConfig
from bothways.nn.encoder import EncoderNetwork
from bothways.text.tokenizer import Encoded, Tokenizer, cut_lengths, warn_of_truncation

__all__ = ["Inspection", "inspect"]

# Attention weights of one layer that are held at most, of all its heads: 1 GB of them.
MOST_WEIGHTS = 1 << 28

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Inspection:
    """What a model sees in a text (or a pair) of L tokens, with D layers; everything in the order of the tokens.

    tokens: as the vocabulary spells them.    ids: their numbers there.
    segments: token types, 0 for the first text and 1 for the second.
    positions: rows of the model's table of positions (RoBERTa's start at 2, and a literal "<pad>" stands at 1), or
    0, 1, … where there is no table.
    offsets: (start, end) in characters of the token's own text; (0, 0) for special tokens.
    texts: what the token covers there, so that texts[i] is text[start:end].
    special: whether the tokenizer added the token.

    layer: whose attention it is, from 0 on as the layers run.    heads: which of its heads, or ("mean",).
    attention: float32 [heads, L, L]; attention[h, i, j] is how much token i looks at token j, and rows sum to 1.

    norms: float32 [D + 1, L], the length of each token's hidden state: as embedded, then after each layer.
    kept: float32 [D, L], the cosine of each token's hidden states before and after each layer.
    similarity: float32 [D + 1, D + 1], the cosine of hidden states between any two of these, mean over the tokens.
    """

    tokens: tuple[str, ...]
    ids: tuple[int, ...]
    segments: tuple[int, ...]
    positions: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    texts: tuple[str, ...]
    special: tuple[bool, ...]
    layer: int
    heads: tuple[int | Literal["mean"], ...]
    attention: Floats
    norms: Floats
    kept: Floats
    similarity: Floats

    def __len__(self) -> int:
        return len(self.ids)


def inspect(
    model: str | Path | Encoder,
    text: str,
    pair: str | None = None,
    *,
    layer: int | None = None,
    head: int | Literal["mean"] | None = None,
    device: str = "auto",
    revision: str | None = None,
    most_weights: int | None = None,
) -> Inspection:
    """Look at one text, or a pair of texts, with a model.

    >>> seen = inspect("bert-base-uncased", "The cat sat.", layer=3, head=5)
    >>> seen.tokens[1], seen.attention[0, 1].argmax()

    model: a folder, a hub id or a loaded encoder.
    layer: counted as they run (ALBERT runs the same ones again), negative from the end; the last one if None.
    head: negative from the end; "mean" for the mean of all, None for each of them.
    most_weights: how many attention weights the result may have; as many as a layer may have if None.

    Computed in fp32. The attention weights are computed anew from the hidden states the layer reads. A text that is too
    long is cut, with a TruncationWarning. Raises InputError on a layer or head that is not there, and where there are
    too many weights.
    """
    if isinstance(model, EncoderDecoder) or (not isinstance(model, Encoder) and is_pair(model, revision)):
        raise InputError(
            "this is an encoder–decoder, and inspect looks at a single network: bothways.engine.alignment tells what "
            "its tokens looked at in the source (align), and whether it uses that (source_use)"
        )
    encoder = model if isinstance(model, Encoder) else Encoder.from_pretrained(model, revision=revision)
    named = "the model" if encoder is model else f"the model at {model}"
    tokenizer, config = tokenizer_of(encoder, named), encoder.config
    step = _numbered("layer", -1 if layer is None else layer, len(config.order))
    heads = _heads(head, config.heads)
    encoded = _read(tokenizer, text, pair, config)
    _check_weights(config.heads, len(encoded), MOST_WEIGHTS, "give a shorter text")
    if most_weights is not None:
        _check_weights(len(heads), len(encoded), most_weights, "ask for one head (--head N), or give a shorter text")
    warn_of_truncation(cut_lengths([encoded]), 1, config.longest)
    network = BACKENDS["eager"](encoder.network, place(device, "fp32"), share=encoder is not model)
    states, attention, positions = _look(network, encoded, step)
    attention = attention.mean(0, keepdim=True) if head == "mean" else attention[[h for h in heads if h != "mean"]]
    return Inspection(
        **_tokens(encoded, (text,) if pair is None else (text, pair)),
        positions=positions,
        layer=step,
        heads=heads,
        attention=attention.cpu().numpy(),
        **_measures(states),
    )


def _numbered(what: str, number: Any, count: int) -> int:
    """The number from 0 on. Raises InputError if there is none such."""
    if type(number) is not int or not -count <= number < count:
        raise InputError(
            f"{what} must be a whole number from 0 to {count - 1} (or from -{count} to -1), got {number!r}"
        )
    return number % count


def _heads(head: int | Literal["mean"] | None, count: int) -> tuple[int | Literal["mean"], ...]:
    if head is None:
        return tuple(range(count))
    return ("mean",) if head == "mean" else (_numbered("head", head, count),)


def _read(tokenizer: Tokenizer, text: str, pair: str | None, config: EncoderConfig) -> Encoded:
    (encoded,) = tokenizer.encode([text], None if pair is None else [pair], max_length=config.longest)
    check_types([encoded], config)
    if not len(encoded):
        raise InputError("nothing to look at: the text is empty, and the tokenizer adds no tokens to it")
    return encoded


def _check_weights(heads: int, tokens: int, most: int, advice: str) -> None:
    weights = heads * tokens**2
    if weights > most:
        whose = f"{heads} head" + "s" * (heads > 1)
        raise InputError(
            f"{tokens:,} tokens have {weights:,} attention weights in {whose} of a layer, of at most {most:,}: {advice}"
        )


@torch.inference_mode()
def _look(network: EncoderNetwork, encoded: Encoded, step: int) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """The hidden states [D + 1, L, width], the attention weights of a step [H, L, L], and each token's position."""
    one = batch([encoded], [0], network.embeddings.words.weight.device)
    states = network(one.tokens, one.types, keep=True).hidden_states
    (attention,) = network.attention_weights(step, states[step], one.tokens.layout)
    table = network.embeddings.positions is not None
    rows = network.embeddings.position_rows(one.tokens) if table else one.tokens.layout.positions
    return torch.stack(states).float(), attention, tuple(rows.tolist())


def _tokens(encoded: Encoded, texts: tuple[str, ...]) -> dict[str, Any]:
    """What is known before anything is computed."""
    spans = list(zip(encoded.sequences, encoded.offsets))
    return {
        "tokens": tuple(encoded.tokens),
        "ids": tuple(encoded.ids),
        "segments": tuple(encoded.types),
        "offsets": tuple(encoded.offsets),
        "texts": tuple("" if side is None else texts[side][start:end] for side, (start, end) in spans),
        "special": tuple(encoded.special),
    }


def _measures(states: Tensor) -> dict[str, Any]:
    """Of the hidden states [D + 1, L, width]."""
    norms, directions = states.norm(dim=-1), F.normalize(states, dim=-1)
    kept = (directions[1:] * directions[:-1]).sum(-1)
    similarity = torch.einsum("alw,blw->ab", directions, directions) / states.shape[1]
    return {"norms": norms.cpu().numpy(), "kept": kept.cpu().numpy(), "similarity": similarity.cpu().numpy()}
