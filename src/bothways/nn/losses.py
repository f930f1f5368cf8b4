"""Losses that need more care than a call: those over a whole vocabulary, and those over the rows of each sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bothways.errors import InputError
from bothways.nn.drawing import drawn
from bothways.ragged import Layout

__all__ = [
    "bytes_of_vocabulary_cross_entropy",
    "sampled_cross_entropy",
    "segment_cross_entropy",
    "vocabulary_cross_entropy",
]

ROWS_AT_A_TIME = 1024
# Scores in fp32 at a time: a megabyte on a CPU, so that the passes over them stay in a core's cache.
SCORES_AT_A_TIME = {"cpu": 1 << 18}
SCORES_AT_A_TIME_ELSEWHERE = 1 << 27


class _VocabularyCrossEntropy(torch.autograd.Function):
    """Scores, loss and gradients of some rows at a time: [M, vocab] is never held as a whole."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        copy: Tensor | None,
        smoothing: float,
        chances: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        half, wanted = weight.to(x.dtype) if copy is None else copy, ctx.needs_input_grad
        loss, correct = x.new_zeros((), dtype=torch.float32), targets.new_zeros(())
        dx = torch.zeros_like(x) if wanted[0] else None
        dw = None if len(targets) or not wanted[1] else torch.zeros_like(weight)
        db = torch.zeros_like(bias) if bias is not None and wanted[2] else None
        words = [targets.new_empty(0)]
        for gold, place in zip(targets.split(ROWS_AT_A_TIME), range(0, len(targets), ROWS_AT_A_TIME)):
            rows = x[place : place + ROWS_AT_A_TIME]
            scores = rows @ half.T
            chance = None if chances is None else chances[place : place + len(gold)]
            told = _scores_to_slopes(scores[: len(gold)], bias, gold, db, smoothing, chance, slopes=any(wanted))
            loss, correct, words = loss + told[0], correct + told[1], words + told[2]
            scores[len(gold) :] = 0.0
            if dx is not None:
                dx[place : place + len(rows)] = scores @ half
            if wanted[1]:  # mostly there is one part, which stays in x's precision until the way back
                part = scores.T @ rows
                dw = part if dw is None else dw.to(weight.dtype).add_(part)
        ctx.save_for_backward(*(g for g in (dx, dw, db) if g is not None))
        ctx.has, ctx.dtype = tuple(g is not None for g in (dx, dw, db)), weight.dtype
        every = torch.cat(words)
        ctx.mark_non_differentiable(correct, every)
        return loss, correct, every

    @staticmethod
    def backward(ctx: Any, loss: Tensor, *others: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        dx, dw, db = (next(saved) if has else None for has in ctx.has)
        # In place: they are large.
        dx, db = (None if one is None else one.mul_(loss) for one in (dx, db))
        return dx, None if dw is None else _scaled(dw, loss, ctx.dtype), db, None, None, None, None


def _scaled(x: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """x times a scale, in another precision; some rows at a time, so that they are read and written once. x in place,
    where it has that precision already."""
    if x.dtype == dtype:
        return x.mul_(scale)
    found = torch.empty_like(x, dtype=dtype)
    at_a_time = ROWS_AT_A_TIME if x.device.type == "cpu" else len(x)
    for some, part in zip(found.split(at_a_time), x.split(at_a_time)):
        some.copy_(part).mul_(scale)
    return found


def _scores_to_slopes(
    scores: Tensor,
    bias: Tensor | None,
    gold: Tensor,
    db: Tensor | None,
    smoothing: float,
    chances: Tensor | None,
    slopes: bool,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The summed loss of scores [M, vocab] before the bias, how many are right, and, with chances [M], a word of each
    row, some rows at a time.

    slopes: replace the scores by the loss's derivatives, and add those to `db`, if there is one.
    """
    words: list[Tensor] = []
    loss, correct = scores.new_zeros((), dtype=torch.float32), gold.new_zeros(())
    some = _rows_in_cache(scores)
    held = torch.empty(min(some, len(scores)), scores.shape[1], device=scores.device)
    shift = None if bias is None else bias.float()
    for at, (part, wanted) in enumerate(zip(scores.split(some), gold.split(some))):
        z = held[: len(part)].copy_(part)
        if shift is not None:
            z += shift
        best, right = z.amax(1, keepdim=True), z.gather(1, wanted[:, None])
        correct += _first_best(z, right == best, wanted)
        said = right if not smoothing else (1 - smoothing) * right + smoothing * z.mean(1, keepdim=True)
        z = z.sub_(best).exp_()
        total = z.sum(1, keepdim=True)
        loss += (total.log() + best - said).sum()
        if chances is not None:
            words.append(drawn(z, chances[at * some : at * some + len(z)]))
        if slopes:
            z.div_(total).scatter_add_(1, wanted[:, None], torch.full_like(right, smoothing - 1.0))
            if smoothing:
                z.sub_(smoothing / z.shape[1])
            part.copy_(z)
            if db is not None:
                db += z.sum(0)
    return loss, correct, words


def _first_best(scores: Tensor, best: Tensor, wanted: Tensor) -> Tensor:
    """In how many rows of scores [M, vocab] the first of the best ones is the wanted one.

    best: bool [M, 1], whether that one is as high as any. In half precision several often are.
    """
    if scores.device.type != "cpu":  # where to wait for what `best` is takes longer
        return (scores.argmax(1) == wanted).sum()
    rows = best[:, 0].nonzero()[:, 0]
    return (scores[rows].argmax(1) == wanted[rows]).sum()


def _rows_in_cache(scores: Tensor) -> int:
    """How many rows of scores [M, vocab] to take at a time in fp32."""
    return max(1, SCORES_AT_A_TIME.get(scores.device.type, SCORES_AT_A_TIME_ELSEWHERE) // scores.shape[1])


def vocabulary_cross_entropy(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    copy: Tensor | None = None,
    *,
    smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of x Wᵀ + b with the targets, summed; and how often the best score, the first of equal
    ones, is right.

    x [M, width] in the precision to compute in; weight [vocab, width]; bias [vocab]; targets int [M]. Sums are in fp32.
    Rows of x beyond the targets count for nothing. copy: of the weight, in the precision of x, if there is one.
    smoothing: the share of each target that all entries get alike (Szegedy et al. 2015, arXiv:1512.00567).
    """
    loss, correct, _ = _VocabularyCrossEntropy.apply(*_as_wanted(x, weight, bias), targets, copy, smoothing, None)
    return loss, correct


def sampled_cross_entropy(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, chances: Tensor, copy: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """As `vocabulary_cross_entropy`, with a word int64 [M] for each target, from the softmax of the same scores.

    chances: fp32 [M], from 0 to less than 1, which decide.
    """
    asked = *_as_wanted(x, weight, bias), targets, copy, 0.0, chances
    loss, correct, words = _VocabularyCrossEntropy.apply(*asked)
    return loss, correct, words


def _as_wanted(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Detached where no gradients are wanted, which the function itself cannot see."""
    if torch.is_grad_enabled():
        return x, weight, bias
    return x.detach(), weight.detach(), None if bias is None else bias.detach()


def bytes_of_vocabulary_cross_entropy(rows: int, vocab: int, width: int, size: int, device: str = "cpu") -> int:
    """What `vocabulary_cross_entropy` of so many rows holds at most, beside what it is given.

    That is: a part's scores, as they are and in fp32; the gradient of the weight; a part of it that is to be added.

    size: bytes of a number in the precision that is computed in.    device: its type.
    """
    scores = min(rows, ROWS_AT_A_TIME) * vocab
    in_fp32 = min(scores, SCORES_AT_A_TIME.get(device, SCORES_AT_A_TIME_ELSEWHERE))
    return scores * size + in_fp32 * 4 + vocab * width * (4 + size)


def segment_cross_entropy(scores: Tensor, layout: Layout, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each sequence's choice among its own rows, summed; and how often the best row, the first of
    equal ones, is the right one.

    scores [T]; targets int64 [N]: each sequence's row, counted from its first. Sums are in fp32. A sequence's part does
    not depend on its neighbours. Raises InputError where a sequence has no rows, or the numbers do not fit.
    """
    if len(scores) != layout.total or len(targets) != len(layout):
        found = f"{len(scores)} scores and {len(targets)} targets"
        raise InputError(f"{found} do not fit {len(layout)} sequences of {layout.total} rows")
    if 0 in layout.lengths:
        raise InputError(f"sequence {layout.lengths.index(0)} has no rows to choose from")
    # A multiple of all scores, so that there is a way back where there are no sequences, too.
    loss, right = scores[:0].float().sum(), targets.new_zeros(())
    for group in layout.grouping.groups:
        rows = scores[group.query_rows].view(group.count, group.query_length).float()
        wanted = targets[torch.tensor(group.sequences, device=targets.device)]
        loss = loss - rows.log_softmax(1).gather(1, wanted[:, None]).sum()
        right = right + (rows.argmax(1) == wanted).sum()
    return loss, right
