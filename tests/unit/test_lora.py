"""Low-rank adaptation: the paper's formula, merged as unmerged, saved as an ordinary model, resumed bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import SAVE_FAMILY, VARIANTS, language_head
from torch import Tensor, nn

from bothways import CheckpointError, ConfigError, Encoder, Ragged
from bothways.engine.backends import Placement, eager
from bothways.families import FAMILIES
from bothways.nn.dropout import seeded
from bothways.nn.encoder import EncoderNetwork
from bothways.nn.layers import copied, packs
from bothways.nn.lora import LoRA, LoRALinear, Parts, add_lora, lora_of, lora_weights, merged, whole
from bothways.nn.sharing import share
from bothways.objectives.objective import Model
from bothways.train.averaging import Average
from bothways.train.networks import Networks
from bothways.train.optim import OPTIMIZERS, AdamSettings, moment_bytes, optimizer_state, parameter_groups
from bothways.train.state import Progress, best, restore, save_checkpoint

Save = Callable[..., Path]
LENGTHS = (5, 1, 7, 3)
KINDS = [(family, name) for family, variants in VARIANTS.items() for name in variants]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tokens(encoder: Encoder, seed: int = 0) -> Ragged:
    return Ragged.of([torch.randint(5, encoder.config.vocab, (n,), generator=generator(seed)) for n in LENGTHS])


def adapted(folder: Path, parts: Parts = "all", dropout: float = 0.0, rank: int = 3) -> Encoder:
    """An encoder with low-rank matrices that have learned something."""
    encoder = Encoder.from_pretrained(folder)
    add_lora(encoder.network, rank, 4.0, dropout, parts, generator(1))
    with torch.no_grad():
        for name, parameter in encoder.network.named_parameters():
            if name.endswith(".b"):
                parameter.normal_(0.0, 0.3, generator=generator(len(name)))
    return encoder


def last(encoder: Encoder, batch: Ragged) -> Tensor:
    with torch.no_grad():
        return encoder.network(batch).last.data


def assert_near(found: Tensor, expected: Tensor, share: float = 1e-6) -> None:
    assert float((found - expected).detach().norm() / expected.detach().norm()) < share


class Naive(nn.Module):
    """The formula by hand: h = W₀ x + b + (α / r) B A x (Hu et al. 2021, section 4.1)."""

    def __init__(self, base: nn.Linear, a: Tensor, b: Tensor, alpha: float) -> None:
        super().__init__()
        self.w, self.bias = base.weight.detach().clone(), None if base.bias is None else base.bias.detach().clone()
        self.a, self.b = (nn.Parameter(one.clone()) for one in (a, b))
        self.alpha = alpha

    def forward(self, x: Tensor, act: str | None = None, residual: Tensor | None = None) -> Tensor:
        delta = self.alpha / self.a.shape[0] * self.b @ self.a
        y = x @ (self.w + delta).T + (0.0 if self.bias is None else self.bias)
        y = {None: lambda y: y, "gelu": nn.functional.gelu}[act](y)
        return y if residual is None else y + residual


def test_it_computes_and_learns_as_a_lora_written_by_hand(save_bert: Save) -> None:
    ours = adapted(save_bert())
    theirs = adapted(save_bert())
    for name, part in list(theirs.network.named_modules()):
        if isinstance(part, LoRALinear):
            owner, _, leaf = name.rpartition(".")
            naive = Naive(part, part.a.detach(), part.b.detach(), 4.0)
            setattr(theirs.network.get_submodule(owner), leaf, naive)
    batch, slopes = tokens(ours), torch.randn(sum(LENGTHS), 32, generator=generator(3))
    results = [one.network(batch).last.data for one in (ours, theirs)]
    assert_near(*results)
    for result in results:
        (result * slopes).sum().backward()
    learned = {name for name, p in ours.network.named_parameters() if p.requires_grad and "pooler" not in name}
    assert learned == {f"layers.{i}.{m}.{w}" for i in (0, 1) for m in MAPS for w in "ab"}
    for name in learned:
        found, expected = (one.network.get_parameter(name).grad for one in (ours, theirs))
        assert found is not None
        assert expected is not None
        assert_near(found, expected, 1e-4)
    assert all(p.grad is None for name, p in ours.network.named_parameters() if name not in learned)


MAPS = ("attention.qkv", "attention.out", "ffn.up", "ffn.down")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("parts", ["attention", "all"])
def test_at_first_it_computes_what_the_network_did(save_family: Save, family: str, parts: Parts) -> None:
    folder = save_family(family)
    plain, encoder = Encoder.from_pretrained(folder), Encoder.from_pretrained(folder)
    add_lora(encoder.network, 2, 2, parts=parts, generator=generator())
    batch = tokens(encoder)
    assert torch.equal(last(encoder, batch), last(plain, batch))
    places = {name.partition(".")[2].partition(".")[2] for name in lora_weights(encoder.network)}
    expected = MAPS if parts == "all" else MAPS[:2]
    assert places == {f"{place}.{which}" for place in expected for which in "ab"}
    a = encoder.network.layers[0].attention.out.a.detach()
    assert float(a.std() * a.shape[1] ** 0.5) == pytest.approx(1.0, abs=0.35)


@pytest.mark.parametrize(("family", "name"), KINDS)
def test_merged_is_unmerged_and_is_what_transformers_loads(save_family: Save, family: str, name: str) -> None:
    keys = VARIANTS[family][name]
    rank = min(3, 1 if name == "one head" else 3)
    encoder = adapted(save_family(family, **keys), rank=rank)
    plain = Encoder.from_pretrained(save_family(family, **keys))
    batch = tokens(encoder)
    unmerged = last(encoder, batch)
    assert float((unmerged - last(plain, batch)).norm() / unmerged.norm()) > 1e-3
    before = dict(encoder.network.named_parameters())
    with merged(encoder.network):
        assert not any(isinstance(part, LoRALinear) for part in encoder.network.modules())
        assert_near(last(encoder, batch), unmerged)
    after = dict(encoder.network.named_parameters())
    assert before.keys() == after.keys()
    assert all(before[key] is after[key] for key in before)
    assert_near(eager(encoder.network, Placement(torch.device("cpu"), torch.float32))(batch).last.data, unmerged, 2e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_is_an_ordinary_one(save_family: Save, tmp_path: Path, agree: Any, family: str) -> None:
    kind = "ForMaskedLM"
    encoder = adapted(save_family(family, kind=kind))
    batch = tokens(encoder)
    unmerged = last(encoder, batch)
    Networks(encoder).save(tmp_path)
    assert not list(tmp_path.glob("lora*"))
    again = Encoder.from_pretrained(tmp_path)
    assert_near(last(again, batch), unmerged)
    agree(again, SAVE_FAMILY[family].kind(kind).from_pretrained(tmp_path).eval())
    head = language_head(family)
    for one in (again, encoder):
        one.heads[head].eval()
    with torch.no_grad():
        rows = [one.heads[head](one.heads[head].states(one.network(batch))) for one in (again, encoder)]
    assert_near(*rows)


def optimizer_of(model: Model, name: str = "adamw") -> torch.optim.Optimizer:
    adam = AdamSettings(lr=1e-2)
    return OPTIMIZERS[name](parameter_groups(model, 0.1), adam)


def learn(model: Model, optimizer: torch.optim.Optimizer, steps: range) -> None:
    """Some steps whose chance is all the step's."""
    model.train()
    for step in steps:
        batch = Ragged.of([torch.randint(5, 100, (n,), generator=generator(step)) for n in LENGTHS])
        with seeded(step):
            loss = model.network(batch).last.data.square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def bits(model: Model) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_same_bits(some: dict[str, Tensor], others: dict[str, Tensor]) -> None:
    assert some.keys() == others.keys()
    assert [name for name in some if not some[name].equal(others[name])] == []


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("family", ["bert", "albert", "modernbert", "deberta-v2"])
def test_a_run_goes_on_from_a_checkpoint_bit_for_bit(save_family: Save, tmp_path: Path, family: str, name: str) -> None:
    encoder = Encoder.from_pretrained(save_family(family))
    base = bits(Model(encoder.network, encoder.heads))
    add_lora(encoder.network, 3, 4.0, 0.2, "all", generator(1))
    networks = Networks(encoder)
    model = networks.model()
    optimizer, average = optimizer_of(model, name), Average(model, 0.5)
    learn(model, optimizer, range(3))
    average.update()
    assert_same_bits(base, {key: value for key, value in bits(model).items() if key in base})
    save_checkpoint(tmp_path, networks, optimizer, Progress(step=3, best_step=3, best_loss=0.0), {}, average)
    restored = restore(tmp_path, Networks.of, lambda model: (optimizer_of(model, name), Average(model, 0.5)))
    assert restored is not None
    assert restored.networks.lora == LoRA(3, 4.0, 0.2, "all")
    assert_same_bits(bits(model), bits(restored.model))
    assert restored.average is not None
    assert_same_bits(average.state(), restored.average.state())
    requires = {key: p.requires_grad for key, p in model.named_parameters()}
    assert requires == {key: p.requires_grad for key, p in restored.model.named_parameters()}
    assert_same_bits(optimizer_state(model, optimizer), optimizer_state(restored.model, restored.optimizer))
    for one, its in ((model, optimizer), (restored.model, restored.optimizer)):
        learn(one, its, range(3, 5))
    assert_same_bits(bits(model), bits(restored.model))
    kept = sum(value.nbytes for value in optimizer_state(model, optimizer).values() if value.dim())
    pooler = [p for key, p in model.named_parameters() if "pooler" in key]
    assert moment_bytes(optimizer) - kept == 2 * sum(p.nbytes for p in pooler)  # the pooler had no gradient here
    found = best(tmp_path, Networks.of, restored.progress)
    assert found is not None
    assert_same_bits(bits(found[0].model()), bits(restored.model) | average_of(restored.average))


