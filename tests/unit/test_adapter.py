"""Adapters: their shapes, their independence of neighbours, what a naive version gives, and their folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bothways.checkpoint.adapter import read_adapter, write_adapter
from bothways.engine.backends import BACKENDS, Placement
from bothways.errors import CheckpointError, ConfigError
from bothways.nn.adapter import Adapter, AdapterConfig, Bottleneck, LinearAdapter, Resampler, adapter_of
from bothways.ragged import Layout, Ragged

LINEAR = AdapterConfig("linear", 12, 20)
BOTTLENECK = AdapterConfig("bottleneck", 12, 12, inner=5, act="relu")
WIDENING = AdapterConfig("bottleneck", 12, 20, inner=7)
RESAMPLE = AdapterConfig("resample", 12, 20, rows=3, heads=5)
EVERY = pytest.mark.parametrize(
    "config", [LINEAR, BOTTLENECK, WIDENING, RESAMPLE], ids=["linear", "same", "wide", "resample"]
)


def made(config: AdapterConfig, seed: int = 3) -> Adapter:
    """One of which every weight, biases too, is at random."""
    generator = torch.Generator().manual_seed(seed)
    adapter = adapter_of(config, generator)
    assert adapter is not None
    for parameter in adapter.parameters():
        nn.init.normal_(parameter, 0.0, 0.3, generator=generator)
    return adapter.eval()


def sources(*lengths: int, width: int = 12, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, width, generator=generator) for length in lengths]


def naive(adapter: Adapter, x: Tensor) -> Tensor:
    """One source by torch's own modules."""
    if isinstance(adapter, LinearAdapter):
        return x @ adapter.map.weight.T + adapter.map.bias
    if isinstance(adapter, Bottleneck):
        kept = x if adapter.map is None else x @ adapter.map.weight.T + adapter.map.bias
        act = {"relu": torch.relu, "gelu": nn.functional.gelu}[adapter.config.act]
        narrow = act(x @ adapter.down.weight.T + adapter.down.bias)
        summed = kept + narrow @ adapter.up.weight.T + adapter.up.bias
        return nn.functional.layer_norm(summed, summed.shape[1:], adapter.norm.weight, adapter.norm.bias)
    assert isinstance(adapter, Resampler)
    width = adapter.config.width
    theirs = nn.MultiheadAttention(width, adapter.config.heads, kdim=x.shape[1], vdim=x.shape[1])
    theirs.q_proj_weight.data = adapter.query.weight.data
    theirs.k_proj_weight.data, theirs.v_proj_weight.data = adapter.key_value.weight.data.chunk(2)
    theirs.in_proj_bias.data = torch.cat([adapter.query.bias.data, adapter.key_value.bias.data])
    theirs.out_proj.weight.data, theirs.out_proj.bias.data = adapter.out.weight.data, adapter.out.bias.data
    summed = adapter.queries + theirs(adapter.queries, x, x)[0]
    return nn.functional.layer_norm(summed, (width,), adapter.norm.weight, adapter.norm.bias)


@EVERY
def test_each_source_becomes_what_the_naive_version_makes_of_it(config: AdapterConfig) -> None:
    adapter, some = made(config), sources(5, 1, 9, 5)
    found = adapter(Ragged.of(some)).unbind()
    assert [tuple(one.shape) for one in found] == [
        (config.rows if config.kind == "resample" else len(one), config.width) for one in some
    ]
    for one, source in zip(found, some):
        torch.testing.assert_close(one, naive(adapter, source), atol=1e-5, rtol=1e-5)


@EVERY
def test_prepared_for_inference_a_source_does_not_depend_on_its_neighbours(config: AdapterConfig) -> None:
    ready = BACKENDS["eager"](made(config), Placement(torch.device("cpu"), torch.float32))
    some = sources(5, 1, 9, 5, 17)
    with torch.inference_mode():
        together = ready(Ragged.of(some)).unbind()
        alone = [ready(Ragged.of([one])).data for one in some]
    for one, other in zip(together, alone):
        assert torch.equal(one, other)
    torch.testing.assert_close(together[2], naive(made(config), some[2]), atol=1e-5, rtol=1e-5)


