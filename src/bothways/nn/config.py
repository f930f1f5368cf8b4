"""An encoder's architecture as a value: `EncoderConfig` holds what shapes the network and nothing else.

Choices with several forms are values of their own (`positions`, `relative`, `embedding` …); a family's config file maps
onto these fields.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from bothways.errors import ConfigError
from bothways.nn.activations import ACTIVATIONS

__all__ = [
    "MOST",
    "Biases",
    "Convolution",
    "DisentangledPositions",
    "DistanceBuckets",
    "EmbeddingMap",
    "EncoderConfig",
    "HeadForm",
    "LayerSharing",
    "LearnedPositions",
    "LocalAttention",
    "RotaryPositions",
]

# Sizes beyond these are a broken file, not a model: they are refused before anything is built or allocated.
MOST = {
    "vocab": 1 << 23,
    "width": 1 << 15,
    "words": 1 << 15,
    "depth": 1 << 10,
    "heads": 1 << 10,
    "ffn": 1 << 18,
    "types": 1 << 16,
    "count": 1 << 22,
    "offset": 1 << 22,
    "rows": 1 << 16,
    "buckets": 1 << 16,
    "furthest": 1 << 22,
    "span": 1 << 22,
    "groups": 1 << 10,
    "inner": 1 << 6,
    "kernel": 1 << 10,
    "window": 1 << 22,
    "columns": 1 << 15,
    "memory": 1 << 15,
}
MOST_PARAMETERS = 1 << 36


@dataclass(frozen=True)
class LearnedPositions:
    """A learned vector for each absolute position.

    count: rows of the table.    offset: rows before that of the first position (RoBERTa keeps two for padding).
    added: whether they are added to the words' vectors. If not, the network has no such table (DeBERTa gives it to the
    head that predicts masked words, T5 has none), and `count` is the longest sequence that the model was made for.
    skips: with an offset, tokens of the row before the first position are padding and not counted (RoBERTa, not BART).
    """

    count: int
    offset: int = 0
    added: bool = True
    skips: bool = True


@dataclass(frozen=True)
class RotaryPositions:
    """q and k are turned by angles that grow with the position (Su et al. 2021, https://arxiv.org/abs/2104.09864).

    count: the longest sequence.    theta, local_theta: base of the wave lengths, in layers that see everything and in
    those with a window.
    """

    count: int
    theta: float = 160_000.0
    local_theta: float = 10_000.0
    offset = 0


@dataclass(frozen=True)
class DistanceBuckets:
    """A learned number a head for each bucket of distances, added to the scores of every layer (MPNet, after T5).

    rows: of the table; at least `buckets`, of which half are for each direction: the first half of those are single
    distances, the others grow up to `furthest`.    ahead: if not, no row sees a later one, and all buckets are for
    distances back (T5's decoder).
    """

    rows: int
    buckets: int = 32
    furthest: int = 128
    ahead: bool = True


@dataclass(frozen=True)
class DisentangledPositions:
    """Scores from content and relative position apart (He et al. 2020, https://arxiv.org/abs/2006.03654).

    terms: of "c2p", "p2c", "p2p"; each counts in the scale of the scores.
    buckets: log-sized ones to either side (DeBERTa-v2); 0 or less: a vector for each distance.
    span: the furthest distance; 0 or less: as many as there are positions.
    shared: the projections of the content serve the positions too.    norm: the vectors are normalised first.
    active: if not, there are no such vectors, and the terms only count in the scale.
    """

    terms: tuple[str, ...] = ()
    buckets: int = -1
    span: int = -1
    shared: bool = False
    norm: bool = False
    active: bool = True


@dataclass(frozen=True)
class EmbeddingMap:
    """How word vectors of another width than the hidden states' reach it: by a linear map.

    words: width of the word vectors; None: as the hidden states.
    before_norm: map, then normalise; else the other way round.
    bias: of the map.    always: a map even where the widths are equal.
    grown: word vectors count √width times (BART where its files say so; Vaswani et al. 2017, section 3.4).
    """

    words: int | None = None
    before_norm: bool = False
    bias: bool = True
    always: bool = False
    grown: bool = False


@dataclass(frozen=True)
class LayerSharing:
    """`groups` groups of `inner` layers; each is run again and again for its share of the depth (ALBERT)."""

    groups: int = 1
    inner: int = 1


@dataclass(frozen=True)
class Convolution:
    """A convolution over the embeddings, added to the first layer's output (DeBERTa-v2). kernel: 0 for none."""

    kernel: int = 0
    groups: int = 1
    act: str = "tanh"


@dataclass(frozen=True)
class HeadForm:
    """What an attention head is like. columns: its width; None: the hidden states' width over the number of heads.

    scaled: scores are divided by the root of that width; T5's are not.
    """

    columns: int | None = None
    scaled: bool = True


@dataclass(frozen=True)
class LocalAttention:
    """Layers of two kinds, a name in KINDS for each; local ones see `window` // 2 rows to either side."""

    window: int
    kinds: tuple[str, ...]

    KINDS = ("full_attention", "sliding_attention")


@dataclass(frozen=True)
class Biases:
    """Which parts have an additive bias."""

    attention: bool = True
    feed_forward: bool = True
    norms: bool = True


@dataclass(frozen=True)
class EncoderConfig:
    """Architecture of an encoder, or of a decoder alone. Every size is a number of rows or columns.

    vocab: rows of the word embeddings.    width: of the hidden states.    depth: number of layers.
    heads: of each attention; divides width unless `head` says their own.    ffn: width inside the feed-forward part.
    positions: how rows learn where they stand.    relative: what scores take from distances.
    types: token types (segments); 0 for none.    activation: of the feed-forward part, a name in
    `nn.activations.ACTIVATIONS`.    gated: the feed-forward part is act(a) · b (Shazeer 2020).
    norm_first: each part of a layer reads normalised rows and adds to plain ones, and the last layer's output is
    normalised; else what it adds to is normalised after.    norm_eps: added to the variance by the layer norms.
    embedding_norm: the embeddings are normalised; without it (GPT-2) the first layer reads them through a norm of its
    own where norm_first.    rms: norms take nothing from the rows but their root mean square (Zhang and Sennrich 2019,
    https://arxiv.org/abs/1910.07467).    causal: no row sees a later one: each may predict its next (a decoder).
    memory: width of another network's rows that every layer attends to, too, after itself (a decoder with an encoder).
    embedding, head, sharing, convolution, local, biases: see the classes.
    dropout: after attention, feed-forward and embeddings (embedding_dropout, if that differs).
    attention_dropout: on attention weights.    inner_dropout: inside the feed-forward part.
    init_std: of fresh weights.

    Raises ConfigError, naming the field, where no such network can be.
    """

    vocab: int
    width: int
    depth: int
    heads: int
    ffn: int
    positions: LearnedPositions | RotaryPositions
    relative: DistanceBuckets | DisentangledPositions | None = None
    types: int = 2
    activation: str = "gelu"
    gated: bool = False
    norm_first: bool = False
    norm_eps: float = 1e-12
    embedding_norm: bool = True
    rms: bool = False
    causal: bool = False
    memory: int | None = None
    embedding: EmbeddingMap = EmbeddingMap()
    head: HeadForm = HeadForm()
    sharing: LayerSharing | None = None
    convolution: Convolution = Convolution()
    local: LocalAttention | None = None
    biases: Biases = Biases()
    dropout: float = 0.1
    embedding_dropout: float | None = None
    attention_dropout: float = 0.1
    inner_dropout: float = 0.0
    init_std: float = 0.02

    def __post_init__(self) -> None:
        for path, value in _flat(self).items():
            name = path.rpartition(".")[2]
            CHECKS.get(name, _check_fraction)(name, value)
        for impossible, message in self._impossible():
            if impossible:
                raise ConfigError(message)

    def _impossible(self) -> list[tuple[bool, str]]:
        """What no single field can tell: (whether it is so, what to say)."""
        width, heads, kernel = self.width, self.heads, self.convolution.kernel
        local = () if self.local is None else self.local.kinds
        few = isinstance(self.relative, DistanceBuckets) and self.relative.rows < self.relative.buckets
        single = isinstance(self.relative, DisentangledPositions) and self.relative.buckets == 1
        groups = 1 if self.sharing is None else self.sharing.groups
        odd = isinstance(self.positions, RotaryPositions) and self.head_width % 2 == 1
        blind = isinstance(self.relative, DistanceBuckets) and not self.relative.ahead and not self.causal
        undivided = self.head.columns is None and bool(width % heads)
        return [
            (undivided, f"width {width} cannot be split over {heads} heads: it must be a multiple"),
            (blind, "ahead is false, but rows see later ones: they need buckets for both directions"),
            (odd, f"width {width} over {heads} heads gives an odd number of columns, which cannot be turned in pairs"),
            (self.longest < 1, f"count {self.positions.count} leaves no position after an offset of {self.offset}"),
            (few, "rows must be at least 32, one for each bucket of distances"),
            (single, "buckets must be at least 2, or 0 for none"),
            (kernel > 0 and kernel % 2 == 0, f"kernel must be odd, got {kernel}"),
            (
                bool(width % self.convolution.groups),
                f"groups {self.convolution.groups} of the convolution do not divide a width of {width}",
            ),
            (groups > self.depth, f"groups {groups} cannot share {self.depth} layers"),
            (
                self.local is not None and len(local) != self.depth,
                f"kinds of {len(local)} layers given, but there are {self.depth}",
            ),
            (
                self.parameters_at_least > MOST_PARAMETERS,
                f"about {self.parameters_at_least:,} parameters: no such model can be meant",
            ),
        ]

    @property
    def head_width(self) -> int:
        return self.width // self.heads if self.head.columns is None else self.head.columns

    @property
    def inner(self) -> int:
        """Width of all heads of an attention side by side."""
        return self.heads * self.head_width

    @property
    def offset(self) -> int:
        return self.positions.offset

    @property
    def longest(self) -> int:
        """The longest sequence, in tokens."""
        return self.positions.count - self.offset

    @property
    def limit(self) -> int | None:
        """The longest sequence that the network can read; None where no table of positions ends."""
        table = isinstance(self.positions, LearnedPositions) and self.positions.added
        return self.longest if table else None

    @property
    def embed_width(self) -> int:
        """Width of the word vectors."""
        return self.width if self.embedding.words is None else self.embedding.words

    @property
    def embed_mapped(self) -> bool:
        """Whether a linear map leads from word vectors to hidden states."""
        return self.embedding.always or self.embed_width != self.width

    @property
    def distinct_layers(self) -> int:
        """Layers with weights of their own."""
        return self.depth if self.sharing is None else self.sharing.groups * self.sharing.inner

    @property
    def order(self) -> tuple[int, ...]:
        """Which of the distinct layers run, one after the other."""
        if self.sharing is None:
            return tuple(range(self.depth))
        groups, inner = self.sharing.groups, self.sharing.inner
        # As the first implementation divides, in floating point: 12 layers in 5 groups are 3, 2, 3, 2, 2.
        chosen = [int(i / (self.depth / groups)) for i in range(self.depth)]
        return tuple(group * inner + i for group in chosen for i in range(inner))

    def sees(self, layer: int) -> int | None:
        """How many rows to either side a layer sees; None for all."""
        if self.local is None or self.local.kinds[layer] == LocalAttention.KINDS[0]:
            return None
        return self.local.window // 2

    @property
    def parameters_at_least(self) -> int:
        """Weights of the matrices alone; computed before anything is built."""
        memory = 0 if self.memory is None else 2 * self.inner * (self.width + self.memory)
        layer = memory + 4 * self.width * self.inner + (3 if self.gated else 2) * self.width * self.ffn
        return self.vocab * self.embed_width + self.distinct_layers * layer


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Fields by dotted path: {"positions.count": 512, …}; parts that are absent are left out."""
    flat: dict[str, Any] = {}
    for field in fields(value):
        inner = getattr(value, field.name)
        if is_dataclass(inner):
            flat |= _flat(inner, f"{prefix}{field.name}.")
        elif inner is not None:
            flat[prefix + field.name] = inner
    return flat


def _check_size(name: str, value: Any) -> None:
    least = {"types": 0, "offset": 0, "kernel": 0, "window": 0, "buckets": -1, "span": -1}.get(name, 1)
    if type(value) is not int:
        raise ConfigError(f"{name} must be a whole number, got {value!r:.80}")
    if not least <= value <= MOST[name]:
        raise ConfigError(f"{name} must be between {least} and {MOST[name]:,}, got {value:,}")


def _check_activation(name: str, value: Any) -> None:
    if not isinstance(value, str) or value not in ACTIVATIONS:
        raise ConfigError(f"{name} must be one of {', '.join(ACTIVATIONS)}, got {value!r:.80}")


def _check_flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be true or false, got {value!r:.80}")


def _check_fraction(name: str, value: Any) -> None:
    """Dropouts are probabilities; eps and init_std are small positive numbers: all lie in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value <= 1.0:
        raise ConfigError(f"{name} must be a number between 0 and 1, got {value!r:.80}")


def _check_base(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1.0 < value < 1e15:
        raise ConfigError(f"{name} must be a number above 1, got {value!r:.80}")


def _one_of(known: tuple[str, ...]) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, tuple) or not all(isinstance(one, str) and one in known for one in value):
            raise ConfigError(f"{name} must be a list of {', '.join(known)}, got {value!r:.80}")

    return check


CHECKS: dict[str, Callable[[str, Any], None]] = {
    **dict.fromkeys(MOST, _check_size),
    **dict.fromkeys(
        (
            *(
                "added",
                "skips",
                "ahead",
                "shared",
                "norm",
                "active",
                "before_norm",
                "bias",
                "always",
                "grown",
                "scaled",
            ),
            *("attention", "feed_forward", "norms", "gated", "norm_first", "embedding_norm", "rms", "causal"),
        ),
        _check_flag,
    ),
    "activation": _check_activation,
    "act": _check_activation,
    "theta": _check_base,
    "local_theta": _check_base,
    "terms": _one_of(("c2p", "p2c", "p2p")),
    "kinds": _one_of(LocalAttention.KINDS),
}
