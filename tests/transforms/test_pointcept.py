"""Recipes of Pointcept's models against what its transforms do, computed in numpy with the same types of number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.errors import UnusableCloud
from service.models import pipeline
from service.transforms import Recipe, normals, prepare, steps
from service.transforms.prepare import Prepared, viewpoint
from service.values import PointCloud

CPU = torch.device("cpu")
Data = dict[str, NDArray[Any]]
Entries = Sequence[Mapping[str, Any]]

INDOOR = (
    {"type": "CenterShift", "apply_z": True},
    {"type": "Copy", "keys_dict": {"segment": "origin_segment"}},
    {"type": "GridSample", "grid_size": 0.02, "hash_type": "fnv", "mode": "train", "return_grid_coord": True},
    {"type": "CenterShift", "apply_z": False},
    {"type": "NormalizeColor"},
    {"type": "ToTensor"},
    {"type": "Collect", "keys": ("coord",), "feat_keys": ("coord", "color", "normal")},
)
OUTDOOR = (
    {"type": "PointClip", "point_cloud_range": (-35.2, -35.2, -4, 35.2, 35.2, 2)},
    {"type": "GridSample", "grid_size": 0.05, "mode": "train", "return_grid_coord": True},
    {"type": "ToTensor"},
    {"type": "Collect", "keys": ("coord",), "feat_keys": ("coord", "strength")},
)
SCALED = (
    {"type": "RandomScale", "scale": [0.5, 0.5]},
    {"type": "CenterShift", "apply_z": True},
    {"type": "GridSample", "grid_size": 0.01, "mode": "train", "return_grid_coord": True},
    {"type": "CenterShift", "apply_z": False},
    {"type": "RandomDropColor", "drop_ratio": 1.0, "drop_application_ratio": 1.0},
    {"type": "Collect", "keys": ("coord",), "feat_keys": ("coord", "color")},
)
OTHERS = (
    {"type": "PositiveShift"},
    {"type": "GridSample", "grid_size": 0.3, "mode": "train", "return_grid_coord": True, "return_displacement": True},
    {"type": "NormalizeCoord"},
    {"type": "Collect", "keys": ("coord",), "feat_keys": ["coord", "displacement"]},
)


def _transformed(entries: Entries, data: Data, chosen: NDArray[np.int64] | None, signed: bool) -> Data:
    """Return what Pointcept's transforms make of a cloud; `chosen` are the points that stand for their voxels."""
    data = {key: value.copy() for key, value in data.items()}
    for entry in entries:
        kind, coord = entry["type"], data["coord"]
        if kind == "CenterShift":
            low, high = coord.min(axis=0), coord.max(axis=0)
            data["coord"] -= [(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2] if entry["apply_z"] else 0]
        elif kind == "PositiveShift":
            data["coord"] -= np.min(coord, 0)
        elif kind == "NormalizeCoord":
            data["coord"] -= np.mean(coord, axis=0)
            data["coord"] = data["coord"] / np.max(np.sqrt(np.sum(data["coord"] ** 2, axis=1)))
        elif kind == "PointClip":
            box = entry["point_cloud_range"]
            data["coord"] = np.clip(coord, a_min=box[:3], a_max=box[3:])
        elif kind == "RandomScale":
            data["coord"] *= np.random.uniform(*entry["scale"], 1)
        elif kind == "NormalizeColor":
            data["color"] = data["color"] / 127.5 - 1 if signed else data["color"] / 255
        elif kind == "RandomDropColor":
            data["color"][:] = 0
        elif kind == "GridSample":
            scaled = coord / np.array(entry["grid_size"])
            grid = np.floor(scaled).astype(int)
            scaled, grid = scaled - grid.min(0), grid - grid.min(0)
            data["all_cells"] = grid
            if chosen is not None:
                data["grid_coord"], data["displacement"] = grid[chosen], (scaled - grid - 0.5)[chosen]
                for key in set(data) & {"coord", "color", "normal", "strength"}:
                    data[key] = data[key][chosen]
        elif kind == "Collect" and chosen is not None:
            data["feat"] = np.concatenate([data[key].astype(np.float32) for key in entry["feat_keys"]], axis=1)
    return data


