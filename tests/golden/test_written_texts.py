"""Texts written as transformers' `generate` writes them: greedy, beams of 2 to 5, every rule; ragged neighbours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from bothways import Encoder, Ragged
from bothways.engine.decoding import Decoding
from bothways.engine.generation import CACHED, Writer, Written, generate

END = 3
PROMPTS = [[7, 9, 12, 40, 9, 12], [5], [8, 8, 20, 33], [41, 6], [5, 6, 7, 8, 9, 10, 11, 12]]
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "greedy with a least length": {"min_new_tokens": 7},
    "greedy with all rules": {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "min_new_tokens": 3},
    "a penalty below one": {"repetition_penalty": 0.8, "no_repeat_ngram_size": 3},
    "no token twice": {"no_repeat_ngram_size": 1},
    "ends that are forced": {"forced_eos_token_id": END, "num_beams": 3},
    "two beams": {"num_beams": 2},
    "three beams, two texts": {"num_beams": 3, "num_return_sequences": 2},
    "four beams, early": {"num_beams": 4, "early_stopping": True, "num_return_sequences": 4},
    "four beams, never early": {"num_beams": 4, "early_stopping": "never", "length_penalty": 1.7},
    "five beams, short texts": {"num_beams": 5, "length_penalty": -0.7, "num_return_sequences": 3},
    "five beams, no length": {"num_beams": 5, "length_penalty": 0.0, "early_stopping": "never"},
    "beams with all rules": {
        **{"num_beams": 4, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 4},
        **{"num_return_sequences": 2, "length_penalty": 0.6},
    },
}


@pytest.fixture(scope="module")
def gpt2(save_family: Callable[..., Path]) -> Path:
    """With an end that comes now and then."""
    return save_family("gpt2", kind="ForMaskedLM", seed=3)


def writer(folder: Path, bias: float = 0.0) -> Writer:
    encoder = Encoder.from_pretrained(folder)
    network = encoder.network.eval()
    return Writer(
        network, _Tilted(encoder.heads["causal"], bias), encoder.config.vocab, (END,), encoder.config.longest, CACHED
    )


class _Tilted(torch.nn.Module):
    """The head, with an end that is likelier."""

    def __init__(self, head: torch.nn.Module, bias: float) -> None:
        super().__init__()
        self.head, self.bias = head, bias

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(rows)
        scores[:, END] += self.bias
        return scores


def theirs(folder: Path, prompt: list[int], bias: float, **settings: Any) -> list[tuple[int, ...]]:
    """What transformers writes after one prompt, without what fills up."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(model.config.vocab_size))
    model.lm_head.bias.data[END] = bias
    ids = torch.tensor([prompt])
    found = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, eos_token_id=END, pad_token_id=0, **settings
    )
    return [trimmed(row[len(prompt) :].tolist()) for row in found]


def trimmed(ids: list[int]) -> tuple[int, ...]:
    return tuple(ids[: ids.index(END) + 1] if END in ids else ids)


def ids(written: list[Written]) -> list[tuple[int, ...]]:
    return [one.ids for one in written]


@pytest.mark.parametrize("name", SETTINGS)
def test_texts_are_those_of_transformers(gpt2: Path, name: str) -> None:
    settings = SETTINGS[name]
    ended = set()
    for bias in (0.0, 1.5):
        found = generate(writer(gpt2, bias), Ragged.of(PROMPTS), None, Decoding(max_new_tokens=12, **settings))
        for prompt, own in zip(PROMPTS, found):
            assert ids(own) == theirs(gpt2, prompt, bias, **settings)
            ended |= {one.ended for one in own}
    assert True in ended
