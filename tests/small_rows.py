"""Labelled rows of every task that a tiny model can learn: as values, and as files that the command line reads."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from bothways.data.choices import Choice
from bothways.data.labelled import Example
from bothways.data.parallel import Parallel
from bothways.data.questions import Question
from bothways.data.tagged import Tagged

FILLERS = ("the", "a", "sat", "on", "ran", "to", "is", "was", "cats", "doings", "unable", ".", "café")
KINDS = {"dog": "animal", "cat": "animal", "house": "place", "mat": "place", "red": "colour", "blue": "colour"}
TAGS = {"dog": "B-ANIMAL", "cats": "B-ANIMAL", "house": "B-PLACE", "mat": "I-PLACE"}


def _words(chance: random.Random, most: int = 7) -> list[str]:
    return [chance.choice(FILLERS) for _ in range(chance.randint(1, most))]


def _with(chance: random.Random, word: str) -> str:
    words = _words(chance)
    words.insert(chance.randint(0, len(words)), word)
    return " ".join(words)


def texts(count: int, seed: int = 0, *, pairs: bool = False, most: int | None = None) -> list[Example]:
    """Texts with one of three labels, which a word in them tells; of pairs, a word of the second one."""
    chance = random.Random(seed)
    words = list(KINDS)[:most]
    rows = []
    for number in range(count):
        word = words[number % len(words)]
        said = _with(chance, word)
        first, second = (" ".join(_words(chance, 3)), said) if pairs else (said, None)
        rows.append(Example(first, second, KINDS[word], f"rows: row {number + 1}"))
    return rows


def several(count: int, seed: int = 0) -> list[Example]:
    """Texts with none, one or two labels."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        said = [word for word in ("dog", "house", "red") if chance.random() < 0.5]
        text = " ".join([*_words(chance, 4), *said])
        rows.append(Example(text, None, tuple(KINDS[word] for word in said), f"rows: row {number + 1}"))
    return rows


def scores(count: int, seed: int = 0) -> list[Example]:
    """Texts with a number each."""
    chance = random.Random(seed)
    values = {"dog": 0.5, "house": -1.0, "red": 1.25}
    rows = []
    for number in range(count):
        word = list(values)[number % 3]
        rows.append(Example(_with(chance, word), None, values[word], f"rows: row {number + 1}"))
    return rows


def sentences(count: int, seed: int = 0) -> list[Tagged]:
    """Sentences of which some words are in entities."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        words = _words(chance, 5)
        for some in (["dog"], ["house", "mat"]):
            place = chance.randint(0, len(words))
            words[place:place] = some if chance.random() < 0.8 and not any(w in TAGS for w in words[-1:]) else []
        ends, spans = -1, []
        for word in words:
            spans.append((ends + 1, ends + 1 + len(word)))
            ends = spans[-1][1]
        tags = _tags(words)
        rows.append(Tagged(" ".join(words), tuple(spans), tags, f"rows: line {number + 1}"))
    return rows


def _tags(words: Sequence[str]) -> tuple[str, ...]:
    """An inside tag stands behind the beginning of its entity alone."""
    tags: list[str] = []
    for word in words:
        tag = TAGS.get(word, "O")
        tags.append("B-PLACE" if tag == "I-PLACE" and (not tags or tags[-1] != "B-PLACE") else tag)
    return tuple(tags)


def asked(count: int, seed: int = 0, *, none: bool = False, words: int = 7) -> list[Question]:
    """Questions about contexts with a word or two that answer them; none: each fifth has no answer."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        answer = chance.choice(("the red house", "a dog", "cats"))
        before, after = " ".join(_words(chance, words)), " ".join(_words(chance, words))
        has = not (none and number % 5 == 4)
        context = f"{before} {answer} {after}" if has else f"{before} {after}"
        found = ((len(before) + 1, answer),) if has else ()
        rows.append(Question(str(number), "is a cat ?", context, found, f"rows: question {number}"))
    return rows


def chosen(count: int, seed: int = 0) -> list[Choice]:
    """Questions of which the choice with a dog is right, among two or three."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        choices = [" ".join(_words(chance, 4)) for _ in range(chance.randint(2, 3))]
        right = chance.randrange(len(choices))
        choices[right] += " dog"
        rows.append(Choice(" ".join(_words(chance, 4)), tuple(choices), right, f"rows: row {number + 1}"))
    return rows


def reversed_texts(count: int, seed: int = 0, words: int = 5) -> list[Parallel]:
    """Texts, and the same words from the last to the first."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        said = [chance.choice((*FILLERS[:8], *KINDS)) for _ in range(chance.randint(1, words))]
        rows.append(Parallel(" ".join(said), (" ".join(reversed(said)),), f"rows: row {number + 1}"))
    return rows


ROWS: dict[str, tuple[str, str, Callable[[int, int], list[Any]]]] = {
    "classify": ("text-classification", "ForSequenceClassification", texts),
    "tag": ("token-classification", "ForTokenClassification", sentences),
    "answer": ("question-answering", "ForQuestionAnswering", asked),
    "choose": ("multiple-choice", "ForMultipleChoice", chosen),
}
"""The task of each word that commands have, the ending of its model's class in transformers, and rows (count, seed)."""


# Files


def write_table(path: Path, rows: Sequence[Example]) -> Path:
    """Texts as csv, tsv or jsonl, by the file's name."""
    pairs = rows[0].text_pair is not None
    names = ["text", *(["text_pair"] if pairs else []), "label"]
    cells = [[row.text, *([row.text_pair] if pairs else []), row.label] for row in rows]
    if path.suffix == ".jsonl":
        return write_lines(path, [json.dumps(dict(zip(names, row))) for row in cells])
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([names, *cells])
    return path


def write_lines(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def write_columns(path: Path, rows: Sequence[Tagged]) -> Path:
    """Sentences as a file of CoNLL's kind."""
    lines = [
        [*(f"{row.text[start:end]} {tag}" for (start, end), tag in zip(row.words, row.tags or ())), ""] for row in rows
    ]
    return write_lines(path, list(chain.from_iterable(lines)))


def write_squad(path: Path, rows: Sequence[Question]) -> Path:
    paragraphs = [
        {
            "context": row.context,
            "qas": [
                {
                    "id": row.id,
                    "question": row.question,
                    "answers": [{"text": text, "answer_start": start} for start, text in row.answers or ()],
                    "is_impossible": not row.answers,
                }
            ],
        }
        for row in rows
    ]
    path.write_text(json.dumps({"version": "2.0", "data": [{"title": "rows", "paragraphs": paragraphs}]}))
    return path


def write_choices(path: Path, rows: Sequence[Choice]) -> Path:
    told = [{"question": row.question, "choices": list(row.choices), "label": row.label} for row in rows]
    return write_lines(path, [json.dumps(row) for row in told])


WRITERS: dict[str, tuple[str, Callable[[Path, Any], Path]]] = {
    "classify": ("csv", write_table),
    "tag": ("conll", write_columns),
    "answer": ("json", write_squad),
    "choose": ("jsonl", write_choices),
}
"""How each task's file ends, and what writes it."""
