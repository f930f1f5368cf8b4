"""bothways: the whole life of a bidirectional encoder, padding-free and exact.

Names load when they are first used, so that importing the package does not import torch.
"""

from __future__ import annotations

from bothways.errors import (
    AssumedPoolingWarning,
    BothwaysError,
    CheckpointError,
    ConfigError,
    InputError,
    MissingExtraError,
    TruncationWarning,
    UnusedWeightsWarning,
)

TYPE_CHECKING = False  # not from typing: what is imported here is imported before Ctrl-C has its answer
if TYPE_CHECKING:
    from typing import Any

    from bothways.checkpoint.encoder import Encoder
    from bothways.checkpoint.encoder_decoder import EncoderDecoder
    from bothways.engine.inspect import Inspection, inspect
    from bothways.engine.pipeline import Pipeline, pipeline
    from bothways.engine.sentence import SentenceEncoder
    from bothways.nn.attention import attend
    from bothways.nn.config import EncoderConfig
    from bothways.ragged import Layout, Ragged

__all__ = [
    "AssumedPoolingWarning",
    "BothwaysError",
    "CheckpointError",
    "ConfigError",
    "Encoder",
    "EncoderConfig",
    "EncoderDecoder",
    "InputError",
    "Inspection",
    "Layout",
    "MissingExtraError",
    "Pipeline",
    "Ragged",
    "SentenceEncoder",
    "TruncationWarning",
    "UnusedWeightsWarning",
    "__version__",
    "attend",
    "inspect",
    "pipeline",
]

__version__ = "0.1.0"

_WHERE = {
    "Encoder": "checkpoint.encoder",
    "EncoderConfig": "nn.config",
    "EncoderDecoder": "checkpoint.encoder_decoder",
    "Inspection": "engine.inspect",
    "Layout": "ragged",
    "Pipeline": "engine.pipeline",
    "Ragged": "ragged",
    "SentenceEncoder": "engine.sentence",
    "attend": "nn.attention",
    "inspect": "engine.inspect",
    "pipeline": "engine.pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'bothways' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"bothways.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
