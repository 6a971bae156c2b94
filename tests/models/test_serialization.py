"""Codes along space-filling curves, stages and patches, against Pointcept's numbers and against their definitions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.models.layers import stages
from service.models.layers.patches import layout
from service.models.layers.serialization import ORDERS, codes
from tests.models import golden
from tests.models.clouds import cloud, together

CPU = torch.device("cpu")
DEPTHS = {"v1.5.1": int.bit_length, "v1.6": lambda top: (top + 1).bit_length()}


@pytest.mark.parametrize("name", ["ops_serialization", "ops_serialization_v151"])
def test_codes_are_pointcepts(shared: Path, name: str) -> None:
    case = golden.read(shared, name)
    for call in case.about["calls"]:
        index, depth = call["index"], call["depth"]
        cells, offset = (torch.from_numpy(case.arrays[f"{index}.{what}"]) for what in ("grid_coord", "offset"))
        of = torch.repeat_interleave(torch.arange(len(offset)), torch.diff(offset, prepend=offset.new_zeros(1)))
        assert depth == max(1, DEPTHS["v1.5.1" if "v151" in name else "v1.6"](call["max_grid"]))
        for orders in (call["orders"], call["orders"][2:3], call["orders"][1:2]):
            ours = codes(cells, of, [depth] * len(offset), orders) | of << 3 * depth
            theirs = case.arrays[f"{index}.out.code"][[call["orders"].index(order) for order in orders]]
            assert np.array_equal(ours, theirs)


@given(st.integers(1, 16), st.integers(1, 16), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_a_cloud_has_the_codes_that_it_has_alone(depth: int, other: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    first = torch.randint(0, 2**depth, (20, 3), generator=random)
    second = torch.randint(0, 2**other, (20, 3), generator=random)
    of = torch.arange(2).repeat_interleave(20)
    both = codes(torch.cat([first, second]).int(), of, [depth, other], ORDERS)
    alone = codes(first.int(), of[:20], [depth], ORDERS)
    assert torch.equal(both[:, :20], alone)


@given(st.integers(1, 4), st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_a_hilbert_curve_visits_each_cell_once_and_goes_to_a_neighbour(depth: int, seed: int) -> None:
    edge = torch.arange(2**depth)
    cells = torch.cartesian_prod(edge, edge, edge)
    cells = cells[torch.randperm(len(cells), generator=torch.Generator().manual_seed(seed))].int()
    for code in codes(cells, torch.zeros(len(cells), dtype=torch.int64), [depth], ("hilbert", "hilbert-trans")):
        order = torch.argsort(code)
        assert torch.equal(code[order], torch.arange(8**depth))
        assert bool((torch.diff(cells[order], dim=0).abs().sum(dim=1) == 1).all())


def test_patches_are_pointcepts(shared: Path) -> None:
    case = golden.read(shared, "ops_patch_padding")
    for call in case.about["calls"]:
        arrays = {name.split(".")[-1]: case.arrays[name] for name in call["inputs"] + call["outputs"]}
        ours = layout(np.diff(arrays["offset"], prepend=0).tolist(), call["patch_size_used"], CPU)
        assert np.array_equal(ours.source, arrays["pad"])
        assert np.array_equal(ours.place, arrays["unpad"])
        lengths = [length for count, length in ours.runs for _ in range(count)]
        assert np.array_equal(np.cumsum([0, *lengths]), arrays["cu_seqlens"])


@given(st.lists(st.integers(1, 70), min_size=1, max_size=6), st.integers(1, 24))
@settings(max_examples=100, deadline=None)
def test_every_position_is_in_a_patch_of_its_own_cloud(sizes: list[int], patch_size: int) -> None:
    made = layout(sizes, patch_size, CPU)
    rows = sum(sizes)
    assert torch.equal(made.source[made.place], torch.arange(rows))
    assert sum(count * length for count, length in made.runs) == len(made.source)
    of = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    start = 0
    for count, length in made.runs:
        for _ in range(count):
            places = made.source[start : start + length]
            assert len(set(of[places].tolist())) == 1
            assert len(set(places.tolist())) == length
            assert length == min(patch_size, sizes[int(of[places[0]])])
            start += length


@given(st.lists(st.tuples(st.integers(1, 200), st.integers(1, 40)), min_size=1, max_size=4), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_stages_are_the_cells_of_the_octree(clouds: list[tuple[int, int]], seed: int) -> None:
    batch = together([cloud(voxels, extent, 1, seed + i) for i, (voxels, extent) in enumerate(clouds)])
    strides = (2, 4, 1, 2)
    made = stages.by_code(batch, ORDERS, strides, DEPTHS["v1.6"])
    assert made.order is not None
    assert torch.equal(made.give(made.take(batch.feat)), batch.feat)
    cells = torch.cat([batch.cloud.unsqueeze(1).int(), batch.grid_coord], dim=1)
    assert torch.equal(made.stages[0].cells, made.take(cells))
    left = [(max(top) + 1).bit_length() for top in stages.largest(batch.grid_coord, batch.sizes)]
    for stride, fine, coarse in zip(strides, made.stages, made.stages[1:], strict=False):
        bits = stride.bit_length() - 1
        by = [bits if bits <= depth else 0 for depth in left]
        left = [depth - b for depth, b in zip(left, by, strict=True)]
        shifted = fine.cells.clone()
        shifted[:, 1:] >>= torch.tensor(by, dtype=torch.int32)[fine.cells[:, 0].long()].unsqueeze(1)
        assert fine.down is not None
        assert torch.equal(coarse.cells[fine.down.cluster], shifted)
        assert len(torch.unique(coarse.cells, dim=0)) == len(coarse.cells) == sum(coarse.sizes)
        assert torch.equal(torch.bincount(fine.down.cluster), torch.diff(fine.down.starts))
        assert torch.bincount(coarse.cells[:, 0].long(), minlength=len(clouds)).tolist() == coarse.sizes
        assert all(int(top) < extent for top, extent in zip(coarse.cells.amax(dim=0)[1:], coarse.shape, strict=True))


@given(st.lists(st.tuples(st.integers(1, 200), st.integers(1, 40)), min_size=1, max_size=4), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_stages_by_grid_are_the_cells_divided(clouds: list[tuple[int, int]], seed: int) -> None:
    batch = together([cloud(voxels, extent, 1, seed + i) for i, (voxels, extent) in enumerate(clouds)])
    strides = (2, 3, 1, 5)
    made = stages.by_grid(batch, ORDERS, strides)
    for stride, fine, coarse in zip(strides, made.stages, made.stages[1:], strict=False):
        divided = fine.cells.clone()
        divided[:, 1:] //= stride
        assert fine.down is not None
        assert fine.down.order is not None
        assert torch.equal(coarse.cells[fine.down.cluster], divided)
        assert len(torch.unique(coarse.cells, dim=0)) == len(coarse.cells) == sum(coarse.sizes)
        assert bool((torch.diff(fine.down.cluster[fine.down.order]) >= 0).all())
        assert torch.equal(torch.bincount(fine.down.cluster), torch.diff(fine.down.starts))
        of = coarse.cells[:, 0].long()
        assert torch.bincount(of, minlength=len(clouds)).tolist() == coarse.sizes
        tops = stages.largest(coarse.cells[:, 1:], coarse.sizes)
        expected = codes(coarse.cells[:, 1:], of, [stages.grid_depth(max(top)) for top in tops], ORDERS)
        assert torch.equal(coarse.codes, expected)
        assert coarse.shape == stages.extent(tops)


def test_a_cloud_of_too_many_cells_is_refused() -> None:
    batch = cloud(50, 8, 1, 0)
    batch.grid_coord[3, 1] = 65535
    with pytest.raises(ValueError, match="spans 65536 cells along an axis"):
        stages.by_code(batch, ORDERS, (2,), DEPTHS["v1.6"])
    assert len(stages.by_code(batch, ORDERS, (2,), DEPTHS["v1.5.1"]).stages) == 2


def test_an_empty_cloud_is_refused() -> None:
    batch = together([cloud(50, 8, 1, 0), cloud(50, 8, 1, 1)])
    batch.offset[1] = batch.offset[0]
    with pytest.raises(ValueError, match="Cloud 1 of the batch has no voxels"):
        stages.by_code(batch, ORDERS, (2,), DEPTHS["v1.6"])


def test_a_stride_that_is_no_power_of_two_is_refused() -> None:
    with pytest.raises(ValueError, match="stride of 3"):
        stages.by_code(cloud(50, 8, 1, 0), ORDERS, (3,), DEPTHS["v1.6"])
