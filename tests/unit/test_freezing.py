"""Partial freezing: which parts learn, what that saves, and that everything in a run takes parts that do not learn."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bothways import ConfigError, Encoder, Ragged
from bothways.data.batch import Batch
from bothways.engine.streams import Streams
from bothways.families import FAMILIES
from bothways.nn.freezing import freeze
from bothways.nn.lora import add_lora
from bothways.objectives.objective import Losses, Model, Part
from bothways.train.averaging import Average
from bothways.train.networks import Networks
from bothways.train.optim import OPTIMIZERS, AdamSettings, moment_bytes, optimizer_state, parameter_groups
from bothways.train.state import Progress, best, restore, save_checkpoint
from bothways.train.step import train_step

Save = Callable[..., Path]
LENGTHS = (5, 1, 7, 3)
DEPTH = 4
OTHERS = [family for family in FAMILIES if family != "albert"]


def encoder_of(save_family: Save, family: str, depth: int = DEPTH, **keys: Any) -> Encoder:
    return Encoder.from_pretrained(save_family(family, num_hidden_layers=depth, **keys))


def learning(network: nn.Module) -> set[str]:
    return {name for name, parameter in network.named_parameters() if parameter.requires_grad}


def batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    tokens = [Ragged.of([torch.randint(5, 100, (n,), generator=generator) for n in LENGTHS]) for _ in range(2)]
    return [Batch(some, None, tuple(range(len(LENGTHS)))) for some in tokens]


class Classes:
    """A loss of each sequence's class."""

    heads = ("classify",)
    losses = {"classes": 1.0}  # noqa: RUF012
    steady = True

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"classes": len(batch.tokens)}

    def loss(self, model: Model, batch: Batch) -> Losses:
        rows = model.network(batch.tokens, batch.types).last.first()
        total, _ = model.heads["classify"].loss(rows, torch.arange(len(rows)) % 2)
        return Losses({"classes": Part(total, len(rows))}, {})


class Compared(Classes):
    """A loss that is no sum over batches: the classes of all sequences of a step together."""

    def states(self, model: Model, batch: Batch) -> Tensor:
        return model.network(batch.tokens, batch.types).last.first()

    def joint(self, model: Model, states: list[Tensor], batches: list[Batch]) -> Losses:
        rows = torch.cat(list(states))
        total, _ = model.heads["classify"].loss(rows, torch.arange(len(rows)) % 2)
        return Losses({"classes": Part(total, len(rows))}, {})

    def corrupt(self, packed: Any, rng: Any) -> Batch:
        raise NotImplementedError

    def predicted(self, length: float) -> float:
        return 0.0


@pytest.mark.parametrize("trained", [0, 1, 3, DEPTH])
@pytest.mark.parametrize("family", OTHERS)
def test_the_last_layers_learn_with_what_normalises_them_and_the_pooler(
    save_family: Save, family: str, trained: int
) -> None:
    network = encoder_of(save_family, family).network
    every = {name for name, _ in network.named_parameters()}
    freeze(network, trained)
    layers = tuple(f"layers.{number}." for number in range(DEPTH - trained, DEPTH))
    last = (*layers, "norm.") if trained else ()
    assert learning(network) == {name for name in every if name.startswith((*last, "pooler."))}
    freeze(network, None)
    assert learning(network) == every


def test_a_convolution_belongs_to_the_first_layer(save_family: Save) -> None:
    network = encoder_of(save_family, "deberta-v2", depth=2, conv_kernel_size=3).network
    for trained in (1, 2):
        freeze(network, trained)
        assert ("convolution.weight" in learning(network)) == (trained == 2)


def test_layers_that_share_weights_learn_together_or_not_at_all(save_family: Save) -> None:
    network = encoder_of(save_family, "albert", depth=6, num_hidden_groups=2).network
    freeze(network, 0)
    assert learning(network) == {"pooler.dense.weight", "pooler.dense.bias"}
    freeze(network, 3)  # the second group runs three times
    assert {name.split(".")[1] for name in learning(network) if name.startswith("layers.")} == {"1"}
    for wrong in (1, 2, 4):
        with pytest.raises(ConfigError, match=f"layers is {wrong}, but this model's 6 layers share weights; say 6"):
            freeze(network, wrong)
    freeze(network, 6)
    assert {name.partition(".")[0] for name in learning(network)} == {"layers", "pooler"}


@pytest.mark.parametrize("wrong", [-1, 3, True, 1.5])
def test_a_number_of_layers_that_cannot_be_is_one_line(save_family: Save, wrong: Any) -> None:
    network = encoder_of(save_family, "bert", depth=2).network
    with pytest.raises(ConfigError, match="layers must be a whole number from 0 to 2, got"):
        freeze(network, wrong)
    assert len(learning(network)) == len(list(network.parameters()))


