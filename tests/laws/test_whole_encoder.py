"""Laws of what users hold: vectors depend neither on company nor on threads; what is prepared stays so."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from bothways import Encoder, Pipeline, Ragged, SentenceEncoder, UnusedWeightsWarning
from bothways.engine.backends import BACKENDS, Placement


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_text_alone_on_all_cores_is_the_same_as_in_a_crowd_on_a_share_of_them(
    precision: str, minilm: Path, topics: list[str], two_threads: None
) -> None:
    encoder = SentenceEncoder(minilm, precision=precision)
    crowd = encoder.encode(topics[::2])
    assert torch.get_num_threads() == 2
    for i in range(0, len(crowd), 23):
        np.testing.assert_array_equal(encoder.encode(topics[2 * i]), crowd[i])


def test_two_users_at_the_same_time_get_what_each_would_get_alone(
    minilm: Path, topics: list[str], two_threads: None
) -> None:
    encoder = SentenceEncoder(minilm)
    halves = [topics[:80], topics[80:160]]
    expected = [encoder.encode(half) for half in halves]
    found: dict[int, np.ndarray] = {}

    def use(i: int) -> None:
        found[i] = np.asarray(encoder.encode(halves[i]))

    users = [threading.Thread(target=use, args=(i,)) for i in range(2)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    for i in range(2):
        np.testing.assert_array_equal(found[i], expected[i])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_prepared_network_does_not_change_when_the_original_is_trained(
    backend: str, save_bert: Callable[..., Path]
) -> None:
    encoder = Encoder.from_pretrained(save_bert())
    prepared = BACKENDS[backend](encoder.network, Placement(torch.device("cpu"), torch.float32))
    tokens = Ragged.of([torch.tensor([2, 7, 8, 3])])
    with torch.inference_mode():
        before = prepared(tokens).last.data.clone()
    with torch.no_grad():
        for parameter in encoder.network.parameters():
            parameter.mul_(1.5)
    with torch.inference_mode():
        assert torch.equal(prepared(tokens).last.data, before)


def test_a_pipeline_leaves_its_encoder_trainable_and_unchanged(save_bert: Callable[..., Path]) -> None:
    encoder = Encoder.from_pretrained(save_bert())
    before = {name: value.clone() for name, value in encoder.network.state_dict().items()}
    Pipeline("feature-extraction", encoder, precision="bf16")("a cat sat")
    assert all(parameter.requires_grad for parameter in encoder.network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in encoder.network.state_dict().items())


def test_a_layout_met_in_inference_mode_can_be_trained_on(save_bert: Callable[..., Path]) -> None:
    network = Encoder.from_pretrained(save_bert()).network
    tokens = Ragged.of([[2, 7, 3], [2, 7, 8, 3], [2, 9, 3]])
    with torch.inference_mode():
        network(tokens)
    network(tokens).last.data.sum().backward()
    assert all(parameter.grad is not None for name, parameter in network.named_parameters() if "pooler" not in name)


def test_training_does_not_write_to_the_file_that_is_mapped(save_bert: Callable[..., Path]) -> None:
    folder = save_bert()
    before = (folder / "model.safetensors").read_bytes()
    encoder = Encoder.from_pretrained(folder)
    with torch.no_grad():
        for parameter in encoder.network.parameters():
            parameter.zero_()
    assert (folder / "model.safetensors").read_bytes() == before


def test_weights_that_would_be_lost_on_saving_are_named(save_bert: Callable[..., Path], tmp_path: Path) -> None:
    folder = save_bert(kind="BertForSequenceClassification")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    encoder = Encoder.from_pretrained(folder)  # whose classifier could be that of sequences or of tokens
    with pytest.warns(UnusedWeightsWarning, match=r"classifier\.bias"):
        encoder.save_pretrained(tmp_path)


def test_what_is_saved_does_not_depend_on_what_was_asked_before(save_bert: Callable[..., Path], tmp_path: Path) -> None:
    encoder = Encoder.from_pretrained(save_bert())
    encoder.save_pretrained(tmp_path / "before")
    Pipeline("feature-extraction", encoder)("a cat sat")
    encoder.save_pretrained(tmp_path / "after")
    for file in (tmp_path / "before").iterdir():
        assert (tmp_path / "after" / file.name).read_bytes() == file.read_bytes(), file.name
