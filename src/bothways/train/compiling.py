"""torch's compiler, for what a layer does after attention: rows by themselves, whose shapes are simple.

Attention stays as it is: its groups of equal length are other ones in every batch, and each would be compiled anew.
Compiled, the sums of a row are taken in another order than without, and another one with another version of torch or
another number of threads: runs with and without `compile` differ in last bits, and a resumed run goes on to the same
bits only where the compiler makes the same code again.

On a CPU there was nothing to gain (bert-mini, bf16, two cores: 2,530 tokens a second of processor time, 2,517 without)
and compiling took 15 seconds. Dropout there has a generator for each batch, which the compiler cannot take along: it
falls into pieces (half as fast, and over a minute to compile), and is refused.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from bothways.errors import ConfigError
from bothways.nn.blocks import EncoderLayer
from bothways.nn.encoder import EncoderNetwork

__all__ = ["compile_layers"]


def compile_layers(network: EncoderNetwork, device: torch.device) -> None:
    """Have each layer's part after attention compiled when it first runs.

    Raises ConfigError where the compiler does not work, and on a CPU where there is dropout.
    """
    if device.type == "cpu" and network.config.dropout > 0.0:
        raise ConfigError("compile with dropout makes a CPU slower; say dropout = 0, or compile = false")
    _check(device)
    for layer in network.layers:
        assert isinstance(layer, EncoderLayer)
        if layer.cross is None:
            layer._rest = torch.compile(layer._rest, dynamic=True)  # type: ignore[method-assign]
        else:
            layer.attended = torch.compile(layer.attended, dynamic=True)  # type: ignore[method-assign]
            layer.crossed = torch.compile(layer.crossed, dynamic=True)  # type: ignore[method-assign]


def _check(device: torch.device) -> None:
    """Compile something small, without the cache, which would hide that there is no compiler any more."""
    rows = torch.ones(2, 16, device=device)
    try:
        with _quiet():
            import torch._inductor.config as inductor

            with inductor.patch(force_disable_caches=True):
                torch.compile(lambda x: F.gelu(x + 1.0), dynamic=True)(rows)
    except Exception as error:  # whatever a compiler may say
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConfigError(
            f"compile = true, but torch's compiler does not work here ({reason:.120}); "
            "install a C++ compiler (g++), or say compile = false"
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the compiler says of itself: what is wrong is said once."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
