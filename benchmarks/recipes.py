"""What an encoder comes to, fine-tuned: `bothways finetune` with a recipe for each task, as rows of a table.

python benchmarks/recipes.py DATA ENCODER [--tasks "STS-B;CoLA"] [--seeds 3] [--json recipes.jsonl] [--output RUNS]

DATA has glue/TASK/{train,dev}.tsv, conll2003/eng.{train,testb}, squad/{train-v1.1,dev-v1.1}.json[.zst],
goemotions/{train,test}.tsv and labels.txt, arc/ARC-Easy.{train,test}.jsonl, multi30k/{train,test_2016_flickr}.{en,de}
with tokenizer-de/ (of train.de: `bothways tokenizer train --kind bpe --vocab-size 8000`), scitldr/{train,test}.jsonl.

Figures are of the last epoch, not of the best one; times are of whole processes, reading and evaluating included, and
counted on all cores. `recipes_peer.py` says what steps of a plain loop of transformers take.
Recipes that write take equal compute: what a frozen encoder saves goes into more epochs. With `--output`, models stay
in a folder of each recipe's name, and a run that was stopped goes on there; its times are then of the last process
alone, so rows for a table are begun anew.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """kind: of `bothways finetune`.    train, held: files in DATA.    flags: what else is said.    metrics: shown."""

    kind: str
    train: str
    held: str
    flags: str
    metrics: tuple[str, ...]
    seeds: int | None = None


def _glue(task: str, flags: str, *metrics: str, warmup: float = 0.1) -> Recipe:
    said = f"--warmup {warmup} {flags}"
    return Recipe("classify", f"glue/{task}/train.tsv", f"glue/{task}/dev.tsv", said, metrics)


FOUR = "--epochs 4 --lr 1e-4"
RECIPES: dict[str, Recipe] = {
    "STS-B": _glue("STS-B", FOUR, "pearson", "spearman"),
    "MRPC": _glue("MRPC", FOUR, "accuracy", "f1"),
    "CoLA": _glue("CoLA", FOUR, "mcc"),
    "RTE": _glue("RTE", f"{FOUR} --max-length 256", "accuracy"),
    "SST-2": _glue("SST-2", "--epochs 2 --lr 5e-5", "accuracy", warmup=0.06),
    "CoNLL-2003": Recipe(
        "tag",
        "conll2003/eng.train",
        "conll2003/eng.testb",
        "--format conll --epochs 3 --lr 1e-4 --warmup 0.1",
        ("f1", "precision", "recall"),
    ),
    "SQuAD 10k": Recipe(
        "answer",
        "squad/train-v1.1.json.zst",
        "squad/dev-v1.1.json.zst",
        "--max-train-samples 10000 --epochs 2 --lr 1e-4 --warmup 0.1",
        ("em", "f1"),
        seeds=1,
    ),
    "GoEmotions": Recipe(
        "classify",
        "goemotions/train.tsv",
        "goemotions/test.tsv",
        "--text 1 --label 2 --separator , --label-names {data}/goemotions/labels.txt --epochs 3 --lr 1e-4 --warmup 0.1",
        ("micro_f1", "macro_f1"),
        seeds=1,
    ),
    "ARC-Easy": Recipe(
        "choose", "arc/ARC-Easy.train.jsonl", "arc/ARC-Easy.test.jsonl", f"{FOUR} --warmup 0.1", ("accuracy",), seeds=1
    ),
    "MRPC, mean pooling": _glue("MRPC", f"{FOUR} --pooling mean", "accuracy", "f1"),
    "MRPC, frozen": _glue("MRPC", "--epochs 20 --lr 1e-3 --layers 0", "accuracy", "f1"),
    "MRPC, LoRA 8": _glue("MRPC", "--epochs 4 --lr 1e-3 --lora-rank 8", "accuracy", "f1"),
    "CoLA, mean pooling": _glue("CoLA", f"{FOUR} --pooling mean", "mcc"),
    "CoLA, frozen": _glue("CoLA", "--epochs 20 --lr 1e-3 --layers 0", "mcc"),
    "CoLA, LoRA 8": _glue("CoLA", "--epochs 4 --lr 1e-3 --lora-rank 8", "mcc"),
}


# A step back through encoder and decoder costs this many times as much as one through the decoder alone: 6 layers of
# 12 w² and 4 of 16 w² with words for 8,000, of w = 384.
SAVED = 1.85
EPOCHS = 5
# The same of abstracts of 215 tokens with 28 to be written, in words of the encoder's 30,522.
ABSTRACTS_SAVED = 4
ABSTRACT_EPOCHS = 5


def _multi30k(flags: str, epochs: float = EPOCHS) -> Recipe:
    """English to German, by a decoder of 4 layers."""
    return Recipe(
        "generate",
        "multi30k/train.en",
        "multi30k/test_2016_flickr.en",
        "--train-target {data}/multi30k/train.de --eval-target {data}/multi30k/test_2016_flickr.de "
        "--target-tokenizer {data}/multi30k/tokenizer-de --depth 4 --batch-size 64 --lr 5e-4 --warmup 0.1 "
        f"--metrics bleu --metrics chrf --num-beams 4 --evaluate-every 1000000 --epochs {epochs:g} {flags}",
        ("bleu", "chrf", "loss", "accuracy"),
        seeds=1,
    )


def _scitldr(flags: str, epochs: float) -> Recipe:
    """Summaries of papers' abstracts, introductions and conclusions; one of several is learnt, all are right."""
    return Recipe(
        "generate",
        "scitldr/train.jsonl",
        "scitldr/test.jsonl",
        "--max-source-length 512 --max-target-length 64 --depth 4 --batch-size 16 --lr 5e-4 --warmup 0.1 "
        f"--metrics rouge --num-beams 4 --max-new-tokens 64 --evaluate-every 1000000 --epochs {epochs:g} {flags}",
        ("rouge1", "rouge2", "rougeL", "loss"),
        seeds=1,
    )


