"""Ours and transformers', a process each, that take turns at one workload; both are files that serve one side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pretraining
from pretraining import PACKAGES, Amount, Side, measured, train
from rounds import note
from worker import installed_version, peak_megabytes, serve

SIDES = {"ours": "bothways", "peers": "transformers"}


def compare(
    script: str,
    part: str,
    workload: str,
    arguments: Sequence[str],
    logs: Path,
    warm_up: int,
    amount: Amount,
    threads: int,
) -> dict[str, Any]:
    """One workload: both sides' tokens a second in each round, and their peak memory.

    script: serves a side: its workload and side are its first arguments, these are the others.    part, workload: their
    names.    warm_up: steps that do not count.
    """
    sides = {
        side: Side(side, script, (workload, side, *arguments), logs / f"{workload}-{side}.log", threads)
        for side in SIDES
    }
    try:
        for key, side in sides.items():
            note(f"{part}, {workload}: warming up {SIDES[key]}")
            side.start()
            side.ask("train", steps=warm_up)
        for number in range(amount.rounds):
            note(f"{part}, {workload}: round {number + 1} of {amount.rounds}")
            for side in list(sides.values())[:: -1 if number % 2 else 1]:
                side.run(amount.steps)
        versions = {**sides["peers"].ask("versions"), **sides["ours"].ask("versions")}
    finally:
        for side in sides.values():
            side.stop()
    return {**measured({SIDES[key]: side for key, side in sides.items()}, amount), "versions": versions}


def ratio(result: dict[str, Any]) -> float:
    """How many times as fast ours is."""
    return pretraining.ratio(result, *SIDES.values())


def memory_ratio(result: dict[str, Any]) -> float:
    """Our peak memory as a part of theirs."""
    return pretraining.memory_ratio(result, *SIDES.values())


def serve_side(side: Any, answers: Any) -> None:
    """Answer requests until stdin ends. side: has a `step`; see `pretraining.train`."""
    requests: dict[str, Callable[..., dict[str, Any]]] = {
        "train": lambda steps: train(side, steps),
        "memory": lambda: {"megabytes": peak_megabytes()},
        "versions": lambda: {name: found for name in PACKAGES if (found := installed_version(name))},
    }
    serve(requests, answers)
