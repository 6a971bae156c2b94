"""Boxes of known sizes under a camera: their edges, volumes, frames, poses, and why some cannot be measured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import ConvexHull
from scipy.spatial.transform import Rotation

from service.measure import Frame, measure
from service.values import BoxPart, BoxSize, MeasuredBox
from tests.measure.camera import FLOOR, TABLE, Seen, box, look, segmentation
from training import objects

SIZE = (0.30, 0.20, 0.12)


def the_box(seen: Seen, frame: Frame | None = None) -> MeasuredBox:
    """Return the measurement of the scene's one box."""
    (found,) = seen.measure(frame).boxes
    return found


def size_of(found: MeasuredBox) -> BoxSize:
    assert found.size is not None, found.reason
    return found.size


def reason(found: MeasuredBox) -> str:
    assert found.size is None and found.reason is not None, found.size
    return found.reason


def part_of(found: MeasuredBox) -> BoxPart:
    assert found.size is None and found.part is not None, found.reason
    return found.part


@pytest.fixture(scope="module")
def plain() -> Seen:
    """A box on a table, three of its faces seen."""
    return look([TABLE, box(1, SIZE, degrees=20)])


def test_a_box_with_three_faces_seen(plain: Seen) -> None:
    found = the_box(plain)
    size = size_of(found)
    np.testing.assert_allclose(size.size_m, SIZE, atol=0.002)
    assert size.volume_m3 == pytest.approx(np.prod(size.size_m))
    assert found.pose == "standing"
    assert set(found.faces_seen) == {"top", "front", "right"} or set(found.faces_seen) == {"top", "front", "left"}
    assert all(0 < half < 0.01 for half in size.size_uncertainty_m)


def test_corners_axes_and_centre_belong_together(plain: Seen) -> None:
    size = size_of(the_box(plain))
    corners, rotation = np.array(size.corners), np.array(size.rotation)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(rotation) == pytest.approx(1)
    np.testing.assert_allclose(corners.mean(axis=0), size.center, atol=1e-9)
    assert ConvexHull(corners).volume == pytest.approx(size.volume_m3)
    height = corners @ rotation[2]
    assert height[:4].max() < height[4:].min()
    np.testing.assert_allclose(np.ptp(corners @ rotation.T, axis=0), size.size_m)


def test_the_support_is_the_table(plain: Seen) -> None:
    answer = plain.measure()
    assert answer.support is not None and answer.up is not None
    flat = plain.coord[plain.number == 0]
    height = (flat - answer.support.point) @ np.array(answer.support.normal)
    assert np.abs(height).max() < 0.004
    assert answer.support.rms_m == pytest.approx(float(np.sqrt((height**2).mean())), rel=0.05)
    own = (plain.coord[plain.number == 1] - answer.support.point) @ np.array(answer.support.normal)
    assert own.min() > -0.005 and own.max() == pytest.approx(SIZE[2], abs=0.005)


@settings(max_examples=12, deadline=None)
@given(
    edges=st.tuples(*[st.floats(0.06, 0.4)] * 3),
    degrees=st.floats(0, 90),
    elevation=st.floats(30, 65),
    turn=st.integers(0, 10_000),
)
def test_any_box_in_any_frame(edges: tuple[float, ...], degrees: float, elevation: float, turn: int) -> None:
    away = 0.6 + 1.6 * max(edges)
    angle = np.radians(elevation)
    eye = (away * np.cos(angle), 0.0, away * np.sin(angle) + edges[2] / 2)
    seen = look([FLOOR, box(1, edges, degrees=degrees)], eye, (0, 0, edges[2] / 2))
    here = size_of(the_box(seen))
    true = (*sorted(edges[:2], reverse=True), edges[2])
    allowed = 0.004 + 0.01 * max(edges)
    np.testing.assert_allclose(here.size_m, true, atol=allowed)
    rotation = Rotation.random(random_state=turn)
    moved = Seen(rotation.apply(seen.coord) + [3.0, -2.0, 1.0], seen.number)
    there = the_box(moved)
    if there.size is not None:
        np.testing.assert_allclose(there.size.size_m, true, atol=allowed)


def test_the_top_alone_and_the_table() -> None:
    found = the_box(look([TABLE, box(1, SIZE, degrees=30)], (0.01, 0, 1.1), (0, 0, 0)))
    np.testing.assert_allclose(size_of(found).size_m, SIZE, atol=0.003)
    assert found.faces_seen == ("top",)


