"""Fine-tuning and prediction beside transformers: the same rows and settings; a process for each side and workload,
this file.

sentences   classification of short sentences of the Python language reference, labelled by their hash
windows     answers in its paragraphs, read in windows of 384 tokens that share 128
frozen      sentences, with a frozen encoder: ours after the pass in which its hidden states are computed
writing     sentences written from those before them, by a fresh decoder on the encoder (writing.py)
prediction  texts of 3 to 512 tokens, classified; prediction-bf16: all computed in bf16

python benchmarks/run.py --parts finetuning
"""

from __future__ import annotations

import argparse
import json
import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import writing
from plain_loop import CLIP, WEIGHT_DECAY, PlainLoop, shuffled
from pretraining import Amount
from rounds import WorkerError
from sides import SIDES, compare, serve_side
from worker import only_answers
from workloads import load_tokenizer, paragraphs, sentences, wide_texts

SEED = 20
ROWS, LEARNING_RATE = 32, 5e-5
LONGEST_SENTENCE = 32  # tokens: about 13 on average, as SST-2's phrases have
WINDOW, STRIDE = 384, 128
CONTEXT_WORDS = (30, 350)
QUESTIONS, QUESTION_WORDS, ANSWER_WORDS = 600, 9, 3
LABELS = ("LABEL_0", "LABEL_1")
PREDICTED = 96


@dataclass(frozen=True)
class Workload:
    """What is done. frozen: the encoder. warm_up: steps that do not count; a step of prediction is all texts.

    precision: of prediction.
    """

    title: str
    task: str
    warm_up: int
    quick: Amount
    full: Amount
    frozen: bool = False
    precision: str | None = None


WORKLOADS = {
    "sentences": Workload("short sentences, classified", "text-classification", 12, Amount(3, 12), Amount(5, 40)),
    "windows": Workload("windows of 384, answered", "question-answering", 2, Amount(2, 2), Amount(5, 4)),
    "frozen": Workload("frozen encoder", "text-classification", 4, Amount(3, 60), Amount(5, 200), frozen=True),
    "writing": Workload(
        "sentences written from others, 64 rows", "text2text-generation", 6, Amount(3, 6), Amount(5, 20)
    ),
    "prediction": Workload(
        "prediction, 3 to 512 tokens, fp32", "text-classification", 2, Amount(3, 1), Amount(5, 2), precision="fp32"
    ),
    "prediction-bf16": Workload(
        "prediction, 3 to 512 tokens, bf16", "text-classification", 2, Amount(3, 2), Amount(5, 4), precision="bf16"
    ),
}


# The rows


