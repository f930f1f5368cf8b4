"""Which objectives there are, and what a run makes of the names it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

from bothways.data.packing import Edges
from bothways.errors import CheckpointError, ConfigError, meant
from bothways.families import FAMILIES, Family
from bothways.objectives.causal import CausalLanguageModelling, edges
from bothways.objectives.masking import Masking
from bothways.objectives.mlm import MaskedLanguageModelling
from bothways.objectives.objective import PretrainingObjective
from bothways.objectives.pairs import SegmentPairs
from bothways.objectives.reading import Reading, Together
from bothways.objectives.rtd import RTD_HEADS, RTD_WEIGHT, ReplacedTokens
from bothways.text.tokenizer import Tokenizer

__all__ = [
    "OBJECTIVES",
    "Entry",
    "Told",
    "check_heads",
    "check_objectives",
    "edged_of",
    "edges_of",
    "generator_head",
    "heads_of",
    "objective_of",
    "pairs_of",
]


def _around_masked(tokenizer: Tokenizer) -> tuple[int, int]:
    """Those of encoders, whose tokenizer has a mask token, too."""
    missing = [role for role in ("cls", "sep", "mask") if tokenizer.id_of(role) is None]
    if missing:
        raise CheckpointError(f"the tokenizer has no {', '.join(missing)} token")
    before, after = tokenizer.id_of("cls"), tokenizer.id_of("sep")
    assert before is not None
    assert after is not None
    return before, after


@dataclass(frozen=True)
class Told:
    """What objectives are made with. masking: for those that hide tokens.    tokenizer: of the corpus.

    rtd_weight: of the discriminator's loss beside its generator's.
    """

    masking: Masking
    tokenizer: Tokenizer
    rtd_weight: float = RTD_WEIGHT


@dataclass(frozen=True)
class Entry:
    """An objective that a run can be told to learn.

    title: what people call it.    build: what reads the output of a forward.
    heads: those it can be learnt with, by their names in a family, the one it is best learnt with first.
    generator: the head of a second network of the family, which it needs beside the first; None for none.
    whole: makes one objective of the readings of all that are learnt together; that of the first counts.
    pairs: which pairs of segments it is about (a `data.pairs.Pairing`'s kind), None for none; two objectives about
    different pairs exclude each other.    alone: whether it excludes all others.    beside: what it needs beside it.
    edges: the ids that sequences begin and end with; it raises CheckpointError where the tokenizer lacks a token.
    edged: which sequences do, see `data.packing.Packing`: all, or those that begin and end a document.
    """

    title: str
    heads: tuple[str, ...]
    build: Callable[[Told], Reading]
    generator: str | None = None
    whole: Callable[[tuple[Reading, ...], Told], PretrainingObjective] = lambda readings, told: Together(readings)
    pairs: Literal["next", "order"] | None = None
    alone: bool = False
    beside: tuple[str, ...] = ()
    edges: Callable[[Tokenizer], tuple[int, int]] = _around_masked
    edged: Edges = "sequence"


def _masked(told: Told) -> MaskedLanguageModelling:
    tokenizer = told.tokenizer
    mask = tokenizer.id_of("mask")
    assert mask is not None
    special = {tokenizer.id_of(role) for role in tokenizer.special}
    known = frozenset(i for i in special if i is not None)
    return MaskedLanguageModelling(tokenizer.vocab_size, mask, known, told.masking)


def _replaced(readings: tuple[Reading, ...], told: Told) -> ReplacedTokens:
    (masked,) = readings
    assert isinstance(masked, MaskedLanguageModelling)
    return ReplacedTokens(masked, told.rtd_weight)


NSP_HEADS, SOP_HEADS = ("nsp",), ("sop", "nsp")

OBJECTIVES: dict[str, Entry] = {
    "mlm": Entry("masked language modelling", ("mlm",), _masked),
    "nsp": Entry(
        "next-sentence prediction",
        NSP_HEADS,
        lambda told: SegmentPairs("nsp", NSP_HEADS),
        pairs="next",
        beside=("mlm",),
    ),
    "sop": Entry(
        "sentence-order prediction",
        SOP_HEADS,
        lambda told: SegmentPairs("sop", SOP_HEADS),
        pairs="order",
        beside=("mlm",),
    ),
    "causal": Entry(
        "causal language modelling",
        ("causal",),
        lambda told: CausalLanguageModelling(),
        alone=True,
        edges=edges,
        edged="document",
    ),
    "rtd": Entry(
        "replaced-token detection",
        RTD_HEADS,
        _masked,
        generator="mlm",
        whole=_replaced,
        alone=True,
    ),
}


def check_objectives(names: Sequence[str]) -> None:
    """Raises ConfigError on none, on one that is not known or given twice, and on some that do not go together."""
    if not names:
        raise ConfigError(f"objectives must have one of {', '.join(OBJECTIVES)}, got none")
    for name in names:
        if name not in OBJECTIVES:
            several = any(mark in name for mark in ";+ /|")
            hint = "; several have commas between them" if several else meant(name, OBJECTIVES)
            raise ConfigError(f"objectives must be of {', '.join(OBJECTIVES)}, got {name!r}{hint}")
        if names.count(name) > 1:
            raise ConfigError(f"objectives has {name} twice")
    for name, other in permutations(names, 2):
        _check_together(name, other)
    for name in names:
        for other in OBJECTIVES[name].beside:
            if other not in names:
                raise ConfigError(
                    f"objectives has {name} without {other}, beside which it is learnt; say {other},{name}"
                )


def _check_together(name: str, other: str) -> None:
    first, second = OBJECTIVES[name], OBJECTIVES[other]
    if first.alone:
        raise ConfigError(f"objectives has {name} and {other}, but {name} is learnt alone; leave one of them out")
    if first.pairs and second.pairs and first.pairs != second.pairs:
        raise ConfigError(f"objectives has {name} and {other}, which want different pairs; leave one of them out")


def pairs_of(names: Sequence[str]) -> Literal["next", "order"] | None:
    """Which pairs of segments the objectives are about, if any."""
    return next((kind for name in names if (kind := OBJECTIVES[name].pairs) is not None), None)


def edges_of(names: Sequence[str], tokenizer: Tokenizer) -> tuple[int, int]:
    """The ids that sequences begin and end with. Raises CheckpointError where the tokenizer lacks a special token."""
    return OBJECTIVES[names[0]].edges(tokenizer)


def edged_of(names: Sequence[str]) -> Edges:
    """Which sequences begin and end with them."""
    return OBJECTIVES[names[0]].edged


def heads_of(names: Sequence[str], family: Family) -> tuple[str, ...]:
    """The heads that the objectives are learnt with, in the family's order. They are there: see `check_heads`."""
    wanted = {next(head for head in OBJECTIVES[name].heads if head in family.heads) for name in names}
    return tuple(head for head in family.heads if head in wanted)


def generator_head(names: Sequence[str]) -> str | None:
    """The head of the generator that the objectives need; None where they need none."""
    return next((head for name in names if (head := OBJECTIVES[name].generator) is not None), None)


def check_heads(names: Sequence[str], family: Family) -> None:
    """Raises ConfigError where the family lacks a head that an objective needs."""
    for name in names:
        if not _learns(family, OBJECTIVES[name]):
            having = ", ".join(other for other, one in FAMILIES.items() if _learns(one, OBJECTIVES[name]))
            missing = f"{family.model_type} models have no head for it{_only_for(family)}"
            raise ConfigError(f"objectives has {name}, but {missing}; families with one: {having}")


def _learns(family: Family, entry: Entry) -> bool:
    generates = entry.generator is None or entry.generator in family.heads
    return generates and (not entry.heads or any(head in family.heads for head in entry.heads))


def _only_for(family: Family) -> str:
    learnt = [name for name, entry in OBJECTIVES.items() if _learns(family, entry)]
    return f", only for {', '.join(learnt)}" if learnt else ""


def objective_of(names: Sequence[str], told: Told) -> PretrainingObjective:
    """What is learnt, as `names` say. The tokenizer has the special tokens that the objectives need."""
    readings = tuple(OBJECTIVES[name].build(told) for name in names)
    return OBJECTIVES[names[0]].whole(readings, told)
