"""CTranslate2 as a careful user drives it: texts sorted by length, batches of a tuned size, several in flight."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from workloads import MODEL_LIMIT, load_tokenizer

from systems.encoder import Encoder, Setup
from systems.sorted_batches import BATCH_TOKENS, fastest, sample, sorted_batches

PACKAGES = ("ctranslate2",)
COMPUTE_TYPES = {"fp32": "float32", "int8": "int8_float32"}


@dataclass(frozen=True)
class Setting:
    """Padded tokens in a batch, and batches computed at the same time (each by its share of the threads)."""

    batch_tokens: int
    streams: int


class CTranslate2Encoder:
    """`ctranslate2.Encoder` with mean pooling and normalisation in numpy."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._setting = Setting(batch_tokens=2048, streams=1)
        self._open(1)
        self.set_length_limit(MODEL_LIMIT)

    def set_length_limit(self, tokens: int) -> None:
        """From now on texts are cut at `tokens` tokens."""
        self._tokenizer = load_tokenizer(self._setup.model, tokens)

    def tune(self, texts: list[str]) -> None:
        """Tries batch sizes and numbers of streams on a part of the texts and keeps the fastest."""
        part = sample(texts)
        best = []
        for streams in sorted({1, self._setup.threads}):
            self._open(streams)
            settings = [Setting(tokens, streams) for tokens in BATCH_TOKENS]
            best.append(fastest(settings, lambda setting: self._encode(part, setting)))
        self._setting = best[0]
        if len(best) > 1:
            self._setting = fastest(best, lambda setting: self._encode(part, setting))
        self._open(self._setting.streams)

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """Unit vectors [texts, width]."""
        return self._encode(texts, self._setting)

    def encode_one(self, text: str) -> NDArray[np.float32]:
        """One text's vector, with all threads on it."""
        if self._streams != 1:
            self._open(1)
        return np.array(self._vectors([self._tokenizer.encode(text).ids])[0])

    def _open(self, streams: int) -> None:
        import ctranslate2

        self._streams = streams
        self._encoder = ctranslate2.Encoder(
            str(_folder(self._setup)),
            device="cpu",
            compute_type=COMPUTE_TYPES[self._setup.options["precision"]],
            inter_threads=streams,
            intra_threads=max(1, self._setup.threads // streams),
        )

    def _vectors(self, ids: list[list[int]]) -> NDArray[np.float32]:
        """Unit vectors [texts, width] of one batch."""
        hidden = np.asarray(self._encoder.forward_batch(ids).last_hidden_state)
        lengths = np.array([len(text) for text in ids])
        mask = (np.arange(hidden.shape[1]) < lengths[:, None]).astype(np.float32)
        pooled = np.einsum("blw,bl->bw", hidden, mask) / lengths[:, None]
        return np.asarray(pooled / np.linalg.norm(pooled, axis=-1, keepdims=True), dtype=np.float32)

    def _encode(self, texts: list[str], setting: Setting) -> NDArray[np.float32]:
        if setting.streams != self._streams:
            self._open(setting.streams)
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]
        batches = sorted_batches([len(text) for text in ids], setting.batch_tokens)
        with ThreadPoolExecutor(setting.streams) as pool:
            parts = list(pool.map(lambda rows: self._vectors([ids[row] for row in rows]), batches))
        vectors = np.empty((len(ids), parts[0].shape[1]), dtype=np.float32)
        for rows, part in zip(batches, parts, strict=True):
            vectors[rows] = part
        return vectors


def _folder(setup: Setup) -> Path:
    return setup.cache / f"ctranslate2-{setup.options['precision']}"


def build(setup: Setup) -> None:
    """Converts the model with the engine's own converter."""
    from ctranslate2.converters import TransformersConverter

    quantization = COMPUTE_TYPES[setup.options["precision"]]
    TransformersConverter(str(setup.model)).convert(str(_folder(setup)), quantization=quantization, force=True)


def load(setup: Setup) -> Encoder:
    """The model that `build` converted."""
    return CTranslate2Encoder(setup)
