"""What a run will take, before it is spent: parameters, operations, memory, time."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import nn

from bothways.data.packing import Packing
from bothways.data.pairs import PairPacking
from bothways.engine.streams import Streams
from bothways.nn.config import EncoderConfig
from bothways.nn.losses import bytes_of_vocabulary_cross_entropy
from bothways.objectives.objective import Model, PretrainingObjective
from bothways.objectives.reading import read_of
from bothways.train.feed import feed
from bothways.train.optim import OPTIMIZERS, AdamSettings, moment_bytes, parameter_groups
from bothways.train.progress import Cursor
from bothways.train.settings import PretrainSettings
from bothways.train.step import train_step

__all__ = ["Plan", "flops_of_step_token", "flops_of_token", "matmul_rate", "plan_of", "rate_here"]

RATE_SECONDS = 0.2  # in which a run measures the matrix-product rate
RATE_SIZES = {"cpu": 1024}  # of the matrices; elsewhere they are larger
RATE_SIZE = 4096

# Weight and gradient, in fp32; and the average of a weight.
BYTES_PER_PARAMETER = 8
BYTES_PER_AVERAGE = 4
TRIED_STEPS = 2


@dataclass(frozen=True)
class Plan:
    """parameters: of all networks and heads.    tokens: of the whole run; epochs: how often that is the corpus.

    flops: multiplications and additions of matrix products in the whole run, forward and back.
    state_bytes: of weights, their average, gradients and moments.
    activation_bytes: about what a step keeps for the way back, and computes with.
    tokens_per_second: as tried here; rate: share of the machine's matrix-product rate that is.    seconds: of the run.
    warmup: steps in which the learning rate rises.
    paired: of the sequences, the share that are pairs with a label; None without pairs.
    """

    parameters: int
    tokens: int
    epochs: float
    flops: float
    state_bytes: int
    activation_bytes: int
    tokens_per_second: float
    rate: float
    seconds: float
    warmup: int
    paired: float | None


def flops_of_token(config: EncoderConfig, length: float, predicted: float, read: float = 1.0) -> float:
    """Of one forward, a token: linear maps, attention over `length` tokens, and the head on a share of the tokens.

    read: the share of the tokens whose last hidden states are asked for; the others' are not computed.
    A causal network's head is a product with the vocabulary, and nothing before it. A memory is taken to have as many
    rows as there are tokens.
    """
    width, ffn = config.width, config.ffn
    behind = 2 * (width * width + (3 if config.gated else 2) * width * ffn)  # what is done after attention
    layer = 6 * width * width + behind + 4 * length * width
    if config.memory is not None:
        layer += 4 * width * (width + config.memory) + 4 * length * width
    mapped = 2 * config.embed_width * width if config.embed_mapped else 0
    head = 2 * config.embed_width * (config.vocab + (0 if config.causal else config.width))
    return len(config.order) * layer - (1 - read) * behind + mapped + predicted * head


def flops_of_step_token(model: Model, packing: Packing, objective: PretrainingObjective) -> float:
    """Of a step, a token: forward through all networks, and twice that on the way back."""
    length = packing.tokens / packing.sequences
    parts = _read_from(model, objective, length)
    return 3 * sum(flops_of_token(config, length, share, read_of(share)) for config, share in parts)


def _read_from(model: Model, objective: PretrainingObjective, length: float) -> list[tuple[EncoderConfig, float]]:
    """Each network, and the share of its rows that words are predicted from: the generator's where there is one."""
    configs, predicted = [network.config for network in model.networks], objective.predicted(length)
    return [(config, predicted if i == len(configs) - 1 else 0.0) for i, config in enumerate(configs)]


def _activation_bytes(
    settings: PretrainSettings, model: Model, objective: PretrainingObjective, length: float, streams: Streams
) -> int:
    """What autograd keeps of a step's batches that run side by side, and their losses hold: an estimate."""
    networks = _read_from(model, objective, length)
    together = min(settings.step.batches(settings.step.steps), streams.count)
    return together * sum(_batch_bytes(settings, config, length, share, streams) for config, share in networks)