def _recipe(entries: Entries, signed: bool = False) -> Recipe:
    return pipeline.recipe({"data": {"val": {"transform": list(entries)}}}, signed)[0]


def _compare(entries: Entries, data: Data, signed: bool = False) -> Prepared:
    """Check that a cloud's input is what Pointcept would make of the same representatives, cell for cell."""
    cloud = PointCloud(
        data["coord"].astype(np.float64),
        data["color"].astype(np.uint8),
        data["normal"],
        data["strength"][:, 0],
    )
    recipe = _recipe(entries, signed)
    ours = prepare(cloud, recipe, CPU)
    (tile,) = ours.tiles
    cells = _transformed(entries, data, None, signed)["all_cells"]
    assert np.array_equal(tile.grid_coord.numpy()[ours.inverse.numpy()], cells)
    assert len(np.unique(cells, axis=0)) == ours.voxels
    # Which point stands for a voxel is ours to choose: the one nearest to the mean of its points.
    chosen = _nearest(_moved(recipe, data["coord"]), ours.inverse.numpy(), ours.voxels)
    theirs = _transformed(entries, data, chosen, signed)
    assert np.array_equal(tile.grid_coord.numpy(), theirs["grid_coord"])
    # numpy sums a mean in single precision.
    tolerance = 1e-3 if any(entry["type"] == "NormalizeCoord" for entry in entries) else 1e-6
    assert np.abs(tile.coord.numpy() - theirs["coord"]).max() < tolerance
    assert np.abs(tile.feat.numpy() - theirs["feat"]).max() < max(tolerance, 1e-5)
    return ours


def _moved(recipe: Recipe, coord: NDArray[Any]) -> NDArray[np.float64]:
    moved, _ = steps.apply(recipe.before or (), torch.from_numpy(coord))
    return moved.double().numpy()


def _nearest(coord: NDArray[np.float64], voxel: NDArray[np.int64], voxels: int) -> NDArray[np.int64]:
    total = np.zeros((voxels, 3))
    np.add.at(total, voxel, coord)
    distance = ((coord - (total / np.bincount(voxel)[:, None])[voxel]) ** 2).sum(axis=1)
    order = np.lexsort((np.arange(len(coord)), distance, voxel))
    return order[np.unique(voxel[order], return_index=True)[1]]


def _cloud(seed: int, spread: float, about: float, digits: int | None = None) -> Data:
    random = np.random.default_rng(seed)
    coord = random.uniform(-spread, spread, (2000, 3)) + about
    coord[:1000, 2] = coord[0, 2]
    if digits is not None:
        # Scanners quantise: many points then lie on the edges of cells, where the last bit decides.
        coord = np.round(coord, digits)
    return {
        "coord": coord.astype(np.float32),
        "color": random.integers(0, 256, coord.shape).astype(np.float32),
        "normal": random.normal(size=coord.shape).astype(np.float32),
        "strength": random.uniform(0, 1, (len(coord), 1)).astype(np.float32),
    }


@pytest.mark.parametrize("entries", [INDOOR, OUTDOOR, SCALED, OTHERS], ids=["indoor", "outdoor", "scaled", "others"])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), spread=st.sampled_from([0.3, 3.0, 60.0]), digits=st.sampled_from([2, 3, None]))
def test_cells_coordinates_and_features_are_pointcepts(
    entries: Entries, seed: int, spread: float, digits: int | None
) -> None:
    about = 0.0 if entries is OUTDOOR else float(np.random.default_rng(seed).uniform(-100, 100))
    _compare(entries, _cloud(seed, spread, about, digits))


def test_colours_of_both_generations() -> None:
    data = _cloud(0, 1.0, 0.0)
    for signed in (False, True):
        _compare(INDOOR, data, signed)


def test_points_beyond_the_box_are_moved_to_its_faces_and_said() -> None:
    ours = _compare(OUTDOOR, _cloud(1, 60.0, 0.0))
    assert "points lie outside the box from (-35.2, -35.2, -4) to (35.2, 35.2, 2) m" in ours.warnings[0]


