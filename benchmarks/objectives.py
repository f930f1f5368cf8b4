"""What objectives cost: each as a run of `bothways pretrain` has it, beside a loop of transformers.

The texts are the pages of the Python language reference, in sequences of at most 128 tokens. Each objective's rounds
have our masked language modelling in them, too: what an objective costs is its time for a token by that one's.

python benchmarks/run.py --parts objectives --sizes mini
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from pretraining import (
    BATCH_TOKENS,
    LEARNING_RATE,
    LONGEST,
    MASKED,
    SEED,
    SIZES,
    STEP_TOKENS,
    VOCAB,
    Amount,
    Ours,
    Row,
    Side,
    Theirs,
    bert_config,
    collator,
    masked_loss,
    requests_of,
    seed_torch,
    tuned,
)
from rounds import WorkerError, note
from worker import only_answers, seconds, serve
from workloads import pages, split_sentences

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bothways.data.packing import Packing
    from bothways.train.material import Material
    from bothways.train.settings import PretrainSettings

HELD_OUT = 0.1  # of the pages: a run wants some
RTD_WEIGHT = 50.0
# ELECTRA's word vectors, and its generator's part of the width, heads and feed-forward part: as our presets have them.
ELECTRA = {"mini": (128, 4), "base": (768, 3)}
NO_LABEL = -100

Peer = Callable[[Path, str], tuple["nn.Module", Callable[[list[Row]], "Tensor"]]]
"""(the tokenizer's folder, a size) → the networks, and their mean loss of some rows."""


def masked(model: Path, size: str) -> tuple[nn.Module, Callable[[list[Row]], Tensor]]:
    from transformers import BertForMaskedLM

    learner = BertForMaskedLM(bert_config(SIZES[size]))
    return learner, masked_loss(learner, model)


def paired(model: Path, size: str) -> tuple[nn.Module, Callable[[list[Row]], Tensor]]:
    from transformers import BertForPreTraining

    learner = BertForPreTraining(bert_config(SIZES[size]))
    return learner, masked_loss(learner, model)


def causal(model: Path, size: str) -> tuple[nn.Module, Callable[[list[Row]], Tensor]]:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = SIZES[size]
    sizes = {"n_embd": shape.width, "n_layer": shape.depth, "n_head": shape.heads, "n_inner": shape.ffn}
    config = GPT2Config(vocab_size=VOCAB, bos_token_id=None, eos_token_id=None, **sizes)
    learner = GPT2LMHeadModel(config)

    def loss(rows: list[Row]) -> Tensor:
        ids = torch.tensor([row["input_ids"] for row in rows])
        found: Tensor = learner(input_ids=ids, labels=ids).loss
        return found

    return learner, loss


def electra_config(size: str, part: int) -> Any:
    """What transformers calls an ELECTRA of that size, or of a part of its width."""
    from transformers import ElectraConfig

    shape = SIZES[size]
    return ElectraConfig(
        vocab_size=VOCAB,
        embedding_size=ELECTRA[size][0],
        hidden_size=shape.width // part,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads // part,
        intermediate_size=shape.ffn // part,
    )


def replaced(model: Path, size: str) -> tuple[nn.Module, Callable[[list[Row]], Tensor]]:
    """A generator fills masked tokens in, and a discriminator judges; both have the same embeddings."""
    import torch
    from transformers import ElectraForMaskedLM, ElectraForPreTraining

    generator = ElectraForMaskedLM(electra_config(size, ELECTRA[size][1]))
    discriminator = ElectraForPreTraining(electra_config(size, 1))
    generator.electra.embeddings = discriminator.electra.embeddings
    generator.tie_weights()
    assert generator.generator_lm_head.weight is discriminator.electra.embeddings.word_embeddings.weight
    collate = collator(model)

    def loss(rows: list[Row]) -> Tensor:
        batch = collate(rows)
        proposed, hidden = generator(**batch), batch["labels"] != NO_LABEL
        with torch.no_grad():
            words = torch.multinomial(proposed.logits[hidden].float().softmax(-1), 1)[:, 0]
        ids = batch["input_ids"].masked_scatter(hidden, words)
        wrong = hidden & (ids != batch["labels"])
        judged = discriminator(input_ids=ids, attention_mask=batch["attention_mask"], labels=wrong.long())
        found: Tensor = proposed.loss + RTD_WEIGHT * judged.loss
        return found

    return torch.nn.ModuleList([generator, discriminator]), loss


@dataclass(frozen=True)
class Task:
    """An objective. presets: of ours, by size.    peer: of transformers, and its name.    rows: what that reads."""

    name: str
    presets: dict[str, str]
    peer: Peer
    title: str
    rows: str


BERT = {"mini": "bert-mini", "base": "bert-base"}
TASKS = {
    task.name: task
    for task in (
        Task("mlm", BERT, masked, "BertForMaskedLM, full rows", "rows"),
        Task("mlm,nsp", BERT, paired, "BertForPreTraining, padded pairs", "mlm,nsp"),
        Task("mlm,sop", BERT, paired, "BertForPreTraining, padded pairs", "mlm,sop"),
        Task(
            "rtd",
            {"mini": "electra-mini", "base": "electra-base"},
            replaced,
            "ElectraForMaskedLM and ElectraForPreTraining, full rows",
            "rows",
        ),
        Task("causal", {"mini": "gpt2-mini", "base": "gpt2"}, causal, "GPT2LMHeadModel, full rows", "rows"),
    )
}
REFERENCE = "mlm"


def settings_of(corpus: Path, name: str, preset: str) -> PretrainSettings:
    """Those of a run that learns an objective."""
    from bothways.train.optim import AdamSettings
    from bothways.train.settings import (
        CorpusSettings,
        ModelSettings,
        ObjectiveSettings,
        PretrainSettings,
        RunSettings,
        StepSettings,
    )

    return PretrainSettings(
        model=ModelSettings(preset=preset),
        corpus=CorpusSettings(corpus, longest=LONGEST),
        adam=AdamSettings(LEARNING_RATE),
        step=StepSettings(step_tokens=STEP_TOKENS, batch_tokens=BATCH_TOKENS),
        run=RunSettings(seed=SEED),
        objective=ObjectiveSettings((name,)),
    )


def material(corpus: Path, name: str) -> Material:
    """What such a run is taught with."""
    from bothways.train.material import material_of

    return material_of(settings_of(corpus, name, TASKS[name].presets["mini"]))


def write_texts(model: Path, folder: Path) -> None:
    """The corpus in `folder`, and beside it what transformers reads of the very same text."""
    from bothways.data.build import Settings, build
    from bothways.data.readers import Source

    folder.parent.mkdir(parents=True, exist_ok=True)
    lines = folder.with_suffix(".jsonl")
    documents = ("\n".join(split_sentences(page)) for page in pages())
    lines.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))
    build(Source((str(lines),)), model, folder, Settings(sentences="line", held_out=HELD_OUT))
    write_rows(folder, "rows", full_rows(material(folder, REFERENCE).train))
    for name in dict.fromkeys(task.rows for task in TASKS.values() if task.rows in TASKS):
        write_rows(folder, name, pair_rows(material(folder, name).train))


