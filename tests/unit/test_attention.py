"""`attend` gives what a loop over the sequences gives, on every path."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

import pytest
import torch
from torch import Tensor

from bothways import InputError, Layout, attend
from bothways.nn import attention
from bothways.nn.dropout import seeded

# The products path up to any length, never, and wherever the library thinks best.
PATHS = {"products": 1 << 30, "fused": -1, "as chosen": None}

LAYOUTS = {
    "one": ([5], None),
    "single rows": ([1, 1, 1], None),
    "unsorted with repeats": ([3, 17, 3, 1, 40, 17, 2], None),
    "sorted": ([33, 33, 16, 16, 16, 1], None),
    "with empty ones": ([0, 4, 0, 7, 4, 0], None),
    "all empty": ([0, 0], None),
    "nothing": ([], None),
    "around vector widths": ([15, 16, 17, 31, 32, 33, 28, 44], None),
    "cross": ([3, 1, 5, 2], [7, 4, 2, 9]),
    "cross with equal pairs apart": ([3, 5, 3, 3], [7, 2, 7, 4]),
    "cross with empty sides": ([3, 0, 2, 4], [0, 4, 5, 1]),
}


@pytest.fixture(params=PATHS.values(), ids=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param is not None:
        limits = dict.fromkeys((torch.float32, torch.bfloat16, torch.float64), request.param)
        monkeypatch.setattr(attention, "PRODUCTS_UP_TO", limits)
        monkeypatch.setattr(attention, "RECTANGLES_UP_TO", -1)


def rows(lengths: list[int], heads: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(sum(lengths), heads, width, dtype=torch.float64).to(dtype)


def sees(queries: int, keys: int, window: int | None, causal: bool) -> Tensor:
    """[Lq, Lk]: row i stands at key i + keys − queries."""
    i = torch.arange(queries)[:, None] + keys - queries
    j = torch.arange(keys)[None, :]
    visible = torch.ones(queries, keys, dtype=torch.bool)
    if causal:
        visible &= j <= i
    if window is not None:
        visible &= (j - i).abs() <= window
    return visible


def naive(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths_q: list[int],
    lengths_k: list[int],
    *,
    bias: Callable[[Tensor, Tensor], Tensor] | None = None,
    window: int | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """One sequence after the other, one head after the other, in fp64."""
    out = torch.zeros(q.shape, dtype=torch.float64)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    q, k, v = q.double(), k.double(), v.double()
    for at_q, n_q, at_k, n_k in zip(
        accumulate(lengths_q, initial=0), lengths_q, accumulate(lengths_k, initial=0), lengths_k
    ):
        visible = sees(n_q, n_k, window, causal)
        alive = visible.any(-1)
        for h in range(q.shape[1]):
            one_q, one_k, one_v = q[at_q : at_q + n_q, h], k[at_k : at_k + n_k, h], v[at_k : at_k + n_k, h]
            scores = scale * one_q @ one_k.T
            if bias is not None:
                scores = scores + bias(one_q[None, None], one_k[None, None])[0, 0]
            weights = scores.masked_fill(~visible, -1e300).softmax(-1)
            result = torch.where(alive[:, None], weights @ one_v, torch.zeros_like(one_q))
            out[at_q : at_q + n_q, h] = result
    return out


def check(lengths: tuple[list[int], list[int] | None], heads: int = 3, width: int = 7, **options: object) -> None:
    lengths_q, lengths_k = lengths[0], lengths[1] or lengths[0]
    layout_q = Layout.of(lengths_q)
    layout_k = layout_q if lengths[1] is None else Layout.of(lengths_k)
    q, k, v = rows(lengths_q, heads, width), rows(lengths_k, heads, width), rows(lengths_k, heads, width)
    expected = naive(q, k, v, lengths_q, lengths_k, **options)
    for inference in (True, False):
        with torch.inference_mode(inference):
            ours = attend(q, k, v, layout_q, layout_k, **options)
        torch.testing.assert_close(ours.double(), expected, atol=3e-6, rtol=0)


VARIANTS = {
    "plain": {},
    "window 0": {"window": 0},
    "window 3": {"window": 3},
    "window wider than all": {"window": 1000},
    "causal": {"causal": True},
    "causal window": {"causal": True, "window": 2},
    "scale": {"scale": 0.31},
    "scale 0": {"scale": 0.0},
    "bias of distance": {
        "bias": lambda q, k: -0.3 * (torch.arange(k.shape[2]) - torch.arange(q.shape[2])[:, None]).abs()[None, None]
    },
    "bias of q and k": {"bias": lambda q, k: (q.sum(-1, keepdim=True) - k.mean(-1)[:, :, None, :]).tanh()},
    "bias of both, causal": {"causal": True, "bias": lambda q, k: (q @ k.transpose(2, 3)).tanh()},
    "bias in a window": {"window": 2, "bias": lambda q, k: (q @ k.transpose(2, 3)).tanh()},
}


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("lengths", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_every_layout_and_option_agrees_with_a_loop(lengths: tuple, options: dict) -> None:
    check(lengths, **options)


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"window": 3}], ids=str)
def test_gradients_with_dropout_are_those_of_the_weights_that_stayed(options: dict) -> None:
    """In every direction the slope of the sum is what moving a little that way changes it by."""
    layout = Layout.of([40, 7, 7, 7, 33, 1])
    sides = [rows([layout.total], 2, 8).requires_grad_() for _ in range(3)]
    slope = torch.randn(layout.total, 2, 8)

    def value(moved: list[Tensor]) -> Tensor:
        with seeded(5):
            return (attend(*moved, layout, layout, dropout=0.4, **options).double() * slope).sum()

    gradients = torch.autograd.grad(value(sides), sides)
    for number, gradient in enumerate(gradients):
        step = 3e-3 * torch.randn_like(gradient)
        ahead, behind = (
            value([side + sign * step if i == number else side for i, side in enumerate(sides)]).detach()
            for sign in (1, -1)
        )
        assert float((ahead - behind) / 2) == pytest.approx(float((gradient * step).sum()), rel=2e-3, abs=2e-5)


def test_what_is_trained_in_rectangles_has_the_same_bits_in_any_company() -> None:
    lengths = [40, 7, 33, 7, 64, 7, 128]
    q, k, v = (rows(lengths, 2, 16).requires_grad_() for _ in range(3))
    layout = Layout.of(lengths)
    together = attend(q, k, v, layout, layout)
    for start, length in zip(layout.starts, lengths):
        own = Layout.of([length])
        alone = attend(*(side[start : start + length] for side in (q, k, v)), own, own)
        assert alone.equal(together[start : start + length])


@pytest.mark.parametrize("filler", [None, 0])
def test_another_networks_rows_are_trained_on_as_a_loop_says(filler: int | None) -> None:
    """Its gradients, too; in rectangles of two lengths, some of whose sequences are idle."""
    lengths_q, lengths_k = [3, 40, 7, 33, 7, 1, 9], [40, 5, 64, 33, 31, 1, 2]
    ours = [rows(lengths, 2, 8).requires_grad_() for lengths in (lengths_q, lengths_k, lengths_k)]
    theirs = [side.detach().double().requires_grad_() for side in ours]
    found = attend(*ours, Layout.of(lengths_q), Layout.of(lengths_k), filler=filler)
    parts_q, parts_k = theirs[0].split(lengths_q), list(zip(theirs[1].split(lengths_k), theirs[2].split(lengths_k)))
    expected = torch.cat(
        [
            torch.einsum("hqk,khd->qhd", (torch.einsum("qhd,khd->hqk", q, k) * 8**-0.5).softmax(-1), v)
            for q, (k, v) in zip(parts_q, parts_k)
        ]
    )
    torch.testing.assert_close(found.double(), expected, atol=3e-6, rtol=0)
    slope = torch.randn(expected.shape)
    pairs = zip(torch.autograd.grad(found, ours, slope), torch.autograd.grad(expected, theirs, slope.double()))
    for one, other in pairs:
        torch.testing.assert_close(one.double(), other, atol=1e-5, rtol=0)


def test_another_networks_rows_give_the_same_bits_in_any_company() -> None:
    lengths_q, lengths_k = [3, 40, 7, 33], [40, 5, 64, 33]
    q, k, v = (rows(lengths, 2, 16).requires_grad_() for lengths in (lengths_q, lengths_k, lengths_k))
    layout_q, layout_k = Layout.of(lengths_q), Layout.of(lengths_k)
    together = attend(q, k, v, layout_q, layout_k)
    for i in range(4):
        some_q, some_k = layout_q.rows([i]), layout_k.rows([i])
        alone = attend(q[some_q], k[some_k], v[some_k], Layout.of([lengths_q[i]]), Layout.of([lengths_k[i]]))
        assert alone.equal(together[some_q])


def test_dropped_weights_of_another_networks_rows_have_their_gradients() -> None:
    lengths_q, lengths_k = [3, 40, 7], [40, 5, 64]
    sides = [rows(lengths, 2, 8).requires_grad_() for lengths in (lengths_q, lengths_k, lengths_k)]
    layouts = Layout.of(lengths_q), Layout.of(lengths_k)
    slope = torch.randn(sum(lengths_q), 2, 8)

    def value(moved: list[Tensor]) -> Tensor:
        with seeded(5):
            return (attend(*moved, *layouts, dropout=0.4).double() * slope).sum()

    for number, gradient in enumerate(torch.autograd.grad(value(sides), sides)):
        step = 3e-3 * torch.randn_like(gradient)
        ahead, behind = (
            value([side + sign * step if i == number else side for i, side in enumerate(sides)]).detach()
            for sign in (1, -1)
        )
        assert float((ahead - behind) / 2) == pytest.approx(float((gradient * step).sum()), rel=2e-3, abs=2e-5)


@pytest.mark.parametrize("heads", [1, 2, 12])
@pytest.mark.parametrize("width", [1, 7, 16, 33])
@pytest.mark.usefixtures("path")
def test_every_number_of_heads_and_width_agrees_with_a_loop(heads: int, width: int) -> None:
    check(([9, 2, 16, 9, 1], None), heads, width)


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"bias": lambda q, k: (q @ k.transpose(2, 3)).tanh()}])
def test_groups_larger_than_what_is_held_at_a_time_agree_with_a_loop(
    options: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "SCORES_AT_A_TIME", 150)
    check(([5, 9, 5, 5, 5, 5, 5, 20, 9, 5], None), heads=2, **options)


def test_lengths_on_both_sides_of_the_threshold_agree_with_a_loop() -> None:
    longest = attention.PRODUCTS_UP_TO[torch.float32]
    check(([longest, longest + 1, 7, longest + 1, longest], None), heads=1, width=4)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_bfloat16_agrees_with_a_loop_as_far_as_its_digits_go(options: dict) -> None:
    lengths = [3, 17, 3, 1, 40, 28]
    layout = Layout.of(lengths)
    q, k, v = (rows(lengths, 2, 16, torch.bfloat16) for _ in "qkv")
    ours = attend(q, k, v, layout, layout, **options)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.double(), naive(q, k, v, lengths, lengths, **options), atol=0.06, rtol=0)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_bias_may_be_of_another_precision_than_the_rows(dtype: torch.dtype) -> None:
    lengths = [3, 17, 3]
    layout = Layout.of(lengths)
    q, k, v = (rows(lengths, 2, 8, dtype) for _ in "qkv")
    other = torch.float32 if dtype == torch.bfloat16 else torch.bfloat16

    def bias(q: Tensor, k: Tensor) -> Tensor:
        return (torch.arange(k.shape[2]) - torch.arange(q.shape[2])[:, None]).to(other)[None, None]

    ours = attend(q, k, v, layout, layout, bias=bias)
    assert ours.dtype == dtype
    expected = naive(q, k, v, lengths, lengths, bias=lambda q, k: bias(q, k).double())
    torch.testing.assert_close(ours.double(), expected, atol=0.06 if dtype == torch.bfloat16 else 3e-6, rtol=0)


@pytest.mark.usefixtures("path")
def test_the_bias_is_asked_for_rectangles_of_one_group_that_together_cover_the_batch_once() -> None:
    lengths, heads, width = [4, 9, 4, 0, 9, 1, 4], 2, 3
    layout = Layout.of(lengths)
    q, k, v = rows(lengths, heads, width), rows(lengths, heads, width), rows(lengths, heads, width)
    seen: list[Tensor] = []

    def bias(q: Tensor, k: Tensor) -> Tensor:
        count, heads_of_q, length, width_of_q = q.shape
        assert (heads_of_q, width_of_q) == (heads, width)
        assert k.shape == (count, heads, length, width)
        seen.extend(q)
        return torch.zeros(1, 1, length, length)

    attend(q, k, v, layout, layout, bias=bias)
    expected = [one.transpose(0, 1) for one in q.split(lengths) if len(one)]
    assert len(seen) == len(expected)
    for rectangle in expected:
        assert sum(rectangle.shape == one.shape and torch.equal(rectangle, one) for one in seen) == 1


@pytest.mark.usefixtures("path")
def test_rows_that_see_nothing_give_zeros_and_no_gradient() -> None:
    queries, keys = [5, 3], [2, 3]
    q, k, v = rows(queries, 2, 4), rows(keys, 2, 4), rows(keys, 2, 4)
    for x in (q, k, v):
        x.requires_grad_()
    out = attend(q, k, v, Layout.of(queries), Layout.of(keys), causal=True)
    assert torch.equal(out[:3], torch.zeros(3, 2, 4))
    assert (out[3:] != 0).all()
    out.square().sum().backward()
    assert torch.equal(q.grad[:3], torch.zeros(3, 2, 4))
    assert all(x.grad.isfinite().all() for x in (q, k, v))


GRADIENT_VARIANTS = {name: VARIANTS[name] for name in ("plain", "window 3", "causal", "bias of q and k", "scale")}


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("options", GRADIENT_VARIANTS.values(), ids=GRADIENT_VARIANTS)
@pytest.mark.parametrize("name", [name for name, (lengths, _) in LAYOUTS.items() if sum(lengths) > 5])
def test_gradients_are_those_of_the_loop(name: str, options: dict) -> None:
    lengths_q, lengths_k = LAYOUTS[name][0], LAYOUTS[name][1] or LAYOUTS[name][0]
    start = rows(lengths_q, 2, 6), rows(lengths_k, 2, 6), rows(lengths_k, 2, 6)
    layout_q = Layout.of(lengths_q)
    layout_k = Layout.of(lengths_k) if LAYOUTS[name][1] else layout_q
    weights = torch.randn(start[0].shape)

    ours = [x.clone().requires_grad_() for x in start]
    (attend(*ours, layout_q, layout_k, **options) * weights).sum().backward()
    theirs = [x.clone().requires_grad_() for x in start]
    (naive(*theirs, lengths_q, lengths_k, **options) * weights).sum().backward()
    for mine, expected in zip(ours, theirs):
        largest = expected.grad.abs().max()
        assert largest > 0
        torch.testing.assert_close(mine.grad, expected.grad, atol=float(1e-5 * largest), rtol=0)


def test_dropout_of_0_changes_nothing() -> None:
    lengths = [4, 9, 4]
    layout = Layout.of(lengths)
    q, k, v = rows(lengths, 2, 5), rows(lengths, 2, 5), rows(lengths, 2, 5)
    assert torch.equal(attend(q, k, v, layout, layout, dropout=0.0), attend(q, k, v, layout, layout))


@pytest.mark.parametrize("length", [6, 400])
def test_the_mean_over_many_draws_of_dropout_is_the_result_without_it(length: int) -> None:
    """400 is beyond what the products path would take without dropout. A batch has 50 draws, each of two sequences."""
    lengths, copies, draws = [length, 2], 50, 4000 if length < 10 else 150
    q, k, v = rows(lengths, 1, 2), rows(lengths, 1, 2), rows(lengths, 1, 2)
    exact = attend(q, k, v, Layout.of(lengths), Layout.of(lengths))
    many, layout = [x.repeat(copies, 1, 1) for x in (q, k, v)], Layout.of(lengths * copies)
    batches = [attend(*many, layout, layout, dropout=0.2) for _ in range(draws // copies)]
    samples = torch.cat([batch.view(copies, *exact.shape) for batch in batches])
    standard_error = samples.std(0) / draws**0.5
    assert (samples.std(0) > 0).all()
    assert ((samples.mean(0) - exact).abs() <= 5 * standard_error + 1e-6).all()


def test_dropout_drops_that_share_of_the_weights_and_scales_the_rest() -> None:
    length, p = 300, 0.3
    layout = Layout.of([length])
    zeros = torch.zeros(length, 1, length)
    v = torch.eye(length)[:, None]  # the output is then the weights themselves, all 1 / length
    weights = attend(zeros, zeros, v, layout, layout, dropout=p)[:, 0]
    kept = weights != 0
    assert abs(kept.float().mean().item() - (1 - p)) < 0.01
    torch.testing.assert_close(weights[kept], torch.full_like(weights[kept], 1 / length / (1 - p)))


def test_gradients_flow_through_dropout() -> None:
    lengths = [8, 3]
    layout = Layout.of(lengths)
    q, k, v = (rows(lengths, 2, 4).requires_grad_() for _ in "qkv")
    attend(q, k, v, layout, layout, dropout=0.5).square().sum().backward()
    assert all(x.grad.isfinite().all() and x.grad.abs().max() > 0 for x in (q, k, v))


def test_sides_with_different_numbers_of_sequences_are_refused() -> None:
    q, k = rows([2, 3], 1, 4), rows([5], 1, 4)
    with pytest.raises(InputError, match="2 sequences to 1"):
        attend(q, k, k, Layout.of([2, 3]), Layout.of([5]))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "options", [{}, {"window": 3}, {"causal": True}, {"causal": True, "window": 2}, {"scale": 0.3}]
)
@pytest.mark.parametrize("lengths", LAYOUTS.values(), ids=LAYOUTS)
def test_the_gpus_kernel_agrees_with_a_loop(lengths: tuple, options: dict, dtype: torch.dtype) -> None:
    lengths_q, lengths_k = lengths[0], lengths[1] or lengths[0]
    q, k, v = (rows(n, 2, 16, dtype) for n in (lengths_q, lengths_k, lengths_k))
    layout_q, layout_k = Layout.of(lengths_q, "cuda"), Layout.of(lengths_k, "cuda")
    assert attention._varlen_runs(q.cuda(), v.cuda())
    ours = attend(q.cuda(), k.cuda(), v.cuda(), layout_q, layout_k, **options)
    expected = naive(q, k, v, lengths_q, lengths_k, **options)
    torch.testing.assert_close(ours.cpu().double(), expected, atol=0.03, rtol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_grouped_path_runs_on_a_gpu_too(options: dict, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_varlen_runs", lambda q, v: False)
    lengths = [3, 17, 3, 1, 40]
    q, k, v = (rows(lengths, 2, 16, dtype) for _ in "qkv")
    layout = Layout.of(lengths, "cuda")
    bias = options.get("bias")
    on_gpu = {**options, "bias": lambda q, k: bias(q.cpu(), k.cpu()).cuda()} if bias else options
    ours = attend(q.cuda(), k.cuda(), v.cuda(), layout, layout, **on_gpu)
    expected = naive(q, k, v, lengths, lengths, **options)
    torch.testing.assert_close(ours.cpu().double(), expected, atol=0.06 if dtype == torch.bfloat16 else 1e-4, rtol=0)
