"""The likeliest word, found with half the reading: scores in bf16 tell a few candidates, whose own scores are computed
in fp32.

A step of few rows takes as long as it takes to read the words' vectors; of many rows, as long as their product, which
matrix units do several times as fast in bf16. What rounding can do is bounded, so that the word is the one that all
scores in fp32 would tell; where the bound does not settle it, all of them are computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bothways.engine.backends import Placement
from bothways.engine.scores import top
from bothways.nn.layers import FewRows, Linear, PackedLinear, packs

__all__ = ["CANDIDATES", "Shortlist", "shortlist_of"]

CANDIDATES = 16
# bf16 keeps 8 bits: a number that is rounded to it is off by 2^-8 of itself at most; a little more for sums in fp32.
ROUNDING = 2.0**-8 * 1.02
# Sums of fp32 are off by no more than this for each number added, in parts of what their sizes add up to.
SUMMED = 2.0**-24
# Below so many words there is nothing to gain.
FROM_WORDS = 4096


class Shortlist:
    """The last product of a head, in fp32 [words, width], for its largest score alone."""

    def __init__(self, linear: Linear) -> None:
        self.weight = linear.weight.detach()
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.rough = FewRows(PackedLinear(self.weight, self.bias, torch.bfloat16), twice=False)
        # The longest of the words' vectors, the longest of what rounding takes from one, and how much a number that is
        # added may be off.
        self.longest = float(torch.linalg.vector_norm(self.weight, dim=1).amax())
        self.lost = max(float(_lost(some).amax()) for some in self.weight.split(FROM_WORDS))
        self.offset = 0.0 if self.bias is None else float(self.bias.abs().amax()) * ROUNDING

    @torch.no_grad()
    def best(self, rows: Tensor, without: Sequence[int] = ()) -> tuple[Tensor, Tensor] | None:
        """rows fp32 [R, width] → the largest score of each and its word, both [R]; None where rounding leaves it open.

        without: words that do not count.
        """
        rounded = rows.to(torch.bfloat16)
        rough = self.rough(rounded)
        if without:
            rough[:, list(without)] = -torch.inf
        values, words = top(rough, CANDIDATES)
        values = values.float()
        first, last = values[:, 0], values[:, -1]
        off = self._off(rows) + first.abs() * ROUNDING + self.offset
        # A comparison with NaN is false, and then all scores are computed.
        if not bool((last < first - 2 * off - last.abs() * ROUNDING).all()):
            return None
        exact = torch.bmm(self.weight[words], rows[:, :, None])[:, :, 0]
        if self.bias is not None:
            exact += self.bias[words]
        if without:
            exact.masked_fill_(values == -torch.inf, -torch.inf)
        score, at = exact.max(1, keepdim=True)
        return score[:, 0], words.gather(1, at)[:, 0]

    def _off(self, rows: Tensor) -> Tensor:
        """How far at most the product of a row's bf16 with a word's is from theirs in fp32, [R] (Cauchy-Schwarz)."""
        length = torch.linalg.vector_norm(rows, dim=1)
        summed = 2 * rows.shape[1] * SUMMED * length * self.longest
        return _lost(rows) * (self.longest + self.lost) + length * self.lost + summed


def _lost(rows: Tensor) -> Tensor:
    """What rounding to bf16 takes from each row: a length, [R]."""
    return torch.linalg.vector_norm(rows - rows.to(torch.bfloat16), dim=1)


def shortlist_of(head: nn.Module, placement: Placement) -> Shortlist | None:
    """Of a head as it was loaded; None where there is nothing to gain: but for fp32 on a CPU that multiplies bf16 by
    itself, with words enough."""
    linear = getattr(head, "decoder", None)
    if type(linear) is not Linear or linear.out_features < FROM_WORDS:
        return None
    fp32 = placement.device.type == "cpu" and placement.dtype == torch.float32
    return Shortlist(linear) if fp32 and packs(torch.bfloat16) and torch.cpu._is_avx512_bf16_supported() else None
