"""Clouds that no camera takes, and what one writes where it sees nothing: an answer, that of the points there are."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from service.measure import Frame, edges, measure
from service.values import MeasuredBox
from tests.measure.camera import TABLE, Seen, box, look, segmentation

SIZE = (0.30, 0.20, 0.12)
TOWARDS = np.array([0.3, -0.2, 1.1])
T = np.linspace(-0.2, 0.2, 400)
"""Metres along lines."""


@pytest.fixture(scope="module")
def cut() -> Seen:
    """A box at the edge of the view, one of whose edges is not to be guessed."""
    return look([TABLE, box(1, SIZE)], (0.0, -0.9, 0.8), (0.55, 0, 0))


def among(seen: Seen, count: int, place: tuple[float, ...] = (0.0, 0.0, 0.0)) -> Seen:
    """Return the scan with so many points of nothing all over it, one of them the first."""
    at = np.linspace(0, len(seen.coord), count, endpoint=False).astype(int)
    return Seen(np.insert(seen.coord, at, np.array(place), axis=0), np.insert(seen.number, at, 0))


def found_in(seen: Seen, frame: Frame | None = None) -> MeasuredBox:
    (found,) = seen.measure(frame).boxes
    return found


@pytest.mark.parametrize("count", [1, 20, 500])
def test_pixels_without_depth_written_as_zeros_change_nothing(cut: Seen, count: int) -> None:
    plain = cut.measure()
    assert "edge of the view cuts it off" in (plain.boxes[0].reason or "")
    assert among(cut, count).measure() == plain
    # They are zeros in any unit.
    assert found_in(among(cut, count), Frame(metres_per_unit=0.5)).reason == plain.boxes[0].reason


@pytest.mark.parametrize("count", [1, 20, 500])
def test_zeros_change_nothing_where_the_sensor_stood_elsewhere(cut: Seen, count: int) -> None:
    moved = Seen(cut.coord + [10.0, 0, 0], cut.number)
    frame = Frame(viewpoint=(10.0, 0, 0))
    plain = moved.measure(frame)
    assert "edge of the view cuts it off" in (plain.boxes[0].reason or "")
    assert among(moved, count).measure(frame) == plain
    at_the_sensor = found_in(among(moved, count, (10.0, 0, 0)), frame)
    assert at_the_sensor.size is None and "edge of the view cuts it off" in (at_the_sensor.reason or "")


def test_zeros_alone_are_an_empty_cloud() -> None:
    number = np.ones(500, dtype=np.int64)
    (found,) = measure(np.zeros((500, 3)), segmentation(number), Frame()).boxes
    assert found.reason == "it has 0 points; at least 30 are needed"


def flat() -> NDArray[np.float64]:
    """A scan at z = 0, ahead of zero: its image has no height."""
    x, y = np.meshgrid(np.linspace(1, 1.4, 30), np.linspace(-0.2, 0.2, 30))
    return np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1)


def line(direction: tuple[float, ...]) -> NDArray[np.float64]:
    return TOWARDS + np.outer(T, np.array(direction) / np.linalg.norm(direction))


DEGENERATE = {
    "at one height": flat(),
    "one point": np.tile(TOWARDS, (200, 1)),
    "a line along an axis": line((1, 0, 0)),
    "a line at an angle": line((0.3, 0.5, -0.7)),
    "a line through zero": line((0.3, -0.2, 1.1)),
    "a line as rounding leaves it": line((0.1, 0.9, 0)) + np.outer(np.sin(1e6 * T), [0, 1e-16, 1e-16]),
    "a line whose image rounding makes 1e-16 wide": np.array([5.0, 5, 5]) + np.outer(T[:100], [1, 0, 0]),
    "two lines that cross": np.concatenate([line((1, 0, 0)), line((0, 1, 0))]),
    "two lines that cross at an angle": np.concatenate([line((1, 1, 0)), line((-1, 1, 0))]),
    "three lines that cross": np.concatenate([line((1, 0, 0)), line((0, 1, 0)), line((0, 0, 1))]),
}


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("share", [1, 2], ids=["all of it", "half of it"])
@pytest.mark.parametrize("at", [0.0, 40.0], ids=["near", "far"])
def test_a_cloud_without_extent_is_answered(name: str, share: int, at: float) -> None:
    coord = DEGENERATE[name] + [0, 0, at]
    number = (np.arange(len(coord)) % share == 0).astype(np.int64)
    found = found_in(Seen(coord, number))
    assert found.size is None and found.reason


def test_strips_that_all_end_in_one_place_are_not_infinitely_sure() -> None:
    strips = edges.cut(np.zeros(len(T)), T)
    assert strips is not None
    edge = edges.settle(strips, np.ones(len(strips.top), dtype=bool), 0.0)
    assert edge is not None
    # Others weigh edges by the inverse of their squares.
    assert 0 < edge.sigma < 1e-5 and 0 < edge.slope_sigma < 1e-3


def test_how_long_up_is_says_nothing() -> None:
    seen = look([TABLE, box(1, SIZE, degrees=20)])
    up = np.array(seen.measure().up)
    plain = found_in(seen, Frame(up=tuple(up.tolist())))
    assert plain.size is not None
    for scale in (1e200, 1e-200, 1e307, 1e-320):
        found = found_in(seen, Frame(up=tuple((up * scale).tolist())))
        assert found.size is not None
        np.testing.assert_allclose(found.size.corners, plain.size.corners, atol=1e-6)


@pytest.fixture(scope="module")
def merged() -> Seen:
    """A box seen from two sides, both views in one frame whose zero is on the table beneath it."""
    parts = [TABLE, box(1, SIZE, degrees=20)]
    views = []
    for eye in ((0.9, -0.6, 0.9), (-0.9, 0.6, 0.9)):
        seen = look(parts, eye)
        forward = np.array([0, 0, 0.05]) - eye
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, (0.0, 0.0, 1.0))
        right /= np.linalg.norm(right)
        views.append(seen.coord @ np.stack([right, np.cross(forward, right), forward]) + eye)
    number = look(parts).number, look(parts, (-0.9, 0.6, 0.9)).number
    return Seen(np.concatenate(views), np.concatenate(number))


def wrong_m(found: MeasuredBox) -> float:
    assert found.size is not None, found.reason
    return float(np.abs(np.array(found.size.size_m) - SIZE).max())


@pytest.mark.parametrize("at", [(20.0, 0, 0), (500.0, 300, 2), (0, -30.0, -30)])
def test_a_cloud_farther_from_zero_than_a_camera_sees_is_no_view_from_there(
    merged: Seen, at: tuple[float, ...]
) -> None:
    assert wrong_m(found_in(Seen(merged.coord + at, merged.number))) < 0.006


@pytest.mark.parametrize("at", [(3.0, 0, 0), (1.0, -2.0, 1.0)])
def test_a_cloud_of_no_single_sensor(merged: Seen, at: tuple[float, ...]) -> None:
    there = Seen(merged.coord + at, merged.number)
    assert wrong_m(found_in(there, Frame(one_sensor=False))) < 0.006


def test_a_place_that_is_given_may_be_far_away() -> None:
    far = look([TABLE, box(1, SIZE)], (0.0, -18, 16), (0.55, 0, 0), focal=280 * 20)
    assert "edge of the view cuts it off" in (found_in(far, Frame(viewpoint=(0.0, 0, 0))).reason or "")
