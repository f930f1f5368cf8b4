"""Pretraining beside a loop of transformers: the same ids and settings; a process for each side and text, this file.

paragraphs  a paragraph of the Python language reference is a sequence, cut at 128 tokens; transformers pads it to 128
rows        the same text joined and cut into rows of 128

python benchmarks/run.py --parts pretraining
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from rounds import Process, WorkerError, interpreter, note
from worker import installed_version, only_answers, peak_megabytes, seconds, serve
from workloads import load_tokenizer, paragraphs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bothways.data.packing import Packing
    from bothways.objectives.objective import Model, Objective

SEED = 20
VOCAB = 30522
LONGEST = 128
STEP_TOKENS = 4096
BATCH_TOKENS = 2048  # of ours: two batches a step, one for each of two cores
ROWS_AT_A_TIME = (8, 16, 32)  # of transformers: the fastest is taken; rising, so that peaks can be told apart
LEARNING_RATE, CLIP, MASKED = 1e-4, 1.0, 0.15
PIPELINE_SECONDS = 2.0
PACKAGES = ("bothways", "torch", "transformers")


@dataclass(frozen=True)
class Amount:
    """How many rounds, and how many steps a round has."""

    rounds: int
    steps: int


@dataclass(frozen=True)
class Size:
    """A size of BERT; how many steps do not count, and how many do."""

    width: int
    depth: int
    heads: int
    ffn: int
    warm_up: int
    quick: Amount
    full: Amount


SIZES = {
    "mini": Size(256, 4, 4, 1024, warm_up=2, quick=Amount(3, 4), full=Amount(5, 12)),
    "base": Size(768, 12, 12, 3072, warm_up=1, quick=Amount(2, 1), full=Amount(5, 2)),
}


@dataclass(frozen=True)
class System:
    """One side with one of the texts."""

    name: str
    environment: str
    text: str


OURS = System("bothways, paragraphs", "ours", "paragraphs")
OUR_ROWS = System("bothways, full rows", "ours", "rows")
PADDED = System("transformers, padded paragraphs", "peers", "paragraphs")
FULL_ROWS = System("transformers, full rows", "peers", "rows")
SYSTEMS = (OURS, OUR_ROWS, PADDED, FULL_ROWS)
COMPARISONS = ((OURS, PADDED), (OURS, FULL_ROWS), (OUR_ROWS, FULL_ROWS))

Row = dict[str, Any]
"""A sequence as a tokenizer of transformers gives it: lists of its length, and numbers."""


def write_texts(model: Path, folder: Path) -> None:
    """Both texts in `folder`, each as a corpus for us and as a file of ids for transformers."""
    whole = list(dict.fromkeys(paragraphs()))
    found = load_tokenizer(model, LONGEST - 2).encode_batch(whole, add_special_tokens=False)
    cut = [text[: one.offsets[-1][1]] for text, one in zip(whole, found, strict=True) if one.ids]
    write_text(model, folder / "paragraphs", cut)
    write_text(model, folder / "rows", [" ".join(cut)])


def write_text(model: Path, folder: Path, documents: list[str]) -> None:
    """The corpus of some documents, and the ids of the very sequences that it is cut into."""
    from bothways.data.build import Settings, build
    from bothways.data.readers import Source

    lines = folder.with_suffix(".txt")
    lines.parent.mkdir(parents=True, exist_ok=True)
    lines.write_text("\n".join(documents) + "\n")
    build(Source((str(lines),), lines=True), model, folder, Settings(sentences="none", held_out=0.0))
    folder.with_suffix(".json").write_text(json.dumps(list(sequences(packing(model, folder, shuffle=False)))))


def packing(model: Path, folder: Path, *, shuffle: bool = True) -> Packing:
    """The batches of a corpus."""
    from bothways.data.corpus import Corpus
    from bothways.data.packing import Packing

    before, after = (load_tokenizer(model, LONGEST).token_to_id(token) for token in ("[CLS]", "[SEP]"))
    shards = Corpus.open(folder).splits["train"].shards
    return Packing(shards, longest=LONGEST, budget=BATCH_TOKENS, before=before, after=after, seed=SEED, shuffle=shuffle)


def sequences(batches: Packing) -> Iterator[list[int]]:
    """The ids of every sequence of an epoch, special ones included."""
    for number in range(batches.batches(0)):
        packed = batches(0, number)
        for ids in np.split(packed.ids, np.cumsum(packed.lengths)[:-1]):
            yield ids.tolist()


class Ours:
    """Our optimizer and batches, as a run of `bothways pretrain` has them."""

    def __init__(self, model: Model, objective: Objective, batches: Packing) -> None:
        import torch

        from bothways.engine.streams import Streams
        from bothways.train.feed import feed
        from bothways.train.optim import OPTIMIZERS, AdamSettings, parameter_groups
        from bothways.train.progress import Cursor

        for network in model.networks:
            network.dtype = torch.bfloat16
        self.model, self.objective, self.packing = model.train(), objective, batches
        settings = AdamSettings(LEARNING_RATE)
        self.optimizer = OPTIMIZERS["adamw"](parameter_groups(model, settings.weight_decay), settings)
        self.streams = Streams(torch.device("cpu"))
        self.batches = (batch for batch, _ in feed(batches, objective, SEED, Cursor(), workers=0))
        self.requests: dict[str, Callable[..., dict[str, Any]]] = {
            "flops": self.flops,
            "rate": self.rate,
            "pipeline": self.pipeline,
        }
        self.steps = 0

    def step(self) -> tuple[int, float]:
        """One step: its real tokens, and its loss."""
        from bothways.train.step import train_step

        some = list(islice(self.batches, STEP_TOKENS // BATCH_TOKENS))
        self.steps += len(some)  # each batch has a seed of its own
        result = train_step(self.model, self.objective, some, self.optimizer, self.streams, seed=self.steps, clip=CLIP)
        return result.tokens, result.loss

    def flops(self) -> dict[str, Any]:
        """Operations of matrix products that a real token takes, forward and back, as `bothways plan` counts them."""
        from bothways.train.plan import flops_of_step_token

        length = self.packing.tokens / self.packing.sequences
        return {"flops": flops_of_step_token(self.model, self.packing, self.objective), "length": length}

    def rate(self) -> dict[str, Any]:
        """Operations a second of large bf16 products."""
        import torch

        from bothways.train.plan import matmul_rate

        return {"rate": matmul_rate(torch.bfloat16, torch.device("cpu"))}

    def pipeline(self) -> dict[str, Any]:
        """Tokens a second from shards to masked batches, in this thread alone."""
        start, tokens = perf_counter(), 0
        while (passed := perf_counter() - start) < PIPELINE_SECONDS:
            tokens += next(self.batches).tokens.layout.total
        return {"tokens_per_second": tokens / passed}


def our_bert(model: Path, text: Path, size: Size) -> Ours:
    """BERT, which learns masked words."""
    import torch

    from bothways.families.bert import BERT
    from bothways.nn.encoder import EncoderNetwork
    from bothways.nn.layers import initialise
    from bothways.objectives.masking import Masking
    from bothways.objectives.mlm import MaskedLanguageModelling
    from bothways.objectives.objective import Model
    from bothways.objectives.reading import Together

    shape = {"width": size.width, "depth": size.depth, "heads": size.heads, "ffn": size.ffn}
    network = EncoderNetwork(replace(BERT.template, vocab=VOCAB, **shape), pooler=False)
    learner = Model(network, {"mlm": BERT.heads["mlm"].build(network, {}, ())})
    with torch.no_grad():
        initialise(learner, network.config.init_std, torch.Generator().manual_seed(SEED))
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    ids = [load_tokenizer(model, LONGEST).token_to_id(token) for token in special]
    objective = Together((MaskedLanguageModelling(VOCAB, ids[-1], frozenset(ids), Masking(MASKED)),))
    return Ours(learner, objective, packing(model, text))


class Theirs:
    """A plain loop of transformers: bf16 autocast, fused AdamW, some rows at a time.

    loss: the mean of some rows, by the networks in `trained`.
    """

    def __init__(self, trained: nn.Module, loss: Callable[[list[Row]], Tensor], rows: list[Row]) -> None:
        import torch

        self.model, self.loss = trained.train(), loss
        self.optimizer = torch.optim.AdamW(trained.parameters(), lr=LEARNING_RATE, fused=True)
        self.batches = steps(rows)
        self.rows_at_a_time = max(ROWS_AT_A_TIME)
        self.requests: dict[str, Callable[..., dict[str, Any]]] = {"tune": self.tune, "settle": self.settle}

    def tune(self) -> dict[str, Any]:
        """How many rows at a time are the fastest; of each number, seconds for as many rows and peak memory."""
        some = [row for _ in range(2) for row in next(self.batches)][: max(ROWS_AT_A_TIME)]
        self.gradients(some[: min(ROWS_AT_A_TIME)], min(ROWS_AT_A_TIME))
        self.update()
        tried = {}
        for count in ROWS_AT_A_TIME:
            taken = seconds(partial(self.gradients, some, count))
            tried[count] = {"seconds": taken, "megabytes": peak_megabytes()}
        return {"rows": min(tried, key=lambda count: tried[count]["seconds"]), "tried": tried}

    def settle(self, rows: int) -> dict[str, Any]:
        """Takes so many rows at a time from now on."""
        self.rows_at_a_time = rows
        return {}

    def step(self) -> tuple[int, float]:
        """One step: its real tokens, and its loss."""
        rows = next(self.batches)
        loss = self.gradients(rows, self.rows_at_a_time)
        self.update()
        return real_tokens(rows), loss

    def update(self) -> None:
        """New weights from the gradients."""
        import torch

        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def gradients(self, rows: list[Row], at_a_time: int) -> float:
        """Gradients of the mean loss over some rows, and that loss."""
        import torch

        total = 0.0
        for start in range(0, len(rows), at_a_time):
            some = rows[start : start + at_a_time]
            with torch.autocast("cpu", torch.bfloat16):
                loss = self.loss(some) * (len(some) / len(rows))
            loss.backward()
            total += loss.item()
        return total


def bert_config(size: Size) -> Any:
    """What transformers calls a BERT of that size."""
    from transformers import BertConfig

    return BertConfig(
        vocab_size=VOCAB,
        hidden_size=size.width,
        num_hidden_layers=size.depth,
        num_attention_heads=size.heads,
        intermediate_size=size.ffn,
    )


def their_bert(model: Path, text: Path, size: Size) -> Theirs:
    """BertForMaskedLM, and the collator's masks."""
    from transformers import BertForMaskedLM

    learner = BertForMaskedLM(bert_config(size))
    padding = load_tokenizer(model, LONGEST).token_to_id("[PAD]")
    rows = [padded(ids, padding) for ids in json.loads(text.with_suffix(".json").read_text())]
    return Theirs(learner, masked_loss(learner, model), rows)


