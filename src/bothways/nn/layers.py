"""What every network is made of: tables, linear maps with fused epilogues, norms. And how fresh ones get values."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bothways.nn.activations import ACTIVATIONS
from bothways.nn.config import EncoderConfig
from bothways.nn.dropout import dropout
from bothways.nn.threads import core_counts

__all__ = [
    "FEW_ROWS",
    "Embedding",
    "FewRows",
    "Linear",
    "PackedLinear",
    "RootMeanSquareNorm",
    "activate",
    "add",
    "copied",
    "filled",
    "for_few_rows",
    "initialise",
    "norm",
    "packs",
]

ModuleT = TypeVar("ModuleT", bound=nn.Module)

# The epilogues that oneDNN's linear takes along: (attribute, algorithm).
_EPILOGUES = {
    "gelu": ("gelu", "none"),
    "gelu_accurate": ("gelu", "tanh"),
    "gelu_fast": ("gelu", "tanh"),
    "gelu_new": ("gelu", "tanh"),
    "gelu_python": ("gelu", "none"),
    "gelu_pytorch_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
    "tanh": ("tanh", ""),
}
# Below this many rows oneDNN may take another kernel, whose sums differ in the last bit: small inputs are filled up.
_FEWEST_ROWS = 8
FILLED_ROWS = 32
# With AMX, sums over more columns than this are cut into parts, and which ones depends on the number of rows and on the
# shape of the weight. Which of these numbers agree is tried out.
_WHOLE_SUMS = 384
_BLOCKS = (512, 256, 128, 64)
_WHOLE_UP_TO = 32  # rows whose sums are never cut
# Numbers in a weight that a core's cache holds; beyond, reading it takes the time, however it is laid out.
_SMALL = 1 << 20
# For up to so many rows it is multiplied fastest as it is, [in, out].
FEW_ROWS = 32


class Embedding(nn.Embedding):
    """A table of vectors. Like `Linear`, it is born without values: a checkpoint or `initialise` gives them.

    (torch's own initialisation, on the meta device, imports its compiler: a second and 80 MB for nothing.)
    """

    taker: Callable[[Tensor, Tensor], None] | None = None
    """Takes ids [T] and the gradients of their vectors [T, width] on the way back, in place of the weight's, which are
    nearly all zero."""

    def reset_parameters(self) -> None:
        """Leave the memory as it is."""

    def forward(self, ids: Tensor) -> Tensor:
        """ids int [T] → [T, width]."""
        if self.taker is None:
            return super().forward(ids)
        found = _Looked.apply(self.weight, ids, self.taker)
        assert isinstance(found, Tensor)
        return found

    def table(self) -> Tensor:
        """[rows, width]: all its vectors."""
        return self.weight


class _Looked(torch.autograd.Function):
    """Vectors of a table, whose gradients somebody takes."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, taker: Callable[[Tensor, Tensor], None]) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.taker = taker
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> tuple[Any, ...]:
        ctx.taker(ctx.saved_tensors[0], slopes[0])
        return None, None, None


class Linear(nn.Linear):
    """x [T, in] → act(x Wᵀ + b) + residual, [T, out]."""

    copy: Tensor | None = None  # of the weight, in the precision that is computed in; see `copied`

    def reset_parameters(self) -> None:
        """Leave the memory as it is."""

    def forward(self, x: Tensor, act: str | None = None, residual: Tensor | None = None) -> Tensor:
        # Trained in half precision, the weights themselves stay in fp32.
        bias = None if self.bias is None else self.bias.to(x.dtype)
        copied = self.copy is not None and self.copy.dtype == x.dtype
        y = F.linear(x, _Copied.apply(self.weight, self.copy) if copied else self.weight.to(x.dtype), bias)
        if act is not None:
            y = ACTIVATIONS[act](y)
        return y if residual is None else y + residual

    def matrix(self) -> Tensor:
        """[out, in]: all that x is multiplied with."""
        return self.weight


class _Copied(torch.autograd.Function):
    """A weight, as it is in a copy of it."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, copy: Tensor) -> Tensor:
        ctx.dtype = weight.dtype
        return copy.detach()

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> tuple[Any, ...]:
        return slopes[0].to(ctx.dtype), None


@contextmanager
def copied(module: nn.Module, dtype: torch.dtype | None) -> Iterator[None]:
    """Within, the linear maps have their weights in `dtype` once, not once for each batch that is computed.

    Weights must not change meanwhile.
    """
    linears = [part for part in module.modules() if isinstance(part, Linear) and part.weight.dtype != dtype]
    try:
        for linear in linears if dtype is not None else ():
            linear.copy = linear.weight.detach().to(dtype)
        yield
    finally:
        for linear in linears:
            linear.copy = None


@torch.no_grad()
def initialise(module: nn.Module, std: float, generator: torch.Generator | None = None) -> None:
    """Fresh weights for a network or a head, as BERT has them: normal with `std`, norms 1, biases 0."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if parameter.dim() > 1:
                parameter.normal_(0.0, std, generator=generator)
            else:
                parameter.fill_(float(isinstance(part, (nn.LayerNorm, nn.RMSNorm)) and name == "weight"))


def packs(dtype: torch.dtype) -> bool:
    """Whether this CPU and this torch can run `PackedLinear` in that precision."""
    ops = torch.ops.mkldnn
    if not torch.backends.mkldnn.is_available() or not hasattr(ops, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and ops._is_mkldnn_bf16_supported())


class PackedLinear(nn.Module):
    """A `Linear` for inference on a CPU: the weight reordered once for oneDNN, activation and residual as epilogues.

    10 to 15 % faster than `F.linear` and bit for bit independent of how many rows there are: filled up to 8 and, in
    bf16 with AMX, taken in blocks of sizes that agree.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.out_features = len(weight)
        cut = dtype == torch.bfloat16 and weight.shape[1] > _WHOLE_SUMS and torch.cpu._is_amx_tile_supported()
        self.blocks = _agreeing_blocks(*weight.shape, torch.get_num_threads()) if cut else ()
        with torch.no_grad():
            weight = weight.detach().to("cpu", dtype).contiguous()
            self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, 1024)
            self.bias = None if bias is None else bias.detach().to("cpu", dtype, copy=True)

    def forward(self, x: Tensor, act: str | None = None, residual: Tensor | None = None) -> Tensor:
        if not self.blocks:
            return self._filled(x, _FEWEST_ROWS, act, residual)
        sizes = list(_cut(len(x), self.blocks))
        besides = [None] * len(sizes) if residual is None else residual.split(sizes)
        parts = [self._filled(some, self.blocks[-1], act, beside) for some, beside in zip(x.split(sizes), besides)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _filled(self, x: Tensor, fewest: int, act: str | None, residual: Tensor | None) -> Tensor:
        rows = len(x)
        if rows >= fewest:
            return self.unfilled(x, act, residual)
        fill = (0, 0, 0, fewest - rows)
        return self.unfilled(F.pad(x, fill), act, None if residual is None else F.pad(residual, fill))[:rows]

    def unfilled(self, x: Tensor, act: str | None, residual: Tensor | None) -> Tensor:
        """As `forward`; the last bits depend on how many rows there are."""
        run = torch.ops.mkldnn._linear_pointwise
        if act is not None and (act not in _EPILOGUES or residual is not None):
            y = activate(run(x, self.packed, self.bias, "none", [], ""), act)
            return y if residual is None else y + residual
        if residual is not None:
            return run.binary(x, residual, self.packed, self.bias, "add")
        name, algorithm = _EPILOGUES[act] if act else ("none", "")
        return run(x, self.packed, self.bias, name, [], algorithm)


def _cut(rows: int, blocks: Sequence[int]) -> Iterator[int]:
    """Rows in blocks, the largest first; what is left behind them, if anything, or if there are no rows."""
    left = rows
    for block in blocks:
        yield from [block] * (left // block)
        left %= block
    if left or not rows:
        yield left


@lru_cache(maxsize=256)
@torch.no_grad()
def _agreeing_blocks(columns: int, inner: int, threads: int) -> tuple[int, ...]:
    """Numbers of rows, falling, for which bf16 with AMX adds up in the same order, on as many cores as there may be.

    Tried on sums that are zero but for what is lost on the way: nearly all of them differ where the way does.
    """
    generator = torch.Generator().manual_seed(0)
    order, idle = torch.randperm(inner // 2, generator=generator), (0, inner % 2)
    x, w = (torch.randn(n, inner // 2, generator=generator).bfloat16() for n in (_WHOLE_UP_TO, columns))
    x, w = F.pad(torch.cat([x, -x[:, order]], 1), idle), F.pad(torch.cat([w, w[:, order]], 1), idle)
    packed = torch.ops.mkldnn._reorder_linear_weight(w, 1024)

    def sums(rows: int) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x.repeat(rows // len(x), 1), packed, None, "none", [], "")

    alike = set(_BLOCKS)
    try:
        expected = sums(_BLOCKS[-1])[: len(x)]
        for count in core_counts(threads):
            torch.set_num_threads(count)
            alike &= {rows for rows in _BLOCKS if torch.equal(sums(rows), expected.repeat(rows // len(x), 1))}
    finally:
        torch.set_num_threads(threads)
    return tuple(sorted(alike, reverse=True)) if {64, 128} <= alike else (_WHOLE_UP_TO,)


class FewRows(nn.Module):
    """A `PackedLinear` for few rows, as in a step of generation: up to three times as fast there, with other last bits.

    twice: keep the weight as [in, out], too. Small ones are faster so for up to 32 rows, large ones for a single row;
    for more, they do without what fills the rows up.
    """

    def __init__(self, packed: PackedLinear, twice: bool) -> None:
        super().__init__()
        self.packed = packed
        size = packed.packed.numel()
        self.most = 0 if not twice else FEW_ROWS if size <= _SMALL else 1
        self.weight = packed.packed.to_dense().T.contiguous() if twice else None

    def forward(self, x: Tensor, act: str | None = None, residual: Tensor | None = None) -> Tensor:
        if self.weight is None or len(x) > self.most:
            return self.packed.unfilled(x, act, residual)
        bias = self.packed.bias
        y = x @ self.weight if bias is None else torch.addmm(bias, x, self.weight)
        y = y if act is None else ACTIVATIONS[act](y)
        return y if residual is None else y.add_(residual)


def for_few_rows(module: ModuleT, largest: int = _SMALL) -> ModuleT:
    """The same module, all weights shared, with packed linear maps as `FewRows`.

    largest: numbers in the largest weight that is kept twice.
    """
    if isinstance(module, PackedLinear):
        twice = module.packed.dtype == torch.float32 and module.packed.numel() <= largest
        return cast(ModuleT, FewRows(module, twice))
    twin = copy.copy(module)
    twin._modules = {name: child and for_few_rows(child, largest) for name, child in module._modules.items()}
    return twin


def activate(x: Tensor, act: str) -> Tensor:
    """act(x) [T, width], each row with the same bits however many rows there are.

    On a CPU torch computes what does not fill two vectors, and what is not contiguous, by other code, whose results
    differ in the last bits.
    """
    idle = -x.shape[-1] % 32 if x.device.type == "cpu" else 0
    if not idle:
        return ACTIVATIONS[act](x.contiguous())
    return ACTIVATIONS[act](F.pad(x, (0, idle)))[..., :-idle].contiguous()


def add(linear: nn.Module, x: Tensor, residual: Tensor, dropped: float) -> Tensor:
    """residual + dropout(linear(x)), in one kernel where nothing is dropped."""
    if dropped > 0.0:
        return residual + dropout(linear(x), dropped)
    return linear(x, residual=residual)


def filled(rows: Tensor) -> Tensor:
    """rows [M, width], or numbers of rows [M], and zeros behind them, to a multiple of 32 on a CPU.

    oneDNN compiles and keeps kernels for every M, near a megabyte for each: as many rows as were masked by chance would
    be hundreds of them.
    """
    idle = -len(rows) % FILLED_ROWS if rows.device.type == "cpu" else 0
    return F.pad(rows, (*(0, 0) * (rows.dim() - 1), 0, idle)) if idle else rows


class RootMeanSquareNorm(nn.RMSNorm):
    """x over the root of its mean square, times a weight (Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467).

    Computed in fp32, given in x's own precision.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.normalized_shape, self.weight.float(), self.eps).to(x.dtype)


def norm(config: EncoderConfig, width: int | None = None) -> nn.Module:
    """The norm of hidden states, or of rows of another width."""
    if config.rms:
        return RootMeanSquareNorm(width or config.width, config.norm_eps)
    return nn.LayerNorm(width or config.width, config.norm_eps, bias=config.biases.norms)
