"""Pictures: what must be seen is seen, whatever the cloud's frame."""

from __future__ import annotations

import time

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from service.picture import Entry, class_color, draw, height_colors, label_colors, textured
from service.picture.view import choose_view
from tests.http.clouds import parcel_scene

BOX = (48.0, 67.0, 1152.0, 700.0)
ORANGE = (230, 126, 34)


def pixels(coord: NDArray[np.float64], color: NDArray[np.uint8], **options: object) -> NDArray[np.uint8]:
    return np.asarray(draw(coord, color, **options))  # type: ignore[arg-type]


def depth_scan(points: int = 60_000) -> NDArray[np.float64]:
    """A table with a box as a camera 1.2 m away sees it, in the camera's frame (z forward, y down)."""
    scene = parcel_scene(points)
    eye, right = np.array([0.0, -0.9, 0.8]), np.array([1.0, 0.0, 0.0])
    forward = -eye / np.linalg.norm(eye)
    return np.asarray((scene - eye) @ np.stack([right, np.cross(forward, right), forward]).T)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["oblique", "camera"])
def test_the_whole_cloud_is_inside(kind: str, seed: int) -> None:
    """Also a depth camera's cloud turned about its origin, and one far from the origin."""
    if kind == "camera":
        coord = Rotation.random(random_state=seed).apply(depth_scan())
    else:
        coord = parcel_scene(20_000, seed) * [3, 1, 1] + [6e5, 5e6, 120]
    pixel, depth = choose_view(coord, BOX).project(coord)
    assert depth.min() > 0
    left, top, right, bottom = BOX
    inside = (
        (pixel[:, 0] > left - 40) & (pixel[:, 0] < right + 40) & (pixel[:, 1] > top - 40) & (pixel[:, 1] < bottom + 40)
    )
    assert inside.mean() > 0.99
    # And it fills the rectangle in one direction.
    assert max(np.ptp(pixel[:, 0]) / (right - left), np.ptp(pixel[:, 1]) / (bottom - top)) > 0.9


def test_up_is_up() -> None:
    coord = parcel_scene(20_000)
    view = choose_view(coord, BOX)
    (low, high), _depth = view.project(np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.2]]))
    assert high[1] < low[1]


def test_near_points_hide_far_ones() -> None:
    """Under a dense roof, seen from above, nothing of the floor shows but at its rim."""
    x, y = np.meshgrid(np.linspace(-1, 1, 300), np.linspace(-1, 1, 300))
    floor = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1)
    roof = floor + [0, 0, 0.05]
    color = np.repeat(np.array([[255, 0, 0], [0, 0, 255]], np.uint8), len(floor), axis=0)
    image = pixels(np.concatenate([floor, roof]), color).astype(int)
    red = (image[..., 0] > image[..., 2] + 60).sum()
    blue = (image[..., 2] > image[..., 0] + 60).sum()
    assert red < 0.08 * blue


def test_a_dense_surface_has_no_holes() -> None:
    x, y = np.meshgrid(np.linspace(-1, 1, 200), np.linspace(-1, 1, 200))
    coord = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1)
    image = pixels(coord, np.zeros((len(coord), 3), np.uint8))
    drawn = image.max(axis=2) < 128
    rows = np.flatnonzero(drawn.any(axis=1))
    middle = drawn[rows[len(rows) // 3] : rows[2 * len(rows) // 3]]
    for row in middle:
        columns = np.flatnonzero(row)
        assert row[columns[0] : columns[-1] + 1].all()


def test_two_pictures_of_a_cloud_are_equal() -> None:
    coord = depth_scan()
    color = height_colors(coord[:, 1])
    np.testing.assert_array_equal(pixels(coord, color), pixels(coord, color))


def test_legend_shows_the_colours_and_says_what_does_not_fit() -> None:
    coord, color = parcel_scene(1000), np.zeros((1000, 3), np.uint8)
    image = pixels(coord, color, legend=[Entry("box", ORANGE, 12)])
    assert (image == ORANGE).all(axis=2).sum() > 300
    many = [Entry(f"class {i}", class_color(i), i) for i in range(40)]
    assert pixels(coord, color, legend=many).shape == (800, 1200, 3)


@pytest.mark.parametrize(
    "coord",
    [
        np.zeros((1, 3)),
        np.zeros((50, 3)),
        np.array([[0.0, 0, 0], [1, 0, 0]]),
        np.linspace([1.0, 2, 3], [1.0, 2, 9], 100),
        np.array([[np.nan, 0, 0], [1e6, 2, 3]]),
        np.array([[0.0, 0, 0], [1e12, 0, 0], [0, 1, 0]]),
    ],
)
def test_degenerate_clouds(coord: NDArray[np.float64]) -> None:
    assert pixels(coord, np.zeros((len(coord), 3), np.uint8)).shape == (800, 1200, 3)


def test_no_valid_point() -> None:
    with pytest.raises(ValueError, match="no valid points"):
        draw(np.full((4, 3), np.inf), np.zeros((4, 3), np.uint8))


def test_colours() -> None:
    colors = label_colors(np.array([1, -1, 7, 1]), {1: ORANGE})
    assert [tuple(c) for c in colors.tolist()] == [ORANGE, class_color(-1), class_color(7), ORANGE]
    assert label_colors(np.zeros(0, np.int32)).shape == (0, 3)
    heights = height_colors(np.linspace(0, 1, 11))
    assert heights[0].tolist() == [68, 1, 84]
    assert heights[-1].tolist() == [253, 231, 37]
    photo = np.array([[0, 0, 0], [255, 255, 255]], np.uint8)
    dark, light = textured(np.array([ORANGE, ORANGE], np.uint8), photo).astype(int).sum(axis=1)
    assert dark < light


def test_two_hundred_thousand_points_take_no_longer_than_two_seconds() -> None:
    coord = depth_scan(200_000)
    color = height_colors(coord[:, 1])
    took = []
    for _ in range(3):
        began = time.process_time()
        draw(coord, color, [Entry("box", ORANGE, 1)])
        took.append(time.process_time() - began)
    assert min(took) < 2