def masked_loss(learner: nn.Module, model: Path) -> Callable[[list[Row]], Tensor]:
    """The loss that a model of transformers gives of rows, once the collator has masked them."""
    collate = collator(model)
    return lambda some: learner(**collate(some)).loss


def collator(model: Path) -> Callable[[list[Row]], Any]:
    """transformers' own: it pads rows to the longest and masks them."""
    from transformers import AutoTokenizer, DataCollatorForLanguageModeling

    return DataCollatorForLanguageModeling(AutoTokenizer.from_pretrained(model), mlm_probability=MASKED)


def padded(ids: list[int], padding: int) -> Row:
    """A row of 128 as a tokenizer of transformers gives it."""
    missing = LONGEST - len(ids)
    return {
        "input_ids": ids + [padding] * missing,
        "attention_mask": [1] * len(ids) + [0] * missing,
        "special_tokens_mask": [1, *[0] * (len(ids) - 2), 1] + [1] * missing,
    }


def real_tokens(rows: list[Row]) -> int:
    """Tokens of some rows, padding not counted."""
    return sum(sum(row["attention_mask"]) for row in rows)


def steps(rows: list[Row]) -> Iterator[list[Row]]:
    """Without end, the rows of each step in a shuffled order: as many as hold 4,096 real tokens, or just more."""
    chance, taken, tokens = random.Random(SEED), list[Row](), 0
    while True:
        for row in chance.sample(rows, len(rows)):
            taken.append(row)
            tokens += real_tokens([row])
            if tokens >= STEP_TOKENS:
                yield taken
                taken, tokens = [], 0


