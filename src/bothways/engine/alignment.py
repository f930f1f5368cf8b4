"""Which tokens of its source each written token looked at; and whether what is written hangs on the source at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bothways.data.batch import batch
from bothways.engine.decoding import read_decoding
from bothways.engine.scores import check_numbers
from bothways.engine.spelling import spelt
from bothways.engine.writing import WritingPipeline
from bothways.errors import CheckpointError, InputError
from bothways.nn.adapter import Adapter
from bothways.nn.layers import filled
from bothways.ragged import Ragged
from bothways.text.tokenizer import Encoded

__all__ = ["Alignment", "SourceUse", "align", "source_use"]

Floats = NDArray[np.float32]
# Nats a token. From the first on a memory counts for the target; below the second it does not.
USED, UNUSED = 0.05, 0.005
# Sources of other words that the shuffled memories are of; their mean counts.
SHUFFLES = 4


@dataclass(frozen=True, eq=False)
class Alignment:
    """What L target tokens looked at, among M rows of the memory, in D layers.

    source, target: the tokens as they are spelt; of a memory that an adapter resampled, the rows' numbers.
    texts: of the target's tokens as text.
    weights: float32 [D, L, M], of cross-attention where each target token is predicted, the mean of the heads.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    weights: Floats


@dataclass(frozen=True)
class SourceUse:
    """How likely a target is with its source's memory, with another one's and with none (zeros).

    target: the text.    tokens: as they are spelt, the end's mark included.    generated: whether the model wrote it.
    true, shuffled, zero: the log-probability of each token.
    uses_source: "yes", "hardly" or "no".
    """

    target: str
    tokens: tuple[str, ...]
    generated: bool
    true: tuple[float, ...]
    shuffled: tuple[float, ...]
    zero: tuple[float, ...]

    @property
    def gains(self) -> tuple[float, float]:
        """Nats a token that the true memory is worth, over the shuffled one and over zeros."""
        count = len(self.tokens)
        return (sum(self.true) - sum(self.shuffled)) / count, (sum(self.true) - sum(self.zero)) / count

    @property
    def uses_source(self) -> Literal["yes", "hardly", "no"]:
        """Whether the target hangs on what this source says: on the shuffled one, since zeros are nothing that the
        decoder has ever read."""
        gain, _ = self.gains
        return "yes" if gain >= USED else "no" if max(map(abs, self.gains)) < UNUSED or gain <= 0 else "hardly"


def align(write: WritingPipeline, text: str | Encoded, target: str | None = None, **settings: Any) -> Alignment:
    """Of one text with its target: the given one, or what is written with these settings.

    text: as it is, or as `write.read` made tokens of it.
    Raises CheckpointError on a decoder alone, which reads no source.
    """
    encoded, ids, _ = _pair(write, text, target, settings)
    weights = _weights(write, encoded, ids)
    adapter = write.parts.adapter
    resampled = isinstance(adapter, Adapter) and adapter.config.kind == "resample"
    source = tuple(f"row {i}" for i in range(weights.shape[2])) if resampled else tuple(encoded.tokens)
    return Alignment(source, spelt(write.parts.target, ids), weights)


def source_use(write: WritingPipeline, text: str, target: str | None = None, **settings: Any) -> SourceUse:
    """Whether the decoder uses its source: the target's log-probabilities with three memories.

    target: what to score; None: what the model writes with these settings.
    Shuffled memories are of sources of as many tokens, drawn from the vocabulary where the text's own stand.
    Raises CheckpointError on a decoder alone, which reads no source.
    """
    encoded, ids, generated = _pair(write, text, target, settings)
    true = _memory(write, list(encoded.ids))
    others = [_memory(write, _shuffled(encoded, write, seed)) for seed in range(SHUFFLES)]
    zero = Ragged(torch.zeros_like(true.data), true.layout)
    known = (
        _log_probabilities(write, ids, true),
        torch.stack([_log_probabilities(write, ids, other) for other in others]).mean(0),
        _log_probabilities(write, ids, zero),
    )
    shown = write.parts.target.decode(ids, skip_special=True)
    return SourceUse(shown, spelt(write.parts.target, ids), generated, *(tuple(one.tolist()) for one in known))