def write_rows(model: Path, folder: Path) -> None:
    """What each workload reads in `folder`, and a model that has a head to predict with."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(model, WINDOW)
    short = [one for one in sentences() if len(tokenizer.encode(one).ids) <= LONGEST_SENTENCE]
    labelled = [{"text": text, "label": blake2b(text.encode()).digest()[0] % 2} for text in short]
    texts = wide_texts(load_tokenizer(model, 512), PREDICTED)
    random.Random(SEED).shuffle(texts)
    rows: dict[str, Any] = {name: texts for name, workload in WORKLOADS.items() if workload.precision is not None}
    rows |= {"sentences": labelled, "frozen": labelled, "windows": list(asked()), "writing": writing.followed(model)}
    for name, some in rows.items():
        (folder / f"{name}.json").write_text(json.dumps(some))
    write_classifier(model, folder / "classifier")
    writing.write_pair(model, folder)


def asked() -> Iterator[dict[str, Any]]:
    """Questions: some words of a context, without those behind them, which are the answer."""
    chance = random.Random(SEED)
    words = " ".join(dict.fromkeys(paragraphs())).split()
    for _ in range(QUESTIONS):
        count = round(chance.triangular(*CONTEXT_WORDS, 110))
        start = chance.randrange(len(words) - count)
        context = words[start : start + count]
        at = chance.randrange(QUESTION_WORDS, count - ANSWER_WORDS)
        before = len(" ".join(context[:at])) + 1
        yield {
            "question": " ".join(context[at - QUESTION_WORDS : at]),
            "context": " ".join(context),
            "answer": " ".join(context[at : at + ANSWER_WORDS]),
            "start": before,
        }


def write_classifier(model: Path, folder: Path) -> None:
    """The model with a fresh head, as both sides load it."""
    from bothways.data.labelled import Labels
    from bothways.tasks import TASKS
    from bothways.train.adapted import encoder_of, with_head
    from bothways.train.tuning import AdaptSettings, TuningSettings

    task: Any = TASKS["text-classification"]
    settings = TuningSettings(AdaptSettings(model=str(model)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encoder = with_head(encoder_of(settings), task, Labels("single", LABELS), {}, settings, lambda line: None)
    encoder.save_pretrained(folder)


# Ours


class Ours:
    """Steps of a run of `bothways finetune`."""

    def __init__(self, model: Path, workload: str, rows: list[dict[str, Any]], scratch: Path) -> None:
        import torch

        from bothways.engine.frozen import FrozenNetwork
        from bothways.engine.streams import Streams
        from bothways.nn.freezing import freeze
        from bothways.objectives.objective import Model
        from bothways.tasks import TASKS
        from bothways.train.adapted import encoder_of, with_head
        from bothways.train.networks import Networks
        from bothways.train.optim import OPTIMIZERS, parameter_groups
        from bothways.train.progress import Progress
        from bothways.train.rows import RowSteps
        from bothways.train.run import set_up
        from bothways.train.samples import material_of
        from bothways.train.states import States
        from bothways.train.tables import tables_of
        from bothways.train.tuning import AdaptSettings, TextSettings, TuningAdam, TuningSettings

        warnings.simplefilter("ignore")
        how = WORKLOADS[workload]
        text = TextSettings(max_length=WINDOW, stride=STRIDE) if workload == "windows" else TextSettings()
        adapt = AdaptSettings(model=str(model), layers=0 if how.frozen else None)
        settings = TuningSettings(adapt, text, adam=TuningAdam(lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY))
        task: Any = TASKS[how.task]
        examples = our_rows(workload, rows)
        labels = task.labels_of(examples)
        encoder = with_head(encoder_of(settings), task, labels, {}, settings, lambda line: None)
        material = material_of(how.task, task, labels, examples, [], encoder, settings)
        samples, self.objective, cpu = material.samples, material.objective, torch.device("cpu")
        self.lengths = [len(sample) for sample in samples]
        self.model = Networks(encoder).model()
        freeze(self.model.network, settings.adapt.layers)
        set_up(self.model, settings.update, cpu)
        self.model.network.filling = True
        self.optimizer = OPTIMIZERS["adamw"](parameter_groups(self.model, WEIGHT_DECAY, LEARNING_RATE), settings.adam)
        self.tables, rows_of = tables_of(self.model), self.lengths

        def batch_of(numbers: Any) -> Any:
            return material.objective.batch([samples[number] for number in numbers])

        if how.frozen:
            head = encoder.heads[material.objective.head]
            states = States.of(encoder.config.width, head, samples, scratch)
            sequences = [one for sample in samples for one in sample.sequences]
            states.compute(encoder.network, head, sequences, cpu, lambda line: None)
            batch_of, rows_of = partial(states.batch, material.objective, samples), states.rows(len(samples))
            self.model = Model(FrozenNetwork(encoder.config), encoder.heads)  # type: ignore[arg-type]
        self.steps = RowSteps(rows_of, batch_of, ROWS, settings.rows.batch_tokens, 1 << 30, SEED, how.frozen)
        self.batches, self.places = self.steps(Progress()), self.steps._places(Progress())
        self.model.train()
        self.streams, self.number = Streams(cpu, how.frozen), 0

    def step(self) -> tuple[int, float]:
        """One step: its real tokens, and its loss."""
        from bothways.train.step import train_step

        some = [batch for batch, _ in next(self.batches)]
        self.number += 1
        result = train_step(
            self.model,
            self.objective,
            some,
            self.optimizer,
            self.streams,
            seed=self.number << 8,
            clip=CLIP,
            tables=self.tables,
        )
        # Of a frozen encoder the batch has states only: what its texts have counts.
        rows = self.steps.rows(next(self.places)).tolist()
        return sum(self.lengths[row] for row in rows), result.loss


def our_rows(workload: str, rows: list[dict[str, Any]]) -> list[Any]:
    """Rows as a task of ours learns from them."""
    from bothways.data.labelled import Example
    from bothways.data.questions import Question

    if workload == "windows":
        return [
            Question(str(i), row["question"], row["context"], ((row["start"], row["answer"]),), f"row {i}")
            for i, row in enumerate(rows)
        ]
    return [Example(row["text"], None, LABELS[row["label"]], f"row {i}") for i, row in enumerate(rows)]


class Predicting:
    """A pipeline of either side, asked for all texts at once."""

    def __init__(self, model: Path, texts: list[str], answer: Callable[[list[str]], Any]) -> None:
        self.texts, self.answer = texts, answer
        tokenizer = load_tokenizer(model, 512)
        self.tokens = sum(len(one.ids) for one in tokenizer.encode_batch(texts))

    def step(self) -> tuple[int, float]:
        """All texts: their real tokens."""
        assert len(self.answer(self.texts)) == len(self.texts)
        return self.tokens, 0.0


def our_side(model: Path, workload: str, folder: Path) -> Ours | Predicting | writing.Ours:
    rows = json.loads((folder / f"{workload}.json").read_text())
    if workload == "writing":
        return writing.Ours(folder, rows)
    precision = WORKLOADS[workload].precision
    if precision is None:
        return Ours(model, workload, rows, folder)
    from bothways import pipeline

    return Predicting(model, rows, pipeline("text-classification", folder / "classifier", precision=precision))


# transformers


def plain_loop(model: Path, workload: str, rows: list[dict[str, Any]]) -> PlainLoop:
    """Classifying, frozen or not, or the windows of questions."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    if workload == "windows":
        learner = transformers.AutoModelForQuestionAnswering.from_pretrained(model)
        features = list(features_of_windows(tokenizer, rows))
    else:
        learner = transformers.AutoModelForSequenceClassification.from_pretrained(model)
        encoded = tokenizer([row["text"] for row in rows], truncation=True)["input_ids"]
        features = [{"input_ids": ids, "labels": row["label"]} for ids, row in zip(encoded, rows)]
    if WORKLOADS[workload].frozen:
        learner.base_model.requires_grad_(False)
    chosen = shuffled(features, ROWS, SEED)
    batches = (dict(tokenizer.pad(some, padding=True, return_tensors="pt")) for some in chosen)
    return PlainLoop(learner, batches, LEARNING_RATE)


