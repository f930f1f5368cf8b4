"""The network that runs every family: embeddings, then layers, over ragged batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bothways.errors import InputError
from bothways.nn.blocks import Convolution, EncoderLayer, Positions
from bothways.nn.config import (
    DisentangledPositions,
    DistanceBuckets,
    EncoderConfig,
    LearnedPositions,
    RotaryPositions,
)
from bothways.nn.dropout import dropout, replayed
from bothways.nn.layers import FILLED_ROWS, Embedding, FewRows, Linear, PackedLinear, filled, for_few_rows, norm
from bothways.nn.positions import DistanceBias, RelativeVectors, turns
from bothways.ragged import Layout, Ragged

__all__ = ["EncoderNetwork", "EncoderOutput", "Pooler", "RelativePositions"]


@dataclass(frozen=True)
class EncoderOutput:
    """last: the last layer's hidden states [T, width].    before: what that layer read [T, width].

    hidden_states: the embeddings' and each layer's [T, width] (one more than there are layers), if asked for.
    rows, layout: where only some rows were asked for, their numbers int64 [M], which `last` has, and the layout of all.
    """

    last: Ragged
    before: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    rows: Tensor | None = None
    layout: Layout | None = None

    def at(self, rows: Tensor) -> Tensor:
        """The last hidden states [M, width] of rows int64 [M], numbered among all of the tokens.

        Raises ValueError on a row that was not asked for; on a GPU, which would have to be waited for, nothing does.
        """
        if self.rows is None:
            return self.last.data.index_select(0, rows)
        places = torch.searchsorted(self.rows, rows.contiguous())
        if rows.device.type == "cpu" and not torch.equal(self.rows[places.clamp(max=len(self.rows) - 1)], rows):
            raise ValueError("the network was not asked for these rows of its last layer")
        return self.last.data.index_select(0, places)


class Embeddings(nn.Module):
    """Word + position + type vectors (those there are), normalised where the config says so, and mapped where their
    width is another."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dropout = config.dropout if config.embedding_dropout is None else config.embedding_dropout
        self.longest, self.offset = config.longest, config.offset
        self.skips = isinstance(config.positions, LearnedPositions) and config.positions.skips
        self.factor = config.width**0.5 if config.embedding.grown else 1.0
        width = config.embed_width
        self.words = Embedding(config.vocab, width)
        added = isinstance(config.positions, LearnedPositions) and config.positions.added
        self.positions = Embedding(config.positions.count, width) if added else None
        self.types = Embedding(config.types, width) if config.types else None
        self.map_first = config.embedding.before_norm
        self.norm = norm(config, config.width if self.map_first else width) if config.embedding_norm else None
        self.map = Linear(width, config.width, bias=config.embedding.bias) if config.embed_mapped else None

    def forward(self, tokens: Ragged, types: Tensor | None, dtype: torch.dtype | None = None) -> Tensor:
        """ids int [T], types int [T] (None: all 0) → [T, width], in `dtype` if that is given.

        Raises InputError on a sequence that is too long.
        """
        if self.positions is not None and tokens.layout.longest > self.longest:
            raise InputError(
                f"a sequence of {tokens.layout.longest} tokens is longer than the "
                f"{self.longest} this model has positions for"
            )
        x = self.words(tokens.data)
        rows = None if self.positions is None else self.position_rows(tokens)
        return self.of(x, rows, types, dtype)

    def of(
        self, words: Tensor, rows: Tensor | None, types: Tensor | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Word vectors [T, embed_width], rows of the table of positions int [T], types int [T] → [T, width]."""
        x = words if self.factor == 1.0 else words * self.factor
        if self.positions is not None:
            x = x + self.positions(rows)
        if self.types is not None:
            x = x + (self.types.table()[0] if types is None else self.types(types))
        if self.map_first:
            return dropout(self._normalised(self._mapped(x, dtype)), self.dropout, self.training)
        return self._mapped(dropout(self._normalised(x), self.dropout, self.training), dtype)

    def position_rows(self, tokens: Ragged) -> Tensor:
        """int64 [T]: each token's row in the table of positions.

        With an offset, the row before the first position is that of padding: tokens with its number as their id stand
        there and are not counted, as in fairseq's and transformers' RoBERTa.
        """
        layout = tokens.layout
        if not self.offset:
            return layout.positions
        if not self.skips:
            return layout.positions + self.offset
        counted = tokens.data != self.offset - 1
        counts = counted.cumsum(0)
        before = F.pad(counts, (1, 0))[layout.offsets[:-1].long()][layout.segments]
        return torch.where(counted, counts - before, 0) + self.offset - 1

    def _normalised(self, x: Tensor) -> Tensor:
        return x if self.norm is None else self.norm(x)

    def _mapped(self, x: Tensor, dtype: torch.dtype | None) -> Tensor:
        x = x if dtype is None else x.to(dtype)
        return x if self.map is None else self.map(x)


class Pooler(nn.Module):
    """tanh(first token W + b): what next-sentence prediction reads."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = Linear(config.width, config.width)

    def forward(self, hidden: Ragged) -> Tensor:
        """[T, width] → [N, width]."""
        return self.dense(hidden.first(), act="tanh")


class RelativePositions(nn.Module):
    """Where rows stand towards each other, for the attention of all layers; it has weights where the family has."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.head_width = config.head_width
        self.thetas: tuple[float, ...] = ()
        if isinstance(config.positions, RotaryPositions):
            self.thetas = (config.positions.theta, config.positions.local_theta)
        relative = config.relative
        self.bias = DistanceBias(config, relative) if isinstance(relative, DistanceBuckets) else None
        self.vectors: RelativeVectors | None = None
        if isinstance(relative, DisentangledPositions) and relative.active:
            self.vectors = RelativeVectors(config, relative)

    def forward(self, layout: Layout, dtype: torch.dtype | None = None) -> Positions:
        """What the layers of one forward share; computed in `dtype` if that is given."""
        angles = {theta: turns(layout, self.head_width, theta) for theta in self.thetas}
        vectors = None if self.vectors is None else self.vectors()
        vectors = vectors if vectors is None or dtype is None else vectors.to(dtype)
        return Positions(angles, None if self.bias is None else self.bias(layout), vectors)


class EncoderNetwork(nn.Module):
    """An encoder, or a decoder alone, as its config says; without values until `initialise` or a checkpoint.

    pooler: None where the checkpoint has none.
    dtype: of the hidden states, if other than that of the embeddings (set by a backend or for training, never by a
    family).    checkpointing: compute a layer's activations again on the way back instead of keeping them.
    filling: in training on a CPU, have layers compute a multiple of 32 rows, the last of which nobody reads: oneDNN
    compiles kernels for every number of rows.
    """

    def __init__(self, config: EncoderConfig, *, pooler: bool = True) -> None:
        super().__init__()
        self.config = config
        self.dtype: torch.dtype | None = None
        self.checkpointing = False
        self.filling = False
        self.embeddings = Embeddings(config)
        self.relative = RelativePositions(config)
        self.layers = nn.ModuleList(EncoderLayer(config, i) for i in range(config.distinct_layers))
        self.convolution = Convolution(config) if config.convolution.kernel else None
        self.norm = norm(config) if config.norm_first else None
        self.pooler = Pooler(config) if pooler else None

    def steps(
        self,
        tokens: Ragged,
        types: Tensor | None = None,
        memory: Ragged | None = None,
        rows: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """The hidden states [T, width] of the embeddings, then of each layer, as they are computed; of the last one
        those of `rows` alone, if these are given."""
        self.check_memory(tokens, memory)
        x = embedded = self.embeddings(tokens, types, self.dtype)
        yield x
        positions = self.relative(tokens.layout, self.dtype)
        total = len(x)
        if self.filling and torch.is_grad_enabled() and self.convolution is None:
            x = filled(x)
            positions = positions.filled(len(x) - total)
        for step, layer in enumerate(order := self.config.order):
            some = rows if step == len(order) - 1 else None
            if step == 0 and self.convolution is not None:  # which reads all rows
                x = self.convolution(embedded, self._layer(layer, x, tokens.layout, positions, memory), tokens.layout)
                x = x if some is None else x.index_select(0, some)
            elif some is not None and not len(some):
                x = x[:0]
            else:
                x = self._layer(layer, x, tokens.layout, positions, memory, some)
            if self.norm is not None and step == len(order) - 1:
                x = self.norm(x)
            count = total if some is None else len(some)
            yield x if len(x) == count else x[:count]

    def check_memory(self, tokens: Ragged, memory: Ragged | None) -> None:
        """Raise InputError where there is a memory and should be none, or the other way round, or it does not fit."""
        wanted = self.config.memory
        if (memory is None) != (wanted is None):
            said = "needs a memory, another network's rows," if memory is None else "takes no memory"
            raise InputError(f"this network {said} and was given {'none' if memory is None else 'one'}")
        if memory is not None and len(memory) != len(tokens):
            raise InputError(f"{len(tokens)} sequences cannot read a memory of {len(memory)}: one for one is needed")
        if memory is not None and memory.data.shape[-1] != wanted:
            raise InputError(
                f"the memory's rows are {memory.data.shape[-1]} wide, but this network reads rows of {wanted}; "
                "an adapter between them maps one to the other"
            )

    def _layer(
        self,
        layer: int,
        x: Tensor,
        layout: Layout,
        positions: Positions,
        memory: Ragged | None,
        rows: Tensor | None = None,
    ) -> Tensor:
        if rows is not None and (torch.is_grad_enabled() or len(rows) > FILLED_ROWS):
            rows = filled(rows)  # how many there are is left to chance
        sides = x, layout, positions, None, memory, rows
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(self.layers[layer], *sides, use_reentrant=False, context_fn=replayed)
        return self.layers[layer](*sides)

    def forward(
        self,
        tokens: Ragged,
        types: Tensor | None = None,
        *,
        memory: Ragged | None = None,
        keep: bool = False,
        rows: Ragged | None = None,
    ) -> EncoderOutput:
        """Encode token ids int [T] with token types int [T] (None: all 0; without meaning for a model without types).

        memory: of a decoder that reads another network's rows: those rows [Tm, memory], a sequence for each of tokens.
        keep: also return the hidden states of every layer.
        rows: int64 [M], numbers of rows of tokens, ascending, and of how many of them each sequence has: the last layer
        gives no others, which saves what it would do for them after attention. Not with a memory, and not with keep.
        """
        if rows is not None and (keep or memory is not None):
            raise InputError("rows of the last layer alone cannot be asked for together with memory or keep")
        if keep:
            states = tuple(self.steps(tokens, types, memory))
            return EncoderOutput(Ragged(states[-1], tokens.layout), states[-2], states)
        before = last = torch.empty(0)
        for x in self.steps(tokens, types, memory, None if rows is None else rows.data):
            before, last = last, x
        if rows is None:
            return EncoderOutput(Ragged(last, tokens.layout), before)
        return EncoderOutput(Ragged(last, rows.layout), before, None, rows.data, tokens.layout)

    def memory_weights(self, step: int, x: Tensor, layout: Layout, memory: Ragged) -> list[Tensor]:
        """The cross-attention weights of one step, fp32 [H, L, Lm] for each sequence, as `attention_weights`."""
        layer = self.layers[self.config.order[step]]
        assert isinstance(layer, EncoderLayer)
        return layer.cross_weights(x, layout, self.relative(layout, self.dtype), memory)

    def attention_weights(self, step: int, x: Tensor, layout: Layout) -> list[Tensor]:
        """The attention weights of one step, fp32 [H, L, L] for each sequence, computed anew for people to look at.

        step: which layer, as they run: from 0 to depth - 1.    x: what it reads, `hidden_states[step]` of a forward.
        """
        layer = self.layers[self.config.order[step]]
        assert isinstance(layer, EncoderLayer)
        return layer.weights(x, layout, self.relative(layout, self.dtype))

    @property
    def stepping(self) -> EncoderNetwork:
        """This network as it runs on few rows at a time (see `for_few_rows`), all weights shared; made once, when its
        maps are packed: before that, and where they never are, the network itself."""
        twin = self.__dict__.get("_stepping")
        if twin is None:
            # All maps are packed or none, so that the first one tells.
            first = next((part for part in self.modules() if isinstance(part, (Linear, PackedLinear, FewRows))), None)
            if not isinstance(first, PackedLinear):
                return self
            twin = self.__dict__["_stepping"] = for_few_rows(self)
        assert isinstance(twin, EncoderNetwork)
        return twin

    @torch.no_grad()
    def freeze(self) -> None:
        """Compute once what does not depend on tokens: for inference, where weights no longer change."""
        positions = self.relative(Layout.of([], self.embeddings.words.weight.device), self.dtype)
        for layer in self.layers:
            assert isinstance(layer, EncoderLayer)
            layer.freeze(positions)
        if self.convolution is not None:
            self.convolution.freeze(self.dtype)
