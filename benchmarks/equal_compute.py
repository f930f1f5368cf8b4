"""What each objective, and each architecture, is worth for the same time of one core: runs of `bothways pretrain`.

python benchmarks/equal_compute.py CORPUS OUTPUT [--hours 1] [--rows "mlm;rtd"] [--seeds 1,2]

CORPUS is a folder of `bothways corpus build`. How many steps a run has is measured first: what a step costs of one
core's time, which OUTPUT/cost.json keeps. A run that was stopped goes on when the
same command is given again. Afterwards:

bothways compare OUTPUT/*/ --output curves.png
python benchmarks/glue.py GLUE OUTPUT/*/model --layers 0,last,best
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Of all rows: small steps at a rate that stays and falls in the last fifth, as in our own recipes.
SETTINGS = (
    "--rate 0.15 --mask 0.8 --random 0.1 --longest 128 --step-tokens 2048 --batch-tokens 1024 --dropout 0 "
    "--optimizer muon --weight-decay 0.01 --schedule wsd"
)
# Of 3e-3, 1e-3 and 3e-4, bert-mini was best with 1e-3 in runs of a few hundred steps; DeBERTa's norms stand where
# BERT's do, and its rate is BERT's. modernbert-mini's is our recipe's. Neither has been tried at others.
ROWS = {
    "mlm": ("bert-mini", "--lr 1e-3 --objectives mlm"),
    "nsp-other": ("bert-mini", "--lr 1e-3 --objectives mlm,nsp --negatives other"),
    "nsp-same": ("bert-mini", "--lr 1e-3 --objectives mlm,nsp --negatives same"),
    "sop": ("bert-mini", "--lr 1e-3 --objectives mlm,sop"),
    "rtd": ("bert-mini", "--lr 1e-3 --objectives rtd"),
    "causal": ("gpt2-mini", "--lr 3e-3 --objectives causal"),
    "modernbert": ("modernbert-mini", "--lr 3e-3 --objectives mlm"),
    "deberta": ("deberta-v3-mini", "--lr 1e-3 --objectives mlm"),
}
WARM_UP = 200
FEW, MORE = 20, 80  # steps of the two runs whose difference is what steps cost
NEVER = 1_000_000_000


def pretrain(row: str, flags: Sequence[str], output: Path, corpus: Path) -> float:
    """Run it, on one core; the seconds of processor time that it took. Exits where it fails."""
    preset, said = ROWS[row]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / f"{row}.toml"
        config.write_text(f'preset = "{preset}"\n', encoding="utf-8")
        command = [sys.executable, "-m", "bothways", "pretrain", str(config), *SETTINGS.split(), *said.split(), *flags]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        told = ["--corpus", str(corpus), "--output", str(output), "--json"]
        result = subprocess.run([*command, *told], env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=sys.stderr)
    if result.returncode:
        raise SystemExit(result.returncode)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def cost(row: str, corpus: Path) -> float:
    """Seconds of one core's time that a step takes."""
    flags = ["--evaluate-every", str(NEVER), "--save-every", str(NEVER), "--evaluate-tokens", "2048", "--warmup", "0"]
    with tempfile.TemporaryDirectory() as folder:
        few, more = (
            pretrain(row, [*flags, "--steps", str(count)], Path(folder) / str(count), corpus) for count in (FEW, MORE)
        )
    return (more - few) / (MORE - FEW)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what has not been run, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--hours", type=float, default=1.0, help="of one core, for each run (1)")
    parser.add_argument("--rows", default=";".join(ROWS), help="names, with ; between them")
    parser.add_argument("--seeds", default="1")
    given = parser.parse_args(arguments)
    given.output.mkdir(parents=True, exist_ok=True)
    costs = given.output / "cost.json"
    known: dict[str, Any] = json.loads(costs.read_text()) if costs.exists() else {}
    for row in given.rows.split(";"):
        if row not in known:
            known[row] = cost(row, given.corpus)
            costs.write_text(json.dumps(known, indent=1))
    for seed in given.seeds.split(","):
        for row in given.rows.split(";"):
            run = given.output / f"{row}-{seed}"
            if (run / "model" / "config.json").exists():
                continue
            steps = max(WARM_UP, round(given.hours * 3600 / known[row]))
            flags = [
                "--steps",
                str(steps),
                "--seed",
                seed,
                "--evaluate-every",
                str(max(1, steps // 13)),
                "--warmup",
                str(WARM_UP),
            ]
            resume = ["--resume"] if (run / "checkpoints").is_dir() else []
            pretrain(row, [*flags, *resume], run, given.corpus)


if __name__ == "__main__":
    main()