def train(side: Ours | Theirs, steps: int) -> dict[str, Any]:
    """Some steps: tokens, seconds, the last loss. Raises ValueError where that is not finite."""
    start, tokens, loss = perf_counter(), 0, math.nan
    for _ in range(steps):
        taken, loss = side.step()
        tokens += taken
    passed = perf_counter() - start
    if not math.isfinite(loss):
        raise ValueError("the loss is not finite")
    return {"tokens": tokens, "seconds": passed, "loss": loss}


class Side(Process):
    """The process of one system. arguments: of `script`, which serves it in its environment."""

    def __init__(self, environment: str, script: str, arguments: Sequence[str], log: Path, threads: int) -> None:
        super().__init__(log, threads)
        self.environment, self.script, self.arguments = environment, script, arguments
        self.speeds: list[float] = []
        self.losses: list[float] = []
        self.disturbance: list[float] = []
        self.megabytes = math.nan
        self.failure = ""

    def command(self, *more: str) -> list[str]:
        return [interpreter(self.environment), self.script, *self.arguments, *more]

    def run(self, steps: int) -> None:
        """The steps of a round."""
        answer, others = self.ask_in_turn("train", steps=steps)
        self.speeds.append(answer["tokens"] / answer["seconds"])
        self.losses.append(answer["loss"])
        self.disturbance.append(others)
        self.megabytes = self.ask("memory")["megabytes"]