ADAPTERS = {
    "no adapter": "--adapter none",
    "linear": "--adapter linear",
    "bottleneck": "--adapter bottleneck --adapter-inner 96",
    "resampled": "--adapter resample --adapter-rows 32 --adapter-heads 12",
}
RECIPES |= {
    f"Multi30k, frozen, {name}": _multi30k(f"--layers 0 {flags}", EPOCHS * SAVED) for name, flags in ADAPTERS.items()
}
RECIPES |= {
    "Multi30k": _multi30k("--encoder-lr 1e-4"),
    "Multi30k, from scratch": _multi30k("--fresh-encoder"),
    "SciTLDR, frozen": _scitldr("--layers 0", ABSTRACT_EPOCHS * ABSTRACTS_SAVED),
    "SciTLDR": _scitldr("--encoder-lr 1e-4", ABSTRACT_EPOCHS),
    "SciTLDR, from scratch": _scitldr("--fresh-encoder", ABSTRACT_EPOCHS),
}
# Metrics that are from 0 to 100 by themselves, or no share.
AS_THEY_ARE = ("bleu", "chrf", "loss")


def tuned(recipe: Recipe, data: Path, encoder: str, seeds: int, output: Path) -> dict[str, Any]:
    """What `bothways finetune` says of a recipe, with seconds, those of processors, and the peak of memory in MB."""
    said = recipe.flags.format(data=data).split()
    command = [sys.executable, "-m", "bothways", "finetune", recipe.kind, "--json", "--model", encoder, *said]
    command += ["--train", str(data / recipe.train), "--eval", str(data / recipe.held), "--output", str(output)]
    command += ["--seeds", str(recipe.seeds or seeds), "--resume"]
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(process.returncode)
    taken = {"seconds": time.monotonic() - started, "cpu_seconds": used.ru_utime + used.ru_stime}
    return {**json.loads(found), **taken, "peak_mb": used.ru_maxrss / 1000}


def row(name: str, recipe: Recipe, found: dict[str, Any]) -> str:
    """A row of the table, in hundredths."""
    several = len(found["runs"]) > 1
    cells = [
        f"{metric} {_times(metric) * found['metrics'][metric]:.{_digits(metric)}f}"
        + (f" ± {_times(metric) * found['spreads'][metric]:.{_digits(metric)}f}" if several else "")
        for metric in recipe.metrics
    ]
    tokens = sum(run["tokens"] for run in found["runs"])
    return (
        f"| {name} | {len(found['runs'])} | {', '.join(cells)} | {found['cpu_seconds'] / len(found['runs']):,.0f} "
        f"| {tokens / found['cpu_seconds']:,.0f} | {found['peak_mb']:,.0f} |"
    )


def _times(metric: str) -> int:
    return 1 if metric in AS_THEY_ARE else 100


def _digits(metric: str) -> int:
    return 3 if metric == "loss" else 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each recipe as it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("encoder")
    parser.add_argument("--tasks", default=";".join(RECIPES), help="names, with ; between them")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--output", type=Path, help="where models stay; nowhere without it")
    said = parser.parse_args(arguments)
    print("| recipe | seeds | last epoch | processor seconds a run | tokens of each | peak MB |")
    print("|---|---:|---|---:|---:|---:|")
    for name in said.tasks.split(";"):
        with tempfile.TemporaryDirectory() as folder:
            output = (said.output or Path(folder)) / name.lower().replace(",", "").replace(" ", "-")
            found = tuned(RECIPES[name], said.data, said.encoder, said.seeds, output)
        print(row(name, RECIPES[name], found), flush=True)
        if said.json is not None:
            with said.json.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"recipe": name, **found}) + "\n")


if __name__ == "__main__":
    main()
