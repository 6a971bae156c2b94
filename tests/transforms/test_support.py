"""The plane that a scene stands on, against scenes whose plane is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from service.transforms import Recipe, prepare, support
from service.values import PointCloud
from tests.transforms.clouds import CPU

LEVELLED = Recipe(0.01, ("elevation", "relief", "ones"), level=True)


def table(seed: int) -> NDArray[np.float64]:
    """Return a table at z = 0 with two boxes on it, as a noisy scan from above; metres."""
    random = np.random.default_rng(seed)
    top = random.uniform((-0.7, -0.5, 0), (0.7, 0.5, 0), (20000, 3))
    boxes = []
    for x, size in ((-0.3, (0.2, 0.3, 0.15)), (0.3, (0.25, 0.2, 0.3))):
        lid = random.uniform(0, 1, (3000, 3)) * size
        lid[:, 2] = size[2]
        side = random.uniform(0, 1, (1500, 3)) * size
        side[:, 0] = 0
        boxes += [lid + (x, -0.1, 0), side + (x, -0.1, 0)]
    coord = np.concatenate([top, *boxes])
    return coord + random.normal(0, 0.002, coord.shape)


@pytest.mark.parametrize("seed", range(6))
def test_the_plane_is_found_in_any_pose_and_up_is_where_the_boxes_are(seed: int) -> None:
    turn = Rotation.random(random_state=seed)
    shift = np.random.default_rng(seed).uniform(-3, 3, 3)
    plane = support.find(torch.from_numpy(turn.apply(table(seed)) + shift))
    normal = plane.normal.numpy()
    assert np.linalg.norm(normal) == pytest.approx(1)
    assert np.degrees(np.arccos(min(1, normal @ turn.apply([0, 0, 1])))) < 0.5
    assert float(plane.offset) == pytest.approx(normal @ shift, abs=0.004)


def test_a_levelled_cloud_has_the_plane_at_zero_and_keeps_its_distances() -> None:
    coord = torch.from_numpy(Rotation.random(random_state=9).apply(table(9)) + 5)
    flat = support.level(coord, support.find(coord))
    assert abs(float(flat[:20000, 2].median())) < 0.002
    assert torch.allclose(torch.cdist(flat[:50], flat[-50:]), torch.cdist(coord[:50], coord[-50:]))


def test_elevation_does_not_depend_on_the_frame() -> None:
    coord = table(3)
    heights = []
    for frame in (np.eye(3), Rotation.random(random_state=4).as_matrix(), Rotation.random(random_state=5).as_matrix()):
        prepared = prepare(PointCloud(coord @ frame.T + 100), LEVELLED, CPU)
        heights.append(prepared.tiles[0].feat[prepared.inverse, 0].numpy())
        relief = prepared.tiles[0].feat[:, 1]
        assert float(relief.abs().max()) <= 1
    # Voxels are cut elsewhere in another frame: half a voxel's height either way.
    for other in heights[1:]:
        assert np.abs(other - heights[0]).max() < 0.02
        assert np.abs(other - heights[0]).mean() < 0.003
    # The plane lies in the middle of a layer of voxels, so that nearly all of it stays in one.
    prepared = prepare(PointCloud(coord), LEVELLED, CPU)
    layers = prepared.tiles[0].grid_coord[prepared.inverse[:20000], 2]
    assert float((layers == layers.mode().values).float().mean()) > 0.95


def test_the_order_of_the_points_does_not_matter() -> None:
    coord = table(2)
    order = np.random.default_rng(0).permutation(len(coord))
    one, other = (prepare(PointCloud(points), LEVELLED, CPU) for points in (coord, coord[order]))
    same = one.tiles[0].feat[one.inverse][order] - other.tiles[0].feat[other.inverse]
    assert float(same.abs().max()) < 1e-4


@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_clouds_without_a_plane_are_levelled_somehow(count: int) -> None:
    line = np.outer(np.linspace(0, 1, count), [1.0, 2.0, 3.0])
    for coord in (line, np.full((count, 3), 7.0)):
        prepared = prepare(PointCloud(coord), LEVELLED, CPU)
        assert len(prepared.inverse) == count
        assert bool(torch.isfinite(prepared.tiles[0].feat).all())


def test_elevation_needs_a_levelled_recipe() -> None:
    with pytest.raises(ValueError, match="elevation and relief need its `level`"):
        Recipe(0.01, ("elevation",))