def tuned(side: Side) -> dict[str, Any]:
    """How many rows at a time are best for transformers: asked in a process of its own, whose memory is not counted."""
    try:
        side.start()
        return side.ask("tune")
    finally:
        side.stop()


def side_of(system: System, size: str, model: Path, texts: Path, threads: int) -> Side:
    """The process of a system with one size."""
    arguments = (size, system.environment, "--model", str(model), "--text", str(texts / system.text))
    log = texts / f"{size}-{system.environment}-{system.text}.log"
    return Side(system.environment, __file__, arguments, log, threads)


def compare(model: Path, texts: Path, size: str, amount: Amount, threads: int) -> dict[str, Any]:
    """One size: every system's tokens a second in each round, and what they are to be compared with."""
    note(f"pretraining, {size}: tuning transformers")
    setting = tuned(side_of(FULL_ROWS, size, model, texts, threads))
    sides = {system: side_of(system, size, model, texts, threads) for system in SYSTEMS}
    try:
        for system, side in sides.items():
            note(f"pretraining, {size}: warming up {system.name}")
            side.start()
            if system.environment == "peers":
                side.ask("settle", rows=setting["rows"])
            side.ask("train", steps=SIZES[size].warm_up)
        rates, pipeline = [], []
        for number in range(amount.rounds):
            note(f"pretraining, {size}: round {number + 1} of {amount.rounds}")
            for side in list(sides.values())[:: -1 if number % 2 else 1]:
                side.run(amount.steps)
            rates.append(sides[OURS].ask_in_turn("rate")[0]["rate"])
            pipeline.append(sides[OURS].ask_in_turn("pipeline")[0]["tokens_per_second"])
        flops = {system.text: sides[system].ask("flops") for system in (OURS, OUR_ROWS)}
        versions = {**sides[FULL_ROWS].ask("versions"), **sides[OURS].ask("versions")}
    finally:
        for side in sides.values():
            side.stop()
    told = measured({system.name: side for system, side in sides.items()}, amount)
    return {**told, "setting": setting, "flops": flops, "rates": rates, "pipeline": pipeline, "versions": versions}


