"""Optimizers: each step is its paper's formula, and what they keep can be put down and taken up again."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bothways import ConfigError, Encoder
from bothways.families import FAMILIES
from bothways.nn.layers import packs
from bothways.objectives.objective import Model
from bothways.train.muon import orthogonal
from bothways.train.optim import (
    OPTIMIZERS,
    AdamSettings,
    moment_bytes,
    optimizer_state,
    parameter_groups,
    restore_optimizer,
)
from bothways.train.settings import UpdateSettings

Save = Callable[..., Path]
ADAM = AdamSettings(lr=1e-2, beta1=0.8, beta2=0.95, eps=1e-5, weight_decay=0.1)
HALF = packs(torch.bfloat16)


def fresh(folder: Path) -> Model:
    encoder = Encoder.from_pretrained(folder)
    model = Model(encoder.network, encoder.heads)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.clone())  # no longer mapped from the file
    return model


def optimizer_of(name: str, model: nn.Module, settings: AdamSettings = ADAM) -> torch.optim.Optimizer:
    return OPTIMIZERS[name](parameter_groups(model, settings.weight_decay), settings)


def give_gradients(model: nn.Module, seed: int, size: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = size * torch.randn(parameter.shape, generator=generator).to(parameter.device)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_same_bits(some: dict[str, Tensor], others: dict[str, Tensor]) -> None:
    assert some.keys() == others.keys()
    assert [name for name in some if not some[name].equal(others[name])] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_is_in_one_group_and_only_maps_inside_layers_are_hidden(save_family: Save, family: str) -> None:
    model = fresh(save_family(family, kind="ForMaskedLM"))
    groups = parameter_groups(model, 0.1)
    names = {parameter: name for name, parameter in model.named_parameters()}
    given = [parameter for group in groups for parameter in group["params"]]
    assert len(given) == len(set(given)) == len(names)
    for group in groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.1 if parameter.dim() > 1 else 0.0)
            hidden = names[parameter].startswith("network.layers.") and parameter.dim() == 2
            assert bool(group["matrices"]) == hidden, names[parameter]
            if hidden:
                assert len(parameter) % group["matrices"] == 0
    stacked = {names[p].split(".", 3)[-1]: group["matrices"] for group in groups for p in group["params"]}
    assert stacked["attention.qkv.weight"] == 3
    assert stacked["attention.out.weight"] == stacked["ffn.down.weight"] == 1
    assert stacked["ffn.up.weight"] == 1 + model.network.config.gated


def newton_schulz(x: np.ndarray) -> np.ndarray:
    """The naive oracle: 3.4445 s - 4.775 s³ + 2.0315 s⁵ of each singular value s, five times."""
    u, s, v = np.linalg.svd(x, full_matrices=False)
    s = s / np.linalg.norm(s)
    for _ in range(5):
        s = 3.4445 * s - 4.775 * s**3 + 2.0315 * s**5
    return u * s @ v


@pytest.mark.parametrize("shape", [(40, 40), (24, 96), (96, 24), (1, 30), (30, 1)])
def test_orthogonal_matrices_are_those_of_the_decomposition(shape: tuple[int, int]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    found, expected = orthogonal(x).double().numpy(), newton_schulz(x.double().numpy())
    assert np.linalg.norm(found - expected) < 0.03 * np.linalg.norm(expected)
    singular = np.linalg.svd(found, compute_uv=False)
    assert singular[: min(shape) * 9 // 10].min(initial=1.0) > 0.5
    assert singular.max() < 1.3
    assert not orthogonal(torch.zeros(shape)).any()


def test_a_step_is_muon_by_the_formula_with_q_k_and_v_apart(save_bert: Save) -> None:
    """Liu et al. 2025, section 2: decay, then 0.2 √max(m, n) orthogonal(g + μ M); torch's lerps scale g and M alike."""
    model = fresh(save_bert(kind="BertForMaskedLM"))
    optimizer = optimizer_of("muon", model)
    others = fresh(save_bert(kind="BertForMaskedLM"))
    adamw = optimizer_of("adamw", others)
    average: dict[str, np.ndarray] = {}
    for step in range(3):
        before = weights(model)
        give_gradients(model, step)
        give_gradients(others, step)
        optimizer.step()
        adamw.step()
        for name, parameter in model.named_parameters():
            if not (name.startswith("network.layers.") and parameter.dim() == 2):
                assert parameter.equal(others.get_parameter(name)), name
                continue
            assert parameter.grad is not None
            g = parameter.grad.double().numpy()
            average[name] = 0.95 * average.get(name, 0.0) + 0.05 * g
            ahead = 0.05 * g + 0.95 * average[name]
            parts = np.split(ahead, 3) if "qkv" in name else [ahead]
            turned = np.concatenate([newton_schulz(x) * 0.2 * math.sqrt(max(x.shape)) for x in parts])
            expected = before[name].double().numpy() * (1 - ADAM.lr * ADAM.weight_decay) - ADAM.lr * turned
            found = parameter.detach().double().numpy()
            assert np.linalg.norm(found - expected) < 0.03 * ADAM.lr * np.linalg.norm(turned), name


