"""The first steps of a recipe of `recipes.py` in a plain loop of transformers: tokens a second and peak memory.

python benchmarks/recipes_peer.py DATA ENCODER TASK [--steps 60]

Rows, batch size, longest sequence and rate are the recipe's. Quality is not measured: what a plain loop of these
settings comes to is the recipe's reference.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from plain_loop import PlainLoop, shuffled
from recipes import RECIPES, Recipe

from bothways.cli.rows import KINDS, RowFlags
from bothways.data.table import TableSource

SEED, ROWS, WARM_UP = 1, 32, 3
LONGEST = {"classify": 256, "tag": 256, "answer": 384, "choose": 256}
STRIDE = 128
UNLABELLED = -100


def said_by(recipe: Recipe, data: Path) -> argparse.Namespace:
    """What a recipe's flags say that a loop heeds."""
    parser = argparse.ArgumentParser()
    for name in ("--text", "--label", "--separator", "--label-names", "--format"):
        parser.add_argument(name)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--max-length", type=int, default=LONGEST[recipe.kind])
    parser.add_argument("--max-train-samples", type=int)
    return parser.parse_known_args(recipe.flags.format(data=data).split())[0]


def rows_of(recipe: Recipe, data: Path, said: argparse.Namespace) -> list[Any]:
    """The recipe's rows to learn from, as `bothways finetune` reads them."""
    names = None if said.label_names is None else Path(said.label_names)
    flags = RowFlags(said.text, None, said.label, format=said.format, separator=said.separator, label_names=names)
    source: TableSource = flags.source(str(data / recipe.train))
    with KINDS[recipe.kind].read(source, flags, True) as (_, rows):
        return list(rows)[: said.max_train_samples]


class Learner:
    """A model of transformers and batches. rows: of the kind that the recipe is of."""

    def __init__(self, encoder: str, recipe: Recipe, rows: list[Any], said: argparse.Namespace) -> None:
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
        self.longest = said.max_length
        self.collate = self._pad
        make = {"classify": self._texts, "tag": self._words, "answer": self._questions, "choose": self._choices}
        model, settings = make[recipe.kind](rows)
        self.model = model.from_pretrained(encoder, **settings)
        self.batches = map(self.collate, shuffled(self.features, ROWS, SEED))

    def _texts(self, rows: list[Any]) -> tuple[Any, dict[str, Any]]:
        from bothways.tasks import TASKS

        task: Any = TASKS["text-classification"]
        labels = task.labels_of(rows)
        pairs = None if rows[0].text_pair is None else [row.text_pair for row in rows]
        encoded = self.tokenizer([row.text for row in rows], pairs, truncation=True, max_length=self.longest)
        number = {name: i for i, name in enumerate(labels.names)}

        def target(row: Any) -> Any:
            if labels.kind == "regression":
                return float(row.label)
            if labels.kind == "multi":
                return [float(name in row.label) for name in labels.names]
            return number[row.label]

        self.features = [
            {**{key: encoded[key][i] for key in encoded}, "labels": target(row)} for i, row in enumerate(rows)
        ]
        kinds = {"single": "single_label_classification", "multi": "multi_label_classification"}
        kind = kinds.get(labels.kind, "regression")
        count = len(labels.names) or 1
        return transformers.AutoModelForSequenceClassification, {"num_labels": count, "problem_type": kind}

    def _words(self, rows: list[Any]) -> tuple[Any, dict[str, Any]]:
        words = [[row.text[first:last] for first, last in row.words] for row in rows]
        encoded = self.tokenizer(words, is_split_into_words=True, truncation=True, max_length=self.longest)
        names = {tag: i for i, tag in enumerate(sorted({tag for row in rows for tag in row.tags}))}
        self.features = []
        for i, row in enumerate(rows):
            of, labels = encoded.word_ids(i), []
            for at, word in enumerate(of):
                first = word is not None and (at == 0 or of[at - 1] != word)
                labels.append(names[row.tags[word]] if first else UNLABELLED)
            self.features.append({**{key: encoded[key][i] for key in encoded}, "labels": labels})
        self.collate = transformers.DataCollatorForTokenClassification(self.tokenizer)
        return transformers.AutoModelForTokenClassification, {"num_labels": len(names)}

    def _questions(self, rows: list[Any]) -> tuple[Any, dict[str, Any]]:
        from finetuning import features_of_windows

        asked = [
            {"question": row.question, "context": row.context, "start": row.answers[0][0], "answer": row.answers[0][1]}
            for row in rows
        ]
        self.features = list(features_of_windows(self.tokenizer, asked))
        return transformers.AutoModelForQuestionAnswering, {}

    def _choices(self, rows: list[Any]) -> tuple[Any, dict[str, Any]]:
        self.features = []
        for row in rows:
            encoded = self.tokenizer([row.question] * len(row.choices), list(row.choices), truncation=True)
            if len(row.choices) == 4:  # rows of one rectangle have equally many
                self.features.append({**encoded, "labels": row.label})
        self.collate = transformers.DataCollatorForMultipleChoice(self.tokenizer)
        return transformers.AutoModelForMultipleChoice, {}

    def _pad(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        return dict(self.tokenizer.pad(features, padding=True, return_tensors="pt"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what was measured, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("encoder")
    parser.add_argument("task", choices=RECIPES)
    parser.add_argument("--steps", type=int, default=60)
    given = parser.parse_args(arguments)
    torch.manual_seed(SEED)
    recipe = RECIPES[given.task]
    said = said_by(recipe, given.data)
    learner = Learner(given.encoder, recipe, rows_of(recipe, given.data, said), said)
    loop = PlainLoop(learner.model, learner.batches, said.lr)
    for _ in range(WARM_UP):
        loop.step()
    started, cpu = time.monotonic(), time.process_time()
    tokens = sum(loop.step()[0] for _ in range(given.steps))
    found = {
        "recipe": given.task,
        "steps": given.steps,
        "tokens_per_second": tokens / (time.monotonic() - started),
        "tokens_per_cpu_second": tokens / (time.process_time() - cpu),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
