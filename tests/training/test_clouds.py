"""Generated clouds: the same for the same seed, and their labels true to the solids that they come from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training import clouds, scenes, sensors, solids
from training.scenes import Scene
from training.solids import BACKGROUND, BOX, CUBOID, CYLINDER, Part

CPU = torch.device("cpu")
SMALL = (120, 160)


def distance(part: Part, point: np.ndarray) -> np.ndarray:
    """Return the distance (n,) of points (n, 3) from a part's surface, or from the cuboid about a round part's."""
    own = np.abs((point - part.center) @ part.axes.T) - part.half
    outside = np.linalg.norm(np.maximum(own, 0), axis=1)
    return outside + np.abs(np.minimum(own.max(1), 0)) * (part.kind == CUBOID)


def clean(seed: int, place: scenes.Place) -> tuple[clouds.Cloud, Scene]:
    """Return a cloud of the scanner, whose noise is small, and its scene."""
    cloud = clouds.generate((seed,), 1, CPU, place=place, family="scanner", shape=SMALL, fuse=1)[0]
    return cloud, scenes.scene((seed, 0), place)


def flown(made: Scene, eye: torch.Tensor, point: torch.Tensor) -> np.ndarray:
    """Return which points (n, 3) are 5 cm or more away from where their beam, without noise, meets the scene.

    A pixel that flies may come down anywhere on its beam, also beside the hidden side of the box that the beam met.
    Such a point is near the box by chance: the generator gives it to the nearer of the surfaces that are seen there.
    """
    along = (point - eye).T
    t, _ = solids.cast(solids.stack([made.parts], CPU), eye[None], along[None])
    return (((t[0] - 1) * along.norm(dim=0)).abs() > 0.05).numpy()


@pytest.mark.parametrize("place", scenes.PLACES, ids=lambda place: place.__name__)
def test_points_labelled_box_lie_on_boxes_and_no_others(place: scenes.Place) -> None:
    cloud, made = clean(5, place)
    point, label = cloud.coord.double().numpy(), cloud.label.numpy()
    away = {
        kind: np.min(
            [distance(part, point) for part in made.parts if part.label == kind] or [np.full(len(point), 9.0)], 0
        )
        for kind in (BACKGROUND, BOX)
    }
    own = np.where(label == BOX, away[BOX], away[BACKGROUND])
    # Noise of millimetres and bulges; some pixels fly between two surfaces, where neither is near.
    assert (own < 0.03).mean() > 0.95
    met = ~flown(made, cloud.eye, cloud.coord)
    for kind, other in ((BOX, BACKGROUND), (BACKGROUND, BOX)):
        plain = (away[kind] < 0.004) & (away[other] > 0.05)
        assert (plain & met).sum() >= 0.9 * plain.sum()
        plain &= met
        assert (label[plain] == kind).all()


@pytest.mark.parametrize("family", sensors.FAMILIES)
@pytest.mark.parametrize("place", scenes.PLACES, ids=lambda place: place.__name__)
def test_every_place_shows_boxes_to_every_sensor(place: scenes.Place, family: sensors.Family) -> None:
    # A scanner looks from farther away, over a wider angle: in 60 x 80 its beams would be 6 cm apart at the boxes.
    shape = SMALL if family == "scanner" else (60, 80)
    made = clouds.generate((40,), 4, CPU, place=place, family=family, shape=shape, fuse=1)
    assert sum(len(cloud) for cloud in made) > shape[0] * shape[1] / 24
    assert sum(int(cloud.label.sum()) for cloud in made) > shape[0] * shape[1] / 240
    assert all(bool(torch.isfinite(cloud.coord).all()) for cloud in made)


def test_the_same_seed_makes_the_same_clouds() -> None:
    one, two, other = (
        clouds.generate(seed, 2, CPU, family="structured", shape=SMALL) for seed in ((1, 2), (1, 2), (1, 3))
    )
    for left, right in zip(one, two, strict=True):
        assert torch.equal(left.coord, right.coord) and torch.equal(left.label, right.label)
    assert len(one[0]) != len(other[0]) or not torch.equal(one[0].coord, other[0].coord)


def test_views_fuse_into_one_cloud() -> None:
    apart = clouds.generate((8,), 4, CPU, place=scenes.tabletop, family="flight", shape=SMALL, fuse=1)
    fused = clouds.generate((8,), 4, CPU, place=scenes.tabletop, family="flight", shape=SMALL, fuse=4)
    assert len(apart) == 4 and len(fused) == 1
    assert len(fused[0]) > max(len(cloud) for cloud in apart)


def test_depth_noise_of_the_kinect_grows_with_the_square_of_the_distance() -> None:
    def spread(distance_m: float) -> float:
        wall = Scene(
            (Part(CUBOID, np.array((0, 0, -1.0)), np.array((30.0, 30.0, 1.0)), np.eye(3)),),
            np.zeros(3), 0.0, (distance_m, distance_m), (90, 90),
        )  # fmt: skip
        cloud = clouds.generate((3,), 1, CPU, place=lambda rng: wall, family="structured", shape=(240, 320), fuse=1)[0]
        image = cloud.coord[:, 2]
        return float((image[1:] - image[:-1]).std())

    near, far = spread(0.8), spread(2.4)
    assert 0.0002 < near < 0.004
    assert 4 < far / near < 16


def test_a_crop_keeps_points_and_their_labels_together() -> None:
    cloud = clouds.generate((4,), 1, CPU, place=scenes.tabletop, family="flight", shape=SMALL, fuse=1)[0]
    rows = {tuple(row): int(label) for row, label in zip(cloud.coord.tolist(), cloud.label.tolist(), strict=True)}
    for seed in range(6):
        part = clouds.crop(cloud, np.random.default_rng(seed))
        assert 500 <= len(part) <= len(cloud)
        assert all(
            rows[tuple(row)] == int(label) for row, label in zip(part.coord.tolist(), part.label.tolist(), strict=True)
        )


def test_a_frame_moves_a_cloud_without_bending_it() -> None:
    cloud = clouds.generate((4,), 1, CPU, place=scenes.tabletop, family="flight", shape=SMALL, fuse=1)[0]
    for seed in range(8):
        moved = clouds.frame(cloud, np.random.default_rng(seed)).double()
        before, after = ((c[:-1] - c[1:]).norm(dim=1) for c in (cloud.coord.double(), moved))
        assert torch.allclose(before, after, atol=2e-5)


@pytest.mark.parametrize("seed", range(40))
def test_boxes_are_what_the_card_says(seed: int) -> None:
    """Edges of 2.5 cm to 1 m; whatever is larger, or round, is background."""
    for part in scenes.scene((seed,)).parts:
        assert part.label in (BACKGROUND, BOX)
        if part.label == BOX:
            assert part.kind == CUBOID
            assert 2 * part.half.max() <= 1.3
            assert 2 * np.sort(part.half)[1] >= 0.024
        assert part.kind in (CUBOID, 1, CYLINDER) and part.half.min() > 0
        assert np.allclose(part.axes @ part.axes.T, np.eye(3), atol=1e-9)
