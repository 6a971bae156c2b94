"""NPY and NPZ, against numpy."""

from __future__ import annotations

import dataclasses
import io
import pickle
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import MalformedFile, MalformedRequest, TooLarge, UnusableCloud
from tests.formats.clouds import annotated, check_form, make_cloud, make_labels, read, written

RNG = np.random.default_rng(0)
XYZ = RNG.uniform(-5, 5, (20, 3))
RGB = RNG.integers(0, 256, (20, 3)).astype(float)
NORMALS = XYZ / np.linalg.norm(XYZ, axis=1, keepdims=True)
EXTRA = RNG.normal(size=(20, 1)) - 300


def npy(values: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, values, allow_pickle=True)
    return out.getvalue()


def npz(compressed: bool = False, **arrays: Any) -> bytes:
    out = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(out, **arrays)
    return out.getvalue()


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ([XYZ], ""),
        ([XYZ, EXTRA], "intensity"),
        ([XYZ, RGB], "color"),
        ([XYZ, RGB / 255], "color"),
        ([XYZ, RGB * 256], "color"),
        ([XYZ, NORMALS], "normal"),
        ([XYZ, EXTRA, RGB], "intensity color"),
        ([XYZ, RGB, EXTRA], "color column_7"),
        ([XYZ, RGB, NORMALS], "color normal"),
        ([XYZ, NORMALS, RGB], "normal color"),
        ([XYZ, EXTRA, EXTRA], "intensity column_5"),
    ],
)
def test_columns_of_a_plain_array_are_guessed_and_noted(columns: list[Any], found: str) -> None:
    table = np.concatenate(columns, axis=1)
    cloud = read(npy(table), "npy")
    check_form(cloud)
    assert np.array_equal(cloud.coord, XYZ)
    names = [name for name in ("intensity", "color", "normal") if getattr(cloud, name) is not None]
    assert sorted([*names, *cloud.attributes]) == sorted(found.split())
    assert any("were taken as x, y, z" in note for note in cloud.notes) == (len(columns) > 1)
    if cloud.color is not None and "color" in found:
        assert np.array_equal(cloud.color, RGB)


def test_named_columns() -> None:
    table = np.concatenate([EXTRA, XYZ, RGB], axis=1)
    cloud = read(npy(table), "npy", columns=("_", "x", "y", "z", "r", "g", "b"))
    assert np.array_equal(cloud.coord, XYZ)
    assert np.array_equal(cloud.color, RGB)  # type: ignore[arg-type]
    assert cloud.notes == ()
    with pytest.raises(MalformedRequest, match="2 columns are named"):
        read(npy(table), "npy", columns=("x", "y"))


@given(
    kind=st.sampled_from(["<f4", ">f8", "<i2", ">i4", "<u8", "<f2"]),
    order=st.sampled_from("CF"),
    shape=st.sampled_from([(5, 3), (4, 6, 3), (1, 3)]),
)
@settings(max_examples=30, deadline=None)
def test_types_and_orders(kind: str, order: Any, shape: tuple[int, ...]) -> None:
    values = np.asarray(np.arange(np.prod(shape)).reshape(shape), dtype=kind, order=order)
    cloud = read(npy(values), "npy")
    check_form(cloud)
    assert np.array_equal(cloud.coord, values.reshape(-1, 3))
    assert cloud.organized == (shape[:2] if len(shape) == 3 else None)


