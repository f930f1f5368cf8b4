"""What stands between an encoder and a decoder: its rows get the width, or the number, that the decoder reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from bothways.errors import ConfigError
from bothways.nn.activations import ACTIVATIONS
from bothways.nn.attention import attend
from bothways.nn.config import MOST
from bothways.nn.layers import Linear, filled, initialise
from bothways.ragged import Layout, Ragged

__all__ = [
    "ADAPTERS",
    "Adapter",
    "AdapterConfig",
    "AdapterKind",
    "Bottleneck",
    "LinearAdapter",
    "Resampler",
    "adapter_of",
]

AdapterKind = Literal["none", "linear", "bottleneck", "resample"]
INIT_STD = 0.02
EPS = 1e-5


@dataclass(frozen=True)
class AdapterConfig:
    """The shape of an adapter, as a value.

    kind: none, where rows stay as they are; linear, a map; bottleneck, a narrow map beside a residual
    (Houlsby et al. 2019, https://arxiv.org/abs/1902.00751); resample, learned queries that attend to each source
    (Jaegle et al. 2021, https://arxiv.org/abs/2107.14795).
    memory: width of the rows that it reads.    width: of those that it gives.
    inner: of the bottleneck, its narrow width.    act: its activation.
    rows, heads: of resampling, how many rows each source becomes, and heads of its attention.

    Raises ConfigError, naming the field, on what cannot be.
    """

    kind: AdapterKind
    memory: int
    width: int
    inner: int = 64
    act: str = "gelu"
    rows: int = 32
    heads: int = 4

    def __post_init__(self) -> None:
        if self.kind not in get_args(AdapterKind):
            raise ConfigError(f"adapter must be one of {', '.join(get_args(AdapterKind))}, got {self.kind!r:.40}")
        for name, most in SIZES.items():
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise ConfigError(f"{name} of an adapter must be a whole number from 1 to {most:,}, got {value!r:.40}")
        if not isinstance(self.act, str) or self.act not in ACTIVATIONS:
            raise ConfigError(f"act of an adapter must be one of {', '.join(ACTIVATIONS)}, got {self.act!r:.40}")
        if self.kind == "none" and self.memory != self.width:
            raise ConfigError(
                f"rows of {self.memory} columns do not become {self.width} wide without an adapter: "
                "say linear, bottleneck or resample"
            )
        if self.kind == "resample" and self.width % self.heads:
            raise ConfigError(f"heads of an adapter is {self.heads}, which does not divide a width of {self.width}")


# The largest sizes that a file may say, before anything is allocated.
SIZES: Mapping[str, int] = {
    "memory": MOST["width"],
    "width": MOST["width"],
    "inner": MOST["ffn"],
    "rows": MOST["rows"],
    "heads": MOST["heads"],
}


class Adapter(nn.Module):
    """Rows of N sources [T, memory] → [T', width], each source by itself. Born without values."""

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, memory: Ragged) -> Ragged:
        raise NotImplementedError


class LinearAdapter(Adapter):
    """x W + b."""

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__(config)
        self.map = Linear(config.memory, config.width)

    def forward(self, memory: Ragged) -> Ragged:
        return Ragged(self.map(_rows(memory))[: memory.layout.total], memory.layout)


class Bottleneck(Adapter):
    """norm(x + act(x Wdown) Wup); where the widths differ, x in the sum is x W + b."""

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__(config)
        self.map = Linear(config.memory, config.width) if config.memory != config.width else None
        self.down = Linear(config.memory, config.inner)
        self.up = Linear(config.inner, config.width)
        self.norm = nn.LayerNorm(config.width, EPS)

    def forward(self, memory: Ragged) -> Ragged:
        x = _rows(memory)
        kept = x if self.map is None else self.map(x)
        narrow = self.down(x, act=self.config.act)
        return Ragged(self.norm(self.up(narrow, residual=kept))[: memory.layout.total], memory.layout)


class Resampler(Adapter):
    """norm(queries + attention of the queries to the source): `rows` rows of each source, however long it is."""

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__(config)
        self.queries = nn.Parameter(torch.empty(config.rows, config.width))
        self.query = Linear(config.width, config.width)
        self.key_value = Linear(config.memory, 2 * config.width)
        self.out = Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, EPS)

    def forward(self, memory: Ragged) -> Ragged:
        """The layout of the result is one of its own."""
        count, heads = len(memory), self.config.heads
        kv = self.key_value(_rows(memory))[: memory.layout.total].unflatten(1, (2, heads, -1))
        queries = self.queries.to(kv.dtype)
        asked = self.query(queries).unflatten(1, (heads, -1))
        layout = Layout.of([self.config.rows] * count, memory.data.device)
        asking = asked.expand(count, -1, -1, -1).flatten(0, 1)
        found = attend(asking, kv[:, 0], kv[:, 1], layout, memory.layout).flatten(1)
        rows = self.out(found, residual=queries.expand(count, -1, -1).flatten(0, 1))
        return Ragged(self.norm(rows), layout)


def _rows(memory: Ragged) -> Tensor:
    """In training filled up, see `filled`."""
    return filled(memory.data) if torch.is_grad_enabled() else memory.data


ADAPTERS: Mapping[str, type[Adapter]] = {"linear": LinearAdapter, "bottleneck": Bottleneck, "resample": Resampler}


def adapter_of(config: AdapterConfig, generator: torch.Generator | None = None) -> Adapter | None:
    """A fresh adapter; None for kind "none". generator: its weights are drawn from it."""
    if config.kind == "none":
        return None
    adapter = ADAPTERS[config.kind](config)
    initialise(adapter, INIT_STD, generator)
    return adapter
