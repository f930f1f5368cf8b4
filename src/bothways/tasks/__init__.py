"""Every task a pipeline can be made for, by its name."""

from typing import Any

from bothways.tasks.answer import QuestionAnswering
from bothways.tasks.classify import TextClassification
from bothways.tasks.features import FeatureExtraction
from bothways.tasks.fill_mask import FillMask
from bothways.tasks.tag import TokenClassification
from bothways.tasks.task import Facts, Request, Round, Task

__all__ = ["TASKS", "Facts", "Request", "Round", "Task"]

TASKS: dict[str, Task[Any]] = {
    "feature-extraction": FeatureExtraction(),
    "fill-mask": FillMask(),
    "token-classification": TokenClassification(),
    "question-answering": QuestionAnswering(),
    "text-classification": TextClassification(),
}
