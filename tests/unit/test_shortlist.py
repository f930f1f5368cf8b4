"""A shortlist tells the word that all scores would tell, or that it does not know."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bothways.engine.decoding import Decoding
from bothways.engine.generation import CACHED, Writer, generate
from bothways.engine.shortlist import FROM_WORDS, Shortlist
from bothways.nn.config import EncoderConfig, LearnedPositions
from bothways.nn.encoder import EncoderNetwork
from bothways.nn.heads import MaskedLanguageHead
from bothways.nn.layers import Linear, initialise, packs
from bothways.ragged import Ragged

pytestmark = pytest.mark.skipif(not packs(torch.bfloat16), reason="no bf16 on this CPU")


def linear(words: int, width: int, seed: int, bias: bool = True) -> Linear:
    made, generator = Linear(width, words, bias=bias), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
    return made


@given(st.integers(0, 10_000), st.integers(1, 9), st.booleans(), st.sampled_from([64, 100]))
def test_the_word_is_the_one_with_the_largest_score(seed: int, rows: int, bias: bool, width: int) -> None:
    product = linear(5000, width, seed, bias)
    x = 3.0 * torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    without = [seed % 5000, 7]
    found = Shortlist(product).best(x, without)
    scores = product(x).detach()
    scores[:, without] = -torch.inf
    if found is None:
        return
    assert torch.equal(found[1], scores.argmax(1))
    torch.testing.assert_close(found[0], scores.amax(1), rtol=1e-5, atol=1e-5)


def test_it_mostly_knows() -> None:
    known = [Shortlist(linear(5000, 64, seed)).best(torch.randn(4, 64)) is not None for seed in range(10)]
    assert sum(known) >= 9


def test_what_rounding_leaves_open_is_not_told() -> None:
    """Words that differ by less than bf16 can tell, more of them than are looked at."""
    product = linear(5000, 64, 0, bias=False)
    with torch.no_grad():
        product.weight[100:200] = product.weight[100] * (1 + 1e-6 * torch.arange(100)[:, None])
    x = product.weight[100:101].detach() * 20
    assert Shortlist(product).best(x) is None
    assert Shortlist(product).best(torch.full((1, 64), torch.nan)) is None


def test_roundings_that_all_go_the_same_way_do_not_hide_the_best_word() -> None:
    """Each factor is just off the middle between two numbers of bf16: rounding takes as much as it ever can."""
    half, off = 32, 2.0**-20
    low, high = 1 + 2.0**-8 - off, 1 + 2.0**-8 + off
    x = torch.tensor([low] * half + [high] * half)
    product = Linear(64, 4200)
    with torch.no_grad():
        product.weight.zero_()
        product.weight[0] = torch.tensor([low] * half + [-high] * half)
        product.weight[1] = -product.weight[0]
        product.bias.fill_(-8.0)
        product.bias[2:40] = -0.246
        product.bias[:2] = torch.tensor([0.03125, 0.0])
    scores = product(x[None])[0]
    assert int(scores.argmax()) == 0
    found = Shortlist(product).best(x[None])
    assert found is None or int(found[1]) == 0


def test_with_a_shortlist_the_same_is_written() -> None:
    config = EncoderConfig(
        vocab=FROM_WORDS + 9, width=32, depth=2, heads=4, ffn=48, positions=LearnedPositions(64), causal=True
    )
    network = EncoderNetwork(config, pooler=False).eval()
    head = MaskedLanguageHead(config, network.embeddings.words.weight)
    for part in (network, head.transform, head.norm):
        initialise(part, 0.3)
    prompts = Ragged.of([[5, 9, 200], [17], [3, 3]])
    decoding = Decoding(max_new_tokens=20, min_new_tokens=18)
    texts = [
        generate(Writer(network, head, config.vocab, (4,), 64, CACHED, shortlist), prompts, None, decoding)
        for shortlist in (None, Shortlist(head.decoder))
    ]
    assert texts[0] == texts[1]