def test_a_cloud_far_from_zero_keeps_its_millimetres() -> None:
    near = _cloud(2, 1.0, 0.0, 3)
    at = np.array([651_000.0, 6_861_000.0, 30.0])
    coord = np.round(near["coord"].astype(np.float64), 3)
    here, there = (
        prepare(PointCloud(coord + shift, near["color"].astype(np.uint8), near["normal"]), _recipe(INDOOR), CPU)
        for shift in (0.0, at)
    )
    # A point on a cell's edge may fall to the other side; but for these the clouds are the same.
    assert abs(here.voxels - there.voxels) < 0.05 * here.voxels
    assert there.warnings == ()
    span = there.tiles[0].coord.amax(dim=0) - here.tiles[0].coord.amax(dim=0)
    assert float(span.abs().max()) < 0.02


def test_a_cloud_far_from_zero_is_brought_to_the_sensor_where_the_model_counts_from_it() -> None:
    data = _cloud(3, 10.0, 0.0)
    coord = data["coord"].astype(np.float64) + [651_000.0, 6_861_000.0, 30.0]
    ours = prepare(PointCloud(coord, intensity=data["strength"][:, 0]), _recipe(OUTDOOR), CPU)
    assert "lies far from zero: its middle (651000, 6860999, " in ours.warnings[0]
    assert ours.voxels > 1000


def test_what_a_cloud_lacks_is_made_or_asked_for() -> None:
    data = _cloud(4, 1.0, 0.0)
    with pytest.raises(UnusableCloud, match="needs colours"):
        prepare(PointCloud(data["coord"].astype(np.float64), normal=data["normal"]), _recipe(INDOOR), CPU)
    ours = prepare(PointCloud(data["coord"].astype(np.float64)), _recipe(OUTDOOR), CPU)
    assert "no intensity" in ours.warnings[0]
    assert not ours.tiles[0].feat[:, 3].any()
    # Of a model that was trained without colours none are asked.
    ours = prepare(PointCloud(data["coord"].astype(np.float64)), _recipe(SCALED), CPU)
    assert not ours.tiles[0].feat[:, 3:].any()


def test_computed_normals_look_to_where_a_room_is_seen_from() -> None:
    # The six faces of a box, with normals that point to either side by chance.
    random = np.random.default_rng(5)
    coord = random.uniform(-1, 1, (600, 3)) * [2, 2, 1]
    axis, side = np.arange(600) % 3, random.choice([-1.0, 1.0], 600)
    coord[np.arange(600), axis] = side * np.array([2, 2, 1])[axis]
    normal = np.zeros((600, 3))
    normal[np.arange(600), axis] = random.choice([-1.0, 1.0], 600)
    points = torch.from_numpy(coord)
    seen_from = viewpoint(points, _recipe(INDOOR))
    assert seen_from is not None
    turned = normals.facing(torch.from_numpy(normal), points, seen_from).numpy()
    assert np.array_equal(turned[np.arange(600), axis], -side)
    at_zero = viewpoint(points + 5, _recipe(OUTDOOR))
    assert at_zero is not None
    assert not at_zero.any()
    assert viewpoint(points, Recipe(0.02, ("normal",))) is None


def _of(kind: str, entries: Entries, **more: Any) -> Recipe:
    """Return the recipe of a data set of Pointcept's."""
    return pipeline.recipe({"data": {"val": {"type": kind, "transform": entries, **more}}}, False)[0]


@pytest.mark.parametrize(
    ("kind", "more", "features"),
    [
        ("ScanNetDataset", {}, ("coord", "color", "normal")),
        ("ScanNetDataset", {"if_color": False}, ("coord", "blank", "normal")),
        ("NuScenesImagePointDataset", {"if_img": False}, ("coord", "color", "normal")),
        ("WaymoColorNormalDataset", {}, ("coord", "blank", "blank")),
        ("SemanticKITTIColorNormalDataset", {}, ("coord", "blank", "blank")),
        ("ModelNetDataset", {"if_color": True}, ("coord", "blank", "normal")),
        ("ShapeNetPartDataset", {"if_color": True}, ("coord", "blank", "normal")),
        ("ScanObjectNNHardestDataset", {}, ("coord", "blank", "normal")),
    ],
)
def test_what_a_data_set_has_zeros_for_is_zeros(kind: str, more: dict[str, Any], features: tuple[str, ...]) -> None:
    assert _of(kind, INDOOR, **more).features == features


