"""Where and how a network runs: device, precision, and the form its layers take there."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from bothways.errors import InputError
from bothways.nn.encoder import EncoderNetwork
from bothways.nn.heads import MaskDecoder
from bothways.nn.layers import Linear, PackedLinear, packs

__all__ = ["BACKENDS", "Backend", "Placement", "eager", "place"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Placement:
    """A device and the precision to compute in there."""

    device: torch.device
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{next(name for name, dtype in DTYPES.items() if dtype == self.dtype)} on {self.device}"


def place(device: str = "auto", precision: str = "auto") -> Placement:
    """Resolve what a user asked for.

    device: "auto" takes a CUDA GPU where there is one.    precision: "fp32", "bf16", "fp16" (GPU); "auto" is fp32 on a
    CPU, always, and on a GPU bf16 where it is native, else fp16; that choice is printed.

    Raises InputError on a device that is not there or a precision it cannot run.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        where = torch.device(device)
    except (RuntimeError, TypeError):
        raise InputError(f"unknown device {device!r}; try auto, cpu or cuda") from None
    if where.type not in ("cpu", "cuda"):
        raise InputError(f"device {device!r} is not supported; use cpu or cuda")
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count() or "no"
        raise InputError(f"device {device!r} asked for, but torch finds {count} CUDA GPU here")
    return Placement(where, _dtype(where, precision))


def _dtype(device: torch.device, precision: str) -> torch.dtype:
    if precision == "int8":
        raise InputError("precision int8 does not exist yet; use fp32 or bf16")
    if precision == "auto":
        if device.type == "cpu":
            return torch.float32
        chosen = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        print(f"bothways: computing in {chosen} on {device}; precision='fp32' for full precision", file=sys.stderr)
        return DTYPES[chosen]
    if precision not in DTYPES:
        raise InputError(f"unknown precision {precision!r}; use {', '.join(DTYPES)}")
    if precision == "fp16" and device.type == "cpu":
        raise InputError("precision fp16 needs a GPU; use fp32 or bf16 on a CPU")
    return DTYPES[precision]


def eager(module: ModuleT, placement: Placement, *, share: bool = False) -> ModuleT:
    """A copy of the module, ready for inference there, which later changes of the original do not reach.

    share: weights that need no change are the original's own (the caller has no other use for it).
    On a CPU the linear layers are packed, and all other weights stay in fp32 (they are read, not multiplied).
    """
    device, dtype = placement.device, placement.dtype
    twin = copy.deepcopy(module, {id(p): p for p in module.parameters()}).eval()
    if device.type == "cpu":
        _pack(twin, dtype)
        _convert(twin, lambda p: p.to(device, copy=not share))
    else:
        _convert(twin, lambda p: p.to(device, dtype, copy=not share))
    if isinstance(twin, (EncoderNetwork, MaskDecoder)):
        twin.dtype = dtype if device.type == "cpu" else None
        twin.freeze()
    return twin


def _pack(module: nn.Module, dtype: torch.dtype) -> None:
    for name, child in module.named_children():
        if not isinstance(child, Linear):
            _pack(child, dtype)
        elif packs(dtype):
            setattr(module, name, PackedLinear(child.matrix(), child.bias, dtype))
        else:
            _convert(child, lambda p: p.to("cpu", dtype))


def _convert(module: nn.Module, convert: Callable[[Tensor], Tensor]) -> None:
    """Give every submodule new parameters (the old ones may belong to another module too); shared ones stay shared."""
    converted: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if id(parameter) not in converted:
                converted[id(parameter)] = nn.Parameter(convert(parameter.detach()), requires_grad=False)
            setattr(part, name, converted[id(parameter)])


class Backend(Protocol):
    """Prepares a module for inference at a placement."""

    def __call__(self, module: ModuleT, placement: Placement, *, share: bool = False) -> ModuleT: ...


BACKENDS: dict[str, Backend] = {
    "eager": eager,
}
