"""Each step by itself: grid, unit, features, recipe, tiles, normals."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.errors import UnusableCloud
from service.transforms import Recipe, features, grid, normals, prepare, scale, tiles
from service.values import PointCloud
from tests.transforms.clouds import CPU, coords, room


@settings(deadline=None)
@given(coord=coords(), size=st.sampled_from([0.01, 0.037, 0.5]))
def test_cells_are_those_of_numpy(coord: NDArray[np.float64], size: float) -> None:
    cells = grid.sample(torch.from_numpy(coord), size)
    expected = np.floor((coord - coord.min(0)) / size + 2**-10).astype(np.int32)
    unique, inverse, count = np.unique(expected, axis=0, return_inverse=True, return_counts=True)
    assert np.array_equal(cells.grid_coord.numpy(), unique)
    assert np.array_equal(cells.inverse.numpy(), inverse.reshape(-1))
    assert np.array_equal(cells.count.numpy(), count)
    means = np.stack([coord[inverse.reshape(-1) == row].mean(0) for row in range(len(unique))])
    assert np.allclose(grid.mean(torch.from_numpy(coord), cells).numpy(), means, atol=1e-12)
    for row, chosen in enumerate(grid.nearest(torch.from_numpy(coord), cells).tolist()):
        inside = np.flatnonzero(inverse.reshape(-1) == row)
        distance = np.linalg.norm(coord[inside] - means[row], axis=1)
        assert chosen in inside
        assert np.linalg.norm(coord[chosen] - means[row]) <= distance.min() + 1e-12


def test_points_quantised_to_the_cell_edge_do_not_flicker() -> None:
    coord = np.round(np.random.default_rng(0).uniform(0, 3, (20000, 3)), 3)
    near = grid.sample(torch.from_numpy(coord), 0.01).inverse
    far = coord + np.array([431_207.0, 6_822_015.0, 107.0])
    assert torch.equal(grid.sample(torch.from_numpy(far - far.min(0)), 0.01).inverse, near)


def test_a_grid_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no cells"):
        grid.sample(torch.zeros(0, 3), 0.1)


def test_millimetres_are_recognised_and_said() -> None:
    coord = room(3000)
    recipe = Recipe(0.05, ("coord",), max_extent_m=50.0)
    in_metres, in_millimetres = (prepare(PointCloud(coord * unit), recipe, CPU) for unit in (1, 1000))
    assert in_metres.warnings == ()
    assert torch.equal(in_metres.inverse, in_millimetres.inverse)
    assert torch.allclose(in_metres.tiles[0].feat, in_millimetres.tiles[0].feat, atol=1e-5)
    (warning,) = in_millimetres.warnings
    assert warning.startswith("The cloud spans 1998 x 1499 x 998.9")
    assert "millimetres" in warning


def test_one_stray_point_does_not_turn_metres_into_millimetres() -> None:
    coord = torch.from_numpy(room(3000))
    coord[5, 0] = 4000.0
    same, warning = scale.to_metres(coord, 50.0)
    assert warning is None
    assert same is coord


def test_a_cloud_too_large_even_in_millimetres_stays_in_metres_and_is_said() -> None:
    coord = torch.from_numpy(room(3000, extent=(90_000.0, 9.0, 9.0)))
    same, warning = scale.to_metres(coord, 50.0)
    assert same is coord
    assert warning is not None
    assert "up to 50 m" in warning


def test_without_a_limit_no_unit_is_guessed() -> None:
    coord = torch.from_numpy(room(100) * 1000)
    assert scale.to_metres(coord, None) == (coord, None)


def test_features_are_what_their_names_say() -> None:
    random = np.random.default_rng(3)
    coord = np.array([[0.0, 0.0, 10.0], [1.0, 2.0, 10.5], [1.02, 2.02, 10.52]])
    cloud = PointCloud(
        coord,
        color=np.array([[0, 51, 255], [10, 20, 30], [30, 40, 50]], dtype=np.uint8),
        normal=random.normal(size=(3, 3)).astype(np.float32),
        intensity=np.array([0, 255, 51], dtype=np.float32),
    )
    names = ("coord", "color", "color_signed", "normal", "intensity", "height", "ones", "residual")
    recipe = Recipe(0.1, names)
    assert recipe.width == 18
    feat = prepare(cloud, recipe, CPU).tiles[0].feat.numpy()
    middle = coord[1:].mean(0)
    assert feat.shape == (2, 18)
    centre = np.array([middle[0] / 2, middle[1] / 2, 10.0])
    assert np.allclose(feat[:, :3], [coord[0] - centre, middle - centre], atol=1e-6)
    assert np.allclose(feat[:, 3:6], [[0, 0.2, 1], [20 / 255, 30 / 255, 40 / 255]], atol=1e-6)
    assert np.allclose(feat[:, 6:9], feat[:, 3:6] * 2 - 1, atol=1e-6)
    assert cloud.normal is not None
    mean = cloud.normal[1:].mean(0)
    assert np.allclose(feat[1, 9:12], mean / np.linalg.norm(mean), atol=1e-6)
    assert np.allclose(feat[:, 12], [0, 0.6], atol=1e-6)
    assert np.allclose(feat[:, 13], [0, 0.51], atol=1e-6)
    assert np.all(feat[:, 14] == 1)
    assert np.allclose(feat[0, 15:], -0.5, atol=1e-6)
    assert np.abs(feat[:, 15:]).max() <= 0.5 + 2**-10
    middle_centred = prepare(cloud, replace(recipe, centre="middle"), CPU).tiles[0].coord
    assert torch.allclose(middle_centred.amin(0), -middle_centred.amax(0), atol=1e-6)


@pytest.mark.parametrize(("largest", "full"), [(1.0, 1.0), (200.0, 255.0), (4000.0, 65535.0), (131070.0, 131070.0)])
def test_intensity_is_scaled_by_the_range_it_comes_in(largest: float, full: float) -> None:
    cloud = PointCloud(np.array([[0, 0, 0], [1, 1, 1.0]]), intensity=np.array([0, largest], dtype=np.float32))
    assert np.allclose(prepare(cloud, Recipe(0.1, ("intensity",)), CPU).tiles[0].feat[:, 0], [0, largest / full])


@pytest.mark.parametrize(
    ("name", "message"),
    [("color", "needs colours"), ("color_signed", "needs colours")],
)
def test_a_missing_feature_is_named(name: str, message: str) -> None:
    with pytest.raises(UnusableCloud, match=message):
        prepare(PointCloud(room(10)), Recipe(0.1, (name,)), CPU)


def test_a_missing_intensity_counts_as_nothing_and_is_said() -> None:
    prepared = prepare(PointCloud(room(10)), Recipe(0.1, ("intensity",)), CPU)
    assert not prepared.tiles[0].feat.any()
    assert "no intensity" in prepared.warnings[-1]


def test_features_that_are_no_numbers_count_as_nothing_and_are_said() -> None:
    coord = np.array([[0, 0, 0], [1, 1, 1.0]])
    cloud = PointCloud(
        coord,
        normal=np.array([[np.nan, 0, 1], [0, 0, 2]], dtype=np.float32),
        intensity=np.array([np.nan, 1], dtype=np.float32),
    )
    prepared = prepare(cloud, Recipe(0.1, ("normal", "intensity")), CPU)
    assert prepared.tiles[0].feat.tolist() == [[0, 0, 0, 0], [0, 0, 1, 1]]
    assert prepared.warnings == (
        "The normal of 1 points is not a finite number and was taken as 0.",
        "The intensity of 1 points is not a finite number and was taken as 0.",
    )


def test_normals_are_computed_where_there_are_none() -> None:
    reason = "Open3D, or a system library that it needs, is not installed"
    pytest.importorskip("open3d", reason=reason, exc_type=ImportError)
    random = np.random.default_rng(0)
    coord = np.column_stack([random.uniform(0, 1, (2000, 2)), np.zeros(2000)])
    prepared = prepare(PointCloud(coord), Recipe(0.02, ("normal",)), CPU)
    assert torch.allclose(prepared.tiles[0].feat, torch.tensor([0.0, 0.0, 1.0]), atol=1e-4)
    assert "were computed" in prepared.warnings[0]


def test_without_open3d_the_user_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(UnusableCloud, match=r"pip install open3d.*libgl1, libgomp1, libx11-6.*send the cloud with"):
        prepare(PointCloud(room(100)), Recipe(0.02, ("normal",)), CPU)
    with pytest.raises(UnusableCloud, match="too few points"):
        normals.estimate(torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": ["colour"]}, r"\['colour'\] must be some of coord, color"),
        ({"features": []}, "must be some of"),
        ({"reduce": "max"}, "reduce is 'max'"),
        ({"centre": "top"}, "centre is 'top'"),
        ({"grid_size": 0}, "grid_size is 0; it must be positive"),
        ({"grid_size": float("nan")}, "grid_size is nan"),
        ({"max_voxels": -1}, "max_voxels is -1"),
        ({"overlap": -1}, "overlap is -1"),
        ({"max_extent_m": 0.0}, "max_extent_m is 0"),
        ({"voxel": 1}, r"unknown keys \['voxel'\]"),
    ],
)
def test_a_recipe_that_cannot_be_carried_out_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe.from_dict({"grid_size": 0.1, "features": ["coord"], **changes})


def test_a_recipe_without_its_features_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lacks \['features'\]"):
        Recipe.from_dict({"grid_size": 0.1})


def test_recipes_travel_as_json() -> None:
    recipe = Recipe(0.02, ("coord", "color"), max_extent_m=30.0, reduce="nearest")
    assert Recipe.from_dict(recipe.to_dict()) == recipe


@settings(deadline=None)
@given(
    cells=st.sets(st.tuples(*[st.integers(0, 40)] * 3), min_size=1, max_size=150),
    most=st.integers(1, 60),
    overlap=st.integers(0, 9),
)
def test_tiles_cover_every_voxel_and_are_small(cells: set[tuple[int, int, int]], most: int, overlap: int) -> None:
    rows = torch.tensor(sorted(cells), dtype=torch.int32)
    made = tiles.split(rows, most, overlap)
    votes = torch.zeros(len(rows))
    for tile in made:
        assert 0 < len(tile.rows) <= most
        assert bool((tile.weight > 0).all())
        assert bool((tile.weight <= 1).all())
        votes[tile.rows] += tile.weight
    assert bool((votes > 0).all())
    if len(rows) <= most:
        assert len(made) == 1


def test_a_cloud_strewn_over_thousands_of_tiles_is_refused_before_it_is_cut() -> None:
    strewn = np.random.default_rng(0).integers(0, 2**20, (33_000, 3)).astype(np.int32)
    with pytest.raises(UnusableCloud, match=r"33000 voxels are strewn .* more than 1024 passes .* stray point"):
        tiles.split(torch.from_numpy(strewn), 400_000, 8)


def test_tiles_have_bounded_edges_and_aligned_origins() -> None:
    coord = room(4000)
    coord[0] = (20_000.0, 0, 0)
    prepared = prepare(PointCloud(coord), Recipe(0.05, ("coord",), max_voxels=800, overlap=4, align=16), CPU)
    for tile in prepared.tiles:
        assert int(tile.grid_coord.max()) <= tiles.MAX_EDGE + 16
        assert int(tile.grid_coord.amin(dim=0).max()) < 16
    assert len({tuple(tile.grid_coord.shape) for tile in prepared.tiles}) > 1


def test_rows_of_voxels_keep_what_they_have() -> None:
    voxels = features.Voxels(
        torch.rand(4, 3).double(), torch.zeros(4, 3).int(), intensity=torch.arange(4.0), ground=2.0
    )
    part = voxels.rows(torch.tensor([2, 0]))
    assert (len(part), part.color, part.ground) == (2, None, 2.0)
    assert part.intensity is not None
    assert part.intensity.tolist() == [2, 0]
