"""fill-mask: the likeliest tokens for each [MASK] (the pretraining task of Devlin et al. 2018, asked as a question)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bothways.data.batch import Batch
from bothways.errors import InputError
from bothways.nn.encoder import EncoderOutput
from bothways.ragged import Ragged
from bothways.tasks.task import Request
from bothways.text.tokenizer import Encoded, Tokenizer, as_texts

__all__ = ["FillMask"]


@dataclass(frozen=True)
class Options:
    top_k: int


@dataclass(frozen=True)
class FillMask:
    """One text with one mask gives `[{score, token, token_str, sequence}, …]`; with several masks, a list of those."""

    head: str | None = "mlm"

    def request(self, texts: str | Sequence[str], *, top_k: int = 5) -> Request:
        """texts: each with at least one mask token.    top_k: how many candidates for each mask."""
        if type(top_k) is not int or top_k < 1:
            raise InputError(f"top_k must be a whole number of at least 1, got {top_k!r}")
        return Request(as_texts(texts), isinstance(texts, str), options=Options(top_k))

    def keeps(self, options: Options) -> bool:
        return False

    def check(self, request: Request, encoded: Sequence[Encoded], tokenizer: Tokenizer) -> None:
        mask = tokenizer.id_of("mask")
        if mask is None:
            raise InputError("this model's tokenizer has no mask token")
        for text, tokens in zip(request.texts, encoded):
            if mask not in tokens.ids:
                lost = " after it was cut to the model's length" if tokens.dropped else ""
                raise InputError(f"no {tokenizer.special['mask']} in the text{lost}: {_short(text)!r}")

    def predict(
        self, output: EncoderOutput, head: nn.Module | None, batch: Batch, tokenizer: Tokenizer, options: Options
    ) -> list[tuple[Tensor, Tensor]]:
        """(scores, ids), each [masks, top_k], for each sequence. The head sees masked rows only."""
        assert head is not None
        mask = torch.tensor(tokenizer.id_of("mask"), device=output.last.data.device)
        masked = batch.tokens.data == mask
        rows = masked.nonzero()[:, 0]
        probabilities = head(output.last.data[rows]).float().softmax(-1)
        best = probabilities.topk(min(options.top_k, probabilities.shape[-1]))
        counts = [int(count) for count in Ragged(masked, batch.tokens.layout).sum()]
        return list(zip(best.values.cpu().split(counts), best.indices.cpu().split(counts)))

    def decode(
        self, predicted: tuple[Tensor, Tensor], encoded: Encoded, tokenizer: Tokenizer, options: Options
    ) -> list[Any]:
        mask = tokenizer.id_of("mask")
        places = [i for i, token in enumerate(encoded.ids) if token == mask]
        answers = []
        for place, scores, tokens in zip(places, predicted[0].tolist(), predicted[1].tolist()):
            candidates = []
            for score, token in zip(scores, tokens):
                filled = [*encoded.ids[:place], token, *encoded.ids[place + 1 :]]
                filled = [i for i in filled if i != tokenizer.id_of("pad")]
                sequence = tokenizer.decode(filled, skip_special=len(places) == 1)
                token_str = tokenizer.decode([token])
                candidates.append({"score": score, "token": token, "token_str": token_str, "sequence": sequence})
            answers.append(candidates)
        return answers[0] if len(answers) == 1 else answers


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "…"
