"""Texts written beside transformers' `generate`: the same encoder–decoder with random weights, the same sources, fp32;
a process for each side and workload, this file.

A workload is a size of network, how many sources are given at once, and how they are written: greedily, or with four
beams. Sources are sentences of the Python language reference, of 3 to 60 tokens; every text has 32 tokens, so that both
sides do the same work. Each side is given texts and gives texts.

python benchmarks/run.py --parts generation
"""

from __future__ import annotations

import argparse
import json
import random
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pretraining import Amount
from rounds import WorkerError
from sides import SIDES, compare, serve_side
from worker import only_answers
from workloads import load_tokenizer, sentences

SEED = 20
LONGEST = 60
NEW_TOKENS = 32
INIT_STD = 0.05


@dataclass(frozen=True)
class Shape:
    """Of the encoder and of the decoder."""

    depth: int
    width: int
    heads: int


SHAPES = {"mini": Shape(4, 256, 4), "small": Shape(6, 384, 12)}


@dataclass(frozen=True)
class Workload:
    """What is written. A step is `batch` sources."""

    shape: str
    batch: int
    beams: int
    quick: Amount
    full: Amount

    @property
    def title(self) -> str:
        """For people."""
        shape, how = SHAPES[self.shape], "greedy" if self.beams == 1 else f"{self.beams} beams"
        return f"{shape.depth} × {shape.width}, {how}, {self.batch} at once"


WORKLOADS = {
    f"{shape}-{batch}-{beams}": Workload(
        shape, batch, beams, Amount(3, 4 if batch == 1 else 1), Amount(5, 12 if batch == 1 else 2)
    )
    for shape in SHAPES
    for batch in (1, 32)
    for beams in (1, 4)
}


# What both sides load


def write_sources(model: Path, folder: Path) -> None:
    """The sentences, in an order of their own, and a random model of each shape."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(model, 512)
    texts = [one for one in dict.fromkeys(sentences()) if 3 <= len(tokenizer.encode(one).ids) <= LONGEST]
    random.Random(SEED).shuffle(texts)
    (folder / "sources.json").write_text(json.dumps(texts))
    for name, shape in SHAPES.items():
        write_model(model, folder / name, shape)


def write_model(model: Path, folder: Path, shape: Shape) -> None:
    """An encoder–decoder of BERT's with random weights and the model's tokenizer."""
    import torch

    from bothways import Encoder, EncoderDecoder
    from bothways.checkpoint.marks import Marks
    from bothways.families import FAMILIES
    from bothways.families.pair import paired
    from bothways.nn.config import EncoderConfig
    from bothways.nn.encoder import EncoderNetwork
    from bothways.nn.layers import initialise

    tokenizer = Encoder.from_pretrained(model).tokenizer
    assert tokenizer is not None
    marks = [tokenizer.id_of(role) for role in ("cls", "sep", "pad")]
    family, generator = paired(FAMILIES["bert"], FAMILIES["bert"]), torch.Generator().manual_seed(SEED)
    reads = replace(
        FAMILIES["bert"].template,
        **{"vocab": tokenizer.vocab_size, "ffn": 4 * shape.width},
        **asdict(shape),
    )
    assert isinstance(reads, EncoderConfig)
    sides = [
        EncoderNetwork(config, pooler=False) for config in (reads, replace(reads, causal=True, memory=shape.width))
    ]
    for side in sides:
        initialise(side, INIT_STD, generator)
    head = family.decoder.heads[family.head].made(sides[1], {}, ())
    words = sides[1].embeddings.words.weight
    initialise(head.transform, INIT_STD, generator)  # type: ignore[arg-type]
    initialise(head.norm, INIT_STD, generator)  # type: ignore[arg-type]
    assert head.decoder.weight is words  # type: ignore[union-attr]
    start, end, pad = (int(mark) for mark in marks if mark is not None)
    whole = EncoderDecoder(*sides, head, family, Marks(start, (end,), pad), None, tokenizer, tokenizer)
    whole.save_pretrained(folder)


# The sides


class Writing:
    """Texts written a step at a time, by either side."""

    def __init__(self, workload: Workload, texts: list[str], write: Callable[[list[str]], list[str]]) -> None:
        self.workload, self.texts, self.write, self.place = workload, texts, write, 0

    def step(self) -> tuple[int, float]:
        """The next sources: tokens that were written."""
        some = [self.texts[(self.place + i) % len(self.texts)] for i in range(self.workload.batch)]
        self.place += len(some)
        assert len(self.write(some)) == len(some)
        return NEW_TOKENS * len(some), 0.0


def our_side(workload: Workload, folder: Path) -> Writing:
    from bothways import pipeline

    ask = pipeline("translation", folder / workload.shape, precision="fp32", device="cpu")

    def write(texts: list[str]) -> list[str]:
        found = ask(texts, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, num_beams=workload.beams)
        return [one[0]["translation_text"] for one in found]

    return Writing(workload, json.loads((folder / "sources.json").read_text()), write)


def their_side(workload: Workload, folder: Path) -> Writing:
    import torch
    import transformers

    model = transformers.EncoderDecoderModel.from_pretrained(folder / workload.shape).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / workload.shape)
    lengths = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}

    @torch.inference_mode()
    def write(texts: list[str]) -> list[str]:
        inputs = tokenizer(texts, padding=True, return_tensors="pt")
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        found = model.generate(ids, attention_mask=mask, num_beams=workload.beams, **lengths)
        return list(tokenizer.batch_decode(found, skip_special_tokens=True))

    return Writing(workload, json.loads((folder / "sources.json").read_text()), write)


# The rounds


def measure(
    model: Path, scratch: Path, threads: int, quick: bool, rounds: int | None, sizes: object = None
) -> dict[str, Any]:
    """The result of `compare` by each workload's name; one that fails has the reason instead.

    model: the folder whose tokenizer is used.    rounds: as many for each, if given.
    """
    folder = scratch / "generation"
    write_sources(model, folder)
    found: dict[str, Any] = {}
    for name, workload in WORKLOADS.items():
        amount = workload.quick if quick else workload.full
        try:
            amount = replace(amount, rounds=rounds or amount.rounds)
            arguments = ("--folder", str(folder))
            found[name] = compare(__file__, "generation", name, arguments, folder, 1, amount, threads)
        except WorkerError as failure:
            found[name] = str(failure)
    return found


def main() -> None:
    """One side with one workload, serving until stdin ends."""
    answers = only_answers()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("--folder", type=Path, required=True, help="the folder that `write_sources` filled")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    make = {"ours": our_side, "peers": their_side}[arguments.side]
    side: Any = make(WORKLOADS[arguments.workload], arguments.folder)
    serve_side(side, answers)


if __name__ == "__main__":
    main()
