"""Which tokens each position can see, measured: how much its last hidden state changes with each token's vector.

Where a network cannot see, the gradient is zero, exactly; nothing is taken from what its config says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bothways.checkpoint.encoder import Encoder, tokenizer_of
from bothways.checkpoint.encoder_decoder import EncoderDecoder
from bothways.checkpoint.marks import Around
from bothways.engine.decoding import read_decoding
from bothways.engine.parts import parts_of
from bothways.engine.scores import check_numbers
from bothways.engine.spelling import spelt
from bothways.engine.writing import WritingPipeline
from bothways.errors import InputError
from bothways.nn.encoder import EncoderNetwork
from bothways.ragged import Ragged
from bothways.text.targets import open_ended, separated
from bothways.text.tokenizer import Encoded, Tokenizer, cut_lengths, warn_of_truncation

__all__ = ["MOST_REACHED", "Reach", "Sight", "reach"]

# Positions whose gradients are taken, one after the other.
MOST_REACHED = 256
Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Sight:
    """What R positions of a text see of C tokens.

    rows, columns: the tokens, as they are spelt.    own: whether both are of the same text.
    gradients: float32 [R, C], how much the last hidden state of a row changes with a column's word vector (the norm of
    the gradient of a fixed direction's share in it).
    """

    what: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    own: bool
    gradients: Floats

    @property
    def seen(self) -> NDArray[np.bool_]:
        """[R, C]."""
        return self.gradients > 0.0

    @property
    def later(self) -> float:
        """The share of later tokens that is seen; 0 where there are none."""
        above = np.triu(np.ones_like(self.seen), 1).astype(bool)
        return float(self.seen[above].mean()) if self.own and above.any() else 0.0

    @property
    def says(self) -> str:
        """In words, and what follows from it."""
        share = self.seen.mean()
        if not self.own:
            return f"{self.what}: each position sees {share:.0%} of the source's tokens"
        if self.later == 0.0:
            return f"{self.what}: no position sees a later token, so the last one can tell what comes next"
        told = f"{self.what}: each position sees {share:.0%} of the tokens, {self.later:.0%} of the later ones"
        return f"{told}; what comes next it would have seen, so it fills gaps and does not go on with a text"


@dataclass(frozen=True)
class Reach:
    """What a model's positions see: of an encoder or a decoder alone one `Sight`; of an encoder–decoder what the
    encoder's see, what the decoder's see of the source, and what they see of the target."""

    sights: tuple[Sight, ...]


def reach(model: Encoder | EncoderDecoder, text: str, target: str | None = None) -> Reach:
    """Measured with a text and, of an encoder–decoder, with a target; that is what it writes itself if None.

    Raises InputError on texts without tokens, or with too many.
    """
    if not isinstance(model, EncoderDecoder):
        before, behind = Around.of(model.extras, "the model").sides
        encoded = _encoded(tokenizer_of(model), text, model.config.longest, before, behind)
        # A decoder alone is asked as it is when it goes on: its text is not closed by special tokens.
        alone = model.config.causal
        ids = _checked(open_ended(encoded) if alone else list(encoded.ids))
        tokens, what = tuple(encoded.tokens[: len(ids)]), "decoder alone" if alone else "encoder"
        with _watched(model.network) as watched:
            last = model.network(Ragged.of([ids])).last.data
            return Reach((Sight(what, tokens, tokens, True, _gradients(last, watched())),))
    parts = parts_of(model)
    assert parts.encoder is not None
    assert parts.start is not None
    before, behind = parts.around.sides
    if not text.strip():
        raise InputError("the text is empty: there is nothing to read")
    encoded = _encoded(parts.source, text, parts.source_limit, before, behind)
    source = _checked(list(encoded.ids))
    ids = _checked([parts.start, *(_written(model, text) if target is None else parts.ids_of(target))[:-1]])
    read, written = tuple(encoded.tokens), spelt(parts.target, ids)
    with _watched(parts.encoder) as seen_source, _watched(parts.decoder) as seen_target:
        memory = parts.encoder(Ragged.of([source])).last
        inner = _gradients(memory.data, seen_source(), keep=True)
        adapted = memory if parts.adapter is None else parts.adapter(memory)
        last = parts.decoder(Ragged.of([ids]), memory=adapted).last.data
        across, own = (_gradients(last, one(), keep=True) for one in (seen_source, seen_target))
    return Reach(
        (
            Sight("encoder", read, read, True, inner),
            Sight("decoder, of the source", written, read, False, across),
            Sight("decoder, of what it wrote", written, written, True, own),
        )
    )


def _encoded(tokenizer: Tokenizer, text: str, most: int, before: str, behind: str) -> Encoded:
    """Warns where it is cut."""
    (encoded,) = separated(tokenizer, [text], behind, most, before)
    warn_of_truncation(cut_lengths([encoded]), 1, most)
    return encoded


def _written(model: EncoderDecoder, text: str) -> list[int]:
    """The ids of what it writes for a text."""
    write = WritingPipeline("text2text-generation", model, device="cpu", precision="fp32", bar=False)
    ((found, *_),) = write.write(write.read([text]), read_decoding({}, write.usual))
    return list(found.ids)


def _checked(ids: list[int]) -> list[int]:
    if not ids:
        raise InputError("nothing to look at: the text is empty, and the tokenizer adds no tokens to it")
    if len(ids) > MOST_REACHED:
        raise InputError(f"{len(ids):,} tokens, of at most {MOST_REACHED} whose sight is measured: give a shorter text")
    return ids


@contextmanager
def _watched(network: EncoderNetwork) -> Iterator[Callable[[], Tensor]]:
    """Within, the network runs without dropout, and what its embeddings give can be had after a forward."""
    found: list[Tensor] = []

    def watch(module: Any, inputs: Any, output: Tensor) -> Tensor:
        found.append(output.detach().requires_grad_())
        return found[-1]

    training, handle = network.training, network.embeddings.register_forward_hook(watch)
    network.eval()
    try:
        with torch.enable_grad():
            yield lambda: found[-1]
    finally:
        handle.remove()
        network.train(training)


def _gradients(last: Tensor, vectors: Tensor, keep: bool = False) -> Floats:
    """last [R, width], vectors [C, width'] → [R, C]."""
    direction = torch.randn(last.shape[1], generator=torch.Generator().manual_seed(0))
    shares = last @ direction
    rows = []
    for i, share in enumerate(shares):
        more = keep or i < len(shares) - 1
        (gradient,) = torch.autograd.grad(share, vectors, retain_graph=more, allow_unused=True)
        rows.append(torch.zeros(len(vectors)) if gradient is None else gradient.norm(dim=1))
    gradients = torch.stack(rows).float()
    check_numbers(gradients, "the model's gradients for this text")
    found: Floats = gradients.numpy()
    return found