@EVERY
def test_gradients_reach_the_rows_and_every_weight(config: AdapterConfig) -> None:
    adapter = made(config)
    memory = torch.cat(some := sources(4, 6)).requires_grad_()
    mixed = torch.randn(config.width, generator=torch.Generator().manual_seed(9))
    (adapter(Ragged(memory, Ragged.of(some).layout)).data.tanh() @ mixed).sum().backward()
    assert memory.grad is not None
    theirs = torch.cat(some).requires_grad_()
    twin = made(config)
    sum((naive(twin, rows).tanh() @ mixed).sum() for rows in theirs.split([4, 6])).backward()  # type: ignore[union-attr]
    torch.testing.assert_close(memory.grad, theirs.grad, atol=1e-5, rtol=1e-5)
    for name, parameter in adapter.named_parameters():
        assert parameter.grad is not None, name
        # The softmax does not see what is added to all keys alike.
        assert parameter.grad.abs().sum() > 0, name


def test_a_source_without_rows_becomes_the_queries() -> None:
    adapter = made(RESAMPLE)
    assert isinstance(adapter, Resampler)
    found = adapter(Ragged(torch.empty(0, 12), Layout.of([0]))).data
    expected = nn.functional.layer_norm(
        adapter.queries + adapter.out.bias, (20,), adapter.norm.weight, adapter.norm.bias
    )
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_none_is_no_module() -> None:
    assert adapter_of(AdapterConfig("none", 12, 12)) is None


@EVERY
def test_a_fresh_adapter_goes_by_its_generator(config: AdapterConfig) -> None:
    def fresh(seed: int) -> list[Tensor]:
        adapter = adapter_of(config, torch.Generator().manual_seed(seed))
        assert adapter is not None
        return list(adapter.parameters())

    assert all(torch.equal(one, other) for one, other in zip(fresh(1), fresh(1)))
    assert any(not torch.equal(one, other) for one, other in zip(fresh(1), fresh(2)))


@EVERY
def test_the_folder_gives_back_what_it_was_given(config: AdapterConfig, tmp_path: Path) -> None:
    adapter = made(config)
    write_adapter(tmp_path / "adapter", adapter)
    again = read_adapter(tmp_path / "adapter")
    assert again.config == config
    before, after = adapter.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    memory = Ragged.of(sources(3, 8))
    assert torch.equal(adapter(memory).data, again(memory).data)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"kind": "lineal"}, "adapter must be one of none, linear, bottleneck, resample, got 'lineal'"),
        ({"memory": 0}, "memory of an adapter must be a whole number from 1"),
        ({"width": True}, "width of an adapter must be a whole number"),
        ({"kind": "resample", "heads": 3}, "heads of an adapter is 3, which does not divide a width of 20"),
        ({"act": "gello"}, "act of an adapter must be one of"),
        ({"kind": "none"}, "rows of 12 columns do not become 20 wide without an adapter: say linear"),
        ({"rows": 1 << 40}, "rows of an adapter must be a whole number from 1"),
    ],
)
def test_what_cannot_be_is_one_line(said: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        replace(LINEAR, **said)
    assert "\n" not in str(raised.value)


def test_a_damaged_folder_names_file_and_place(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    write_adapter(folder, made(LINEAR))
    whole = json.loads((folder / "config.json").read_text())

    def said(**changes: Any) -> None:
        there = {key: value for key, value in {**whole, **changes}.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(there))

    for changes, kind, message in [
        ({"width": 21}, CheckpointError, r"model.safetensors: map.weight is \[20, 12\], not \[21, 12\]"),
        ({"kind": "bottleneck"}, CheckpointError, r"model.safetensors: down.bias is missing, where config.json says"),
        ({"kind": "none", "width": 12}, ConfigError, "config.json: kind is none"),
        ({"colour": 1}, ConfigError, "config.json: colour is not known"),
        ({"inner": None}, ConfigError, "config.json: inner is missing"),
        ({"inner": "5"}, ConfigError, "config.json: inner of an adapter must be a whole number"),
    ]:
        said(**changes)
        with pytest.raises(kind, match=message):
            read_adapter(folder)
    said()
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no model.safetensors"):
        read_adapter(folder)
