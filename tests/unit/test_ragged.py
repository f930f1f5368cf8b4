"""`Layout` and `Ragged`: offsets, reductions and selections are what a loop over the sequences gives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bothways import InputError, Layout, Ragged
from bothways.ragged import group_by_lengths

LENGTHS = st.lists(st.integers(0, 9), max_size=12)


def sequences(lengths: list[int], *shape: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(lengths) + len(lengths))
    return [torch.randn(length, *shape, generator=generator) for length in lengths]


def ragged(parts: list[Tensor], *shape: int) -> Ragged:
    return Ragged(torch.cat([torch.empty(0, *shape), *parts]), Layout.of(map(len, parts)))


@given(LENGTHS)
def test_a_layout_starts_at_0_never_decreases_and_ends_at_the_total(lengths: list[int]) -> None:
    layout = Layout.of(lengths)
    assert layout.offsets.dtype == torch.int32
    assert layout.offsets.shape == (len(lengths) + 1,)
    assert layout.offsets[0] == 0
    assert layout.offsets.diff().tolist() == lengths
    assert layout.offsets[-1] == layout.total == sum(lengths)
    assert layout.longest == max(lengths, default=0)
    assert len(layout) == len(lengths)


@given(LENGTHS)
def test_rows_know_their_place_and_their_sequence(lengths: list[int]) -> None:
    layout = Layout.of(lengths)
    assert layout.positions.tolist() == [place for length in lengths for place in range(length)]
    assert layout.segments.tolist() == [i for i, length in enumerate(lengths) for _ in range(length)]
    assert layout.positions.dtype == layout.segments.dtype == torch.int64
    assert list(layout.starts) == layout.offsets[:-1].tolist()


@given(LENGTHS, st.randoms(use_true_random=False))
def test_rows_of_chosen_sequences_are_those_between_their_offsets(lengths: list[int], rng) -> None:
    layout = Layout.of(lengths)
    chosen = rng.choices(range(len(lengths)), k=5) if lengths else []
    offsets = layout.offsets.tolist()
    expected = [row for i in chosen for row in range(offsets[i], offsets[i + 1])]
    assert layout.rows(chosen).tolist() == expected


def test_a_negative_length_is_refused() -> None:
    with pytest.raises(InputError, match="negative length, got -2"):
        Layout.of([3, -2])


def test_a_layout_is_immutable_and_equal_only_to_itself() -> None:
    layout = Layout.of([1, 2])
    assert layout != Layout.of([1, 2])
    assert layout.to("cpu") is layout
    with pytest.raises(AttributeError):
        layout.lengths = (3,)


def test_rows_that_do_not_fit_the_layout_are_refused() -> None:
    with pytest.raises(InputError, match="5 rows do not fit a layout of 4"):
        Ragged(torch.zeros(5, 2), Layout.of([1, 3]))


@given(LENGTHS)
def test_sequences_laid_end_to_end_come_back_by_unbind(lengths: list[int]) -> None:
    parts = sequences(lengths, 3)
    together = Ragged.of(parts)
    assert len(together) == len(lengths)
    assert len(together.unbind()) == len(parts)
    assert all(torch.equal(one, part) for one, part in zip(together.unbind(), parts, strict=True))


def test_lists_of_ids_become_whole_numbers_even_where_one_is_empty() -> None:
    together = Ragged.of([[5, 6], [], [7]])
    assert together.data.tolist() == [5, 6, 7]
    assert together.data.dtype == torch.int64
    assert together.layout.lengths == (2, 0, 1)
    assert Ragged.of([]).data.dtype == Ragged.of([[]]).data.dtype == torch.int64


@given(LENGTHS, st.randoms(use_true_random=False))
def test_select_gives_the_chosen_sequences_in_the_chosen_order(lengths: list[int], rng) -> None:
    parts = sequences(lengths, 2)
    chosen = rng.choices(range(len(lengths)), k=6) if lengths else []
    selected = ragged(parts, 2).select(chosen).unbind()
    assert all(torch.equal(one, parts[i]) for one, i in zip(selected, chosen, strict=True))


@given(LENGTHS, st.integers(0, 11))
def test_drop_first_gives_what_slicing_each_sequence_gives(lengths: list[int], count: int) -> None:
    parts = sequences(lengths, 2)
    rest = ragged(parts, 2).drop_first(count).unbind()
    assert all(torch.equal(one, part[count:]) for one, part in zip(rest, parts, strict=True))


REDUCTIONS: dict[str, tuple[Callable[[Ragged], Tensor], Callable[[Tensor], Tensor]]] = {
    "first": (Ragged.first, lambda part: part[0]),
    "last": (Ragged.last, lambda part: part[-1]),
    "sum": (Ragged.sum, lambda part: part.sum(0)),
    "mean": (Ragged.mean, lambda part: part.sum(0) / len(part)),
    "max": (Ragged.max, lambda part: torch.stack(list(part)).max(0).values),
}


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("shape", [(), (3,), (2, 5)])
@given(lengths=LENGTHS)
def test_reductions_are_those_of_a_loop_and_nothing_gives_zeros(
    name: str, shape: tuple[int, ...], lengths: list[int]
) -> None:
    ours, naive = REDUCTIONS[name]
    parts = sequences(lengths, *shape)
    reduced = ours(ragged(parts, *shape))
    assert reduced.shape == (len(lengths), *shape)
    for one, part in zip(reduced, parts, strict=True):
        expected = naive(part) if len(part) else torch.zeros(shape)
        torch.testing.assert_close(one, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", REDUCTIONS)
@given(lengths=LENGTHS)
def test_a_sequences_reduction_is_the_same_bits_whatever_its_neighbours(name: str, lengths: list[int]) -> None:
    ours, _ = REDUCTIONS[name]
    parts = sequences(lengths, 7)
    together = ours(ragged(parts, 7))
    assert all(torch.equal(one, ours(ragged([part], 7))[0]) for one, part in zip(together, parts, strict=True))


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("lengths", [[3, 1, 3, 0, 5], [2, 2, 4, 4], [0, 0, 3]], ids=str)
def test_gradients_of_reductions_are_those_of_a_loop(name: str, lengths: list[int]) -> None:
    ours, naive = REDUCTIONS[name]
    parts = sequences(lengths, 2)
    weights = torch.randn(len(lengths), 2)
    mine = torch.cat(parts).requires_grad_()
    (ours(Ragged(mine, Layout.of(lengths))) * weights).sum().backward()
    theirs = torch.cat(parts).requires_grad_()
    looped = [naive(part) * w for part, w in zip(theirs.split(lengths), weights) if len(part)]
    torch.stack(looped).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad)


def test_gradients_flow_through_select_drop_first_and_unbind() -> None:
    data = torch.arange(6.0).requires_grad_()
    one, two = Ragged(data, Layout.of([2, 1, 3])).select([2, 0]).drop_first(1).unbind()
    (one.sum() + 10 * two.sum()).backward()
    assert data.grad.tolist() == [0, 10, 0, 0, 1, 1]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12))
def test_groups_cover_every_sequence_once_with_equal_lengths_and_merge_restores_the_order(
    pairs: list[tuple[int, int]],
) -> None:
    query, key = Layout.of(q for q, _ in pairs), Layout.of(k for _, k in pairs)
    grouping = group_by_lengths(query, key)
    assert sorted(i for group in grouping.groups for i in group.sequences) == list(range(len(pairs)))
    assert len({(group.query_length, group.key_length) for group in grouping.groups}) == len(grouping.groups)
    rows_q, rows_k = torch.arange(query.total), torch.arange(key.total)
    for group in grouping.groups:
        assert {pairs[i] for i in group.sequences} == {(group.query_length, group.key_length)}
        assert torch.equal(rows_q[group.query_rows], query.rows(group.sequences))
        assert torch.equal(rows_k[group.key_rows], key.rows(group.sequences))
    if grouping.groups:
        assert torch.equal(grouping.merge([rows_q[group.query_rows] for group in grouping.groups]), rows_q)


@given(LENGTHS)
def test_in_a_sorted_batch_every_group_is_a_slice_and_nothing_is_moved(lengths: list[int]) -> None:
    grouping = Layout.of(sorted(lengths, reverse=True)).grouping
    assert grouping.restore is None
    assert all(isinstance(group.query_rows, slice) for group in grouping.groups)


@pytest.mark.gpu
def test_a_layout_on_a_gpu_keeps_its_lengths_on_the_host() -> None:
    layout = Layout.of([3, 0, 2], "cuda")
    assert layout.offsets.is_cuda
    assert layout.lengths == (3, 0, 2)
    data = Ragged(torch.arange(5.0), Layout.of([3, 0, 2])).to("cuda")
    assert data.sum().tolist() == [3.0, 0.0, 7.0]
    assert layout.to("cpu").offsets.tolist() == [0, 3, 3, 5]
