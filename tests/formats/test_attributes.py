"""What values of colours and names of attributes mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from service.errors import MalformedFile, UnusableCloud
from service.formats.attributes import assemble, renamed, scalar_attributes, to_color, unpack_color
from tests.formats.clouds import make_cloud


@pytest.mark.parametrize(
    ("values", "kind", "expected", "note"),
    [
        ([0, 128, 255], "u1", [0, 128, 255], None),
        ([0, -128, -1], "i1", [0, 128, 255], None),
        ([0, 0.5, 1], "f4", [0, 128, 255], "between 0 and 1"),
        ([0, 0, 1], "f8", [0, 0, 255], "between 0 and 1"),
        ([0, 127.6, 255], "f4", [0, 128, 255], None),
        ([0, 1, 1], "i4", [0, 1, 1], None),
        ([0, 0, 0], "f4", [0, 0, 0], None),
        ([0, 200, 255], "u2", [0, 200, 255], "16 bits"),
        ([0, 0, 0], "u2", [0, 0, 0], None),
        ([0, 32768, 65535], "u2", [0, 128, 255], None),
        ([255, 256, 65280], "i8", [0, 1, 255], "65280"),
        ([0, 32768.5, 65535], "f8", [0, 128, 255], "65535"),
        ([np.nan, 10, 20], "f4", [0, 10, 20], None),
        ([-1, 10, 20], "i2", None, "range from -1"),
        ([0, 10, 70000], "i4", None, "70000"),
        ([True, False, True], "?", None, "type bool"),
        ([0, 1, 2], "c8", None, "type complex64"),
    ],
)
def test_ranges_of_colors(values: list[Any], kind: str, expected: list[int] | None, note: str | None) -> None:
    notes: list[str] = []
    color = to_color(np.array([values], dtype=kind), notes)
    if expected is None:
        assert color is None
    else:
        assert color is not None
        assert color.dtype == np.uint8
        assert color.tolist() == [expected]
    assert len(notes) == (note is not None)
    assert note is None or note in notes[0]


def test_8_bits_widened_either_way_come_back() -> None:
    values = np.arange(256, dtype=np.uint16).reshape(-1, 1).repeat(3, axis=1)
    for factor in (256, 257):
        assert np.array_equal(to_color(values * np.uint16(factor), []), values)  # type: ignore[arg-type]


def test_colors_in_no_range_stay_attributes() -> None:
    columns = {name: np.array([-5, 300]) for name in ("x", "y", "z", "red", "green", "blue")}
    cloud = assemble(columns)
    assert cloud.color is None
    assert set(cloud.attributes) == {"red", "green", "blue"}
    assert "were not used" in cloud.notes[0]


def test_packed_colors() -> None:
    packed = np.array([0xFF0A141E, 0x000A141E], dtype=np.uint32)
    for values in (packed, packed.view(np.int32), packed.view(np.float32)):
        color = unpack_color(values, [])
        assert color is not None
        assert color.tolist() == [[10, 20, 30]] * 2


def test_missing_or_wrong_positions() -> None:
    with pytest.raises(UnusableCloud, match="its fields are: x, y"):
        assemble({"x": np.zeros(2), "y": np.zeros(2)})
    with pytest.raises(MalformedFile, match="Field z"):
        assemble({"x": np.zeros(2), "y": np.zeros(2), "z": np.array(["a", "b"])})
    with pytest.raises(UnusableCloud, match="no points"):
        assemble({name: np.zeros(0) for name in "xyz"})


def test_what_is_kept_does_not_hold_on_to_the_file() -> None:
    data = bytearray(np.arange(20, dtype=">f4").tobytes())
    table = np.frombuffer(data, [("x", ">f4"), ("y", ">f4"), ("z", ">f4"), ("q", ">f4"), ("i", ">f4")])
    cloud = assemble({name: table[name] for name in table.dtype.names or ()})
    data[:] = bytes(len(data))
    assert cloud.coord[1].tolist() == [5, 6, 7]
    assert cloud.attributes["q"].tolist() == [3, 8, 13, 18]
    assert cloud.attributes["q"].dtype == np.float32
    assert cloud.intensity is not None
    assert cloud.intensity.tolist() == [4, 9, 14, 19]


@pytest.mark.parametrize(
    ("names", "changed"),
    [
        ([], {}),
        (["ring"], {}),
        (["label"], {"label": "original_label"}),
        (["classification"], {"classification": "original_label"}),
        (["Classification", "Label"], {"Label": "original_label", "Classification": "original_classification"}),
        (["scalar_Label"], {"scalar_Label": "original_label"}),
        (["label", "original_label"], {"label": "original_label_2"}),
        (["confidence"], {"confidence": "original_confidence"}),
    ],
)
def test_names_that_ours_would_hide(names: list[str], changed: dict[str, str]) -> None:
    assert renamed(names) == changed


def test_names_of_scalar_attributes_do_not_collide() -> None:
    names = ("red", "label", "a b", "a_b", "", "c")
    cloud = make_cloud(
        3, attributes={name: np.zeros((3, 1 + (name == "c")))[:, 0] for name in names} | {"c": np.zeros((3, 2))}
    )
    assert list(scalar_attributes(cloud)) == [
        "original_red",
        "original_label",
        "a_b",
        "a_b_2",
        "attribute",
        "c_0",
        "c_1",
    ]
