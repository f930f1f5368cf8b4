"""Which keys of pretraining say something only beside some objectives."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["ONLY_WITH", "heeds"]

ONLY_WITH = {
    "negatives": ("nsp",),
    **dict.fromkeys(("rtd_weight", "sharing", "generator_width", "generator_depth"), ("rtd",)),
    **dict.fromkeys(("rate", "mask", "random", "unit"), ("mlm", "rtd")),
}


def heeds(key: str, objectives: Iterable[str]) -> bool:
    """Whether a key says something of these objectives."""
    return key not in ONLY_WITH or not set(ONLY_WITH[key]).isdisjoint(objectives)
