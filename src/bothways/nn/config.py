"""An encoder's architecture as a value: `EncoderConfig` holds what shapes the network and nothing else.

Choices with several forms are sum types (`positions`), not booleans; a family's config file maps onto these fields.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from bothways.errors import ConfigError
from bothways.nn.activations import ACTIVATIONS

__all__ = ["MOST", "EncoderConfig", "LearnedPositions"]

# Sizes beyond these are a broken file, not a model: they are refused before anything is built or allocated.
MOST = {
    "vocab": 1 << 23,
    "width": 1 << 15,
    "depth": 1 << 10,
    "heads": 1 << 10,
    "ffn": 1 << 18,
    "types": 1 << 16,
    "count": 1 << 22,
}
MOST_PARAMETERS = 1 << 36


@dataclass(frozen=True)
class LearnedPositions:
    """A learned vector for each of `count` absolute positions."""

    count: int


@dataclass(frozen=True)
class EncoderConfig:
    """Architecture of a bidirectional encoder. Every size is a number of rows or columns.

    vocab: rows of the word embeddings.    width: of the hidden states.    depth: number of layers.
    heads: of each attention; divides width.    ffn: width inside the feed-forward part.
    positions: how rows learn where they stand.    types: token types (segments); 0 for none.
    activation: of the feed-forward part, a name in `nn.activations.ACTIVATIONS`.
    norm_eps: added to the variance by the layer norms.    dropout: after embeddings, attention and feed-forward.
    attention_dropout: on attention weights.    init_std: of fresh weights.

    Raises ConfigError, naming the field, where no such network can be.
    """

    vocab: int
    width: int
    depth: int
    heads: int
    ffn: int
    positions: LearnedPositions
    types: int = 2
    activation: str = "gelu"
    norm_eps: float = 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.1
    init_std: float = 0.02

    def __post_init__(self) -> None:
        for name, value in _flat(self).items():
            _check(name.rpartition(".")[2], value)
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} cannot be split over {self.heads} heads: it must be a multiple")
        if self.parameters_at_least > MOST_PARAMETERS:
            raise ConfigError(f"about {self.parameters_at_least:,} parameters: no such model can be meant")

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def parameters_at_least(self) -> int:
        """Weights of the matrices alone; computed before anything is built."""
        layer = 4 * self.width * self.width + 2 * self.width * self.ffn
        return self.vocab * self.width + self.depth * layer


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Fields by dotted path: {"positions.count": 512, …}."""
    flat: dict[str, Any] = {}
    for field in fields(value):
        inner = getattr(value, field.name)
        if is_dataclass(inner):
            flat |= _flat(inner, f"{prefix}{field.name}.")
        else:
            flat[prefix + field.name] = inner
    return flat


def _check(name: str, value: Any) -> None:
    if name in MOST:
        least = 0 if name == "types" else 1
        if type(value) is not int:
            raise ConfigError(f"{name} must be a whole number, got {value!r}")
        if not least <= value <= MOST[name]:
            raise ConfigError(f"{name} must be between {least} and {MOST[name]:,}, got {value:,}")
    elif name == "activation":
        if not isinstance(value, str) or value not in ACTIVATIONS:
            raise ConfigError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {value!r}")
    else:
        # dropouts are probabilities; eps and init_std are small positive numbers: all lie in [0, 1]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value <= 1.0:
            raise ConfigError(f"{name} must be a number between 0 and 1, got {value!r}")
