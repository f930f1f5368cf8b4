"""Losses that need more care than a call: those over a whole vocabulary."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["vocabulary_cross_entropy"]

ROWS_AT_A_TIME = 1024


class _VocabularyCrossEntropy(torch.autograd.Function):
    """Scores, loss and gradients of some rows at a time: [M, vocab] is never held as a whole."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> tuple[Tensor, Tensor]:
        half, wanted = weight.to(x.dtype), ctx.needs_input_grad
        loss, correct = x.new_zeros((), dtype=torch.float32), targets.new_zeros(())
        dx = torch.empty_like(x) if wanted[0] else None
        dw = torch.zeros_like(weight) if wanted[1] else None
        db = torch.zeros_like(bias) if bias is not None and wanted[2] else None
        for rows, gold, place in zip(
            x.split(ROWS_AT_A_TIME), targets.split(ROWS_AT_A_TIME), range(0, len(x), ROWS_AT_A_TIME)
        ):
            scores = (rows @ half.T).float()
            if bias is not None:
                scores += bias
            right = scores.gather(1, gold[:, None])
            correct += (right[:, 0] == scores.amax(1)).sum()
            total = scores.logsumexp(1, keepdim=True)
            loss += (total - right).sum()
            if not any(wanted):
                continue
            slope = scores.sub_(total).exp_()
            slope.scatter_add_(1, gold[:, None], torch.full_like(right, -1.0))
            if db is not None:
                db += slope.sum(0)
            slope = slope.to(x.dtype)
            if dx is not None:
                dx[place : place + len(rows)] = slope @ half
            if dw is not None:
                dw += slope.T @ rows
        ctx.save_for_backward(*(g for g in (dx, dw, db) if g is not None))
        ctx.has = tuple(g is not None for g in (dx, dw, db))
        ctx.mark_non_differentiable(correct)
        return loss, correct

    @staticmethod
    def backward(ctx: Any, loss: Tensor, correct: Tensor) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        dx, dw, db = (next(saved) if has else None for has in ctx.has)
        return (*(None if g is None else g * loss.to(g.dtype) for g in (dx, dw, db)), None)


def vocabulary_cross_entropy(x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of x Wᵀ + b with the targets, summed; and how many of the best scores are right.

    x [M, width] in the precision to compute in; weight [vocab, width]; bias [vocab]; targets int [M]. Sums are in fp32.
    """
    loss, correct = _VocabularyCrossEntropy.apply(x, weight, bias, targets)
    return loss, correct