def features_of_windows(tokenizer: Any, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every window of every context, with the rows of its answer's ends, as transformers' own examples make them."""
    found = tokenizer(
        [row["question"] for row in rows],
        [row["context"] for row in rows],
        max_length=WINDOW,
        stride=STRIDE,
        truncation="only_second",
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    for i, number in enumerate(found["overflow_to_sample_mapping"]):
        first, last = rows[number]["start"], rows[number]["start"] + len(rows[number]["answer"])
        context = [side == 1 for side in found.sequence_ids(i)]
        spans = list(zip(found["offset_mapping"][i], context))
        starts = [row for row, ((begin, end), inside) in enumerate(spans) if inside and begin <= first < end]
        ends = [row for row, ((begin, end), inside) in enumerate(spans) if inside and begin < last <= end]
        whole = bool(starts and ends)
        yield {
            "input_ids": found["input_ids"][i],
            "token_type_ids": found["token_type_ids"][i],
            "start_positions": starts[0] if whole else 0,
            "end_positions": ends[0] if whole else 0,
        }


def their_side(model: Path, workload: str, folder: Path) -> PlainLoop | Predicting:
    rows = json.loads((folder / f"{workload}.json").read_text())
    if workload == "writing":
        return writing.plain_loop(folder, rows)
    precision = WORKLOADS[workload].precision
    if precision is None:
        return plain_loop(model, workload, rows)
    import torch
    import transformers

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    asked = transformers.pipeline("text-classification", model=str(folder / "classifier"), device="cpu", dtype=dtype)
    return Predicting(model, rows, partial(asked, batch_size=ROWS, truncation=True))


# The rounds


def measure(
    model: Path, scratch: Path, threads: int, quick: bool, rounds: int | None, sizes: object = None
) -> dict[str, Any]:
    """The result of `compare` by each workload's name; one that fails has the reason instead.

    model: the folder of the encoder that is adapted, whose size is its own.    rounds: as many for each, if given.
    """
    folder = scratch / "finetuning"
    write_rows(model, folder)
    found: dict[str, Any] = {}
    for name, workload in WORKLOADS.items():
        amount = workload.quick if quick else workload.full
        try:
            amount = replace(amount, rounds=rounds or amount.rounds)
            arguments = ("--model", str(model), "--rows", str(folder))
            warm_up = workload.warm_up
            found[name] = compare(__file__, "finetuning", name, arguments, folder, warm_up, amount, threads)
        except WorkerError as failure:
            found[name] = str(failure)
    return found


def main() -> None:
    """One side with one workload, serving until stdin ends."""
    answers = only_answers()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("--model", type=Path, required=True, help="the folder of the encoder")
    parser.add_argument("--rows", type=Path, required=True, help="the folder that `write_rows` filled")
    arguments = parser.parse_args()
    make: Callable[..., Any] = {"ours": our_side, "peers": their_side}[arguments.side]
    side = make(arguments.model, arguments.workload, arguments.rows)
    serve_side(side, answers)


if __name__ == "__main__":
    main()