@pytest.mark.skipif(not HALF, reason="torch's Muon computes in bf16, which this processor does not have")
def test_muon_is_torchs_bit_for_bit_where_a_weight_is_one_matrix() -> None:
    theirs = nn.ParameterList(torch.randn(shape) for shape in [(40, 40), (24, 96), (96, 24)])
    ours = nn.ParameterList(parameter.detach().clone() for parameter in theirs)
    table = nn.Parameter(torch.randn(5, 4))
    groups = [
        {"params": list(ours), "weight_decay": 0.1, "matrices": 1},
        {"params": [table], "weight_decay": 0.1, "matrices": 0},
    ]
    one = OPTIMIZERS["muon"](groups, ADAM)
    other = torch.optim.Muon(theirs, lr=ADAM.lr, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for step in range(3):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        one.step()
        other.step()
    assert_same_bits(weights(ours), weights(theirs))


def test_muons_steps_are_as_long_as_adamws() -> None:
    layer = nn.Linear(128, 512, bias=False)
    muon = OPTIMIZERS["muon"](
        [
            {"params": [layer.weight], "weight_decay": 0.0, "matrices": 1},
            {"params": [nn.Parameter(torch.zeros(1))], "weight_decay": 0.0, "matrices": 0},
        ],
        AdamSettings(lr=1.0),
    )
    before = weights(layer)["weight"]
    give_gradients(layer, 0)
    muon.step()
    assert float((layer.weight.detach() - before).square().mean().sqrt()) == pytest.approx(0.2, rel=0.2)


def test_a_step_is_stable_adamw_by_the_formula() -> None:
    """Wortsman et al. 2023, algorithm 2, over gradients that jump: the steps after a jump are shorter, no other is."""
    model = nn.Sequential(nn.Linear(7, 5), nn.LayerNorm(5))
    optimizer = optimizer_of("stable-adamw", model)
    first = {name: np.zeros(p.shape) for name, p in model.named_parameters()}
    second = {name: np.zeros(p.shape) for name, p in model.named_parameters()}
    clipped = []
    for step, size in enumerate([1.0, 1.0, 0.5, 100.0, 1e-9], start=1):
        before = weights(model)
        give_gradients(model, step, size)
        optimizer.step()
        for name, p in model.named_parameters():
            assert p.grad is not None
            g = p.grad.double().numpy()
            b1, b2 = (b * (1 - b ** (step - 1)) / (1 - b**step) for b in (ADAM.beta1, ADAM.beta2))
            first[name] = b1 * first[name] + (1 - b1) * g
            second[name] = b2 * second[name] + (1 - b2) * g * g
            rms = math.sqrt(np.mean(g * g / np.maximum(second[name], ADAM.eps**2)))
            clipped.append((step, rms > 1.001))
            lr, decay = ADAM.lr / max(1.0, rms), ADAM.weight_decay * (p.dim() > 1)
            old = before[name].double().numpy()
            expected = old - lr * (decay * old + first[name] / (np.sqrt(second[name]) + ADAM.eps))
            np.testing.assert_allclose(p.detach().numpy(), expected, atol=3e-6, rtol=0, err_msg=name)
    assert all(is_clipped for step, is_clipped in clipped if step == 4)
    assert not any(is_clipped for step, is_clipped in clipped if step in (1, 5))


@pytest.mark.parametrize("family", ["bert", "modernbert"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_an_optimizer_keeps_can_be_put_down_and_taken_up(save_family: Save, name: str, family: str) -> None:
    model = fresh(save_family(family, kind="ForMaskedLM"))
    optimizer = optimizer_of(name, model)
    for step in range(2):
        give_gradients(model, step)
        optimizer.step()
    again = fresh(save_family(family, kind="ForMaskedLM"))
    again.load_state_dict(model.state_dict())
    kept = {key: value.clone() for key, value in optimizer_state(model, optimizer).items()}
    resumed = optimizer_of(name, again)
    restore_optimizer(again, resumed, kept)
    assert_same_bits(kept, optimizer_state(again, resumed))
    for step in (2, 3):
        for one, its in ((model, optimizer), (again, resumed)):
            give_gradients(one, step)
            for group in its.param_groups:
                group["lr"] = 1e-3 * step  # as a schedule sets it
            its.step()
    assert_same_bits(weights(model), weights(again))
    assert_same_bits(optimizer_state(model, optimizer), optimizer_state(again, resumed))
    assert {key.rpartition("/")[0] for key in kept} == {key for key, _ in model.named_parameters()}


@pytest.mark.parametrize("family", ["bert", "modernbert"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_an_optimizer_will_keep_is_known_before_its_first_step(save_family: Save, name: str, family: str) -> None:
    model = fresh(save_family(family, kind="ForMaskedLM"))
    optimizer = optimizer_of(name, model)
    said = moment_bytes(optimizer)
    give_gradients(model, 0)
    optimizer.step()
    assert said == sum(value.nbytes for value in optimizer_state(model, optimizer).values() if value.dim())


@pytest.mark.gpu
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_on_a_gpu_it_is_taken_up_too(save_bert: Save, name: str) -> None:
    """Fused kernels of AdamW want the numbers of steps there."""
    model, again = (fresh(save_bert(kind="BertForMaskedLM")).cuda() for _ in range(2))
    optimizer, resumed = optimizer_of(name, model), optimizer_of(name, again)
    give_gradients(model, 0)
    optimizer.step()
    again.load_state_dict(model.state_dict())
    restore_optimizer(again, resumed, {key: value.cpu() for key, value in optimizer_state(model, optimizer).items()})
    for one, its in ((model, optimizer), (again, resumed)):
        give_gradients(one, 1)
        its.step()
    assert_same_bits(weights(model), weights(again))
    for parameter, other in zip(model.parameters(), again.parameters()):
        for key, value in optimizer.state[parameter].items():
            assert resumed.state[other][key].device == value.device, key


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_torchs_own_way_of_taking_a_state_up_works_too(save_bert: Save, name: str) -> None:
    model, again = (fresh(save_bert(kind="BertForMaskedLM")) for _ in range(2))
    optimizer, resumed = optimizer_of(name, model), optimizer_of(name, again)
    give_gradients(model, 0)
    optimizer.step()
    again.load_state_dict(model.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, its in ((model, optimizer), (again, resumed)):
        give_gradients(one, 1)
        for group in its.param_groups:
            group["lr"] = 3e-3
        its.step()
    assert_same_bits(weights(model), weights(again))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_step_depends_on_threads(name: str) -> None:
    """At sizes where torch shares the work of one operation out."""
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            weight = nn.Parameter(torch.linspace(-1, 1, 384 * 512).view(384, 512).sin())
            table = nn.Parameter(torch.linspace(-1, 1, 3000 * 64).view(3000, 64).cos())
            module = nn.ParameterList([weight, table])
            groups = [
                {"params": [weight], "weight_decay": 0.1, "matrices": 3},
                {"params": [table], "weight_decay": 0.1, "matrices": 0},
            ]
            optimizer = OPTIMIZERS[name](groups, ADAM)
            for step in range(2):
                give_gradients(module, step)
                optimizer.step()
            found.append(weights(module))
    finally:
        torch.set_num_threads(before)
    assert_same_bits(found[0], found[1])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_parameter_without_a_gradient_stays(save_bert: Save, name: str) -> None:
    model = fresh(save_bert(kind="BertForMaskedLM"))
    optimizer = optimizer_of(name, model)
    give_gradients(model, 0)
    idle = ("network.embeddings.types.weight", "network.layers.0.attention.qkv.weight")
    for key in idle:
        model.get_parameter(key).grad = None
    before = weights(model)
    optimizer.step()
    after = weights(model)
    assert {key for key in before if before[key].equal(after[key])} == set(idle)


@pytest.mark.parametrize(
    ("wrong", "meant"), [("moun", "muon"), ("adam", "adamw"), ("stable_adamw", "stable-adamw"), ("zebra", None)]
)
def test_an_unknown_optimizer_is_one_line_with_the_nearest_name(wrong: str, meant: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        UpdateSettings(optimizer=wrong)
    said = f"optimizer must be one of {', '.join(OPTIMIZERS)}, got '{wrong}'"
    assert str(caught.value) == said + (f"; did you mean {meant}?" if meant else "")


@pytest.mark.parametrize("family", FAMILIES)
def test_learning_rates_fall_from_the_heads_to_the_embeddings(save_family: Save, family: str) -> None:
    """Layer i of d: lr · decay^(d - i); embeddings as layer 0; shared layers as one; poolers as heads."""
    model = fresh(save_family(family, kind="ForTokenClassification" if family == "gpt2" else "ForMultipleChoice"))
    depth = len(model.network.layers)
    assert depth == (1 if family == "albert" else 2)
    groups = parameter_groups(model, 0.1, lr=1e-3, layer_decay=0.5, head_lr=7e-3)
    names = {parameter: name for name, parameter in model.named_parameters()}
    given = {names[parameter]: group["lr"] for group in groups for parameter in group["params"]}
    assert given.keys() == set(names.values())
    for name, lr in given.items():
        place = name.split(".")
        if place[0] == "heads" or place[1] == "pooler":
            assert lr == 7e-3, name
        else:
            height = int(place[2]) + 1 if place[1] == "layers" else {"norm": depth}.get(place[1], 0)
            assert lr == 1e-3 * 0.5 ** (depth - height), name
    plain = parameter_groups(model, 0.1)
    assert [group["params"] for group in parameter_groups(model, 0.1, lr=1e-3)] == [g["params"] for g in plain]
    assert not any("lr" in group for group in plain)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_takes_each_groups_learning_rate(save_bert: Save, name: str) -> None:
    """What has a rate moves as with one rate for all; what has none stays."""
    model, all_alike = (fresh(save_bert(kind="BertForMaskedLM")) for _ in range(2))
    groups = parameter_groups(model, 0.1, lr=ADAM.lr, layer_decay=0.5)
    assert {group["lr"] for group in groups} == {ADAM.lr, ADAM.lr / 2, ADAM.lr / 4}
    for group in groups:
        group["lr"] = 0.0 if group["lr"] < ADAM.lr else ADAM.lr
    still = {parameter for group in groups if not group["lr"] for parameter in group["params"]}
    optimizer, other = OPTIMIZERS[name](groups, ADAM), optimizer_of(name, all_alike)
    before = weights(model)
    for one, its in ((model, optimizer), (all_alike, other)):
        give_gradients(one, 0)
        its.step()
    for key, parameter in model.named_parameters():
        assert parameter.equal(before[key] if parameter in still else all_alike.get_parameter(key)), key
        assert not all_alike.get_parameter(key).equal(before[key]), key


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"lr": 1e-3, "layer_decay": 0.0}, "layer_decay must be above 0"),
        ({"lr": 1e-3, "layer_decay": 1.1}, "layer_decay must be above 0 and at most 1"),
        ({"lr": 1e-3, "head_lr": -1.0}, "head_lr must be 0 or more"),
        ({"layer_decay": 0.9}, "need an lr"),
    ],
)
def test_impossible_rates_are_one_line(asked: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parameter_groups(nn.Linear(2, 2), 0.1, **asked)


def test_muon_takes_hidden_matrices_alone() -> None:
    layer = nn.Linear(3, 4, bias=False)
    muon = OPTIMIZERS["muon"]([{"params": [layer.weight], "weight_decay": 0.0, "matrices": 1}], ADAM)
    give_gradients(layer, 0)
    before = weights(layer)["weight"]
    muon.step()
    assert not layer.weight.equal(before)
