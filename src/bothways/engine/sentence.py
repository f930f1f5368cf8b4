"""`SentenceEncoder`: texts to vectors, with the calls that users of sentence-transformers know."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bothways.checkpoint.hub import resolve
from bothways.checkpoint.sentence import load_sentence_model, stamps
from bothways.data.batch import Batch
from bothways.engine.backends import BACKENDS, Placement, place
from bothways.engine.scheduler import progress, schedule
from bothways.engine.streams import Streams
from bothways.errors import CheckpointError, InputError
from bothways.nn.pooling import rows_pooled
from bothways.text.tokenizer import Encoded, as_texts, cut_lengths, warn_of_truncation

__all__ = ["SIMILARITIES", "SentenceEncoder"]

# Texts tokenized ahead of their batches: enough for batches of nearly equal lengths, little to hold in memory.
TEXTS_AT_A_TIME = 1 << 15

SIMILARITIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": lambda a, b: F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T,
    "dot": lambda a, b: a @ b.T,
    "euclidean": lambda a, b: -torch.cdist(a, b),
    "manhattan": lambda a, b: -torch.cdist(a, b, p=1.0),
}


class SentenceEncoder:
    """One vector for each text.

    >>> encoder = SentenceEncoder("sentence-transformers/all-MiniLM-L6-v2")
    >>> encoder.encode(["The cat sat.", "A cat was sitting."]).shape
    (2, 384)

    model: a sentence-transformers folder or hub id (a plain encoder's gets mean pooling).
    precision: "fp32", "bf16", "fp16" on a GPU; by default fp32 on a CPU and half on a GPU.
    device: "auto", "cpu" or "cuda".

    max_seq_length: tokens a text may have; longer ones are cut, with a TruncationWarning. May be set.
    A text's vector is the same, bit for bit on a CPU, whatever texts it is encoded with.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        device: str = "auto",
        precision: str = "auto",
        revision: str | None = None,
        backend: str = "eager",
    ) -> None:
        self._placement = place(device, precision)
        if backend not in BACKENDS:
            raise InputError(f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}")
        self._name = str(model)
        self._folder = resolve(model, revision)
        self._stamps = stamps(self._folder)
        loaded = load_sentence_model(self._folder)
        self.tokenizer = loaded.tokenizer
        self.prompts = dict(loaded.prompts)
        self.default_prompt_name = loaded.default_prompt_name
        self.similarity_fn_name = loaded.similarity
        self._positions = loaded.encoder.config.longest
        self._lower_case = loaded.lower_case
        self._network = BACKENDS[backend](loaded.encoder.network, self._placement, share=True)
        self._head = BACKENDS[backend](loaded.head, Placement(self.device, torch.float32), share=True)
        self._streams = Streams(self.device)
        self.max_seq_length = loaded.max_seq_length

    def __repr__(self) -> str:
        width, length = self._head.width, self.max_seq_length
        return f"SentenceEncoder({self._name!r}, {self._placement}, width {width}, max_seq_length {length})"

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that this class and sentence-transformers load, with the prompts and lengths set here.

        The weights are those of the files it was loaded from, which must still be there: what it computes with is laid
        out for this machine. Raises CheckpointError if any file of the model is gone or changed, InputError if what was
        set here makes no model, or if it cannot be written.
        """
        self._check_settings()
        before = stamps(self._folder)
        changed = [path for path in {**self._stamps, **before} if self._stamps.get(path) != before.get(path)]
        if changed:
            raise CheckpointError(f"{changed[0]}: changed since the model was loaded; load it again")
        model = replace(
            load_sentence_model(self._folder, warn_of_pooling=False),
            prompts=self.prompts,
            default_prompt_name=self.default_prompt_name,
            similarity=self.similarity_fn_name,
            max_seq_length=self.max_seq_length,
        )
        model.save_pretrained(folder)
        self._stamps = stamps(self._folder)  # it may have been saved over itself

    def _check_settings(self) -> None:
        """Raise InputError on attributes that nobody could load again."""
        prompts = self.prompts
        if not isinstance(prompts, dict) or not all(isinstance(text, str) for item in prompts.items() for text in item):
            raise InputError(f"prompts must be texts by name, got {prompts!r:.60}")
        if self.default_prompt_name is not None and self.default_prompt_name not in prompts:
            names = ", ".join(prompts) or "none"
            raise InputError(f"default_prompt_name {self.default_prompt_name!r} is none of the prompts: {names}")
        self._measure()

    def _measure(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The similarity that `similarity_fn_name` names. Raises InputError if it is none."""
        if self.similarity_fn_name not in SIMILARITIES:
            known = ", ".join(SIMILARITIES)
            raise InputError(f"unknown similarity_fn_name {self.similarity_fn_name!r}; known: {known}")
        return SIMILARITIES[self.similarity_fn_name]

    @property
    def device(self) -> torch.device:
        return self._placement.device

    @property
    def max_seq_length(self) -> int:
        return self._max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, tokens: int) -> None:
        if not 1 <= tokens <= self._positions:
            raise InputError(
                f"max_seq_length must be between 1 and the model's {self._positions} positions, got {tokens}"
            )
        self._max_seq_length = tokens

    def get_embedding_dimension(self) -> int:
        """Width of the vectors."""
        return self._head.width

    def encode(
        self,
        sentences: str | Sequence[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_tokens: int | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
    ) -> np.ndarray | Tensor:
        """Vectors of the texts, float32 [n, d] in input order; of a single string [d].

        prompt_name: one of the model's prompts, put before each text.    prompt: the text itself, instead.
        batch_tokens: tokens of one forward (memory against speed; results do not depend on it).
        batch_size: taken so that calls of sentence-transformers run unchanged, and of no effect: batches are filled by
        tokens, see `batch_tokens`.
        show_progress_bar: None shows one when it takes over two seconds.
        convert_to_tensor: a tensor on the model's device instead of a numpy array; so does convert_to_numpy=False.
        normalize_embeddings: length 1, after truncation.    truncate_dim: keep the first so many numbers.

        Raises InputError on what is not a text, an unknown prompt, or impossible sizes.
        """
        _check_positive("batch_tokens", batch_tokens)
        _check_positive("batch_size", batch_size)
        _check_positive("truncate_dim", truncate_dim)
        if truncate_dim is not None and truncate_dim > self._head.width:
            raise InputError(f"truncate_dim {truncate_dim} is more than the {self._head.width} numbers of a vector")
        single = isinstance(sentences, str)
        texts = as_texts(sentences)
        vectors = torch.empty(len(texts), self._head.width, device=self.device)
        prompt = self._prompt(prompt_name, prompt)
        cut: list[int] = []
        steps = self._fill(vectors, texts, prompt, batch_tokens, cut)
        deque(progress(steps, len(texts), "texts", show_progress_bar), maxlen=0)
        warn_of_truncation(cut, len(texts), self.max_seq_length)
        vectors = vectors[:, :truncate_dim]
        if normalize_embeddings:
            vectors = F.normalize(vectors, dim=-1)
        vectors = vectors[0] if single else vectors
        return vectors if convert_to_tensor or not convert_to_numpy else vectors.cpu().numpy()

    def encode_query(self, sentences: str | Sequence[str], **options: Any) -> np.ndarray | Tensor:
        """`encode` with the model's "query" prompt, if it has one; options as there."""
        return self.encode(sentences, **self._with_prompt(options, ("query",)))

    def encode_document(self, sentences: str | Sequence[str], **options: Any) -> np.ndarray | Tensor:
        """`encode` with the model's "document" (or "passage", "corpus") prompt, if it has one; options as there."""
        return self.encode(sentences, **self._with_prompt(options, ("document", "passage", "corpus")))

    def similarity(self, a: np.ndarray | Tensor, b: np.ndarray | Tensor) -> np.ndarray | Tensor:
        """Similarity of every row of `a` [n, d] with every row of `b` [m, d] → [n, m], by the model's own measure.

        A tensor if `a` is one, else numpy. A single vector [d] counts as one row.
        """
        measure = self._measure()
        rows = [torch.tensor(x) if isinstance(x, np.ndarray) else torch.as_tensor(x) for x in (a, b)]
        rows = [x.float() for x in rows]
        rows = [x[None] if x.ndim == 1 else x for x in rows]
        if rows[0].shape[-1] != rows[1].shape[-1]:
            raise InputError(f"vectors of {rows[0].shape[-1]} and of {rows[1].shape[-1]} numbers cannot be compared")
        matrix = measure(rows[0], rows[1].to(rows[0].device))
        return matrix if isinstance(a, Tensor) else matrix.numpy()

    def _with_prompt(self, options: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
        if options.get("prompt") is None and options.get("prompt_name") is None:
            known = [name for name in names if name in self.prompts]
            return {**options, **({"prompt_name": known[0]} if known else {"prompt": ""})}
        return options

    def _prompt(self, name: str | None, prompt: str | None) -> str:
        name = name or self.default_prompt_name
        if prompt is not None:
            return prompt
        if name is None:
            return ""
        if name not in self.prompts:
            raise InputError(f"unknown prompt {name!r}; this model has: {', '.join(self.prompts) or 'none'}")
        return self.prompts[name]

    def _fill(
        self, vectors: Tensor, texts: list[str], prompt: str, batch_tokens: int | None, cut: list[int]
    ) -> Iterator[int]:
        """Write each text's vector into its row, yielding how many are done at a time; `cut` gathers cut lengths."""
        prompt_tokens = self._prompt_tokens(prompt)
        for start in range(0, len(texts), TEXTS_AT_A_TIME):
            encoded = self._tokenize(texts[start : start + TEXTS_AT_A_TIME], prompt)
            cut += cut_lengths(encoded)
            work = partial(self._embed, rows=vectors[start:], prompt_tokens=prompt_tokens)
            yield from schedule(encoded, work, self._streams, device=self.device, batch_tokens=batch_tokens)

    @torch.inference_mode()
    def _embed(self, batch: Batch, rows: Tensor, prompt_tokens: int) -> None:
        asked = None if prompt_tokens else rows_pooled(batch.tokens.layout, self._head.poolings)
        hidden = self._network(batch.tokens, batch.types, rows=asked).last
        rows[list(batch.origin)] = self._head(hidden, prompt_tokens)

    def _tokenize(self, texts: list[str], prompt: str) -> list[Encoded]:
        texts = [prompt + text if isinstance(text, str) else text for text in texts] if prompt else texts
        texts = [text.lower() if isinstance(text, str) else text for text in texts] if self._lower_case else texts
        return self.tokenizer.encode(texts, max_length=self.max_seq_length, offsets=False)

    def _prompt_tokens(self, prompt: str) -> int:
        """How many first tokens of a text are its prompt: all of the prompt's own but the closing special one."""
        if not prompt or self._head.include_prompt:
            return 0
        prompt = prompt.lower() if self._lower_case else prompt
        (encoded,) = self.tokenizer.encode([prompt], max_length=self.max_seq_length)
        closing = len(encoded) > 0 and encoded.special[-1]
        return len(encoded) - closing


def _check_positive(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise InputError(f"{name} must be at least 1, got {value}")
