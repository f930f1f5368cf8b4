"""What each objective, and each architecture, is worth for the same time of one core: runs of `bothways pretrain`.

python benchmarks/equal_compute.py CORPUS OUTPUT [--hours 1] [--rows "mlm;rtd"] [--seeds 1,2]

CORPUS is a folder of `bothways corpus build`. How many steps a run has is measured first: what a step costs of one
core's time, which OUTPUT/cost.json keeps. A run that was stopped goes on when the same command is given again. Rows
with pairs are judged again on single sequences, those of all other rows, by a run of one step at rate 0:
RUN/plain.json. Afterwards:

bothways compare OUTPUT/*/ --output curves.png
python benchmarks/glue.py GLUE OUTPUT/*/model --layers last,best --tasks SST-2,CoLA,MRPC,RTE
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bothways.train.history import PAIRED, held_out_at

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
ROUNDS = 3
NEVER = 1_000_000_000


def pretrain(begin: str, said: Sequence[str], output: Path, corpus: Path) -> float:
    """Run it, on one core; the seconds of processor time that it took. Exits where it fails.

    begin: a line of the run's file: its preset, or the model that it starts from.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "run.toml"
        config.write_text(begin + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "bothways", "pretrain", str(config), *SETTINGS.split(), *said]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        told = ["--corpus", str(corpus), "--output", str(output), "--json"]
        result = subprocess.run([*command, *told], env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=sys.stderr)
    if result.returncode:
        raise SystemExit(result.returncode)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run_row(row: str, flags: Sequence[str], output: Path, corpus: Path) -> float:
    """A run of a row; as `pretrain`."""
    preset, said = ROWS[row]
    return pretrain(f'preset = "{preset}"', [*said.split(), *flags], output, corpus)


def cost(row: str, corpus: Path) -> float:
    """Seconds of one core's time that a step takes: the middle one of some rounds, which differ by up to a tenth."""
    flags = ["--evaluate-every", str(NEVER), "--save-every", str(NEVER), "--evaluate-tokens", "2048", "--warmup", "0"]

    def one() -> float:
        with tempfile.TemporaryDirectory() as folder:
            few, more = (
                run_row(row, [*flags, "--steps", str(count)], Path(folder) / str(count), corpus)
                for count in (FEW, MORE)
            )
        return (more - few) / (MORE - FEW)

    return statistics.median(one() for _ in range(ROUNDS))


def operations(row: str) -> str:
    """What rows are named by whose steps do the same operations: which sentences are wrong costs nothing."""
    preset, said = ROWS[row]
    return f"{preset} {objectives_of(said)}"


def objectives_of(said: str) -> str:
    words = said.split()
    return words[words.index("--objectives") + 1]


def costs_of(rows: Sequence[str], corpus: Path, output: Path) -> dict[str, float]:
    """What a step of each row costs; measured before with the same corpus and settings, or now."""
    path, of = output / "cost.json", f"{corpus.resolve()}: {SETTINGS}"
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if known.get("of") != of:
        known = {"of": of, "seconds": {}}
    for row in rows:
        if operations(row) not in known["seconds"]:
            known["seconds"][operations(row)] = cost(row, corpus)
            path.write_text(json.dumps(known, indent=1))
    return {row: known["seconds"][operations(row)] for row in rows}


def judge_plain(run: Path, corpus: Path) -> None:
    """Write down what a run's model says of masked words in the single sequences that are held out."""
    flags = ["--objectives", "mlm", "--lr", "0", "--warmup", "0", "--steps", "1", "--evaluate-every", "1"]
    with tempfile.TemporaryDirectory() as folder:
        pretrain(f"start = {json.dumps(str((run / 'model').resolve()))}", flags, Path(folder) / "run", corpus)
        found = held_out_at(Path(folder) / "run", 1)
    (run / "plain.json").write_text(json.dumps(found, indent=1))


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
    rows = given.rows.split(";")
    costs = costs_of(rows, given.corpus, given.output)
    for seed in given.seeds.split(","):
        for row in rows:
            run = given.output / f"{row}-{seed}"
            if not (run / "model" / "config.json").exists():
                steps = max(WARM_UP, round(given.hours * 3600 / costs[row]))
                said = ["--steps", str(steps), "--seed", seed, "--evaluate-every", str(max(1, steps // 13))]
                resume = ["--resume"] if (run / "checkpoints").is_dir() else []
                run_row(row, [*said, "--warmup", str(WARM_UP), *resume], run, given.corpus)
            if PAIRED & set(objectives_of(ROWS[row][1]).split(",")) and not (run / "plain.json").exists():
                judge_plain(run, given.corpus)


if __name__ == "__main__":
    main()
