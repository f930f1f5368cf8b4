"""The yardstick: nothing but a transformer's matrix products and attention, on the shapes of packed batches.

Every layer's four linear maps run as `F.linear` over all tokens of a batch at once, attention as
`scaled_dot_product_attention` over groups of equally long texts. There is no tokenization, embedding, layer norm,
activation or pooling, so this is work that a padding-free encoder built from plain torch calls cannot leave out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from workloads import MODEL_LIMIT, load_tokenizer

from systems.encoder import Encoder, Setup

if TYPE_CHECKING:
    from torch import Tensor

PACKAGES = ("torch", "bothways")


@dataclass(frozen=True)
class Group:
    """`texts` neighbouring texts of `length` tokens each."""

    texts: int
    length: int


@dataclass(frozen=True)
class Layer:
    """One layer's weights (out × in) and biases, at random: their values do not change the time."""

    qkv: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]
    up: tuple[Tensor, Tensor]
    down: tuple[Tensor, Tensor]


class BareProducts:
    """Runs the products for texts of the lengths given, and returns no vectors."""

    def __init__(self, setup: Setup) -> None:
        import torch

        from bothways.engine.scheduler import BATCH_TOKENS

        torch.set_num_threads(setup.threads)
        self._budget = BATCH_TOKENS["cpu"]
        config = json.loads((setup.model / "config.json").read_text())
        self._model = setup.model
        self._dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[setup.options["precision"]]
        self._heads, self._width = config["num_attention_heads"], config["hidden_size"]
        layers = range(config["num_hidden_layers"])
        self._layers = [self._random_layer(config["intermediate_size"]) for _ in layers]
        self._hidden = torch.randn(self._budget, self._width).to(self._dtype)
        self.set_length_limit(MODEL_LIMIT)

    def set_length_limit(self, tokens: int) -> None:
        """From now on texts are cut at `tokens` tokens."""
        self._tokenizer = load_tokenizer(self._model, tokens)

    def tune(self, texts: list[str]) -> None:
        """Works out the shapes of bothways' own batches, so that the measured time holds products only."""
        from bothways.data.batch import by_token_budget

        lengths = [len(encoding.ids) for encoding in self._tokenizer.encode_batch(texts)]
        self._batches = [
            [Group(len(list(run)), length) for length, run in groupby(lengths[row] for row in rows)]
            for rows in by_token_budget(lengths, self._budget)
        ]

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """Runs the products of the batches that `tune` worked out."""
        import torch

        with torch.inference_mode():
            for groups in self._batches:
                self._run_batch(groups)
        return np.empty((len(texts), 0), dtype=np.float32)

    def encode_one(self, text: str) -> NDArray[np.float32]:
        """Not measured."""
        raise NotImplementedError("the bare products are measured on many texts only")

    def _random_layer(self, inner: int) -> Layer:
        width = self._width
        shapes = ((3 * width, width), (width, width), (inner, width), (width, inner))
        return Layer(*(self._random_linear(rows, columns) for rows, columns in shapes))

    def _random_linear(self, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        import torch

        return torch.randn(rows, columns).mul_(0.02).to(self._dtype), torch.zeros(rows, dtype=self._dtype)

    def _run_batch(self, groups: list[Group]) -> None:
        """All layers over one batch; each starts from the same hidden states [tokens, width]."""
        from torch.nn.functional import linear

        hidden = self._hidden[: sum(group.texts * group.length for group in groups)]
        for layer in self._layers:
            linear(self._attend(linear(hidden, *layer.qkv), groups), *layer.out)
            linear(linear(hidden, *layer.up), *layer.down)

    def _attend(self, qkv: Tensor, groups: list[Group]) -> Tensor:
        """Attention within each text; `qkv` is [tokens, 3 · width] and the result [tokens, width]."""
        from torch.nn.functional import scaled_dot_product_attention

        mixed, start = qkv.new_empty(len(qkv), self._width), 0
        for group in groups:
            part = slice(start, start + group.texts * group.length)
            shape = (group.texts, group.length, -1, self._heads, self._width // self._heads)
            query, key, value = qkv[part].view(shape).permute(2, 0, 3, 1, 4)
            found = scaled_dot_product_attention(query, key, value)
            mixed[part].view(shape)[:, :, 0].copy_(found.transpose(1, 2))
            start = part.stop
        return mixed


def build(setup: Setup) -> None:
    """Nothing to derive."""


def load(setup: Setup) -> Encoder:
    """The products at the precision of the options."""
    return BareProducts(setup)
