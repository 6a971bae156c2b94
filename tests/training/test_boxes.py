"""What is said of the boxes in a scene, against the solids it is made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training import arrangements, clouds, objects, scenes
from training.boxes import Box, boxes_in
from training.objects import move, tumble


def test_a_closed_boxs_size_and_pose_are_those_of_its_cuboid() -> None:
    rng = np.random.default_rng(1)
    turned, shift = tumble(rng), rng.normal(0, 1, 3)
    (box,) = boxes_in(move(objects.closed_box(rng, np.array((0.3, 0.2, 0.1))), turned, shift))
    assert box.half == pytest.approx((0.15, 0.1, 0.05))
    assert box.center == pytest.approx(shift + turned @ (0, 0, 0.05))
    assert np.allclose(box.axes, turned.T)
    corner = shift + turned @ (0.15, -0.1, 0.1)
    assert np.isclose(np.linalg.norm(box.corners() - corner, axis=1).min(), 0, atol=1e-12)


def test_an_open_boxs_size_is_that_of_its_body_without_flaps() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        size = objects.box_size(rng, 0.2, 0.6)
        turned = tumble(rng)
        (box,) = boxes_in(move(objects.open_box(rng, size), turned, (1, 2, 3)))
        assert 2 * box.half == pytest.approx(size)
        assert box.center == pytest.approx(np.array((1, 2, 3)) + turned @ (0, 0, size[2] / 2))


def apart(one: Box, other: Box) -> float:
    """Return the largest gap (negative: overlap) along the axes of two boxes, metres."""
    away = other.center - one.center
    gaps = [
        abs(axis @ away) - np.abs(one.axes @ axis) @ one.half - np.abs(other.axes @ axis) @ other.half
        for axis in (*one.axes, *other.axes)
    ]
    return float(max(gaps))


@pytest.mark.parametrize("seed", range(15))
def test_boxes_of_a_heap_touch_but_do_not_run_into_one_another(seed: int) -> None:
    made = boxes_in(arrangements.heap(np.random.default_rng(seed), 0.1, 0.5))
    assert len(made) >= 1
    for index, one in enumerate(made):
        assert one.center[2] - one.half @ np.abs(one.axes[:, 2]) > -1e-9
        for other in made[index + 1 :]:
            assert apart(one, other) > -5e-4
    touching = [apart(one, other) < 0.02 for i, one in enumerate(made) for other in made[i + 1 :]]
    assert len(made) == 1 or any(touching)


def test_a_heap_stays_on_its_pallet() -> None:
    area = np.array((0.6, 0.4))
    for seed in range(10):
        made = boxes_in(arrangements.heap(np.random.default_rng(seed), 0.1, 0.3, area=area, count=12))
        for box in made:
            assert (np.abs(box.center[:2]) <= area).all()


def test_a_clouds_box_points_lie_on_the_boxes_that_it_names() -> None:
    for place in scenes.PLACES:
        cloud = clouds.generate((5,), 1, torch.device("cpu"), place=place, family="scanner", shape=(120, 160), fuse=1)[
            0
        ]
        point, number = cloud.coord.double().numpy(), cloud.number.numpy()
        near = []
        for box in cloud.boxes:
            own = point[(number == box.number) & (cloud.label.numpy() == 1)]
            out = np.abs((own - box.center) @ box.axes.T) - box.half
            near.append(np.abs(out.max(axis=1)) < 0.05)
        seen = np.concatenate([np.zeros(0, bool), *near])
        assert len(seen) == int(cloud.label.sum())
        assert len(seen) < 50 or seen.mean() > 0.8, place.__name__
