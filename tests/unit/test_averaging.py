"""The average of the weights is what its formula says, and the weights themselves never notice it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bothways import ConfigError
from bothways.train.averaging import Average
from bothways.train.settings import UpdateSettings


def tied() -> nn.Module:
    """Two layers with one weight."""
    module = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4))
    module[2].weight = module[0].weight
    return module


def move(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))


def copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def assert_same_bits(some: dict[str, Tensor], others: dict[str, Tensor]) -> None:
    assert some.keys() == others.keys()
    assert [name for name in some if not some[name].equal(others[name])] == []


def test_an_average_forgets_the_start_soon_and_then_as_its_decay_says() -> None:
    module = tied()
    average = Average(module, 0.3)
    expected = {name: value.double().numpy() for name, value in copied(module).items()}
    for step, decay in enumerate([1 / 10, 2 / 11, 3 / 12, 0.3, 0.3]):
        move(module, step)
        average.update()
        for name, value in copied(module).items():
            expected[name] = decay * expected[name] + (1 - decay) * value.double().numpy()
    with average.swapped():
        assert module[2].weight is module[0].weight
        for name, value in copied(module).items():
            np.testing.assert_allclose(value.numpy(), expected[name], atol=1e-6)


def test_weights_are_put_back_whatever_happens_and_can_be_trained_on() -> None:
    module, alone = tied(), tied()
    alone.load_state_dict(module.state_dict())
    average = Average(module, 0.9)
    optimizers = [torch.optim.AdamW(one.parameters(), fused=True) for one in (module, alone)]
    for step in range(3):
        for one, optimizer in zip((module, alone), optimizers):
            optimizer.zero_grad()
            one(torch.full((2, 4), float(step))).square().sum().backward()
            optimizer.step()
        average.update()
        before = copied(module)
        with pytest.raises(ZeroDivisionError), average.swapped():
            1 / int(module[0].weight.equal(before["0.weight"]))
        assert_same_bits(copied(module), before)
    assert_same_bits(copied(module), copied(alone))


def test_an_average_goes_on_from_its_state_as_if_never_stopped() -> None:
    module, other = tied(), tied()
    average, resumed = Average(module, 0.9), Average(other, 0.9)
    for step in range(3):
        move(module, step)
        average.update()
    other.load_state_dict(module.state_dict())
    resumed.restore({key: value.clone() for key, value in average.state().items()})
    for one, its in ((module, average), (other, resumed)):
        move(one, 9)
        its.update()
    assert_same_bits(average.state(), resumed.state())


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_that_is_none_is_one_line(decay: float) -> None:
    with pytest.raises(ConfigError, match="ema must be 0 or more and less than 1, got"):
        UpdateSettings(ema=decay)
