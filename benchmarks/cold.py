"""Fresh processes: importing, `--help`, and the first vector."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

from environments import python_of
from rounds import note, surroundings
from workloads import QUERY

IMPORT = "from time import perf_counter as now; start = now(); import {package}; print(now() - start)"
OUR_VECTOR = (
    "import bothways as b; b.SentenceEncoder({model!r}, precision={precision!r}, device='cpu').encode([{text!r}])"
)
THEIR_VECTOR = "import sentence_transformers as s; s.SentenceTransformer({model!r}, device='cpu').encode([{text!r}])"


@dataclass(frozen=True)
class Probe:
    """A command to time; where `prints_seconds`, what it prints is the figure, otherwise its whole wall time."""

    name: str
    command: tuple[str, ...]
    prints_seconds: bool = False


def probes(model: Path) -> list[Probe]:
    """All cold measurements."""
    ours, theirs = str(python_of("ours")), str(python_of("peers"))
    script = Path(sys.executable).with_name("bothways.exe" if os.name == "nt" else "bothways")
    first = THEIR_VECTOR.format(model=str(model), text=QUERY)
    vectors = {p: OUR_VECTOR.format(model=str(model), precision=p, text=QUERY) for p in ("fp32", "bf16")}
    return [
        Probe("import bothways", (ours, "-c", IMPORT.format(package="bothways")), prints_seconds=True),
        Probe("import torch", (ours, "-c", IMPORT.format(package="torch")), prints_seconds=True),
        Probe(
            "import sentence_transformers",
            (theirs, "-c", IMPORT.format(package="sentence_transformers")),
            prints_seconds=True,
        ),
        Probe("bothways --help", (str(script), "--help")),
        *(Probe(f"first vector, bothways {p}", (ours, "-c", code)) for p, code in vectors.items()),
        Probe("first vector, sentence-transformers", (theirs, "-c", first)),
    ]


def time_once(probe: Probe, folder: Path, threads: int) -> float:
    """Seconds of one fresh process; raises `subprocess.CalledProcessError` or `FileNotFoundError` where it fails."""
    start = perf_counter()
    done = subprocess.run(
        probe.command, cwd=folder, env=surroundings(threads), check=True, capture_output=True, text=True
    )
    wall = perf_counter() - start
    return float(done.stdout.split()[-1]) if probe.prints_seconds else wall


def reason(failure: Exception) -> str:
    """Why a process failed, in a line."""
    if isinstance(failure, subprocess.CalledProcessError) and failure.stderr:
        return str(failure.stderr).strip().splitlines()[-1][:200]
    return str(failure)


def measure(model: Path, folder: Path, threads: int, repeats: int) -> dict[str, float | str]:
    """The median seconds of each probe over `repeats` interleaved rounds, after one that fills the disk cache.

    A probe that fails is reported as the reason.
    """
    found: dict[str, list[float]] = {}
    failures: dict[str, str] = {}
    for number in range(repeats + 1):
        note(f"cold: round {number} of {repeats}")
        for probe in probes(model):
            if probe.name in failures:
                continue
            try:
                found.setdefault(probe.name, []).append(time_once(probe, folder, threads))
            except (subprocess.CalledProcessError, FileNotFoundError) as failure:
                failures[probe.name] = reason(failure)
    return {probe.name: failures.get(probe.name) or median(found[probe.name][1:]) for probe in probes(model)}