def test_it_does_not_go_with_low_rank_matrices(save_family: Save) -> None:
    network = encoder_of(save_family, "bert").network
    add_lora(network, 2, 2.0)
    before = learning(network)
    freeze(network, None)
    assert learning(network) == before
    with pytest.raises(ConfigError, match="leave one of them out"):
        freeze(network, 1)


def kept_for_the_way_back(network: nn.Module) -> int:
    """Bytes that a forward keeps."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(batches()[0].tokens)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("family", OTHERS)
def test_below_the_layers_that_learn_nothing_is_kept(save_family: Save, family: str) -> None:
    network = encoder_of(save_family, family).network.train()
    found = []
    for trained in (0, 1, 2, DEPTH, None):
        freeze(network, trained)
        if network.pooler is not None:
            network.pooler.requires_grad_(False)
        found.append(kept_for_the_way_back(network))
        states = list(network.steps(batches()[0].tokens))
        learns = DEPTH - (DEPTH if trained is None else trained)
        assert [state.requires_grad for state in states] == [step > learns or trained is None for step in range(5)]
    assert found[0] == 0
    assert found == sorted(found)
    assert found[1] < 0.45 * found[2 + 1]


@pytest.mark.parametrize("objective", [Classes(), Compared()])
@pytest.mark.parametrize("trained", [0, 1])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_moves_what_learns_as_if_the_rest_learned_too_and_nothing_else(
    save_family: Save, name: str, trained: int, objective: Any
) -> None:
    keys = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    one, other = (encoder_of(save_family, "bert", kind="ForSequenceClassification", **keys) for _ in range(2))
    freeze(one.network, trained)
    models = [Model(some.network, some.heads).train() for some in (one, other)]
    before = {key: parameter.detach().clone() for key, parameter in models[0].named_parameters()}
    found = []
    for model in models:
        optimizer = OPTIMIZERS[name](parameter_groups(model, 0.1), AdamSettings(lr=1e-2))
        found.append(train_step(model, objective, batches(), optimizer, Streams(torch.device("cpu")), clip=math.inf))
        if model is models[0]:
            kept = optimizer_state(model, optimizer)
            assert {key.rpartition("/")[0] for key in kept} == learning(model)
            assert moment_bytes(optimizer) == sum(value.nbytes for value in kept.values() if value.dim())
    assert found[0].applied
    assert found[0].loss == pytest.approx(found[1].loss, rel=1e-6)
    assert 0.0 < found[0].gradient < found[1].gradient
    for key, parameter in models[0].named_parameters():
        if parameter.requires_grad:
            assert not parameter.equal(before[key]), key
            torch.testing.assert_close(parameter, models[1].get_parameter(key), atol=2e-4, rtol=1e-4)
        else:
            assert parameter.equal(before[key]), key
            assert parameter.grad is None


def test_a_checkpoint_and_an_average_take_parts_that_do_not_learn(save_family: Save, tmp_path: Path) -> None:
    encoder = encoder_of(save_family, "bert", kind="ForSequenceClassification")
    networks = Networks(encoder)

    def parts(model: Model) -> tuple[torch.optim.Optimizer, Average]:
        freeze(model.network, 1)
        return OPTIMIZERS["adamw"](parameter_groups(model, 0.1), AdamSettings(lr=1e-2)), Average(model, 0.5)

    model = networks.model().train()
    optimizer, average = parts(model)

    def step(model: Model, optimizer: torch.optim.Optimizer, average: Average) -> None:
        train_step(model, Classes(), batches(), optimizer, Streams(torch.device("cpu")), seed=3)  # type: ignore[arg-type]
        average.update()

    step(model, optimizer, average)
    assert set(average.state()) == {"updates", *learning(model)}
    save_checkpoint(tmp_path, networks, optimizer, Progress(step=1, best_step=1, best_loss=0.0), {}, average)
    restored = restore(tmp_path, Networks.of, parts)
    assert restored is not None
    assert restored.average is not None
    for some in ((model, optimizer, average), (restored.model.train(), restored.optimizer, restored.average)):
        step(*some)
    for key, parameter in model.named_parameters():
        assert parameter.equal(restored.model.get_parameter(key)), key
    found = best(tmp_path, Networks.of, restored.progress)
    assert found is not None
    freeze(found[0].encoder.network, None)
    fresh = dict(found[0].model().named_parameters())
    assert not fresh["network.layers.3.ffn.up.weight"].equal(model.network.layers[3].ffn.up.weight)
    assert fresh["network.layers.0.ffn.up.weight"].equal(model.network.layers[0].ffn.up.weight)
    networks.save(tmp_path / "saved")
    saved = Encoder.from_pretrained(tmp_path / "saved")
    for key, parameter in Model(saved.network, saved.heads).named_parameters():
        assert parameter.equal(model.get_parameter(key)), key
