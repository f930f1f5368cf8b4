"""A decoder's rows attend to a memory: each sequence to its own, with gradients, in every way of computing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bothways import Ragged
from bothways.nn.config import EncoderConfig, LearnedPositions
from bothways.nn.dropout import seeded
from bothways.nn.encoder import EncoderNetwork
from bothways.nn.layers import initialise

CONFIG = EncoderConfig(
    vocab=40, width=16, depth=2, heads=2, ffn=24, positions=LearnedPositions(60), causal=True, memory=12, norm_eps=1e-5
)
LENGTHS = ((3, 40, 1, 3, 17), (5, 2, 9, 5, 33))


def inputs() -> tuple[Ragged, Ragged]:
    tokens = Ragged.of([torch.randint(0, 40, (n,)) for n in LENGTHS[0]])
    return tokens, Ragged.of([torch.randn(n, 12) for n in LENGTHS[1]])


def made(config: EncoderConfig = CONFIG) -> EncoderNetwork:
    network = EncoderNetwork(config, pooler=False)
    initialise(network, 0.2, torch.Generator().manual_seed(0))
    return network


def slopes(network: EncoderNetwork, tokens: Ragged, memory: Ragged) -> dict[str, Tensor]:
    """The gradients of everything, the memory's too, for some sum of the last hidden states."""
    rows = memory.data.clone().requires_grad_()
    network.zero_grad()
    last = network(tokens, memory=Ragged(rows, memory.layout)).last.data
    (last * torch.linspace(-1, 1, last.numel()).view_as(last)).sum().backward()
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    assert len(found) == len(list(network.parameters()))
    assert rows.grad is not None
    return {**found, "memory": rows.grad, "last": last.detach()}


@pytest.mark.parametrize("norm_first", [False, True])
def test_each_sequence_reads_its_own_memory_and_no_other(norm_first: bool) -> None:
    network = made(replace(CONFIG, norm_first=norm_first, embedding_norm=not norm_first)).eval()
    tokens, memory = inputs()
    together = network(tokens, memory=memory).last.unbind()
    for i, rows in enumerate(together):
        alone = network(tokens.select([i]), memory=memory.select([i])).last.data
        torch.testing.assert_close(rows, alone, atol=1e-5, rtol=0)
    changed = Ragged(memory.data.clone(), memory.layout)
    changed.unbind()[1].add_(1.0)
    different = [
        not torch.equal(a, b) for a, b in zip(together, network(tokens, memory=changed).last.unbind(), strict=True)
    ]
    assert different == [False, True, False, False, False]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_filling_and_checkpointing_change_no_gradient(dropout: float) -> None:
    plain = made(replace(CONFIG, dropout=dropout, attention_dropout=0.0)).train()
    tokens, memory = inputs()
    with seeded(3):
        expected = slopes(plain, tokens, memory)
    ways = ["checkpointing", *(["filling"] if dropout == 0.0 else [])]  # filler draws chances, too
    for way in ways:
        setattr(plain, way, True)
        with seeded(3):
            found = slopes(plain, tokens, memory)
        for name, slope in expected.items():
            torch.testing.assert_close(found[name], slope, atol=1e-4, rtol=1e-4, msg=f"{way}: {name}")


def test_the_weights_of_cross_attention_are_what_it_weighs_with() -> None:
    network = made().eval()
    tokens, memory = inputs()
    output = network(tokens, memory=memory, keep=True)
    assert output.hidden_states is not None
    found = network.memory_weights(1, output.hidden_states[1], tokens.layout, memory)
    assert [tuple(one.shape) for one in found] == [(2, *lengths) for lengths in zip(*LENGTHS)]
    layer = network.layers[1]
    x = output.hidden_states[1]
    context = layer.attention(layer.asking(x), tokens.layout, network.relative(tokens.layout))
    v = layer.cross.project(memory)[:, 1]
    read = layer.cross(layer.asking_memory(layer.attended(context, x)), tokens.layout, memory)
    values = [rows.view(len(rows), 2, 8).transpose(0, 1) for rows in v.flatten(1).split(LENGTHS[1])]
    expected = torch.cat([(w @ rows).transpose(0, 1).flatten(1) for w, rows in zip(found, values)])
    torch.testing.assert_close(read, expected, atol=1e-5, rtol=0)