def _batch_bytes(
    settings: PretrainSettings, config: EncoderConfig, length: float, predicted: float, streams: Streams
) -> int:
    """Of one network's forward of a batch."""
    size = 4 if settings.update.precision == "fp32" else 2
    token = len(config.order) * (12 * config.width + 4 * config.ffn + 3 * config.heads * length) * size
    if settings.update.checkpointing:
        token = len(config.order) * config.width * size + token / len(config.order)
    rows, kind = int(predicted * settings.step.batch), streams.device.type
    loss = bytes_of_vocabulary_cross_entropy(rows, config.vocab, config.embed_width, size, kind) if rows else 0
    return int(settings.step.batch * token + loss)


def _copied_bytes(settings: PretrainSettings, parameters: int) -> int:
    """Of the weights once more, in half precision, while a step is computed (`nn.layers.copied`)."""
    return 0 if settings.update.precision == "fp32" else 2 * parameters


def rate_here(dtype: torch.dtype, device: torch.device) -> float:
    """`matmul_rate` as a run asks for it before its first step: in a moment."""
    size = RATE_SIZES.get(device.type, RATE_SIZE)
    return matmul_rate(dtype, device, seconds=RATE_SECONDS, size=size)


def matmul_rate(dtype: torch.dtype, device: torch.device, seconds: float = 0.5, size: int = 2048) -> float:
    """Multiplications and additions a second of matrix products size × size here, as far as `seconds` tell."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    a @ b
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    done, started = 0, time.perf_counter()
    while not done or time.perf_counter() - started < seconds:
        a @ b
        done += 1
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return done * 2 * size**3 / (time.perf_counter() - started)


def plan_of(
    settings: PretrainSettings, model: Model, objective: PretrainingObjective, packing: Packing, device: torch.device
) -> Plan:
    """Count what can be counted, and try a few steps on real batches for the rest. The model's weights change."""
    step = settings.step
    length = packing.tokens / packing.sequences
    tokens = step.tokens
    per_token = flops_of_step_token(model, packing, objective)
    speed, moments = _tried(model, objective, packing, settings, device)
    dtype = torch.float32 if model.network.dtype is None else model.network.dtype
    parameters = _count(model)
    return Plan(
        parameters=parameters,
        tokens=tokens,
        epochs=tokens / packing.tokens,
        flops=per_token * tokens,
        state_bytes=parameters * (BYTES_PER_PARAMETER + BYTES_PER_AVERAGE * (settings.update.ema > 0)) + moments,
        activation_bytes=_activation_bytes(settings, model, objective, length, Streams(device))
        + _copied_bytes(settings, parameters),
        tokens_per_second=speed,
        rate=per_token * speed / matmul_rate(dtype, device),
        seconds=tokens / speed,
        warmup=settings.update.rising(step.steps),
        paired=packing.paired if isinstance(packing, PairPacking) else None,
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _tried(
    model: Model, objective: PretrainingObjective, packing: Packing, settings: PretrainSettings, device: torch.device
) -> tuple[float, int]:
    """Tokens a second of a few steps, after one that does not count; and the bytes that the optimizer keeps."""
    groups = parameter_groups(model, settings.adam.weight_decay)
    optimizer = OPTIMIZERS[settings.update.optimizer](groups, AdamSettings(lr=0.0))
    batches, streams = feed(packing, objective, settings.run.seed, Cursor(), 0), Streams(device)
    tokens, started = 0, 0.0
    for tried in range(TRIED_STEPS + 1):
        started = time.perf_counter() if tried == 1 else started
        some = [next(batches)[0].to(device) for _ in range(settings.step.batches(settings.step.steps))]
        result = train_step(model, objective, some, optimizer, streams, clip=settings.update.clip)
        tokens += result.tokens if tried else 0
    return tokens / (time.perf_counter() - started), moment_bytes(optimizer)
