"""text-classification: a label for a text or for a pair of texts, several of them, or a number (Devlin et al. 2018,
section 4.1). The logits of what is said of the whole sequence are all there is; what they mean, the labels say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bothways.data.batch import Answers, Batch
from bothways.data.labelled import Example, Labels
from bothways.errors import InputError
from bothways.nn.encoder import EncoderOutput
from bothways.nn.heads import Classifier
from bothways.objectives.objective import Losses, Part
from bothways.ragged import Layout, Ragged
from bothways.tasks.learning import Sample, Weighing
from bothways.tasks.metrics import (
    LabelScore,
    confusion_matrix,
    label_scores,
    multi_metrics,
    regression_metrics,
    single_metrics,
)
from bothways.tasks.task import Facts, Request, Round, Rounds
from bothways.text.tokenizer import Encoded, as_texts
from bothways.text.windows import Windows, by_text, in_windows

__all__ = ["Outcome", "TextClassification"]

LOSS = "classify"
REDUCE = ("mean", "max")
# A label of several is answered where its score is at least this.
THRESHOLD = 0.5

Inputs: TypeAlias = "str | Mapping[str, str] | Sequence[str | Mapping[str, str]]"


@dataclass(frozen=True)
class Options:
    """top_k: None for all labels.    function: what makes scores of logits; None: what the labels ask for."""

    top_k: int | None
    function: str | None = None


class Outcome(NamedTuple):
    """What was right, and what was said, of one row.

    truth: the label's number, or a number; uint8 [labels] where there may be several.    scores: fp32 [labels].
    """

    truth: int | float | np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class TextClassification:
    """A text gives `[{label, score}, …]`, the best label first; a list of texts, a list of those."""

    head: str | None = "classify"

    def request(
        self,
        texts: Inputs,
        *,
        text_pair: str | Sequence[str] | None = None,
        top_k: int | None = 1,
        function_to_apply: str | None = None,
        windows: Literal["mean", "max"] | None = None,
        stride: int | None = None,
        max_length: int | None = None,
    ) -> Request:
        """texts: also as `{"text": …, "text_pair": …}`, one or a list.

        text_pair: the second text of each pair.
        top_k: how many labels, best first; None for all.
        function_to_apply: "softmax", "sigmoid" or "none", on the logits. By default none for a number, sigmoid where
        there may be several labels or where there is one, else softmax.
        windows: read a text that is too long in windows, and take the mean or the maximum of their logits; by default
        it is cut, with a TruncationWarning. Of a pair, the first text is; the second stands whole in each window.
        stride: tokens that a window shares with the one before; by default a quarter of its text.
        max_length: tokens of a text, or of a window; by default what the model takes.

        Raises InputError on anything else.
        """
        for name, value in (("top_k", top_k), ("max_length", max_length)):
            if value is not None and (type(value) is not int or value < 1):
                raise InputError(f"{name} must be a whole number of at least 1, got {value!r}")
        if function_to_apply is not None and function_to_apply not in tuple(FUNCTIONS):
            raise InputError(f"function_to_apply must be one of {', '.join(FUNCTIONS)}, got {function_to_apply!r}")
        single = isinstance(texts, (str, Mapping))
        firsts, seconds = _sides(texts, text_pair)
        options, read = Options(top_k, function_to_apply), _windows(windows, stride, max_length)
        return Request(firsts, single, seconds, options, read, None if read else max_length)

    def rooms(self, request: Request, encoded: Sequence[Encoded], facts: Facts) -> Sequence[int]:
        return [0] * len(encoded)

    def check(self, request: Request, encoded: Sequence[Encoded], facts: Facts) -> None:
        """Every text has a label. Raises ConfigError on what the model's config cannot say of labels."""
        facts.labels  # noqa: B018

    def rounds(self, request: Request, encoded: Sequence[Encoded], facts: Facts) -> Rounds:
        labels, options = facts.labels, request.options
        logits = yield Round(encoded)
        function = FUNCTIONS[options.function or _usual(labels)]
        reduce = "mean" if request.windows is None else request.windows.reduce
        parts = [[logits[i] for i in own] for own in by_text(encoded, len(request.texts))]
        return [_answer(function(_reduced(part, reduce)), labels.names, options.top_k) for part in parts]

    def predict(self, output: EncoderOutput, head: nn.Module | None, batch: Batch, asked: Any) -> Sequence[Tensor]:
        """Logits [labels] of each sequence, in fp32."""
        assert head is not None
        return list(head(output.last).float().cpu())

    # How it is learnt

    @property
    def losses(self) -> Mapping[str, float]:
        """classify: cross-entropy; where there may be several labels, binary cross-entropy, a mean over them; for a
        number, the squared error."""
        return {LOSS: 1.0}

    def best(self, labels: Labels) -> str:
        """Accuracy; micro-averaged F1 where there may be several labels; Pearson's correlation for numbers."""
        return {"single": "accuracy", "multi": "micro_f1", "regression": "pearson"}[labels.kind]

    def says(self, rows: Sequence[Example]) -> Mapping[str, Any]:
        return {}

    def weighs(self, labels: Labels) -> frozenset[str]:
        said = {"single": ("smoothing", "class_weights"), "multi": ("smoothing",)}.get(labels.kind, ())
        return frozenset((*said, "windows"))

    def labels_of(self, rows: Sequence[Example], labels: Labels | None = None) -> Labels:
        if labels is None:
            return Labels.of(rows)
        if not rows:
            raise InputError("no labelled rows")
        _check(labels)
        for row in rows:
            labels.number(row)
        return labels

    def samples(
        self, rows: Sequence[Example], labels: Labels, facts: Facts, windows: Windows | None, max_length: int | None
    ) -> list[Sample]:
        answers = [_truth(row, labels) for row in rows]
        encoded = _encoded(rows, facts, windows, max_length)
        parts = [tuple(encoded[i] for i in own) for own in by_text(encoded, len(rows))]
        return [Sample(part, answer, sum(e.dropped for e in part)) for part, answer in zip(parts, answers)]

    def answers(self, samples: Sequence[Sample], layout: Layout) -> Mapping[str, Answers]:
        """The numbers of labels, int64 [N]; scores, fp32 [N]; of several labels which are right, fp32 [N, labels]."""
        first = accumulate((len(sample.sequences) for sample in samples), initial=0)
        rows = torch.tensor([layout.starts[i] for i, _ in zip(first, samples)], dtype=torch.int64)
        values = [sample.answer for sample in samples]
        if values and isinstance(values[0], np.ndarray):
            return {LOSS: Answers(torch.from_numpy(np.stack(values)).float(), rows)}
        dtype = torch.float32 if values and isinstance(values[0], float) else torch.int64
        return {LOSS: Answers(torch.tensor(values, dtype=dtype), rows)}

    def loss(self, output: EncoderOutput, head: nn.Module, batch: Batch, weighing: Weighing) -> Losses:
        assert isinstance(head, Classifier)
        assert batch.groups is not None
        logits, truth = _of_samples(head.scores(output.last), batch.groups, weighing.reduce), batch.labels[LOSS].values
        if not truth.is_floating_point():
            total, right = _single_loss(logits, truth, weighing)
        elif truth.dim() == 2:
            total, right = _multi_loss(logits, truth, weighing)
        else:
            return Losses({LOSS: Part(_squared_error(logits, truth, weighing), len(truth))}, {})
        return Losses({LOSS: Part(total, len(truth))}, {"accuracy": Part(right, len(truth))})

    def request_of(self, rows: Sequence[Example], windows: Windows | None, max_length: int | None) -> Request:
        texts, pairs = _texts(rows)
        windows = None if windows is None else replace(windows, length=windows.length or max_length)
        return Request(texts, False, pairs, Options(None), windows, None if windows else max_length)

    def outcome(self, row: Example, answer: Sequence[Mapping[str, Any]], labels: Labels) -> Outcome:
        """Raises InputError where the answer has other labels than these."""
        if labels.kind == "regression":
            return Outcome(_truth(row, labels), np.array([one["score"] for one in answer], dtype=np.float32))
        said = {one["label"]: one["score"] for one in answer}
        if said.keys() != set(labels.names):
            other = sorted(said.keys() ^ set(labels.names))
            raise InputError(f"the model's labels are not those of the rows: {other[0]!r:.60} is on one side only")
        return Outcome(_truth(row, labels), np.array([said[name] for name in labels.names], dtype=np.float32))

    def metrics(self, outcomes: Sequence[Outcome], labels: Labels) -> dict[str, float]:
        """accuracy, micro_f1, macro_f1, mcc and ece; of several labels accuracy (all of a row's are right), micro_f1
        and macro_f1; of numbers pearson and spearman.

        Raises InputError where there is nothing to measure, or where scores are no numbers.
        """
        truth, scores = _arrays(outcomes)
        if labels.kind == "single":
            return single_metrics(truth, scores, self.decided(scores, labels))
        if labels.kind == "multi":
            return multi_metrics(truth, self.decided(scores, labels))
        return regression_metrics(truth, scores[:, 0])

    def table(self, outcomes: Sequence[Outcome], labels: Labels) -> dict[str, LabelScore]:
        """How good the answers are for each label, by its name. Not for numbers."""
        truth, scores = _arrays(outcomes)
        return dict(zip(labels.names, label_scores(truth, self.decided(scores, labels), len(labels.names))))

    def confusion(self, outcomes: Sequence[Outcome], labels: Labels) -> np.ndarray:
        """int [labels, labels]: how many rows of each label (down) got each label (across). For single labels only."""
        truth, scores = _arrays(outcomes)
        return confusion_matrix(truth, self.decided(scores, labels), len(labels.names))

    def decided(self, scores: np.ndarray, labels: Labels) -> np.ndarray:
        """What is answered, of scores [n, labels]: the number of the likeliest label, int [n]; where there may be
        several, whether each is, bool [n, labels]: those that score at least 0.5.

        A model's `label_thresholds` take the place of 0.5, also of two labels that exclude each other, where the second
        one is answered from its own threshold on. They change what is decided (metrics, `bothways predict`), and not
        the order of labels that a pipeline gives, which goes by scores.
        """
        if labels.kind == "multi":
            return scores >= (np.array(labels.thresholds) if labels.thresholds else THRESHOLD)
        if labels.thresholds and len(labels.names) == 2:
            return (scores[:, 1] >= labels.thresholds[1]).astype(np.int64)
        return scores.argmax(1)


