"""Word by word: the numbers of a whole forward, where each token is computed once.

    cache, last = begin(network, prompts, memory, beams, room)     last [N, width] predicts the first token
    hidden = step(network, ids, cache)                             hidden [N, B, width] predicts the next one
    cache.follow(parents)                                          beams go on from other beams
    cache.keep(sources)                                            finished sources leave

Keys and values never move. A source has slots: those of its prompt, which its beams share, then B for each step. A
beam's scores are computed over all slots of its source, and those that are none of its ancestors are hidden; a small
table says which, and is all that `follow` changes. The memory's keys and values are computed once for each source.

Shapes in names: N sources with B beams, R = N · B rows of a step, P slots of prompts, S slots in use, H heads, D head
width, M the longest memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from bothways.errors import InputError
from bothways.nn.blocks import EncoderLayer
from bothways.nn.encoder import EncoderNetwork
from bothways.nn.layers import FEW_ROWS
from bothways.nn.plain import PlainLayer
from bothways.nn.positions import Turns, turn, turns_at
from bothways.ragged import Layout, Ragged

__all__ = ["Cache", "begin", "step"]


class Cache:
    """Keys and values of N sources with B beams each: made by `begin`, grown by `step`.

    own: of each layer, as they run, keys and values [2, N, H, all slots, D].
    crossed: of each layer those of the memory [2, N, H, M, D], zero beyond a source's end.
    seen: [N, B, all slots], 0 for what a beam sees and -inf elsewhere; None where all see all.
    seen_memory: [N, 1, 1, M], the same; None where memories are equally long.
    place: int64 [N, 1], of the next step's tokens, counted from 0; [1, 1] where prompts are equally long.
    places: int64, of the tokens in all slots; as many rows as `place`.
    counts: int64 [N, B], how many tokens so far were no padding; None where positions do not depend on that.
    """

    def __init__(self, network: EncoderNetwork, prompts: Layout, memory: Layout | None, beams: int, room: int) -> None:
        device = prompts.device
        layers = network.layers
        self.layers = [layer for i in network.config.order if isinstance(layer := layers[i], EncoderLayer)]
        self.windows = {layer.attention.window for layer in self.layers}
        self._plain: dict[int, list[PlainLayer]] = {}
        self.dtype = network.embeddings.words.weight.dtype if network.dtype is None else network.dtype
        self.sources, self.beams, self.used = len(prompts), 1, 0
        self.prompt = prompts.longest
        self.slots = self.prompt + beams * room
        self.own: list[Tensor] = []
        self.crossed: list[Tensor] = []
        self.memories = () if memory is None else memory.lengths
        self.seen_memory = _ends(self.memories, self.dtype, device)
        behind = _behind(prompts)
        self.place = torch.zeros_like(behind)
        later = torch.arange(room, device=device).repeat_interleave(beams)
        shared = torch.arange(self.prompt, device=device).expand(len(behind), -1)
        self.places = torch.cat([shared, behind + later], dim=1)
        self.seen: Tensor | None = None
        self.counts: Tensor | None = None
        bias = network.relative.bias
        self.by_distance = None if bias is None else bias.by_distance(self.prompt + room).to(self.dtype)

    def spread(self, prompts: Layout, beams: int, room: int) -> None:
        """The prompts are read: that many beams go on from each, which until now is one."""
        self.beams, self.used, self.place = beams, self.prompt, _behind(prompts)
        if len(self.place) > 1 or beams > 1:
            self.seen = self._at_first(prompts, room)
        self.counts = None if self.counts is None else self.counts.repeat(1, beams)

    def _at_first(self, prompts: Layout, room: int) -> Tensor:
        """Each beam sees its prompt, and what stands at its own number in each step."""
        own = torch.full((self.beams, self.beams), -torch.inf, dtype=self.dtype, device=prompts.device)
        own = own.fill_diagonal_(0.0).repeat(1, room).expand(self.sources, -1, -1)
        ends = _ends(prompts.lengths, self.dtype, prompts.device)
        prompt = own.new_zeros(self.sources, self.beams, self.prompt)
        return torch.cat([prompt if ends is None else prompt + ends[:, 0], own], dim=2)

    def plain(self, rows: int) -> list[PlainLayer]:
        """The layers, for so many rows."""
        alike = 1 if rows == 1 else min(max(rows, FEW_ROWS), FEW_ROWS + 1)
        if alike not in self._plain:
            self._plain[alike] = [PlainLayer(layer, alike) for layer in self.layers]
        return self._plain[alike]

    @torch.no_grad()
    def follow(self, parents: Tensor) -> None:
        """Beam b of source n goes on from what was beam `parents[n, b]` (int64 [N, B])."""
        if tuple(parents.shape) != (self.sources, self.beams):
            raise InputError(
                f"parents of {tuple(parents.shape)} do not fit {self.sources} sources × {self.beams} beams"
            )
        if self.beams == 1:
            return
        assert self.seen is not None
        past = self.seen[:, :, self.prompt : self.used]
        past.copy_(past.gather(1, parents[:, :, None].expand_as(past)))
        if self.counts is not None:
            self.counts = self.counts.gather(1, parents)

    @torch.no_grad()
    def keep(self, sources: Sequence[int]) -> None:
        """Only the given sources stay, in the given order."""
        index = torch.tensor(list(sources), dtype=torch.int64, device=self.place.device)
        self.sources = len(index)
        for i, kv in enumerate(self.own):
            kept = kv.new_empty(2, self.sources, *kv.shape[2:])
            kept[:, :, :, : self.used] = kv[:, :, :, : self.used].index_select(1, index)
            self.own[i] = kept
        if self.memories:
            self.memories = tuple(self.memories[i] for i in sources)
            longest = max(1, max(self.memories, default=0))
            self.crossed = [kv.index_select(1, index)[:, :, :, :longest] for kv in self.crossed]
            self.seen_memory = _ends(self.memories, self.dtype, index.device)
        if len(self.place) > 1:
            self.place, self.places = self.place.index_select(0, index), self.places.index_select(0, index)
        self.seen = None if self.seen is None else self.seen.index_select(0, index)
        self.counts = None if self.counts is None else self.counts.index_select(0, index)

    def term(self, window: int | None) -> Tensor | None:
        """What is added to the scores of the slots in use, broadcastable to [N, H, B, S]; None for nothing."""
        term = None if self.seen is None else self.seen[:, None, :, : self.used]
        if window is None and self.by_distance is None:
            return term
        distance = self.place - self.places[:, : self.used]
        if window is not None:
            far = torch.zeros(distance.shape, dtype=self.dtype, device=distance.device)
            far = far.masked_fill_(distance > window, -torch.inf)[:, None, None]
            term = far if term is None else term + far
        if self.by_distance is not None:
            nearest = self.by_distance.shape[1] // 2
            bias = self.by_distance[:, nearest - distance].transpose(0, 1)[:, :, None]
            term = bias if term is None else term + bias
        return term


def _behind(prompts: Layout) -> Tensor:
    """int64 [N, 1]: the place behind each prompt; [1, 1] where all are equally long."""
    alike = len(set(prompts.lengths)) == 1
    return torch.tensor(prompts.lengths[: 1 if alike else None], device=prompts.device)[:, None]


def _ends(lengths: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """[N, 1, 1, longest]: 0 within each length and -inf behind it; None where all are equally long. A length of 0 has
    no -inf: its rows are zeros."""
    if len(set(lengths)) <= 1:
        return None
    behind = torch.arange(max(lengths)) >= torch.tensor([length or max(lengths) for length in lengths])[:, None]
    return torch.zeros(behind.shape, dtype=dtype).masked_fill_(behind, -torch.inf).to(device)[:, None, None]


@torch.no_grad()
def begin(
    network: EncoderNetwork, prompts: Ragged, memory: Ragged | None, beams: int, room: int
) -> tuple[Cache, Tensor]:
    """Read the prompts, once for all beams of a source → the cache, and each prompt's last hidden state [N, width].

    prompts: int [T], at least a token each.    memory: [Tm, memory], one sequence for each prompt, where the network
    reads one.    room: how many tokens may follow a prompt.    Dropout is none, whether the network trains or not.

    Raises InputError on prompts that are empty or, with their room, longer than the network's positions, and on a
    network that cannot go on word by word.
    """
    _check(network, prompts, memory, beams, room)
    network, layout = network.stepping, prompts.layout
    cache = Cache(network, layout, None if memory is None else memory.layout, beams, room)
    x = network.embeddings(prompts, None, network.dtype)
    last = _started(network, x, memory, cache) if layout.longest == 1 else _read(network, x, layout, memory, cache)
    if network.embeddings.positions is not None and network.embeddings.offset and network.embeddings.skips:
        counted = prompts.data != network.embeddings.offset - 1
        cache.counts = Ragged(counted.long(), layout).sum()[:, None]
    cache.spread(layout, beams, room)
    return cache, last if network.norm is None else network.norm(last)


def _started(network: EncoderNetwork, x: Tensor, memory: Ragged | None, cache: Cache) -> Tensor:
    """Start tokens [N, width] go through the layers as a step of one beam → their hidden states [N, width]."""
    for layer in cache.layers:
        attention = layer.attention
        cache.own.append(x.new_empty(2, cache.sources, attention.heads, cache.slots, attention.head_width))
        if memory is not None and layer.cross is not None:
            cache.crossed.append(_crossed(layer.cross.project(memory), memory.layout))
    return _walk(network, x, cache)


def _read(network: EncoderNetwork, x: Tensor, layout: Layout, memory: Ragged | None, cache: Cache) -> Tensor:
    """Prompts [T, width] go through the layers as in a whole forward → the last hidden states [N, width] of each."""
    positions = network.relative(layout, network.dtype)
    for layer in cache.layers:
        q, k, v = layer.attention.project(layer.asking(x), positions)
        cache.own.append(_rectangle(torch.stack([k, v], 1), layout, cache.slots))
        known = None
        if memory is not None and layer.cross is not None:
            known = layer.cross.project(memory)
            cache.crossed.append(_crossed(known, memory.layout))
        x = layer.onward(layer.attention.among(q, k, v, layout, positions), x, layout, memory, known)
    return Ragged(x, layout).last()


def _crossed(kv: Tensor, layout: Layout) -> Tensor:
    return _rectangle(kv, layout, max(1, layout.longest))


def _check(network: EncoderNetwork, prompts: Ragged, memory: Ragged | None, beams: int, room: int) -> None:
    if not network.config.causal or network.relative.vectors is not None or network.convolution is not None:
        raise InputError("this network's rows see later ones: it cannot go on word by word, only a decoder can")
    network.check_memory(prompts, memory)
    if not len(prompts) or not all(prompts.layout.lengths):
        raise InputError("a source has no token to begin with: give each the start token, or a prompt")
    if beams < 1 or room < 0:
        raise InputError(f"{beams} beams with room for {room} tokens cannot be")
    limit, longest, shortest = network.config.limit, prompts.layout.longest, min(prompts.layout.lengths)
    # The last token is never read; and longer prompts may be done, and leave, before shorter ones.
    if limit is not None and max(longest, shortest + room - 1) > limit:
        raise InputError(
            f"{longest} tokens with room for {room} more are longer than the {limit} this model has positions for"
        )


def _rectangle(kv: Tensor, layout: Layout, slots: int) -> Tensor:
    """Keys and values [T, 2, H, D] of ragged sequences as [2, N, H, slots, D], zero behind each as far as the longest;
    what is behind that is not set."""
    longest, count = layout.longest, len(layout)
    if len(set(layout.lengths)) == 1:
        rows = kv.view(count, longest, *kv.shape[1:])
    else:
        rows = kv.new_zeros(count, longest, *kv.shape[1:])
        rows[layout.segments, layout.positions] = kv
    whole = kv.new_empty(2, count, kv.shape[2], slots, kv.shape[3])
    whole[:, :, :, :longest] = rows.permute(2, 0, 3, 1, 4)
    if not longest:
        whole.zero_()
    return whole


@torch.no_grad()
def step(network: EncoderNetwork, ids: Tensor, cache: Cache) -> Tensor:
    """The token that each beam goes on with, int64 [N, B] → hidden states [N, B, width] that predict the next ones.

    Raises InputError where the cache has no room left, or not that many beams.
    """
    if tuple(ids.shape) != (cache.sources, cache.beams):
        raise InputError(f"ids of {tuple(ids.shape)} do not fit {cache.sources} sources × {cache.beams} beams")
    if cache.used + cache.beams > cache.slots:
        raise InputError("no room is left for another token; begin with more")
    network = network.stepping
    x = _walk(network, _embedded(network, ids, cache), cache)
    return (x if network.norm is None else network.norm(x)).view(*ids.shape, -1)


def _walk(network: EncoderNetwork, x: Tensor, cache: Cache) -> Tensor:
    """A step's rows [R, width] through all layers."""
    cache.used += cache.beams
    terms = {window: cache.term(window) for window in cache.windows}
    angles = _angles(network, cache)
    for number, layer in enumerate(cache.plain(len(x))):
        asking = x if layer.asking is None else layer.asking(x)
        context = _attend_own(layer, asking, cache, number, terms[layer.attention.window], angles)
        x = layer.attended(context, x)
        if layer.cross is None:
            x = layer.fed(x)
        else:
            asking = x if layer.asking_memory is None else layer.asking_memory(x)
            x = layer.crossed(_attend_memory(layer, asking, cache, number), x)
    cache.place = cache.place + 1
    return x