def rows_file(corpus: Path, rows: str) -> Path:
    """Where rows for transformers are."""
    return corpus.with_name(f"{corpus.name}-{rows}.json")


def write_rows(corpus: Path, name: str, rows: Iterator[Row]) -> None:
    rows_file(corpus, name).write_text(json.dumps(list(rows)))


def full_rows(batches: Packing) -> Iterator[Row]:
    """An epoch's text joined and cut into rows of 128, but for a last one that is not full."""
    packed = [batches(0, number) for number in range(batches.batches(0))]
    before, after = int(packed[0].ids[0]), int(packed[0].ids[-1])
    text, room = np.concatenate([one.ids[~one.special] for one in packed]), LONGEST - 2
    for start in range(0, len(text) - room + 1, room):
        yield row([before, *text[start : start + room].tolist(), after], special={0, LONGEST - 1})


def pair_rows(batches: Packing) -> Iterator[Row]:
    """An epoch's pairs, and the single segments among them, which have no label; nothing is padded yet."""
    for number in range(batches.batches(0)):
        packed = batches(0, number)
        assert packed.types is not None
        assert packed.pairs is not None
        ends = np.cumsum(packed.lengths)[:-1]
        parts = (np.split(one, ends) for one in (packed.ids, packed.types, packed.special))
        for ids, types, special, label in zip(*parts, packed.pairs.tolist(), strict=True):
            one = row(ids.tolist(), special=set(np.flatnonzero(special).tolist()))
            yield {**one, "token_type_ids": types.tolist(), "next_sentence_label": NO_LABEL if label < 0 else label}