def measured(sides: Mapping[str, Side], amount: Amount) -> dict[str, Any]:
    """What rounds came to: of each side, by name, its tokens a second, losses and peak memory."""
    runs = [one for side in sides.values() for one in side.disturbance]
    return {
        "amount": asdict(amount),
        "speeds": {name: side.speeds for name, side in sides.items()},
        "losses": {name: side.losses for name, side in sides.items()},
        "megabytes": {name: side.megabytes for name, side in sides.items()},
        "disturbance": sum(runs) / len(runs),
    }


def measure(
    model: Path, scratch: Path, threads: int, quick: bool, rounds: int | None, sizes: Sequence[str]
) -> dict[str, Any]:
    """The result of `compare` by each size's name; a size that fails has the reason instead.

    model: the folder whose tokenizer makes the ids.    rounds: as many for every size, if given.
    """
    texts = scratch / "pretraining"
    write_texts(model, texts)
    found: dict[str, Any] = {}
    for name in sizes:
        amount = SIZES[name].quick if quick else SIZES[name].full
        try:
            amount = replace(amount, rounds=rounds or amount.rounds)
            found[name] = compare(model, texts, name, amount, threads)
        except WorkerError as failure:
            found[name] = str(failure)
    return found


def ratio(result: dict[str, Any], ours: str, theirs: str) -> float:
    """How many times as fast the one is as the other: the median over the rounds."""
    pairs = zip(result["speeds"][ours], result["speeds"][theirs], strict=True)
    return median(one / other for one, other in pairs)


def memory_ratio(result: dict[str, Any], ours: str, theirs: str) -> float:
    """Peak memory of the one as a part of the other's."""
    return float(result["megabytes"][ours] / result["megabytes"][theirs])


def share(result: dict[str, Any], system: System) -> float:
    """The part of the measured rate of matrix products that real tokens take: the median over the rounds."""
    flops = result["flops"][system.text]["flops"]
    return median(flops * one / rate for one, rate in zip(result["speeds"][system.name], result["rates"], strict=True))


def seed_torch() -> None:
    """Fresh weights and masks are the same in each run."""
    import torch

    torch.manual_seed(SEED)


def requests_of(side: Ours | Theirs) -> dict[str, Callable[..., dict[str, Any]]]:
    """What a side's process answers."""
    every: dict[str, Callable[..., dict[str, Any]]] = {
        "train": lambda steps: train(side, steps),
        "memory": lambda: {"megabytes": peak_megabytes()},
        "versions": lambda: {name: found for name in PACKAGES if (found := installed_version(name))},
    }
    return every | side.requests


def main() -> None:
    """One side with one text, serving until stdin ends."""
    answers = only_answers()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("side", choices=("ours", "peers"))
    parser.add_argument("--model", type=Path, required=True, help="the folder whose tokenizer made the text's ids")
    parser.add_argument("--text", type=Path, required=True, help="the corpus; the same as ids is beside it")
    arguments = parser.parse_args()
    seed_torch()
    make: Callable[..., Ours | Theirs] = {"ours": our_bert, "peers": their_bert}[arguments.side]
    serve(requests_of(make(arguments.model, arguments.text, SIZES[arguments.size])), answers)


if __name__ == "__main__":
    main()
