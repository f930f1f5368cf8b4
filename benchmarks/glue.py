"""What encoders know of GLUE: `bothways evaluate --probe` on five of its tasks, as rows of a table.

python benchmarks/glue.py GLUE ENCODER [ENCODER …] [--layers 0,last,best] [--tasks SST-2,MRPC] [--pairs both]

GLUE has a folder a task, each with train.tsv and dev.tsv. Layer 0, the word vectors, is the floor that an encoder has
to beat.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

# What each task is judged by, and what that is called; the tasks of pairs.
METRICS = {
    "SST-2": ("accuracy", "accuracy"),
    "CoLA": ("mcc", "Matthews"),
    "MRPC": ("accuracy", "accuracy"),
    "RTE": ("accuracy", "accuracy"),
    "STS-B": ("spearman", "Spearman"),
}
PAIRS = ("MRPC", "RTE", "STS-B")
MOST_ROWS, SEEDS = 8000, 3


def probe(encoder: Path, task: Path, layer: str, pairs: str) -> dict[str, Any]:
    """What `bothways evaluate` says of one task."""
    said = ["--pairs", pairs] if task.name in PAIRS else []
    command = [sys.executable, "-m", "bothways", "evaluate", str(encoder), "--probe", "--layer", layer, "--json", *said]
    command += ["--data", str(task / "train.tsv"), "--eval", str(task / "dev.tsv")]
    command += ["--max-rows", str(MOST_ROWS), "--seeds", str(SEEDS)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(result.stderr.strip())
    return dict(json.loads(result.stdout))


def main() -> None:
    """Print a row for each encoder and layer, in hundredths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("glue", type=Path)
    parser.add_argument("encoders", type=Path, nargs="+")
    parser.add_argument("--layers", default="0,last")
    parser.add_argument("--tasks", default=",".join(METRICS))
    parser.add_argument("--pairs", default="apart")
    arguments = parser.parse_args()
    tasks = arguments.tasks.split(",")
    print("| encoder | layer | " + " | ".join(f"{task}, {METRICS[task][1]}" for task in tasks) + " |")
    print("|---|---|" + "---:|" * len(tasks), flush=True)
    for encoder in arguments.encoders:
        for layer in arguments.layers.split(","):
            found = [probe(encoder, arguments.glue / task, layer, arguments.pairs) for task in tasks]
            cells = [f"{100 * one['metrics'][METRICS[task][0]]:.1f}" for one, task in zip(found, tasks)]
            name = encoder.parent.name if encoder.name == "model" else encoder.name  # of a run
            print(f"| {name} | {layer} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