def _embedded(network: EncoderNetwork, ids: Tensor, cache: Cache) -> Tensor:
    """[R, width]."""
    embeddings = network.embeddings
    words = embeddings.words(ids.flatten())
    if embeddings.positions is None:
        return embeddings.of(words, None, None, network.dtype)
    if cache.counts is None:
        rows = (cache.place + embeddings.offset).expand(ids.shape)
    else:
        counted = ids != embeddings.offset - 1
        cache.counts = cache.counts + counted
        rows = cache.counts * counted + (embeddings.offset - 1)
    return embeddings.of(words, rows.flatten(), None, network.dtype)


def _angles(network: EncoderNetwork, cache: Cache) -> dict[float, Turns]:
    """By their base, of the rows of a step."""
    relative = network.relative
    if not relative.thetas:
        return {}
    places = cache.place.expand(cache.sources, cache.beams).flatten()
    return {theta: turns_at(places, relative.head_width, theta) for theta in relative.thetas}


def _attend_own(
    layer: PlainLayer, x: Tensor, cache: Cache, number: int, term: Tensor | None, angles: dict[float, Turns]
) -> Tensor:
    """x [R, width] → the heads' outputs [R, H · D]; the rows' own keys and values go into the cache."""
    attention = layer.attention
    shape = cache.sources, cache.beams, 3, attention.heads, attention.head_width
    qkv = layer.qkv(x).view(shape)
    if attention.theta is not None:
        turned = turn(qkv[:, :, :2].flatten(0, 1).flatten(1, 2), angles[attention.theta])
        qkv = torch.cat([turned.view(*shape[:2], 2, *shape[3:]), qkv[:, :, 2:]], dim=2)
    own = cache.own[number]
    own.narrow(3, cache.used - cache.beams, cache.beams).copy_(qkv.narrow(2, 1, 2).permute(2, 0, 3, 1, 4))
    keys, values = own.narrow(3, 0, cache.used).unbind()
    return _attend(qkv.select(2, 0).transpose(1, 2), keys, values, term, attention.scale)


def _attend_memory(layer: PlainLayer, x: Tensor, cache: Cache, number: int) -> Tensor:
    """x [R, width] → the heads' outputs [R, H · D]."""
    cross = layer.cross
    assert cross is not None
    assert layer.query is not None
    q = layer.query(x).view(cache.sources, cache.beams, cross.heads, cross.head_width).transpose(1, 2)
    keys, values = cache.crossed[number].unbind()
    return _attend(q, keys, values, cache.seen_memory, cross.scale)


def _attend(q: Tensor, keys: Tensor, values: Tensor, term: Tensor | None, scale: float) -> Tensor:
    """q [N, H, B, D] over keys and values [N, H, S, D] → [R, H · D]."""
    context = F.scaled_dot_product_attention(q, keys, values, attn_mask=term, scale=scale)
    return context.transpose(1, 2).reshape(-1, q.shape[1] * q.shape[3])
