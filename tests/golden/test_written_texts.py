"""Texts written as transformers' `generate` writes them: greedy, beams of 2 to 5, every rule; ragged neighbours."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from small_pairs import made

from bothways import Encoder, EncoderDecoder, Ragged
from bothways.engine.decoding import read_decoding
from bothways.engine.generation import CACHED, Writer, Written, generate

END = 3
MOST = 12
WORDS = range(5, 40)
PROMPTS = [[7, 9, 12, 31, 9, 12], [5], [8, 8, 20, 33], [31, 6], [5, 6, 7, 8, 9, 10, 11, 12]]
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "greedy with a least length": {"min_new_tokens": 7},
    "greedy with all rules": {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "min_new_tokens": 3},
    "a penalty below one": {"repetition_penalty": 0.8, "no_repeat_ngram_size": 3},
    "no token twice": {"no_repeat_ngram_size": 1},
    "an end that is forced": {"forced_eos_token_id": END, "num_beams": 3},
    "a beginning that is forced": {"forced_bos_token_id": 9},
    "words that never come": {
        "bad_words_ids": [[END], *([a, b] for a in WORDS for b in WORDS if (a + b) % 3)],
        "suppress_tokens": list(range(20, 25)),
    },
    "words that do not begin": {"begin_suppress_tokens": [END, *range(0, 40, 2)], "num_beams": 2},
    "nor behind one that is forced": {"begin_suppress_tokens": list(WORDS), "forced_bos_token_id": 9},
    "beams without some words": {
        **{"num_beams": 3, "bad_words_ids": [[7], [31], [8, 9], [5, 6, 7]], "renormalize_logits": True},
        **{"begin_suppress_tokens": [11, 12], "num_return_sequences": 2},
    },
    "words that never come, in beams": {"num_beams": 4, "suppress_tokens": list(range(0, 40, 3)), "min_new_tokens": 2},
    "nothing of the source": {"encoder_no_repeat_ngram_size": 1},
    "no two of the source, in beams": {"encoder_no_repeat_ngram_size": 2, "num_beams": 3, "num_return_sequences": 3},
    "one of two ends": {"forced_eos_token_id": [END, 9]},
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
PAIRS = ("bert, bert", "bert, gpt2", "roberta, roberta", "bart", "t5", "t5, gated silu")


class Tilted(torch.nn.Module):
    """A head with an end that is likelier, so that texts end now and then."""

    def __init__(self, head: torch.nn.Module, tilt: float) -> None:
        super().__init__()
        self.head, self.tilt = head, tilt

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(rows).clone()
        scores[..., END] += self.tilt
        return scores


def theirs(model: Any, ids: list[int], skip: int, settings: dict[str, Any]) -> list[tuple[int, ...]]:
    """What transformers writes of one text, without what it begins with and what fills up."""
    row = torch.tensor([ids])
    marks = {"eos_token_id": END, "pad_token_id": 0}
    found = model.generate(row, attention_mask=torch.ones_like(row), max_new_tokens=MOST, **marks, **settings)
    texts = [one[skip:].tolist() for one in found]
    return [tuple(text[: text.index(END) + 1] if END in text else text) for text in texts]


def ids(written: list[Written]) -> list[tuple[int, ...]]:
    return [one.ids for one in written]


@cache
def decoder_alone(folder: Path) -> tuple[Encoder, Any]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    model.lm_head = Tilted(model.lm_head, 1.5)
    return Encoder.from_pretrained(folder), model


@pytest.fixture(scope="module")
def gpt2(save_family: Callable[..., Path]) -> Path:
    return save_family("gpt2", kind="ForMaskedLM", seed=3)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_decoder_alone_goes_on_as_that_of_transformers(gpt2: Path, name: str) -> None:
    settings = SETTINGS[name]
    encoder, model = decoder_alone(gpt2)
    head = Tilted(encoder.heads["causal"], 1.5)
    write = Writer(encoder.network.eval(), head, encoder.config.vocab, (END,), encoder.config.limit, CACHED)
    found = generate(write, Ragged.of(PROMPTS), None, read_decoding({"max_new_tokens": MOST, **settings}))
    for prompt, own in zip(PROMPTS, found):
        assert ids(own) == theirs(model, prompt, len(prompt), settings)


@cache
def pair(name: str, folder: Path) -> tuple[EncoderDecoder, Any]:
    model = made(name, folder, seed=1)
    model.generation_config.forced_eos_token_id = None  # BART's would be 2
    last = model.get_output_embeddings()
    for part in list(model.modules()):
        for child, module in list(part.named_children()):
            if module is last:
                setattr(part, child, Tilted(last, 1.0))
    return EncoderDecoder.from_pretrained(folder), model


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folders = {name: tmp_path_factory.mktemp("pair") for name in PAIRS}
    return folders.__getitem__


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", PAIRS)
def test_an_encoder_decoder_writes_as_that_of_transformers(
    folder_of: Callable[[str], Path], name: str, settings: str
) -> None:
    ours, model = pair(name, folder_of(name))
    head, vocab = Tilted(ours.head, 1.0), ours.decoder.config.vocab
    write = Writer(ours.decoder.eval(), head, vocab, (END,), ours.decoder.config.limit, CACHED)
    said = SETTINGS[settings]
    with torch.inference_mode():
        memory = ours.memory(Ragged.of(PROMPTS))
    starts = Ragged.of([[ours.marks.start]] * len(PROMPTS))
    decoding = read_decoding({"max_new_tokens": MOST, **said})
    found = generate(write, starts, memory, decoding, sources=PROMPTS)
    for source, own in zip(PROMPTS, found):
        assert ids(own) == theirs(model, source, 1, said)