def test_waymos_own_strength_is_what_its_preprocessing_makes_of_it() -> None:
    data = _cloud(6, 10.0, 0.0)
    measured = np.abs(np.random.default_rng(6).standard_cauchy(len(data["coord"]))).astype(np.float32)
    coord = data["coord"].astype(np.float64)

    def strength(kind: str, given: NDArray[np.float32]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = (
            prepare(PointCloud(coord, intensity=given), _of(kind, OUTDOOR), CPU).tiles[0].feat[:, 3].numpy()
        )
        return found

    assert measured.max() > 255
    # preprocess_waymo.py: strength = np.tanh(point_cloud[:, -1])
    expected = strength("WaymoDataset", np.tanh(measured))
    assert np.abs(strength("WaymoDataset", measured) - expected).max() < 1e-6
    # A file format's whole numbers are fractions of its largest, and other lidars know no such thing.
    whole = np.arange(len(coord), dtype=np.float32) % 256
    assert np.array_equal(strength("WaymoDataset", whole), strength("SemanticKITTIDataset", whole / 255))
    assert strength("SemanticKITTIDataset", measured).max() <= 1
    assert not np.allclose(strength("SemanticKITTIDataset", measured), expected, atol=0.1)


@pytest.mark.parametrize("far", [0.0, 7.0])
def test_computed_normals_of_objects_look_outwards(monkeypatch: pytest.MonkeyPatch, far: float) -> None:
    random = np.random.default_rng(7)
    outward = random.normal(size=(1500, 3))
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)

    def estimate(coord: torch.Tensor, seen_from: torch.Tensor | None) -> torch.Tensor:
        assert seen_from is not None
        middle = coord.mean(dim=0)
        plane = torch.nn.functional.normalize(coord - middle, dim=1) * torch.from_numpy(
            random.choice([-1.0, 1.0], (len(coord), 1))
        )
        return normals.facing(plane, coord, seen_from).float()

    monkeypatch.setattr(normals, "estimate", estimate)
    entries = [entry for entry in INDOOR if entry["type"] != "CenterShift"]
    sides = {}
    for kind in ("ModelNetDataset", "ScanObjectNNDataset", "ScanNetDataset"):
        cloud = PointCloud(outward + far, np.zeros((1500, 3), np.uint8))
        (tile,) = prepare(cloud, _of(kind, entries), CPU).tiles
        about = tile.coord - tile.coord.mean(dim=0)
        sides[kind] = float(((about * tile.feat[:, 6:]).sum(dim=1) > 0).float().mean())
    assert sides["ModelNetDataset"] == sides["ScanObjectNNDataset"] == 1
    # A scan's look to its zero: all inwards about it, half of them beside it.
    assert sides["ScanNetDataset"] < 0.6


def test_recipes_with_steps_are_plain_values_and_back() -> None:
    import json

    for recipe in (*map(_recipe, (INDOOR, OUTDOOR, SCALED, OTHERS)), _of("ScanObjectNNDataset", INDOOR)):
        assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ({"type": "RandomScale", "scale": [0.9, 1.1]}, "RandomScale draws its factor"),
        ({"type": "RandomRotate"}, "'RandomRotate' is not supported"),
        ({"type": "CenterShift", "z": 1}, "CenterShift has the unknown argument 'z'"),
        ({"type": "PointClip", "point_cloud_range": (1, 2)}, "must be six numbers"),
        ({"type": "PointClip", "point_cloud_range": (1, 0, 0, 0, 1, 1)}, "its first three must be below"),
    ],
)
def test_steps_that_chance_decides_or_nobody_knows_are_named(entry: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        steps.step(entry)