def test_a_leaning_box_is_measured_along_its_own_edges() -> None:
    stand = box(1, (0.2, 0.3, 0.25), (-0.25, 0, 0))
    found = look([TABLE, stand, box(2, (0.3, 0.2, 0.12), (0.05, 0, 0), lean=35)]).measure().boxes[1]
    assert found.pose == "leaning"
    np.testing.assert_allclose(sorted(size_of(found).size_m), sorted(SIZE), atol=0.005)


def test_a_box_on_a_box_stands_on_it() -> None:
    below, above = box(1, (0.4, 0.3, 0.2)), box(2, (0.2, 0.15, 0.1), (0.02, 0.01, 0.2), degrees=25)
    lower, upper = look([TABLE, below, above], (1.0, -0.7, 1.1)).measure().boxes
    np.testing.assert_allclose(size_of(upper).size_m, (0.2, 0.15, 0.1), atol=0.003)
    np.testing.assert_allclose(size_of(lower).size_m, (0.4, 0.3, 0.2), atol=0.004)


def test_a_box_on_a_pallet_does_not_reach_the_floor() -> None:
    pallet = objects.cuboid((0.8, 0.6, 0.14))
    seen = look([TABLE, pallet, box(1, SIZE, (0, 0, 0.14))], (1.1, -0.8, 1.0), (0, 0, 0.15))
    np.testing.assert_allclose(size_of(the_box(seen)).size_m, SIZE, atol=0.004)


def test_without_a_support_three_faces_are_enough(plain: Seen) -> None:
    alone = plain.only(plain.number == 1)
    answer = alone.measure()
    assert answer.support is None and answer.up is None
    assert any("No plane" in warning for warning in answer.warnings)
    (found,) = answer.boxes
    np.testing.assert_allclose(sorted(size_of(found).size_m), sorted(SIZE), atol=0.003)
    assert found.pose == "unknown"


def test_up_decides_what_is_height() -> None:
    seen = look([TABLE, box(1, SIZE, degrees=20)])
    alone = seen.only(seen.number == 1)
    answer = seen.measure()
    assert answer.up is not None
    found = the_box(alone, Frame(up=answer.up))
    assert size_of(found).size_m[2] == pytest.approx(SIZE[2], abs=0.003)
    sideways = the_box(seen, Frame(up=tuple(np.cross(answer.up, (1.0, 0, 0)))))
    assert sideways.pose != "standing" or size_of(sideways).size_m[2] != pytest.approx(SIZE[2], abs=0.003)


def test_one_face_is_not_enough() -> None:
    seen = look([TABLE, box(1, SIZE)], (0, -1.0, 0.06), (0, 0, 0.06))
    found = the_box(seen)
    assert "too few of its faces" in reason(found)
    assert len(found.faces_seen) == 1
    part = part_of(found)
    assert part.size_m == (pytest.approx(0.30, abs=0.004), None, None)
    assert part.at_least_m == (None, pytest.approx(0.0, abs=0.01), pytest.approx(0.11, abs=0.01))


def test_the_top_without_a_support_has_no_height() -> None:
    seen = look([TABLE, box(1, SIZE, degrees=30)], (0.01, 0, 1.1), (0, 0, 0))
    found = the_box(seen.only(seen.number == 1))
    assert "too few of its faces" in reason(found)
    known = [edge for edge in part_of(found).size_m if edge is not None]
    np.testing.assert_allclose(sorted(known), (0.20, 0.30), atol=0.004)


def test_a_sphere_is_no_box() -> None:
    from dataclasses import replace

    ball = replace(objects.ellipsoid((0.1, 0.1, 0.1)), number=1)
    assert "no box" in reason(the_box(look([TABLE, ball])))


def test_a_box_at_the_edge_of_the_view_is_cut() -> None:
    seen = look([TABLE, box(1, SIZE)], (0.0, -0.9, 0.8), (0.55, 0, 0))
    columns = seen.coord[:, 0] / seen.coord[:, 2]
    assert columns[seen.number == 1].min() == pytest.approx(columns.min(), abs=0.01)
    found = the_box(seen)
    assert "edge of the view cuts it off: length at least" in reason(found)
    part = part_of(found)
    assert part.size_m == (None, pytest.approx(0.20, abs=0.004), pytest.approx(0.12, abs=0.004))
    whole = seen.coord[seen.number == 1]
    assert part.at_least_m[0] is not None and 0.02 < part.at_least_m[0] < 0.30
    assert part.at_least_m[0] == pytest.approx(float(np.ptp(whole @ np.array(part.rotation[0]))), abs=0.03)
    assert part.volume_at_least_m3 < 0.30 * 0.20 * 0.12