def row(ids: list[int], special: set[int]) -> Row:
    """A row as a tokenizer of transformers gives it, not padded. special: places of special tokens."""
    flags = [int(place in special) for place in range(len(ids))]
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "special_tokens_mask": flags}


def our_side(corpus: Path, name: str, size: str) -> Ours:
    """An objective as a run has it, at its first step."""
    from bothways.train.generator import starting_networks
    from bothways.train.material import material_of

    settings = settings_of(corpus, name, TASKS[name].presets[size])
    found = material_of(settings)
    side = Ours(starting_networks(settings, found.tokenizer).model(), found.objective, found.train)
    side.requests["head"] = lambda: {"seconds": head_seconds(side)}
    return side


def head_seconds(side: Ours) -> float:
    """Seconds a token that a causal head takes, forward and back, on the rows that masking would have left out."""
    import torch

    from bothways.data.batch import Batch
    from bothways.nn.heads import LanguageModelHead
    from bothways.nn.layers import copied

    head, width = side.model.heads["causal"], side.model.network.config.width
    assert isinstance(head, LanguageModelHead)

    def once(batch: Batch) -> None:
        answers = batch.labels["causal"].values
        answers = answers[round(MASKED * batch.tokens.layout.total) :]
        rows = torch.randn(len(answers), width).bfloat16().requires_grad_()
        torch.autograd.grad(head.loss(rows, answers)[0], [rows, head.decoder.weight])

    some = list(islice(side.batches, STEP_TOKENS // BATCH_TOKENS))
    with copied(side.model, torch.bfloat16):
        list(side.streams.map(once, some))
        taken = seconds(lambda: list(side.streams.map(once, some)))
    return taken / sum(batch.tokens.layout.total for batch in some)


def their_side(model: Path, corpus: Path, name: str, size: str) -> Theirs:
    """What of transformers learns the same."""
    rows: list[Row] = json.loads(rows_file(corpus, TASKS[name].rows).read_text())
    return Theirs(*TASKS[name].peer(model, size), rows)


@dataclass(frozen=True)
class Run:
    """What all processes of a run share. quick: rows at a time are tuned once, for masked language modelling."""

    model: Path
    corpus: Path
    size: str
    amount: Amount
    threads: int
    quick: bool

    def side(self, name: str, environment: str) -> Side:
        """The process of an objective."""
        arguments = (self.size, environment, name, "--model", str(self.model), "--text", str(self.corpus))
        log = self.corpus.with_name(f"{self.size}-{environment}-{name}.log")
        return Side(environment, __file__, arguments, log, self.threads)

    @property
    def warm_up(self) -> int:
        return SIZES[self.size].warm_up


def attempt(side: Side, step: Callable[..., Any], *arguments: Any) -> Any:
    """What a step of a side gives; None, with the reason kept, where it fails now or has failed before."""
    if side.failure:
        return None
    try:
        return step(side, *arguments)
    except WorkerError as failure:
        side.failure = str(failure)
        note(f"failed: {failure}")
        side.stop()
        return None


def warm(side: Side, steps: int, rows: int | None = None) -> None:
    """Starts a side; some steps that do not count. rows: that transformers takes at a time."""
    side.start()
    if rows is not None:
        side.ask("settle", rows=rows)
    side.ask("train", steps=steps)


def compare(run: Run) -> dict[str, Any]:
    """One size: each objective's rounds, in which ours, transformers' and our masked language modelling take turns."""
    reference = run.side(REFERENCE, "ours")
    try:
        note(f"objectives, {run.size}: warming up {REFERENCE}")
        attempt(reference, warm, run.warm_up)
        found: dict[str, Any] = {}
        for name in TASKS:
            known = found[REFERENCE]["setting"] if run.quick and found else None
            found[name] = compare_one(run, name, reference, known)
    finally:
        reference.stop()
    runs = [cores for one in found.values() for cores in one["disturbance"]]
    versions = {name: version for one in found.values() for name, version in one["versions"].items()}
    disturbance = sum(runs) / len(runs) if runs else 0.0
    return {"amount": asdict(run.amount), "objectives": found, "disturbance": disturbance, "versions": versions}


def compare_one(run: Run, name: str, reference: Side, setting: dict[str, Any] | None) -> dict[str, Any]:
    """An objective's rounds. setting: what `tuned` has found, if it is not to be asked again."""
    ours = reference if name == REFERENCE else run.side(name, "ours")
    theirs = run.side(name, "peers")
    note(f"objectives, {run.size}: tuning and warming up {name}")
    setting = setting or attempt(theirs, tuned)
    sides = list(dict.fromkeys((reference, ours, theirs)))
    before = {side: len(side.speeds) for side in sides}
    try:
        if ours is not reference:
            attempt(ours, warm, run.warm_up)
        attempt(theirs, warm, run.warm_up, setting and setting["rows"])
        heads = list(rounds(run, name, sides, ours))
        flops = attempt(ours, Side.ask, "flops")
        versions = [attempt(side, Side.ask, "versions") or {} for side in sides]
    finally:
        for side in sides[1:]:
            side.stop()
    told = {
        key: {"speeds": side.speeds[before[side] :], "megabytes": side.megabytes, "failure": side.failure}
        for key, side in (("reference", reference), ("ours", ours), ("theirs", theirs))
    }
    return {
        **told,
        "setting": setting,
        "heads": heads,
        "flops": flops and flops["flops"],
        "disturbance": [cores for side in sides for cores in side.disturbance[before[side] :]],
        "versions": {package: version for one in versions for package, version in one.items()},
    }


def rounds(run: Run, name: str, sides: list[Side], ours: Side) -> Iterator[float]:
    """Every side's steps in turn, every other round in the reverse order; of causal the head's seconds a token."""
    for number in range(run.amount.rounds):
        note(f"objectives, {run.size}: {name}, round {number + 1} of {run.amount.rounds}")
        for side in sides[:: -1 if number % 2 else 1]:
            attempt(side, Side.run, run.amount.steps)
        if name == "causal":
            found = attempt(ours, Side.ask_in_turn, "head")
            yield from () if found is None else (found[0]["seconds"],)


def measure(
    model: Path, scratch: Path, threads: int, quick: bool, rounds: int | None, sizes: Sequence[str]
) -> dict[str, Any]:
    """The result of `compare` by each size's name. rounds: as many for every size, if given."""
    corpus = scratch / "objectives" / "pages"
    write_texts(model, corpus)
    found: dict[str, Any] = {}
    for name in sizes:
        amount = SIZES[name].quick if quick else SIZES[name].full
        amount = replace(amount, rounds=rounds or amount.rounds)
        found[name] = compare(Run(model, corpus, name, amount, threads, quick))
    return found


def faster(result: dict[str, Any], one: str, other: str) -> float | None:
    """How many times as fast one of an objective's sides is as another: the median over the rounds, if both ran."""
    pairs = list(zip(result[one]["speeds"], result[other]["speeds"], strict=False))
    failed = result[one]["failure"] or result[other]["failure"]
    return median(first / second for first, second in pairs) if pairs and not failed else None


def speed(result: dict[str, Any], side: str) -> float | None:
    """Tokens a second of a side; None where it failed."""
    found = result[side]
    return median(found["speeds"]) if found["speeds"] and not found["failure"] else None


def flops_over(found: dict[str, dict[str, Any]], name: str) -> float | None:
    """Operations of a step's token by those of masked language modelling, as `bothways plan` counts both."""
    one, reference = found[name]["flops"], found[REFERENCE]["flops"]
    return one / reference if one and reference else None


def cost_with_head(result: dict[str, Any]) -> float | None:
    """Causal language modelling's time a token, by that of masked and of the head on the rows which that leaves out."""
    own, reference, heads = result["ours"]["speeds"], result["reference"]["speeds"], result["heads"]
    if result["ours"]["failure"] or result["reference"]["failure"] or not heads:
        return None
    return median(1 / ours / (1 / masked + head) for ours, masked, head in zip(own, reference, heads, strict=True))


def main() -> None:
    """One side of an objective, serving until stdin ends."""
    answers = only_answers()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("side", choices=("ours", "peers"))
    parser.add_argument("objective", choices=TASKS)
    parser.add_argument("--model", type=Path, required=True, help="the folder of the tokenizer")
    parser.add_argument("--text", type=Path, required=True, help="the corpus; rows for transformers are beside it")
    told = parser.parse_args()
    seed_torch()
    ours = told.side == "ours"
    what = told.text, told.objective, told.size
    serve(requests_of(our_side(*what) if ours else their_side(told.model, *what)), answers)


if __name__ == "__main__":
    main()
