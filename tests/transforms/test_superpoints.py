"""Superpoints against a slow version of the method and Pointcept's own, and what must hold of them."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.errors import UnusableCloud
from service.transforms import prepare, superpoints
from service.transforms.recipe import Recipe
from service.values import PointCloud

RECIPE = Recipe(0.02, ("color", "normal"), reduce="nearest", before=(), superpoints=True)
CPU = torch.device("cpu")


def graph(nodes: int, edges: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return pairs of nodes, none with itself, and how much they differ; many differ by the same."""
    random = np.random.default_rng(seed)
    pairs = random.integers(0, nodes, (edges, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    return pairs, random.choice(np.linspace(0, 0.05, 40).astype(np.float32), len(pairs))


def slowly(pairs: Any, differ: Any, count: int, tight: float, least: int) -> set[frozenset[int]]:
    """Return the patches, as the paper's words have them: every patch a set, every edge looked at in its order."""
    own = {node: {node} for node in range(count)}
    inside = {id(patch): 0.0 for patch in own.values()}

    def unite(one: set[int], other: set[int], most: float) -> None:
        one |= other
        inside[id(one)] = most
        for node in other:
            own[node] = one

    for (left, right), weight in sorted(zip(pairs.tolist(), differ.tolist(), strict=True), key=lambda edge: edge[1]):
        one, other = own[left], own[right]
        if one is not other and all(weight <= inside[id(each)] + tight / len(each) for each in (one, other)):
            unite(one, other, weight)
    for (left, right), _ in sorted(zip(pairs.tolist(), differ.tolist(), strict=True), key=lambda edge: edge[1]):
        one, other = own[left], own[right]
        if one is not other and min(len(one), len(other)) < least:
            unite(one, other, 0.0)
    return {frozenset(patch) for patch in own.values()}


def parts(own: NDArray[Any]) -> set[frozenset[int]]:
    """Return the sets of nodes that have the same number."""
    return {frozenset(np.flatnonzero(own == number).tolist()) for number in np.unique(own)}


@given(nodes=st.integers(1, 80), edges=st.integers(0, 300), seed=st.integers(0, 2**31), least=st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_patches_are_those_of_the_method(nodes: int, edges: int, seed: int, least: int) -> None:
    pairs, differ = graph(nodes, edges, seed)
    found = superpoints.join(pairs, differ, nodes, 0.01, least)
    assert parts(found) == slowly(pairs, differ, nodes, 0.01, least)
    assert found[np.sort(np.unique(found, return_index=True)[1])].tolist() == list(range(int(found.max()) + 1))


def test_patches_are_those_of_pointcepts_segmentation(pointcept: Path, tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("needs g++ to build Pointcept's segmentation")
    source = (pointcept / "libs" / "pointseg" / "src" / "segmentor.cpp").read_text()
    body = source[source.index("// Universe class") : source.index("// vec3f class")]
    (tmp_path / "it.cpp").write_text(
        """#include <algorithm>
        struct uni_elt { int rank, p, size; };
        struct edge { float w; int a, b; };
        struct universe {
          universe(int); ~universe(); int find(int); int size(int) const; void join(int, int); int num_sets() const;
          uni_elt *elts; int num;
        };
        """
        # Equal weights in the order in which they were given; std::sort leaves it open.
        + body.replace("std::sort", "std::stable_sort")
        + """extern "C" void segment(int n, int m, const int *pairs, const float *w, float c, int least, int *out) {
          edge *edges = new edge[m];
          for (int i = 0; i < m; i++) edges[i] = {w[i], pairs[2 * i], pairs[2 * i + 1]};
          universe *u = segment_graph(n, m, edges, c);
          for (int i = 0; i < m; i++) {
            int a = u->find(edges[i].a), b = u->find(edges[i].b);
            if (a != b && (u->size(a) < least || u->size(b) < least)) u->join(a, b);
          }
          for (int i = 0; i < n; i++) out[i] = u->find(i);
          delete[] edges; delete u;
        }"""
    )
    subprocess.run(["g++", "-O1", "-shared", "-fPIC", "-o", tmp_path / "it.so", tmp_path / "it.cpp"], check=True)
    library = ctypes.CDLL(str(tmp_path / "it.so"))
    nodes = 20_000
    pairs, differ = graph(nodes, 2 * nodes, 0)
    number, theirs = np.ascontiguousarray(pairs, np.int32), np.zeros(nodes, np.int32)

    def at(array: NDArray[Any]) -> Any:
        return array.ctypes.data_as(ctypes.c_void_p)

    library.segment(nodes, len(pairs), at(number), at(differ), ctypes.c_float(0.01), 20, at(theirs))
    found = superpoints.join(pairs, differ, nodes)
    assert len(np.unique(found)) > 100
    assert len(np.unique(np.stack([found, theirs]), axis=1).T) == len(np.unique(found)) == len(np.unique(theirs))


def corner(points: int, noise: float = 0.0) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.int32]]:
    """Return points of a floor and a wall, one a voxel: places, normals with noise, and cells."""
    random = np.random.default_rng(0)
    half, edge = points // 2, 0.015 * points**0.5
    coord = random.uniform(0, edge, (2 * half, 3))
    coord[:half, 2] = coord[half:, 1] = 0.001
    cells = np.floor(coord / 0.02).astype(np.int32)
    _, first = np.unique(cells, axis=0, return_index=True)
    normal = np.repeat(np.array([[0, 0, 1], [0, 1, 0]], np.float64), half, axis=0) + random.normal(
        0, noise, coord.shape
    )
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    return coord[first], normal[first].astype(np.float32), cells[first]


@pytest.mark.parametrize(("noise", "large"), [(0.0, 2), (0.02, None), (0.05, None)])
def test_a_floor_and_a_wall_are_never_one(noise: float, large: int | None) -> None:
    coord, normal, cells = corner(8000, noise)
    found = superpoints.segment(coord, normal, cells)
    size = np.bincount(found)
    of_floor = np.bincount(found, normal[:, 2] > 0.7)
    assert np.minimum(of_floor, size - of_floor).sum() < 0.01 * len(found)
    if large is not None:
        assert np.count_nonzero(size > 20) == large


def test_voxels_that_hardly_touch_are_gathered_first() -> None:
    coord, normal, cells = corner(8000)
    found = superpoints.segment(3 * coord, normal, 3 * cells)
    assert int(found.max()) + 1 < 20


def test_there_are_never_more_than_a_network_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(superpoints, "MOST", 8)
    random = np.random.default_rng(0)
    cells = np.unique(random.integers(0, 40_000, (300, 3)), axis=0).astype(np.int32)
    normal = random.normal(size=cells.shape).astype(np.float32)
    found = superpoints.segment(cells * 0.02, normal, cells)
    assert sorted(set(found.tolist())) == list(range(int(found.max()) + 1))
    assert int(found.max()) < 8


def scan(superpoint: Any, *bad: int) -> PointCloud:
    """Return nine points, each in a voxel of its own but for the last three; those that are named are not valid."""
    coord = np.array([[0.02 * i + 0.01, 0.01, 0.01] for i in (0, 1, 2, 3, 4, 5, 6, 6, 6)])
    coord[7:, 1] += 0.005
    coord[list(bad)] = np.nan
    color = np.zeros(coord.shape, np.uint8)
    return PointCloud(coord, color, np.ones(coord.shape, np.float32), superpoint=superpoint)


def test_those_of_the_file_are_taken_at_the_points_that_stand_for_voxels() -> None:
    values = np.array([5, 5, -2, -2, 9, 9, 1, 7, 7])
    ready = prepare(scan(values), RECIPE, CPU)
    assert ready.tiles[0].superpoint is not None
    assert ready.tiles[0].superpoint.tolist() == [1, 1, 0, 0, 3, 3, 2]
    assert ready.warnings == ()
    part = prepare(scan(values, 0, 2), RECIPE, CPU).tiles[0].superpoint
    assert part is not None
    assert part.tolist() == [1, 0, 3, 3, 2]


@pytest.mark.parametrize("bad", [(), (1, 2, 3, 4, 5, 6, 7, 8), (2, 3, 4, 5, 6, 7, 8)])
def test_a_cloud_without_them_has_some_made(bad: tuple[int, ...]) -> None:
    ready = prepare(scan(None, *bad), RECIPE, CPU)
    found = ready.tiles[0].superpoint
    assert found is not None
    assert sorted(set(found.tolist())) == list(range(int(found.max()) + 1))
    assert "The cloud has no field superpoint, which the model reads" in ready.warnings[-1]


def test_too_many_in_a_file_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(superpoints, "MOST", 5)
    with pytest.raises(UnusableCloud, match="tells 7 patches of 7 voxels apart; a model takes at most 5"):
        prepare(scan(np.arange(9)), RECIPE, CPU)