def _pair(
    write: WritingPipeline, text: str | Encoded, target: str | None, settings: dict[str, Any]
) -> tuple[Encoded, list[int], bool]:
    """The source, the target's ids with the mark of its end, and whether the model wrote it."""
    if write.parts.encoder is None:
        raise CheckpointError("a decoder alone reads no source: there is nothing that its tokens could look at in one")
    encoded = text if isinstance(text, Encoded) else write.read([text])[0]
    if target is None:
        ((written, *_),) = write.write([encoded], read_decoding(settings, write.usual))
        if not written.ids:
            raise InputError("the model writes nothing for this text: there are no tokens to look at")
        return encoded, list(written.ids), True
    ids = write.parts.ids_of(target)
    limit = write.parts.limit
    if limit is not None and len(ids) > limit:
        raise InputError(f"the target has {len(ids):,} tokens, but the decoder has positions for {limit:,}")
    return encoded, ids, False


def _shuffled(encoded: Encoded, write: WritingPipeline, seed: int) -> list[int]:
    """As many tokens, drawn from the vocabulary, between the same special ones and behind the same prefix."""
    assert write.parts.encoder is not None
    ids = [write.parts.source.id_of(role) for role in write.parts.source.special]
    vocab = min(write.parts.source.vocab_size, write.parts.encoder.config.vocab)
    words = np.setdiff1d(np.arange(vocab), [one for one in ids if one is not None])
    drawn = words[np.random.default_rng(seed).integers(len(words), size=len(encoded))].tolist()
    before = len(write.parts.around.sides[0])
    kept = (fixed or end <= before for fixed, (_, end) in zip(encoded.special, encoded.offsets))
    return [i if same else other for i, same, other in zip(encoded.ids, kept, drawn)]


def _memory(write: WritingPipeline, ids: list[int]) -> Ragged:
    """Of one source."""
    with torch.inference_mode():
        memory = write.memory(batch([_Ids(ids)], [0], write.placement.device))
    assert memory is not None
    return memory


@dataclass(frozen=True)
class _Ids:
    """A single text's tokens."""

    ids: Sequence[int]
    pair = False

    @property
    def types(self) -> Sequence[int]:
        return [0] * len(self.ids)

    def __len__(self) -> int:
        return len(self.ids)


def _before(write: WritingPipeline, ids: Sequence[int]) -> Ragged:
    """What the decoder reads to predict these."""
    start = write.parts.start
    assert start is not None
    return Ragged.of([[start, *ids[:-1]]], write.placement.device)


@torch.inference_mode()
def _log_probabilities(write: WritingPipeline, ids: Sequence[int], memory: Ragged) -> Tensor:
    """[L] of a target's tokens, each after those before it."""
    output = write.writer.network(_before(write, ids), memory=memory)
    scores = write.writer.head(filled(output.last.data))[: len(ids)].float()
    check_numbers(scores, "the model's scores of this target")
    return scores.log_softmax(1).gather(1, torch.tensor(ids, device=scores.device)[:, None])[:, 0].cpu()


@torch.inference_mode()
def _weights(write: WritingPipeline, encoded: Encoded, ids: Sequence[int]) -> Floats:
    """[D, L, M]."""
    network, tokens, memory = write.writer.network, _before(write, ids), _memory(write, list(encoded.ids))
    states = network(tokens, memory=memory, keep=True).hidden_states
    assert states is not None
    layers = [network.memory_weights(i, x, tokens.layout, memory)[0].mean(0) for i, x in enumerate(states[:-1])]
    weights = torch.stack(layers).float().cpu()
    check_numbers(weights, "the model's attention weights for this target")
    found: Floats = weights.numpy()
    return found
