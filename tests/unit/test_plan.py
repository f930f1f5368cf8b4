"""What a plan says of memory, against what was measured."""

from __future__ import annotations

import pytest
import torch

from bothways.engine.streams import Streams
from bothways.families.presets import PRESETS
from bothways.nn.losses import ROWS_AT_A_TIME, bytes_of_vocabulary_cross_entropy
from bothways.objectives.reading import FEW, read_of
from bothways.train.plan import _batch_bytes, _copied_bytes, flops_of_token
from bothways.train.settings import CorpusSettings, ModelSettings, PretrainSettings, StepSettings, UpdateSettings


def test_scores_of_a_vocabulary_are_held_for_some_rows_at_a_time() -> None:
    some, many = (bytes_of_vocabulary_cross_entropy(rows, 50_000, 256, 2) for rows in (ROWS_AT_A_TIME, 100_000))
    assert some == many < ROWS_AT_A_TIME * 50_000 * 4
    assert bytes_of_vocabulary_cross_entropy(100, 50_000, 256, 2) < many


@pytest.mark.parametrize(
    ("preset", "precision", "predicted", "measured"),
    [
        ("gpt2-mini", "bf16", 127 / 128, 0.74e9),
        ("gpt2-mini", "fp32", 127 / 128, 1.33e9),
        ("bert-mini", "bf16", 0.15, 0.34e9),
    ],
)
def test_memory_is_about_what_was_measured(preset: str, precision: str, predicted: float, measured: float) -> None:
    """On two streams with 2,048 tokens each: what the process grew by beyond weights, gradients and moments."""
    settings = PretrainSettings(
        model=ModelSettings(preset=preset),
        corpus=CorpusSettings(longest=128),
        step=StepSettings(steps=1, step_tokens=4096, batch_tokens=2048),
        update=UpdateSettings(precision=precision),
    )
    config, streams = PRESETS[preset].config, Streams(torch.device("cpu"))
    told = 2 * _batch_bytes(settings, config, 128, predicted, streams)
    told += _copied_bytes(settings, config.vocab * config.width + 12 * config.depth * config.width**2)
    assert 0.8 < told / measured < 1.4


def test_rows_that_are_not_read_have_no_operations_behind_attention() -> None:
    """Of the last layer: the output map and both maps of the feed-forward part, by hand."""
    config = PRESETS["bert-mini"].config
    behind = 2 * (256 * 256 + 2 * 256 * 1024)
    assert flops_of_token(config, 128, 0.15) - flops_of_token(config, 128, 0.15, 0.15) == pytest.approx(0.85 * behind)
    assert [read_of(share) for share in (0.0, 0.15, FEW, 1.0)] == [1.0, 0.15, 1.0, 1.0]
