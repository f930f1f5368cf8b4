"""A plain loop of transformers, as most write it: bf16 autocast, dynamic padding, fused AdamW, clipping."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

WEIGHT_DECAY, CLIP = 0.01, 1.0

Row = TypeVar("Row")


class PlainLoop:
    """model: of transformers, with what learns asking for gradients.    batches: inputs with labels, without end."""

    def __init__(self, model: Any, batches: Iterator[dict[str, Any]], lr: float) -> None:
        import torch

        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [one for one in learning if (one.dim() > 1) == matrix], "weight_decay": decay}
            for matrix, decay in ((True, WEIGHT_DECAY), (False, 0.0))
        ]
        self.model, self.batches = model.train(), batches
        self.optimizer = torch.optim.AdamW(groups, lr=lr, fused=True)

    def step(self) -> tuple[int, float]:
        """One step: its real tokens, those of targets too, and its loss."""
        import torch

        inputs = next(self.batches)
        with torch.autocast("cpu", torch.bfloat16):
            loss = self.model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        written = inputs["labels"] >= 0 if self.model.config.is_encoder_decoder else None
        return int(inputs["attention_mask"].sum() + (0 if written is None else written.sum())), loss.item()


def shuffled(rows: Sequence[Row], size: int, seed: int) -> Iterator[list[Row]]:
    """So many rows at a time, in another order each epoch, without end; the last ones are left out if too few."""
    chance = random.Random(seed)
    while True:
        order = chance.sample(rows, len(rows))
        for start in range(0, len(order) - size + 1, size):
            yield order[start : start + size]