def average_of(average: Average) -> dict[str, Tensor]:
    return {name: mean for name, mean in average.state().items() if name != "updates"}


def test_a_checkpoint_has_the_base_as_it_was_and_the_matrices_beside_it(save_bert: Save, tmp_path: Path) -> None:
    folder = save_bert(kind="BertForMaskedLM")
    encoder = adapted(folder, "attention")
    Networks(encoder).save(tmp_path, resumable=True)
    before, after = (load_file(place / "model.safetensors") for place in (folder, tmp_path))
    assert_same_bits(
        {name: before[name] for name in after if name in before}, {n: after[n] for n in after if n in before}
    )
    assert len(after.keys() & before.keys()) > 20
    assert_same_bits(load_file(tmp_path / "lora.safetensors"), lora_weights(encoder.network))
    save_file({"layers.0.attention.qkv.a": torch.zeros(3, 32)}, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match=r"lora\.safetensors: layers.* is in only one"):
        Networks.read(tmp_path, None, LoRA(3, 4.0, 0.0, "attention"))


@contextmanager
def half(network: EncoderNetwork) -> Iterator[None]:
    network.dtype = torch.bfloat16
    with copied(network, torch.bfloat16):
        yield


@pytest.mark.skipif(not packs(torch.bfloat16), reason="this processor does not compute in bf16")
@pytest.mark.parametrize("family", ["bert", "modernbert", "deberta-v2", "gpt2"])
def test_in_half_precision_only_the_matrices_learn_and_as_in_fp32(save_family: Save, family: str) -> None:
    full, short = (adapted(save_family(family)) for _ in range(2))
    batch = tokens(full)
    full.network(batch).last.data.square().sum().backward()
    with half(short.network):
        short.network(batch).last.data.float().square().sum().backward()
    for name, parameter in short.network.named_parameters():
        expected = full.network.get_parameter(name).grad
        assert (parameter.grad is None) == (expected is None)
        if parameter.grad is not None and expected is not None:
            assert name.endswith((".a", ".b"))
            assert parameter.grad.dtype == torch.float32
            assert_near(parameter.grad, expected, 0.1)


