"""Which objectives there are, and what a run makes of the names it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

from bothways.errors import CheckpointError, ConfigError, meant
from bothways.families import FAMILIES, Family
from bothways.objectives.causal import CausalLanguageModelling, edges
from bothways.objectives.masking import Masking
from bothways.objectives.mlm import MaskedLanguageModelling
from bothways.objectives.objective import Objective
from bothways.objectives.pairs import SegmentPairs
from bothways.objectives.reading import Reading, Together
from bothways.text.tokenizer import Tokenizer

__all__ = [
    "OBJECTIVES",
    "Entry",
    "check_heads",
    "check_objectives",
    "edges_of",
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
class Entry:
    """An objective that a run can be told to learn.

    title: what people call it.    heads: those it needs, by their names in a family.    build: it.
    pairs: which pairs of segments it is about (a `data.pairs.Pairing`'s kind), None for none; two objectives about
    different pairs exclude each other.    alone: whether it excludes all others.    beside: what it needs beside it.
    edges: the ids that sequences begin and end with; it raises CheckpointError where the tokenizer lacks a token.
    """

    title: str
    heads: tuple[str, ...]
    build: Callable[[Masking, Tokenizer], Reading]
    pairs: Literal["next", "order"] | None = None
    alone: bool = False
    beside: tuple[str, ...] = ()
    edges: Callable[[Tokenizer], tuple[int, int]] = _around_masked


def _masked(masking: Masking, tokenizer: Tokenizer) -> MaskedLanguageModelling:
    mask = tokenizer.id_of("mask")
    assert mask is not None
    special = {tokenizer.id_of(role) for role in tokenizer.special}
    known = frozenset(i for i in special if i is not None)
    return MaskedLanguageModelling(tokenizer.vocab_size, mask, known, masking)


OBJECTIVES: dict[str, Entry] = {
    "mlm": Entry("masked language modelling", ("mlm",), _masked),
    "nsp": Entry(
        "next-sentence prediction",
        ("nsp",),
        lambda masking, tokenizer: SegmentPairs("nsp"),
        pairs="next",
        beside=("mlm",),
    ),
    "sop": Entry(
        "sentence-order prediction",
        ("sop",),
        lambda masking, tokenizer: SegmentPairs("sop"),
        pairs="order",
        beside=("mlm",),
    ),
    "causal": Entry(
        "causal language modelling",
        ("causal",),
        lambda masking, tokenizer: CausalLanguageModelling(),
        alone=True,
        edges=edges,
    ),
}


def check_objectives(names: Sequence[str]) -> None:
    """Raises ConfigError on none, on one that is not known or given twice, and on some that do not go together."""
    if not names:
        raise ConfigError(f"objectives must have one of {', '.join(OBJECTIVES)}, got none")
    for name in names:
        if name not in OBJECTIVES:
            hint = meant(name, OBJECTIVES)
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


def heads_of(names: Sequence[str], family: Family) -> tuple[str, ...]:
    """The heads that the objectives need, in the family's order."""
    wanted = {head for name in names for head in OBJECTIVES[name].heads}
    return tuple(head for head in family.heads if head in wanted)


def check_heads(names: Sequence[str], family: Family) -> None:
    """Raises ConfigError where the family lacks a head that an objective needs."""
    for name in names:
        for head in OBJECTIVES[name].heads:
            if head not in family.heads:
                having = ", ".join(other for other, one in FAMILIES.items() if head in one.heads)
                missing = f"{family.model_type} models have no head for it{_only_for(family)}"
                raise ConfigError(f"objectives has {name}, but {missing}; families with one: {having}")


def _only_for(family: Family) -> str:
    learnt = [name for name, one in OBJECTIVES.items() if set(one.heads) <= family.heads.keys()]
    return f", only for {', '.join(learnt)}" if learnt else ""


def objective_of(names: Sequence[str], masking: Masking, tokenizer: Tokenizer) -> Objective:
    """What is learnt, as `names` say. masking: for objectives that hide tokens.

    tokenizer: of the corpus; it has the special tokens that the objectives need.
    """
    return Together(tuple(OBJECTIVES[name].build(masking, tokenizer) for name in names))
