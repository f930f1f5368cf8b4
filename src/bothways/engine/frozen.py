"""What a frozen network gives is computed once: hidden states, or of them only the rows that a head reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b

import torch
from torch import Tensor, nn

from bothways.checkpoint.encoder import Encoder
from bothways.data.batch import Batch, Tokens
from bothways.engine.backends import BACKENDS, Placement
from bothways.engine.pipeline import Pipeline
from bothways.engine.scheduler import progress, schedule
from bothways.engine.streams import Streams
from bothways.nn.config import EncoderConfig
from bothways.nn.encoder import EncoderNetwork, EncoderOutput
from bothways.nn.heads import Classifier
from bothways.nn.pooling import pool
from bothways.ragged import Layout, Ragged

__all__ = ["FrozenNetwork", "FrozenPipeline", "rows_read", "states_of"]

Put = Callable[[int, Tensor], None]
CPU_TOKENS = 512  # of a batch: as fast as more of them, in two thirds of the memory
MOST_HELD_BYTES = 1 << 30  # that a pipeline remembers; what is beyond is computed again each time


class FrozenNetwork(nn.Module):
    """Stands for a network of which the hidden states are known: a batch has them in the place of ids.

    dtype: that they are given in; None: as they are.
    """

    def __init__(self, config: EncoderConfig, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.config = config
        self.dtype = dtype
        self.checkpointing = False

    def forward(
        self, tokens: Ragged, types: Tensor | None = None, *, keep: bool = False, rows: Ragged | None = None
    ) -> EncoderOutput:
        """hidden states [T, width] of sequences → the same, or only some rows of them."""
        data = tokens.data if self.dtype is None else tokens.data.to(self.dtype)
        if rows is None:
            return EncoderOutput(Ragged(data, tokens.layout), data)
        last = Ragged(data.index_select(0, rows.data), rows.layout)
        return EncoderOutput(last, data, None, rows.data, tokens.layout)


def rows_read(head: nn.Module | None, hidden: Ragged) -> Ragged:
    """Of hidden states those that the head reads: one row a sequence where it pools them, else all; in fp32.

    A pooled row is a sequence of one row: whatever pools it again gives it back.
    """
    if not isinstance(head, Classifier) or head.pooling is None:
        return Ragged(hidden.data.float(), hidden.layout)
    pooled = pool(Ragged(hidden.data.float(), hidden.layout), (head.pooling,))
    return Ragged(pooled, Layout.of([1] * len(hidden), pooled.device))


def states_of(
    network: EncoderNetwork, head: nn.Module | None, sequences: Sequence[Tokens], put: Put, device: torch.device
) -> None:
    """Compute what the head reads of each sequence, and hand it over: put(number, rows [length, width]), in any order.

    head: None for what reads all rows.    put: is called from several threads at once, each time with another number.
    """
    ready = BACKENDS["eager"](network, Placement(device, torch.float32), share=True)

    @torch.inference_mode()
    def work(batch: Batch) -> None:
        asked = head.reads(batch.tokens.layout) if isinstance(head, Classifier) else None
        rows = rows_read(head, ready(batch.tokens, batch.types, rows=asked).last)
        for number, one in zip(batch.origin, rows.unbind()):
            put(number, one.cpu())

    budget = CPU_TOKENS if device.type == "cpu" else None
    for _ in progress(
        schedule(sequences, work, Streams(device), device=device, batch_tokens=budget), len(sequences), "frozen texts"
    ):
        pass


class FrozenPipeline(Pipeline):
    """A pipeline whose network never changes, though its head does: what it is asked again, it remembers."""

    def __init__(self, task: str, encoder: Encoder, *, device: str = "auto", precision: str = "auto") -> None:
        super().__init__(task, encoder, device=device, precision=precision, bar=False)
        self._reader = encoder.heads[self.task.head or ""]
        self._known: dict[bytes, Ragged] = {}
        self._bytes = 0

    def renewed(self) -> FrozenPipeline:
        """This pipeline, with the head as it is now."""
        self._head = BACKENDS["eager"](self._reader, self._placement)
        return self

    def _output(self, batch: Batch, keep: bool) -> EncoderOutput:
        key = _digest(batch)
        if keep or key not in self._known:
            output = super()._output(batch, keep)
            rows = rows_read(self._reader, output.last)
            if keep or self._bytes + rows.data.nbytes > MOST_HELD_BYTES:
                return output
            self._bytes += rows.data.nbytes
            self._known[key] = rows
        rows = self._known[key]
        return EncoderOutput(rows, rows.data)


def _digest(batch: Batch) -> bytes:
    """What stands for the sequences of a batch."""
    found = blake2b(repr(batch.tokens.layout.lengths).encode(), digest_size=16)
    for numbers in (batch.tokens.data, batch.types):
        found.update(b"" if numbers is None else numbers.cpu().numpy().tobytes())
    return found.digest()
