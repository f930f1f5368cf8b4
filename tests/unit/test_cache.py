"""Word by word with a cache gives the numbers of whole forwards, for every kind of decoder, beam and neighbour."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from bothways import InputError, Layout, Ragged
from bothways.engine.backends import Placement, eager
from bothways.nn.cache import Cache, begin, step
from bothways.nn.config import (
    Biases,
    DistanceBuckets,
    EmbeddingMap,
    EncoderConfig,
    HeadForm,
    LayerSharing,
    LearnedPositions,
    LocalAttention,
    RotaryPositions,
)
from bothways.nn.encoder import EncoderNetwork
from bothways.nn.heads import LanguageModelHead
from bothways.nn.layers import FewRows, for_few_rows

PLAIN = EncoderConfig(
    vocab=40, width=16, depth=2, heads=2, ffn=24, positions=LearnedPositions(30), causal=True, norm_eps=1e-5
)
CONFIGS = {
    "bert": replace(PLAIN, memory=16),
    "a memory of another width": replace(PLAIN, memory=12, types=0),
    "alone": PLAIN,
    "gpt2": replace(PLAIN, types=0, norm_first=True, embedding_norm=False, activation="gelu_new"),
    "gpt2 with memory": replace(PLAIN, types=0, norm_first=True, embedding_norm=False, memory=16),
    "roberta": replace(PLAIN, positions=LearnedPositions(32, offset=2), memory=16),
    "bart": replace(PLAIN, positions=LearnedPositions(32, offset=2, skips=False), embedding=EmbeddingMap(grown=True)),
    "t5": replace(
        PLAIN,
        positions=LearnedPositions(30, added=False),
        relative=DistanceBuckets(8, 8, 12, ahead=False),
        head=HeadForm(6, scaled=False),
        biases=Biases(False, False, False),
        rms=True,
        norm_first=True,
        embedding_norm=False,
        types=0,
        memory=16,
        gated=True,
    ),
    "distances both ways": replace(PLAIN, relative=DistanceBuckets(32, 8, 12), memory=16),
    "rotary, local": replace(
        PLAIN,
        depth=3,
        positions=RotaryPositions(40),
        local=LocalAttention(6, ("full_attention", "sliding_attention", "sliding_attention")),
        norm_first=True,
        gated=True,
    ),
    "rotary with memory": replace(PLAIN, positions=RotaryPositions(40), memory=16),
    "shared layers": replace(PLAIN, depth=4, sharing=LayerSharing(2, 1), memory=16, embedding=EmbeddingMap(words=8)),
}
FORMS = ("as it is", "packed")
BEAMS, STEPS = 3, 7


def made(config: EncoderConfig, form: str = "as it is") -> EncoderNetwork:
    network = EncoderNetwork(config, pooler=False).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.25)
    return eager(network, Placement(torch.device("cpu"), torch.float32)) if form == "packed" else network


def a_memory(config: EncoderConfig, lengths: tuple[int, ...]) -> Ragged | None:
    return None if config.memory is None else Ragged(torch.randn(sum(lengths), config.memory), Layout.of(lengths))


def whole(network: EncoderNetwork, text: list[int], memory: Tensor | None) -> Tensor:
    """The last hidden state of one text alone, computed anew."""
    given = None if memory is None else Ragged(memory, Layout.of([len(memory)]))
    return network(Ragged.of([text]), memory=given).last.data[-1]


def walk(network: EncoderNetwork, prompts: list[list[int]], memory: Ragged | None, leaving: bool = False) -> float:
    """Go on at random, with beams that follow others and sources that leave: how far from whole forwards that is."""
    generator = torch.Generator().manual_seed(4)
    memories = [None] * len(prompts) if memory is None else memory.unbind()
    cache, last = begin(network, Ragged.of(prompts), memory, BEAMS, STEPS)
    expected = [whole(network, prompt, rows) for prompt, rows in zip(prompts, memories)]
    worst = float((last - torch.stack(expected)).abs().max())
    texts = [[prompt] * BEAMS for prompt in prompts]
    for number in range(STEPS):
        ids = torch.randint(0, 40, (len(texts), BEAMS), generator=generator)
        texts = [[[*text, int(i)] for text, i in zip(*pair)] for pair in zip(texts, ids)]
        hidden = step(network, ids, cache)
        expected = [whole(network, text, rows) for beams, rows in zip(texts, memories) for text in beams]
        worst = max(worst, float((hidden.flatten(0, 1) - torch.stack(expected)).abs().max()))
        parents = torch.randint(0, BEAMS, (len(texts), BEAMS), generator=generator)
        cache.follow(parents)
        texts = [[beams[int(p)] for p in some] for beams, some in zip(texts, parents)]
        if leaving and number in (2, 4):
            kept = [len(texts) - 1, *range(len(texts) - 2)]
            cache.keep(kept)
            texts, memories = [texts[i] for i in kept], [memories[i] for i in kept]
    return worst


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_word_by_word_gives_what_whole_forwards_give(name: str, form: str) -> None:
    """Ragged prompts and memories, beams that follow others, sources that leave."""
    network = made(CONFIGS[name], form)
    prompts = [[3, 1, 4, 1, 5], [9], [2, 6, 5], [3, 5, 8]]
    assert walk(network, prompts, a_memory(network.config, (4, 9, 1, 4)), leaving=True) < 1e-5


@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_start_tokens_alone_and_memories_of_one_length_give_it_too(name: str) -> None:
    network = made(CONFIGS[name])
    assert walk(network, [[1], [1]], a_memory(network.config, (5, 5))) < 1e-5


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
@torch.inference_mode()
def test_a_sources_numbers_do_not_depend_on_its_neighbours(name: str) -> None:
    network = made(CONFIGS[name], "packed")
    prompts = [[1, 2, 3], [7], [5, 5, 5, 5, 5, 5]]
    memory = a_memory(network.config, (6, 20, 1))
    ids = torch.randint(0, 40, (5, 3, 2))
    together = run(network, Ragged.of(prompts), memory, ids)
    for i, prompt in enumerate(prompts):
        given = None if memory is None else memory.select([i])
        alone = run(network, Ragged.of([prompt]), given, ids[:, i : i + 1])
        torch.testing.assert_close(alone[:, 0], together[:, i], atol=1e-5, rtol=0)


def run(network: EncoderNetwork, prompts: Ragged, memory: Ragged | None, ids: Tensor) -> Tensor:
    """ids [steps, N, B] → [steps, N, B, width]."""
    cache, _ = begin(network, prompts, memory, ids.shape[2], len(ids))
    return torch.stack([step(network, some, cache) for some in ids])


@pytest.mark.parametrize("rows", [1, 2, 7, 8, 31, 33])
@pytest.mark.parametrize("largest", [1 << 30, 0])
@torch.inference_mode()
def test_maps_for_few_rows_give_what_packed_ones_give(rows: int, largest: int) -> None:
    head = LanguageModelHead(replace(PLAIN, width=64, vocab=20_000), bias=True)
    torch.nn.init.normal_(head.decoder.weight)
    torch.nn.init.normal_(head.decoder.bias)
    packed = eager(head, Placement(torch.device("cpu"), torch.float32))
    few, x = for_few_rows(packed, largest), torch.randn(rows, 64)
    torch.testing.assert_close(few(x), packed(x), atol=1e-4, rtol=1e-5)
    assert len(list(few.parameters())) == len(list(packed.parameters()))


@torch.inference_mode()
def test_a_network_that_has_stepped_is_packed_as_any_other() -> None:
    network = made(CONFIGS["bert"])
    assert network.stepping is network
    packed = eager(network, Placement(torch.device("cpu"), torch.float32))
    assert packed.stepping is not packed
    assert any(isinstance(part, FewRows) for part in packed.stepping.modules())
    assert packed.stepping is packed.stepping


@torch.inference_mode()
def test_an_empty_memory_gives_nothing_and_hurts_no_neighbour() -> None:
    network = made(CONFIGS["bert"])
    assert walk(network, [[1], [1]], a_memory(network.config, (0, 5))) < 1e-5
    assert walk(network, [[1]], a_memory(network.config, (0,))) < 1e-5


@torch.inference_mode()
def test_keys_and_values_stay_where_they_are_and_grow_with_the_length_alone() -> None:
    network = made(CONFIGS["bert"])
    cache, _ = begin(network, Ragged.of([[1], [1, 2]]), a_memory(network.config, (5, 3)), 4, 10)
    held = storage(cache)
    for _ in range(10):
        step(network, torch.ones(2, 4, dtype=torch.int64), cache)
        cache.follow(torch.zeros(2, 4, dtype=torch.int64))
        assert storage(cache) == held
    own = [kv.shape for kv in cache.own]
    assert own == [(2, 2, 2, 2 + 4 * 10, 8)] * 2  # the longest prompt once, then four beams a step
    assert [kv.shape for kv in cache.crossed] == [(2, 2, 2, 5, 8)] * 2  # once for all beams


def storage(cache: Cache) -> list[int]:
    return [kv.data_ptr() for kv in (*cache.own, *cache.crossed)]


REFUSED: dict[str, tuple[dict[str, Any], list[list[int]], int, int, str]] = {
    "later rows seen": ({"causal": False}, [[1]], 1, 5, "cannot go on word by word"),
    "no start token": ({}, [[1], []], 1, 5, "no token to begin with"),
    "too long": ({}, [[1, 2, 3]], 1, 29, "3 tokens with room for 29 more are longer than the 30"),
    "no beams": ({}, [[1]], 0, 5, "0 beams with room for 5"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_begun_is_said_in_a_line(name: str) -> None:
    changes, prompts, beams, room, said = REFUSED[name]
    network = made(replace(PLAIN, **changes))
    with pytest.raises(InputError, match=said):
        begin(network, Ragged.of(prompts), None, beams, room)


def test_a_step_needs_room_and_an_id_a_beam() -> None:
    network = made(PLAIN)
    cache, _ = begin(network, Ragged.of([[1]]), None, 2, 1)
    with pytest.raises(InputError, match="do not fit 1 sources × 2 beams"):
        step(network, torch.ones(1, 3, dtype=torch.int64), cache)
    step(network, torch.ones(1, 2, dtype=torch.int64), cache)
    with pytest.raises(InputError, match="no room is left"):
        step(network, torch.ones(1, 2, dtype=torch.int64), cache)


def test_a_memory_must_fit_the_network() -> None:
    alone, reading = made(PLAIN), made(CONFIGS["bert"])
    tokens, rows = Ragged.of([[1], [2]]), Ragged.of([torch.randn(2, 16), torch.randn(3, 16)])
    with pytest.raises(InputError, match="takes no memory"):
        alone(tokens, memory=rows)
    with pytest.raises(InputError, match="needs a memory"):
        reading(tokens)
    with pytest.raises(InputError, match="2 sequences cannot read a memory of 1"):
        reading(tokens, memory=rows.select([0]))
    with pytest.raises(InputError, match="12 wide, but this network reads rows of 16"):
        reading(tokens, memory=Ragged(rows.data[:, :12], rows.layout))
