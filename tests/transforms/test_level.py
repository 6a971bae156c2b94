"""The plane that a scene stands on is found whatever the frame, and laid level."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from service.transforms import Recipe, prepare, support
from service.values import PointCloud

CPU = torch.device("cpu")
RECIPE = Recipe(grid_size=0.01, features=("elevation", "relief", "residual"), level=True)


def table(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a table with a box on it, 2 mm of noise, z up; and which points are the table's."""
    rng = np.random.default_rng(seed)
    top = np.c_[rng.uniform(-0.6, 0.6, (9000, 2)), np.zeros(9000)]
    lid = np.c_[rng.uniform(-0.1, 0.1, (1500, 2)), np.full(1500, 0.2)]
    side = np.c_[np.full(800, 0.1), rng.uniform((-0.1, 0), (0.1, 0.2), (800, 2))]
    cloud = np.concatenate([top, lid, side])
    return cloud + rng.normal(0, 0.002, cloud.shape), np.arange(len(cloud)) < 9000


@pytest.mark.parametrize("seed", range(8))
def test_the_plane_is_found_in_any_frame(seed: int) -> None:
    coord, flat = table(seed)
    turn = Rotation.random(random_state=seed).as_matrix()
    moved = torch.from_numpy(coord @ turn.T + (4.0, -3.0, 2.0))
    plane = support.find(moved)
    assert float(plane.normal @ torch.from_numpy(turn[:, 2])) > np.cos(np.radians(0.5))  # up, not down
    height = support.level(moved, plane)[:, 2].numpy()
    assert np.abs(height[flat]).max() < 0.015
    assert height[~flat].max() == pytest.approx(0.2, abs=0.015)


def test_levelling_keeps_distances() -> None:
    coord, _ = table(0)
    moved = torch.from_numpy(coord[:300] @ Rotation.random(random_state=3).as_matrix().T)
    plane = support.find(moved)
    assert torch.allclose(torch.pdist(support.level(moved, plane)), torch.pdist(moved), atol=1e-9)


def test_the_plane_is_the_middle_of_one_layer_of_cells() -> None:
    coord, flat = table(1)
    made = prepare(PointCloud(coord), RECIPE, CPU)
    layer = made.tiles[0].grid_coord[made.inverse, 2].numpy()[flat]
    assert (layer == np.bincount(layer).argmax()).mean() > 0.95
    elevation = made.tiles[0].feat[made.inverse, 0].numpy()
    assert np.abs(np.median(elevation[flat])) < 0.001
    relief = made.tiles[0].feat[:, 1]
    assert torch.allclose(relief, torch.tanh(made.tiles[0].feat[:, 0] / 0.05), atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_a_few_points_are_no_trouble(count: int) -> None:
    coord = np.random.default_rng(count).normal(size=(count, 3))
    made = prepare(PointCloud(coord), RECIPE, CPU)
    assert len(made.inverse) == count and torch.isfinite(made.tiles[0].feat).all()


@pytest.mark.parametrize(
    "coord", [np.zeros((50, 3)), np.c_[np.linspace(0, 1, 50), np.zeros((50, 2))]], ids=["spot", "line"]
)
def test_clouds_without_a_plane_are_no_trouble(coord: np.ndarray) -> None:
    made = prepare(PointCloud(coord), RECIPE, CPU)
    assert torch.isfinite(made.tiles[0].feat).all() and (made.tiles[0].grid_coord >= 0).all()


def test_elevation_needs_a_level_cloud() -> None:
    with pytest.raises(ValueError, match="need its `level` to be true"):
        dataclasses.replace(RECIPE, level=False)