# Scores


def _softmax(logits: Tensor) -> Tensor:
    return logits.softmax(-1)


def _none(logits: Tensor) -> Tensor:
    return logits


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"softmax": _softmax, "sigmoid": torch.sigmoid, "none": _none}


def _usual(labels: Labels) -> str:
    """What transformers' pipeline makes scores with."""
    if labels.kind == "regression":
        return "none"
    return "sigmoid" if labels.kind == "multi" or len(labels.names) == 1 else "softmax"


def _reduced(logits: Sequence[Tensor], reduce: str) -> Tensor:
    """[labels] of each window → [labels]."""
    if len(logits) == 1:
        return logits[0]
    stacked = torch.stack(list(logits))
    return stacked.mean(0) if reduce == "mean" else stacked.amax(0)


def _answer(scores: Tensor, names: Sequence[str], top_k: int | None) -> list[dict[str, Any]]:
    named = [{"label": name, "score": score} for name, score in zip(names, scores.tolist(), strict=True)]
    return sorted(named, key=lambda one: -one["score"])[:top_k]


# What is asked


def _sides(texts: Inputs, text_pair: str | Sequence[str] | None) -> tuple[list[str], list[str] | None]:
    """The first texts, and the second ones where there are pairs."""
    if isinstance(texts, Mapping):
        texts = [texts]
    inputs: list[Any] = as_texts(texts)
    if text_pair is not None:
        seconds = as_texts(text_pair)
        if any(isinstance(one, Mapping) for one in inputs):
            raise InputError("give second texts as text_pair or in the dicts of the first ones, not both")
        if len(seconds) != len(inputs):
            raise InputError(f"{len(inputs)} texts need as many second texts in text_pair, got {len(seconds)}")
        return inputs, seconds
    both = [_both(one, i) if isinstance(one, Mapping) else (one, None) for i, one in enumerate(inputs)]
    return [first for first, _ in both], _seconds([second for _, second in both], lambda i: f"text {i}")