def test_a_box_that_something_hides_is_not_guessed() -> None:
    front = box(2, (0.12, 0.05, 0.3), (0.12, -0.3, 0))
    seen = look([TABLE, box(1, SIZE), front], (0.0, -1.2, 0.35), (0, 0, 0.1))
    found = seen.measure().boxes[0]
    assert "something in front hides where it ends: length at least" in reason(found)
    part = part_of(found)
    for edge, unsure, least, true in zip(part.size_m, part.size_uncertainty_m, part.at_least_m, SIZE, strict=True):
        assert (edge is None) == (unsure is None) == (least is not None)
        if edge is None:
            assert least is not None and 0.2 < least < true
        else:
            assert edge == pytest.approx(true, abs=0.008) and abs(edge - true) < (unsure or 0)


def test_a_face_too_narrow_to_stand_alone_is_found_by_the_others() -> None:
    seen = look([TABLE, box(1, (0.30, 0.03, 0.20), degrees=5)], (0.1, -1.3, 0.7), (0, 0, 0.05), noise_m=0.005)
    found = the_box(seen)
    np.testing.assert_allclose(size_of(found).size_m, (0.30, 0.03, 0.20), atol=0.006)


def test_a_box_beside_a_lower_one_does_not_stand_on_it() -> None:
    tall, low = box(1, (0.2, 0.2, 0.3)), box(2, (0.05, 0.3, 0.15), (0.126, 0, 0))
    found = look([TABLE, tall, low], (1.1, 0.2, 0.9), (0, 0, 0.1)).measure().boxes[0]
    if found.size is not None:
        assert found.size.size_m[2] == pytest.approx(0.3, abs=0.005)


def test_faces_of_two_boxes_are_not_measured_as_one() -> None:
    seen = look([TABLE, box(1, (0.2, 0.2, 0.15)), box(1, (0.2, 0.2, 0.15), (0.0, 0.35, 0.0))], (1.1, -0.5, 0.9))
    found = the_box(seen)
    assert found.size is None or found.size.size_m[0] < 0.22
    assert found.reason is not None and found.part is None


def test_few_points_are_not_enough(plain: Seen) -> None:
    rows = np.flatnonzero(plain.number == 1)[::400]
    number = np.zeros_like(plain.number)
    number[rows] = 1
    assert f"it has {len(rows)} points" in reason(the_box(Seen(plain.coord, number)))


def test_millimetres_taken_for_metres_are_named(plain: Seen) -> None:
    (found,) = plain.measure(scale=1000.0).boxes
    assert "m long with 1 m per unit" in reason(found)
    assert "units=mm" in reason(found)


def test_metres_taken_for_millimetres_are_named(plain: Seen) -> None:
    (found,) = plain.measure(Frame(metres_per_unit=0.001), scale=0.001).boxes
    assert "mm long with 0.001 m per unit" in reason(found)
    assert "units=m" in reason(found)


def test_where_a_box_is_comes_in_the_files_units(plain: Seen) -> None:
    metres = size_of(the_box(plain))
    millimetres = size_of(the_box(plain, Frame(metres_per_unit=0.001)))
    np.testing.assert_allclose(np.array(millimetres.corners), 1000 * np.array(metres.corners))
    np.testing.assert_allclose(millimetres.size_m, metres.size_m)
    support = plain.measure(Frame(metres_per_unit=0.001)).support
    assert support is not None and np.linalg.norm(support.point) > 100


def test_the_sensors_place_may_be_given(plain: Seen) -> None:
    moved = Seen(plain.coord + [10.0, 0, 0], plain.number)
    there = size_of(the_box(moved, Frame(viewpoint=(10.0, 0, 0))))
    np.testing.assert_allclose(there.size_m, size_of(the_box(plain)).size_m, atol=1e-6)


@pytest.mark.parametrize("keep", ["table", "nothing", "invalid"])
def test_an_empty_scene(plain: Seen, keep: str) -> None:
    coord = plain.coord[plain.number == 0] if keep == "table" else np.full((5 if keep == "invalid" else 0, 3), np.nan)
    answer = measure(coord, segmentation(np.zeros(len(coord), dtype=np.int64)), Frame())
    assert answer.boxes == ()
    assert answer.warnings == ("No box was found.",)
    assert (answer.support is not None) == (keep == "table")


def test_points_that_are_not_numbers_change_nothing(plain: Seen) -> None:
    coord = np.concatenate([plain.coord, np.full((50, 3), np.nan)])
    number = np.concatenate([plain.number, np.zeros(50, dtype=np.int64)])
    assert the_box(Seen(coord, number)) == the_box(plain)