def structured(count: int = 6) -> np.ndarray[Any, Any]:
    fields = [("x", "<f8"), ("y", ">f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
    values = np.zeros(count, dtype=[*fields, ("label", "u1"), ("pair", "i2", 2)])
    for i, name in enumerate(values.dtype.names or ()):
        values[name] = i
    values["x"] = np.arange(count)
    return values


def test_structured_array() -> None:
    cloud = read(npy(structured()), "npy")
    check_form(cloud)
    assert cloud.coord[2].tolist() == [2, 1, 2]
    assert cloud.color is not None
    assert cloud.attributes["pair"].shape == (6, 2)
    labels = make_labels(6, low=-1)
    after = np.load(io.BytesIO(annotated(npy(structured()), labels, "npy")))
    assert after.dtype.names == (*(structured().dtype.names or ())[:6], "original_label", "pair", "label", "confidence")
    assert np.array_equal(after["label"], labels.label)
    assert np.array_equal(after["original_label"], structured()["label"])


@pytest.mark.parametrize(
    ("kind", "high", "expected"),
    [("f8", 1, "f8"), ("f4", 1, "f4"), ("i2", 1, "i2"), ("i2", 70000, "i4"), ("u1", 1, "i2"), ("f2", 70000, "f8")],
)
def test_labels_become_the_last_column(kind: str, high: int, expected: str) -> None:
    values = np.arange(30).reshape(10, 3).astype(kind)
    labels = make_labels(10, high=high, low=-1, confidence=False)
    after = np.load(io.BytesIO(annotated(npy(values), labels, "npy")))
    assert after.dtype == expected
    assert np.array_equal(after[:, :3], values)
    assert np.array_equal(after[:, 3], labels.label)
    image = np.load(io.BytesIO(annotated(npy(values.reshape(2, 5, 3)), labels, "npy")))
    assert image.shape == (2, 5, 4)
    assert np.array_equal(image[..., 3].ravel(), labels.label)


class Evil:
    """A pickle that would be noticed if it were read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('unpickled')",))


GOOD = npy(XYZ)


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (b"\x93NUMPX" + GOOD[6:], MalformedFile, "no NPY array"),
        (GOOD[:8], MalformedFile, "no NPY array"),
        (GOOD[:6] + b"\x09" + GOOD[7:], MalformedFile, "version 9"),
        (GOOD[:40], MalformedFile, "truncated"),
        (GOOD[:-1], MalformedFile, "truncated"),
        (GOOD.replace(b"(20, 3)", b"(4000000000, 3)"[:7]), MalformedFile, ""),
        (GOOD.replace(b"(20, 3), }        ", b"(4000000000, 3), }"), MalformedFile, "truncated"),
        (GOOD.replace(b"(20, 3)", b"(-2, 3)"), MalformedFile, "shape"),
        (GOOD.replace(b"(20, 3)", b"[20, 3]"), MalformedFile, "shape"),
        (GOOD.replace(b"'<f8'", b"'<q9'"), MalformedFile, "does not parse"),
        (GOOD.replace(b"{'descr'", b"{'descx'"), MalformedFile, "does not parse"),
        (npy(np.array([Evil(), Evil(), Evil()], dtype=object)), MalformedFile, "pickled"),
        (npy(np.zeros((0, 3))), UnusableCloud, "no points"),
        (npy(np.zeros((5, 2))), UnusableCloud, "x, y and z"),
        (npy(np.zeros(5)), UnusableCloud, "shape (N, 3)"),
        (npy(np.zeros((5, 40))), UnusableCloud, "40 values"),
        (npy(np.array([["a", "b", "c"]])), UnusableCloud, "must be numbers"),
        (npy(np.zeros((5, 3), "V0")), MalformedFile, "no size"),
        (npy(np.zeros((5, 3), complex)), UnusableCloud, "must be numbers"),
    ],
)
def test_bad_arrays(data: bytes, error: type[Exception], said: str) -> None:
    with pytest.raises(error) as caught:
        read(data, "npy")
    assert said in str(caught.value)


@pytest.mark.parametrize(("coordinate", "kind"), [(0.5, "<f4"), (0.1, "<f8"), (float("nan"), "<f4"), (1e300, "<f8")])
def test_coordinates_are_written_exactly_and_no_longer_than_that_takes(coordinate: float, kind: str) -> None:
    cloud = make_cloud(1000)
    coord = np.round(cloud.coord * 8) / 8
    coord[0, 0] = coordinate
    data = written(dataclasses.replace(cloud, coord=coord), make_labels(1000), "npz")
    with np.load(io.BytesIO(data)) as archive:
        assert archive["coord"].dtype.str == kind
        np.testing.assert_array_equal(archive["coord"], coord)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        sizes = {entry.filename: (entry.file_size, entry.compress_size) for entry in archive.infolist()}
    assert sizes["coord.npy"][0] == sizes["coord.npy"][1]
    assert sizes["label.npy"][1] < sizes["label.npy"][0] / 2


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", ["coord", "xyz", "points", "pos", "Positions"])
def test_names_in_an_archive(name: str, compressed: bool) -> None:
    rgb = RGB.astype(np.uint8)
    arrays = {name: XYZ, "colors": rgb, "normals": NORMALS, "strength": EXTRA[:, 0], "instance": np.arange(20)}
    cloud = read(npz(compressed, **arrays, faces=np.zeros((7, 3), int), extra=np.zeros((20, 2))), "npz")
    check_form(cloud)
    assert np.array_equal(cloud.coord, XYZ)
    assert np.array_equal(cloud.color, rgb)  # type: ignore[arg-type]
    assert np.array_equal(cloud.normal, NORMALS.astype(np.float32))  # type: ignore[arg-type]
    assert np.array_equal(cloud.intensity, EXTRA[:, 0].astype(np.float32))  # type: ignore[arg-type]
    assert set(cloud.attributes) == {"instance", "extra"}
    assert cloud.notes == ("Arrays that do not hold one row for each of the 20 points: faces.",)


def test_other_layouts_of_an_archive() -> None:
    assert np.array_equal(read(npz(x=XYZ[:, 0], y=XYZ[:, 1], z=XYZ[:, 2]), "npz").coord, XYZ)
    assert np.array_equal(read(npz(arr_0=XYZ), "npz").coord, XYZ)
    assert np.array_equal(read(npz(points=np.concatenate([XYZ, RGB], axis=1)), "npz").color, RGB)  # type: ignore[arg-type]
    assert len(read(npz(vertex=structured(), faces=np.zeros((4, 3))), "npz")) == 6
    image = read(npz(points=XYZ.reshape(4, 5, 3), colors=RGB.astype(np.uint8).reshape(4, 5, 3)), "npz")
    assert image.organized == (4, 5)
    assert np.array_equal(image.color, RGB)  # type: ignore[arg-type]


def test_write_and_read_again() -> None:
    cloud, labels = make_cloud(24, far=1e6, organized=(4, 6)), make_labels(24, low=-1)
    data = written(cloud, labels, "npz")
    again = read(data, "npz")
    for name in ("coord", "color", "normal", "intensity"):
        assert np.array_equal(getattr(again, name), getattr(cloud, name))
    for name, values in cloud.attributes.items():
        assert np.array_equal(again.attributes[name], values)
    assert again.organized == (4, 6)
    assert set(again.attributes) == {*cloud.attributes, "label", "confidence"}
    archive = np.load(io.BytesIO(data), allow_pickle=False)
    assert archive["label"].dtype == np.int32
    assert archive["class_name"].tolist() == ["background", "box"]
    assert archive["class_color"].tolist() == [[128, 128, 128], [230, 140, 30]]


@pytest.mark.parametrize("compressed", [False, True])
def test_annotate_copies_the_other_members(compressed: bool) -> None:
    pickled = np.array([Evil()], dtype=object)
    data = npz(compressed, points=XYZ, label=np.arange(20), faces=np.zeros((7, 3), int), thing=pickled)
    labels = make_labels(20, low=-1)
    out = annotated(data, labels, "npz")
    with zipfile.ZipFile(io.BytesIO(data)) as before, zipfile.ZipFile(io.BytesIO(out)) as after:
        for member in before.infolist():
            new = member.filename.replace("label", "original_label")
            assert after.read(new) == before.read(member)
            assert after.getinfo(new).compress_type == member.compress_type
        assert after.testzip() is None
    archive = np.load(io.BytesIO(out), allow_pickle=False)
    assert np.array_equal(archive["label"], labels.label)
    assert np.array_equal(archive["confidence"], labels.confidence)
    assert read(out, "npz").attributes["original_label"].tolist() == list(range(20))


def bomb(claimed: str, size: int) -> bytes:
    """Return an archive whose one array claims a shape and unpacks to `size` zeros."""
    out = io.BytesIO()
    head = npy(np.zeros((1, 3)))[:-24].replace(b"(1, 3), }" + b" " * (len(claimed) - 6), claimed.encode() + b", }")
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("points.npy", "w") as member:
        member.write(head)
        for _ in range(size // (1 << 20)):
            member.write(bytes(1 << 20))
    return out.getvalue()


def test_bombs_are_refused_before_they_are_unpacked() -> None:
    data = bomb("(2000000, 3)", 64 << 20)
    assert len(data) < 100_000
    with pytest.raises(TooLarge, match="2000000 points"):
        read(data, "npz", max_points=1_000_000)
    with pytest.raises(TooLarge, match="unpacks to 67108992 bytes"):
        read(data, "npz", max_points=1000)
    with pytest.raises(MalformedFile, match="promises"):
        read(bomb("(4000000000, 3)", 1 << 20), "npz")


def patch(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    return data.replace(old, new)


def test_bad_archives() -> None:
    good = npz(points=XYZ)
    pickled = io.BytesIO()
    with zipfile.ZipFile(pickled, "w") as archive:
        archive.writestr("points.npy", pickle.dumps(Evil()))
    cases: list[tuple[bytes, type[Exception], str]] = [
        (good[:-30], MalformedFile, "does not open"),
        (good[: len(good) // 2], MalformedFile, "does not open"),
        (patch(good, XYZ.tobytes()[:8], b"12345678"), MalformedFile, "CRC"),
        (npz(points=np.zeros((4, 2))), UnusableCloud, "shape (N, 3)"),
        (npz(faces=np.zeros((4, 2)), other=np.zeros(3)), UnusableCloud, "no array of positions"),
        (npz(points=np.zeros((0, 3))), UnusableCloud, "no points"),
        (npz(points=np.array([Evil()] * 3, dtype=object).reshape(1, 3)), MalformedFile, "pickled"),
        (pickled.getvalue(), MalformedFile, "no NPY array"),
        (npz(), UnusableCloud, "none"),
    ]
    for data, error, said in cases:
        with pytest.raises(error) as caught:
            read(data, "npz")
        assert said in str(caught.value)