def _both(one: Mapping[str, Any], number: int) -> tuple[Any, Any]:
    if "text" not in one or one.keys() - {"text", "text_pair"}:
        raise InputError(f"text {number} must have the keys text and perhaps text_pair, got {', '.join(map(str, one))}")
    return one["text"], one.get("text_pair")


def _seconds(seconds: list[Any], place: Callable[[int], str]) -> list[Any] | None:
    """The second texts, if there are any; then each has to have one. place: what to call the one with a number."""
    missing = [i for i, second in enumerate(seconds) if second is None]
    if len(missing) == len(seconds):
        return None
    if missing:
        raise InputError(f"{place(missing[0])} has no second text, where others have one; ask for pairs by themselves")
    return seconds


def _windows(reduce: Literal["mean", "max"] | None, stride: int | None, length: int | None) -> Windows | None:
    if reduce is None:
        if stride is not None:
            raise InputError('stride is for windows: say windows="mean" or windows="max" with it')
        return None
    if reduce not in REDUCE:
        raise InputError(f"windows must be one of {', '.join(REDUCE)}, got {reduce!r}")
    if stride is not None and type(stride) is not int:
        raise InputError(f"stride must be a whole number of tokens, got {stride!r}")
    return Windows(length, stride, reduce=reduce)


# Labelled rows