@pytest.mark.parametrize("family", ["bert", "albert", "deberta-v2", "modernbert"])
def test_computed_again_on_the_way_back_it_is_the_same(save_family: Save, family: str) -> None:
    found = []
    for checkpointing in (False, True):
        encoder = adapted(save_family(family), dropout=0.3)
        encoder.network.train().checkpointing = checkpointing
        with seeded(4):
            encoder.network(tokens(encoder)).last.data.square().sum().backward()
        found.append({n: p.grad for n, p in encoder.network.named_parameters() if p.grad is not None})
    assert found[0]
    assert_same_bits(*found)


def test_dropout_is_on_what_the_matrices_read_and_in_training_alone(save_bert: Save) -> None:
    folder = save_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    encoder = adapted(folder, dropout=0.5)
    batch = tokens(encoder)
    evaluated = last(encoder, batch)
    encoder.network.train()
    assert not torch.equal(last(encoder, batch), last(encoder, batch))
    with torch.no_grad():
        for name, parameter in encoder.network.named_parameters():
            if name.endswith(".b"):
                parameter.zero_()
    assert torch.equal(last(encoder, batch), last(Encoder.from_pretrained(folder), batch))
    encoder.network.eval()
    assert not torch.equal(last(encoder, batch), evaluated)


def test_shifted_tables_and_matrices_are_made_whole_together(save_bert: Save, tmp_path: Path) -> None:
    encoder, other = adapted(save_bert(seed=1)), Encoder.from_pretrained(save_bert(seed=2))
    share(encoder.network, other.network, "disentangled")
    with torch.no_grad():
        encoder.network.embeddings.words.weight.add_(0.1)
    batch = tokens(encoder)
    expected = last(encoder, batch)
    encoder.save_pretrained(tmp_path)
    assert_near(last(Encoder.from_pretrained(tmp_path), batch), expected)
    with whole(encoder.network):
        alone = copy.deepcopy(encoder.network)
    assert_near(alone(batch).last.data, expected)
    assert lora_of(alone) is None
    assert lora_of(encoder.network) == LoRA(3, 4.0, 0.0, "all")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"rank": 0}, "rank must be a whole number of at least 1, got 0"),
        ({"rank": 33}, r"rank 33 is larger than a matrix of the network: layers\.0\.attention\.qkv is 96 × 32"),
        ({"alpha": 0.0}, "alpha must be a number above 0"),
        ({"dropout": 1.0}, "dropout must be a number from 0 to less than 1"),
        ({"parts": "ffn"}, "parts must be one of attention, all, got 'ffn'"),
    ],
)
def test_what_cannot_be_is_one_line_and_changes_nothing(save_bert: Save, asked: dict[str, Any], said: str) -> None:
    network = Encoder.from_pretrained(save_bert()).network
    with pytest.raises(ConfigError, match=said):
        add_lora(network, **{"rank": 2, "alpha": 2.0, **asked})
    assert lora_of(network) is None
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_adapting_twice_is_refused(save_bert: Save) -> None:
    encoder = adapted(save_bert())
    with pytest.raises(ConfigError, match="already"):
        add_lora(encoder.network, 2, 2.0)
