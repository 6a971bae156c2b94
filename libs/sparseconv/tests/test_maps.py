"""Kernel maps against dictionaries, on random ragged batches."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparseconv import ops, reference
from sparseconv.reference import pairs_of, random_cells

SHAPE = (9, 11, 8)
triples = st.tuples(*[st.integers(1, 3)] * 3)
clouds = st.sets(st.tuples(st.integers(0, 3), *(st.integers(0, extent - 1) for extent in SHAPE)), max_size=150)


def shuffled(rows: set[Any], shuffle: Any) -> tuple[list[Any], torch.Tensor]:
    order = sorted(rows)
    shuffle.shuffle(order)
    return order, torch.tensor(order, dtype=torch.int32).reshape(-1, 4)


@settings(deadline=None, max_examples=60)
@given(rows=clouds, shuffle=st.randoms(use_true_random=False))
def test_cells_are_sorted_along_the_curve(rows: set[Any], shuffle: Any) -> None:
    order, indices = shuffled(rows, shuffle)
    cells = ops.sort_cells(indices, SHAPE)
    expected = sorted(range(len(order)), key=lambda row: reference.key_of(order[row], SHAPE))
    assert cells.order.tolist() == expected
    assert cells.keys.tolist() == [reference.key_of(order[row], SHAPE) for row in expected]


@settings(deadline=None, max_examples=60)
@given(
    rows=clouds,
    kernel_size=st.tuples(*[st.sampled_from([1, 3, 5])] * 3),
    dilation=triples,
    shuffle=st.randoms(use_true_random=False),
)
def test_neighbours_are_what_a_dictionary_finds(
    rows: set[Any], kernel_size: tuple[int, ...], dilation: tuple[int, ...], shuffle: Any
) -> None:
    order, indices = shuffled(rows, shuffle)
    found = ops.subm_map(ops.sort_cells(indices, SHAPE), kernel_size, dilation)
    assert pairs_of(found, prod(kernel_size)) == reference.subm_pairs(order, kernel_size, dilation)


@settings(deadline=None, max_examples=100)
@given(
    rows=clouds,
    kernel_size=triples,
    stride=triples,
    padding=st.tuples(*[st.integers(0, 2)] * 3),
    dilation=st.tuples(*[st.integers(1, 2)] * 3),
    shuffle=st.randoms(use_true_random=False),
)
def test_windows_are_what_a_dictionary_finds(
    rows: set[Any],
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    shuffle: Any,
) -> None:
    order, indices = shuffled(rows, shuffle)
    found = ops.down_map(ops.sort_cells(indices, SHAPE), kernel_size, stride, padding, dilation)
    outputs, pairs = reference.down_pairs(order, SHAPE, kernel_size, stride, padding, dilation)
    assert [tuple(row) for row in found.indices.tolist()] == outputs
    assert pairs_of(found.down, prod(kernel_size)) == pairs
    up = {(source, offset, target) for target, offset, source in pairs}
    assert pairs_of(found.up, prod(kernel_size)) == up
    # The coarse cells are ready for maps of their own.
    shape = found.cells.spatial_shape
    assert found.cells.keys.tolist() == [reference.key_of(cell, shape) for cell in outputs]
    assert pairs_of(ops.subm_map(found.cells, 3), 27) == reference.subm_pairs(outputs, (3, 3, 3), (1, 1, 1))


def test_maps_of_several_tiles_and_of_sorted_cells_are_the_same() -> None:
    indices = random_cells(3000, 24, clouds=3)
    cells = ops.sort_cells(indices, (24, 24, 24))
    expected = reference.subm_pairs([tuple(row) for row in indices.tolist()], (3, 3, 3), (1, 1, 1))
    assert pairs_of(ops.subm_map(cells, 3), 27) == expected
    again = ops.sort_cells(indices[cells.order.long()], (24, 24, 24))
    assert torch.equal(again.keys, cells.keys)
    assert torch.equal(again.order, torch.arange(len(indices), dtype=torch.int32))
    assert ops.subm_map(again, 3).pairs == len(expected)


@pytest.mark.parametrize(("reach", "dilation"), [(3, 7), (5, 5), (3, 13)])
def test_kernels_may_reach_over_several_blocks(reach: int, dilation: int) -> None:
    indices = random_cells(700, 40, clouds=2)
    found = ops.subm_map(ops.sort_cells(indices, (40, 40, 40)), reach, dilation)
    expected = reference.subm_pairs([tuple(row) for row in indices.tolist()], (reach,) * 3, (dilation,) * 3)
    assert pairs_of(found, reach**3) == expected


def test_the_largest_grid_and_the_most_clouds_fit() -> None:
    last = 2**21 - 1
    indices = torch.tensor([[0, last, last, last], [0, last, last, last - 1], [0, 0, 0, 0]], dtype=torch.int32)
    cells = ops.sort_cells(indices, (2**21,) * 3)
    assert cells.order.tolist() == [2, 1, 0]
    assert ops.subm_map(cells, 3).pairs == 5
    many = torch.tensor([[2**31 - 1, 1, 1, 1], [0, 1, 1, 1]], dtype=torch.int32)
    assert ops.sort_cells(many, (97, 97, 97)).order.tolist() == [1, 0]


def test_no_cells_have_empty_maps() -> None:
    cells = ops.sort_cells(torch.empty(0, 4, dtype=torch.int32), (8, 8, 8))
    assert len(cells) == ops.subm_map(cells, 3).pairs == ops.down_map(cells, 2, 2).down.pairs == 0