def _texts(rows: Sequence[Example]) -> tuple[list[str], list[str] | None]:
    return [row.text for row in rows], _seconds([row.text_pair for row in rows], lambda i: rows[i].place)


def _check(labels: Labels) -> None:
    """Raise InputError on labels that a row's cannot be told by, or of which nothing can be learnt."""
    several = len(labels.names) > 1
    if labels.kind == "single" and not several:
        raise InputError(f"the model has a single label, {', '.join(labels.names)}: there is nothing to tell apart")
    if labels.kind == "regression" and several:
        raise InputError(f"the model gives {len(labels.names)} numbers, but a row has one")
    twice = next((name for name in labels.names if labels.names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"the model has two labels with the name {twice!r:.60}; give them different names in id2label")


def _truth(row: Example, labels: Labels) -> int | float | np.ndarray:
    """The label's number, or a number; uint8 [labels] where there may be several."""
    number = labels.number(row)
    if not isinstance(number, list):
        return number
    right = np.zeros(len(labels.names), dtype=np.uint8)
    right[number] = 1
    return right


def _encoded(rows: Sequence[Example], facts: Facts, windows: Windows | None, max_length: int | None) -> list[Encoded]:
    """The rows as tokens, or as windows. Raises InputError, naming it, on a row of which nothing would be left."""
    if max_length is not None and not 1 <= max_length <= facts.longest:
        raise InputError(f"max_length must be between 1 and the model's {facts.longest} positions, got {max_length}")
    texts, pairs = _texts(rows)

    def encode(texts: list[str], pairs: list[str] | None) -> list[Encoded]:
        if windows is None:
            return facts.tokenizer.encode(texts, pairs, max_length=max_length or facts.longest)
        read = replace(windows, length=windows.length or max_length)
        return in_windows(facts.tokenizer, texts, pairs, read, facts.longest)

    encode([], None if pairs is None else [])  # what is wrong with every row is no fault of the first
    try:
        return encode(texts, pairs)
    except InputError:
        for row in rows:
            try:
                encode([row.text], None if row.text_pair is None else [row.text_pair])
            except InputError as error:
                raise InputError(f"{row.place}: {error}") from None
        raise


# Losses


def _of_samples(logits: Tensor, groups: Layout, reduce: str) -> Tensor:
    """[sequences, labels] → [samples, labels]."""
    if len(groups) == groups.total == len(logits) and groups.longest <= 1:
        return logits
    windows = Ragged(logits, groups)
    return windows.mean() if reduce == "mean" else windows.max()


def _single_loss(logits: Tensor, truth: Tensor, weighing: Weighing) -> tuple[Tensor, Tensor]:
    """logits [N, labels], truth int64 [N] → cross-entropy, summed, and how many are right."""
    losses = F.cross_entropy(logits, truth, reduction="none", label_smoothing=weighing.smoothing)
    if weighing.classes is not None:
        losses = losses * torch.tensor(weighing.classes, device=losses.device)[truth]
    return losses.sum(), (logits.argmax(1) == truth).sum()


def _multi_loss(logits: Tensor, truth: Tensor, weighing: Weighing) -> tuple[Tensor, Tensor]:
    """logits, truth [N, labels] → binary cross-entropy, a mean over the labels, summed over rows; and in how many rows
    all labels are right. A smoothed label is as sure as the two answers there are to each allow."""
    wanted = truth * (1 - weighing.smoothing) + weighing.smoothing / 2
    weight = None if weighing.classes is None else torch.tensor(weighing.classes, device=logits.device)
    losses = F.binary_cross_entropy_with_logits(logits, wanted, weight, reduction="none")
    return losses.mean(1).sum(), ((logits >= 0) == (truth > 0)).all(1).sum()


def _squared_error(logits: Tensor, truth: Tensor, weighing: Weighing) -> Tensor:
    """logits [N, 1], truth [N] → the squared error, summed."""
    if weighing.smoothing or weighing.classes is not None:
        raise InputError("label smoothing and class weights are for labels, not for numbers; leave them out")
    return F.mse_loss(logits[:, 0], truth, reduction="sum")


# Outcomes


def _arrays(outcomes: Sequence[Outcome]) -> tuple[np.ndarray, np.ndarray]:
    """truth [n] or [n, labels], scores [n, labels]."""
    if not outcomes:
        raise InputError("no rows to measure")
    scores = np.stack([outcome.scores for outcome in outcomes])
    wrong = int((~np.isfinite(scores)).any(1).sum())
    if wrong:
        raise InputError(f"the model's scores of {wrong:,} of {len(outcomes):,} rows are no numbers: it is of no use")
    return np.array([outcome.truth for outcome in outcomes]), scores
