"""Linear maps as they are prepared for inference: a row's result is the same bits however many rows there are."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch

from bothways.nn.layers import PackedLinear, packs


@pytest.fixture
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.skipif(not packs(torch.bfloat16), reason="this CPU has no bf16")
@pytest.mark.parametrize("shape", [(96, 385), (384, 1536), (160, 640), (768, 3072), (512, 2048), (2048, 512), (2, 768)])
@pytest.mark.parametrize("way", ["plain", "gelu", "residual"])
def test_a_rows_bits_do_not_depend_on_how_many_rows_there_are(
    shape: tuple[int, int], way: str, two_threads: None
) -> None:
    columns, inner = shape
    linear = PackedLinear(torch.randn(columns, inner) * 0.05, torch.randn(columns), torch.bfloat16)
    x, beside = torch.randn(1100, inner).bfloat16(), torch.randn(1100, columns).bfloat16()

    def run(first: int, count: int) -> torch.Tensor:
        rows = slice(first, first + count)
        return linear(x[rows], "gelu" if way == "gelu" else None, beside[rows] if way == "residual" else None)

    whole = run(0, len(x))
    chance = random.Random(inner)
    for count in (1, 7, 8, 31, 33, 64, 65, 129, 300, 511, 777, *chance.sample(range(2, 1000), 6)):
        first = chance.randrange(len(x) - count)
        torch.set_num_threads(chance.choice((1, 2)))
        assert torch.equal(run(first, count), whole[first : first + count]), count


def test_no_rows_give_no_rows() -> None:
    linear = PackedLinear(torch.randn(16, 640), None, torch.float32)
    assert linear(torch.empty(0, 640)).shape == (0, 16)
