"""PLY, against plyfile."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import plyfile
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import MalformedFile, TooLarge, UnusableCloud
from tests.formats.clouds import annotated, check_form, make_cloud, make_labels, read, written

KINDS = {"=": "ascii", "<": "binary_little_endian", ">": "binary_big_endian"}
ORDERS = tuple(KINDS)
WORDS = {
    "i1": ("char", "int8"),
    "u1": ("uchar", "uint8"),
    "i2": ("short", "int16"),
    "u2": ("ushort", "uint16"),
    "i4": ("int", "int32"),
    "u4": ("uint", "uint32"),
    "f4": ("float", "float32"),
    "f8": ("double", "float64"),
}


def make_ply(order: str, *, faces: str = "after", count: int = 7, colors: str = "red green blue") -> bytes:
    """Return a PLY file that plyfile wrote: "=" is ASCII; faces "before", "after" or "none"."""
    rng = np.random.default_rng(3)
    names = colors.split()
    vertex = np.empty(
        count,
        dtype=[(n, "f4") for n in "xyz"] + [(n, "u1") for n in names] + [("scalar_Intensity", "f4"), ("ring", "i2")],
    )
    for name in vertex.dtype.names or ():
        vertex[name] = rng.integers(0, 200, count)
    vertex["x"] += 0.25
    face = np.empty(4, dtype=[("vertex_indices", "O"), ("flags", "u1")])
    face["vertex_indices"] = [np.array(row, dtype="i4") for row in ([0, 1, 2], [1, 2, 3, 4], [2, 3, 4], [4, 5, 6])]
    face["flags"] = range(4)
    elements = [plyfile.PlyElement.describe(vertex, "vertex", comments=["made for a test"])]
    faces_element = plyfile.PlyElement.describe(face, "face")
    elements = {"none": elements, "after": [*elements, faces_element], "before": [faces_element, *elements]}[faces]
    data = plyfile.PlyData(elements, text=order == "=", byte_order=order, obj_info=["nothing"])
    out = io.BytesIO()
    data.write(out)
    return out.getvalue()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("faces", ["none", "after", "before"])
def test_read_as_plyfile_does(order: str, faces: str) -> None:
    data = make_ply(order, faces=faces)
    vertex = plyfile.PlyData.read(io.BytesIO(data))["vertex"]
    cloud = read(data, "ply")
    check_form(cloud)
    assert np.array_equal(cloud.coord, np.stack([vertex[n] for n in "xyz"], axis=1))
    assert cloud.color is not None
    assert np.array_equal(cloud.color, np.stack([vertex[n] for n in ("red", "green", "blue")], axis=1))
    assert cloud.intensity is not None
    assert np.array_equal(cloud.intensity, vertex["scalar_Intensity"])
    assert cloud.attributes["ring"].dtype == np.int16
    assert np.array_equal(cloud.attributes["ring"], vertex["ring"])
    assert cloud.notes == ()


@pytest.mark.parametrize("colors", ["r g b", "diffuse_red diffuse_green diffuse_blue", "Red Green Blue"])
def test_names_of_colors(colors: str) -> None:
    cloud = read(make_ply("<", colors=colors), "ply")
    assert cloud.color is not None
    assert set(cloud.attributes) == {"ring"}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("faces", ["none", "after", "before"])
def test_annotate_keeps_everything(order: str, faces: str) -> None:
    data = make_ply(order, faces=faces)
    labels = make_labels(7, low=-1)
    before = plyfile.PlyData.read(io.BytesIO(data))
    after = plyfile.PlyData.read(io.BytesIO(annotated(data, labels, "ply")))
    assert [element.name for element in after.elements] == [element.name for element in before.elements]
    assert after.obj_info == before.obj_info
    assert after.byte_order == before.byte_order
    assert "made for a test" in after["vertex"].comments
    for name in before["vertex"].data.dtype.names:
        assert np.array_equal(after["vertex"][name], before["vertex"][name])
    assert np.array_equal(after["vertex"]["label"], labels.label)
    assert np.allclose(after["vertex"]["confidence"], labels.confidence, rtol=1e-5)
    if faces != "none":
        assert np.array_equal(after["face"]["flags"], before["face"]["flags"])
        pairs = zip(after["face"]["vertex_indices"], before["face"]["vertex_indices"], strict=True)
        assert all(np.array_equal(one, other) for one, other in pairs)


def test_annotate_keeps_the_bytes_around_the_points() -> None:
    data = make_ply("<", faces="before") + b"trailing bytes"
    out = annotated(data, make_labels(7, confidence=False), "ply")
    head = b"end_header\n"
    body, new = data[data.index(head) + len(head) :], out[out.index(head) + len(head) :]
    faces = 3 * (1 + 12 + 1) + (1 + 16 + 1)
    assert new[:faces] == body[:faces]
    assert new.endswith(b"trailing bytes")
    assert len(new) == len(body) + 7 * 4


def test_crlf_ascii() -> None:
    data = make_ply("=").replace(b"\n", b"\r\n")
    cloud = read(data, "ply")
    assert len(cloud) == 7
    out = annotated(data, make_labels(7), "ply")
    assert out.count(b"\n") == out.count(b"\r\n")
    assert np.array_equal(read(out, "ply").attributes["label"], make_labels(7).label)


def test_old_label_is_kept_beside_ours() -> None:
    labels = make_labels(7, high=3)
    for order in ORDERS:
        first = annotated(make_ply(order), labels, "ply")
        second = annotated(first, make_labels(7, seed=9), "ply")
        third = read(annotated(second, make_labels(7, seed=4), "ply"), "ply").attributes
        assert np.array_equal(third["original_label"], labels.label)
        assert np.array_equal(third["original_label_2"], make_labels(7, seed=9).label)
        assert np.array_equal(third["label"], make_labels(7, seed=4).label)
        assert {"original_confidence", "original_confidence_2", "confidence"} <= set(third)


@pytest.mark.filterwarnings("ignore:loadtxt:UserWarning:plyfile")
@pytest.mark.parametrize("order", ORDERS)
def test_lists_among_the_properties_of_the_vertex(order: str) -> None:
    rows = np.empty(5, dtype=[("x", "f4"), ("neighbours", "O"), ("y", "f4"), ("z", "f4")])
    for i in range(5):
        rows[i] = (i, np.arange(i % 3, dtype="u2"), 10 + i, 20 + i)
    # by hand, as plyfile 1.1 writes the scalars of such rows in the machine's byte order
    lines = ["ply", f"format {KINDS[order]} 1.0", "element vertex 5", "property float x"]
    lines += ["property list uchar ushort neighbours", "property float y", "property float z", "end_header", ""]
    data = "\n".join(lines).encode()
    for x, near, y, z in rows:
        if order == "=":
            data += " ".join(map(str, [x, len(near), *near, y, z])).encode() + b"\n"
        else:
            data += np.array([x], order + "f4").tobytes() + bytes([len(near)])
            data += near.astype(order + "u2").tobytes() + np.array([y, z], order + "f4").tobytes()
    cloud = read(data, "ply")
    assert np.array_equal(cloud.coord[:, 2], 20 + np.arange(5))
    assert cloud.attributes == {}
    after = plyfile.PlyData.read(io.BytesIO(annotated(data, make_labels(5), "ply")))["vertex"]
    assert np.array_equal(after["label"], make_labels(5).label)
    pairs = zip(after["neighbours"], rows["neighbours"], strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs)


def test_many_faces_of_changing_size_before_the_points() -> None:
    faces = b"".join(bytes([3 + i % 2]) + bytes(4 * (3 + i % 2)) for i in range(20000))
    head = (
        b"ply\nformat binary_little_endian 1.0\nelement face 20000\nproperty list uchar int vertex_indices\n"
        b"element vertex 1\nproperty double x\nproperty double y\nproperty double z\nend_header\n"
    )
    cloud = read(head + faces + np.array([1.0, 2.0, 3.0]).tobytes(), "ply")
    assert cloud.coord.tolist() == [[1, 2, 3]]


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_types_and_names(data: Any) -> None:
    order = data.draw(st.sampled_from(ORDERS))
    count = data.draw(st.integers(1, 20))
    kinds = data.draw(st.lists(st.sampled_from(sorted(WORDS)), min_size=0, max_size=5))
    lines = [f"ply\nformat {KINDS[order]} 1.0"]
    lines.append(f"element vertex {count}")
    fields = [(name, data.draw(st.sampled_from(["f4", "f8"]))) for name in "xyz"]
    fields += [(f"p{i}", kind) for i, kind in enumerate(kinds)]
    fields = data.draw(st.permutations(fields))
    for name, kind in fields:
        lines.append(f"property {data.draw(st.sampled_from(WORDS[kind]))} {name}")
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    table = np.empty(count, dtype=[(name, order + kind) for name, kind in fields])
    for name, kind in fields:
        low, high = (-1e3, 1e3) if kind[0] == "f" else (np.iinfo(kind).min, np.iinfo(kind).max)
        table[name] = np.rint(rng.uniform(low, high, count))
    body = table.tobytes()
    if order == "=":
        body = "".join(" ".join(repr(value.item()) for value in row) + "\n" for row in table).encode()
    file = ("\n".join([*lines, "end_header"]) + "\n").encode() + body
    cloud = read(file, "ply")
    check_form(cloud)
    expected = plyfile.PlyData.read(io.BytesIO(file))["vertex"]
    assert np.array_equal(cloud.coord, np.stack([expected[n] for n in "xyz"], axis=1))
    for name, kind in fields:
        if name[0] == "p":
            assert cloud.attributes[name].dtype == np.dtype(kind)
            assert np.array_equal(cloud.attributes[name], expected[name])


@pytest.mark.parametrize("far", [0.0, 1e6])
def test_write_and_read_again(far: float) -> None:
    cloud, labels = make_cloud(30, far=far), make_labels(30, low=-1)
    data = written(cloud, labels, "ply")
    again = read(data, "ply")
    assert np.array_equal(again.coord, cloud.coord)
    assert np.array_equal(again.color, cloud.color)  # type: ignore[arg-type]
    assert np.array_equal(again.normal, cloud.normal)  # type: ignore[arg-type]
    assert np.array_equal(again.intensity, cloud.intensity)  # type: ignore[arg-type]
    for name, values in cloud.attributes.items():
        assert np.array_equal(again.attributes[name], values)
    vertex = plyfile.PlyData.read(io.BytesIO(data))["vertex"]
    assert np.array_equal(vertex["label"], labels.label)
    assert np.array_equal(vertex["confidence"], labels.confidence)
    assert "class 1 230 140 30 box" in vertex.comments + plyfile.PlyData.read(io.BytesIO(data)).comments


def test_float32_positions_are_written_as_float() -> None:
    cloud = make_cloud(5, coord=np.random.default_rng(0).random((5, 3), dtype=np.float32).astype(np.float64))
    assert b"property float x\n" in written(cloud, make_labels(5), "ply")
    assert b"property double x\n" in written(make_cloud(5), make_labels(5), "ply")


def test_odd_attributes_are_written_as_what_ply_has() -> None:
    attributes = {
        "label": np.arange(4, dtype=np.uint8),
        "big": np.array([1, 2, 3, 2**40]),
        "fits": np.array([1, 2, 3, 4]),
        "half": np.arange(4, dtype=np.float16),
        "flag": np.array([True, False, True, True]),
        "pair": np.arange(8, dtype=np.int16).reshape(4, 2),
        "two words": np.arange(4, dtype=np.int16),
        "text": np.array(["a", "b", "c", "d"]),
    }
    again = read(written(make_cloud(4, attributes=attributes), make_labels(4), "ply"), "ply").attributes
    kinds = {name: values.dtype.str[1:] for name, values in again.items()}
    assert kinds == {
        "original_label": "u1",
        "big": "f8",
        "fits": "i4",
        "half": "f4",
        "flag": "u1",
        "pair_0": "i2",
        "pair_1": "i2",
        "two_words": "i2",
        "label": "i4",
        "confidence": "f4",
    }
    assert again["big"][3] == 2**40
    assert again["pair_1"].tolist() == [1, 3, 5, 7]


def test_invalid_points_keep_their_place() -> None:
    data = (
        b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    )
    cloud = read(data + b"1 2 3\nnan -inf 0\n-1.#IND 1 1.#QNAN\n", "ply")
    assert np.isfinite(cloud.coord).tolist() == [[True] * 3, [False, False, True], [False, True, False]]


HEAD = b"ply\nformat %b 1.0\nelement vertex %d\nproperty float x\nproperty float y\nproperty float z\nend_header\n"


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (b"plx\n", MalformedFile, "begins with"),
        (b"ply\nformat ascii 1.0\nelement vertex 3\n", MalformedFile, "end_header"),
        (b"ply\nelement vertex 1\nend_header\n", MalformedFile, "no line 'format'"),
        (b"ply\nformat utf8 1.0\nend_header\n", MalformedFile, "Line 2"),
        (b"ply\nformat ascii 1.0\nelement vertex -1\nend_header\n", MalformedFile, "Line 3"),
        (b"ply\nformat ascii 1.0\nproperty float x\nend_header\n", MalformedFile, "before any element"),
        (b"ply\nformat ascii 1.0\nelement vertex 1\nproperty quad x\nend_header\n", MalformedFile, "'quad'"),
        (b"ply\nformat ascii 1.0\nelement vertex 1\nproperty x\nend_header\n", MalformedFile, "property TYPE NAME"),
        (b"ply\nformat ascii 1.0\nnonsense\nend_header\n", MalformedFile, "'nonsense'"),
        (b"ply\nformat ascii 1.0\nelement face 0\nend_header\n", UnusableCloud, "no element 'vertex'"),
        (b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n", UnusableCloud, "x, y, z"),
        (HEAD % (b"ascii", 0), UnusableCloud, "no points"),
        (HEAD % (b"ascii", 2) + b"1 2 3\n", MalformedFile, "truncated"),
        (HEAD % (b"ascii", 2) + b"1 2 3\n4 5 x\n", MalformedFile, "line 9 is 'x'"),
        (HEAD % (b"ascii", 2) + b"1 2 3\n4 5\n6 7\n", MalformedFile, "Line 9 holds 2 values"),
        (HEAD % (b"binary_little_endian", 2) + bytes(23), MalformedFile, "row 1"),
        (HEAD % (b"binary_big_endian", 4_000_000_000) + bytes(100), MalformedFile, "promises 4000000000 rows"),
        (HEAD % (b"ascii", 4_000_000_000) + b"1 2 3\n", MalformedFile, "promises 4000000000 vertices"),
    ],
)
def test_bad_files(data: bytes, error: type[Exception], said: str) -> None:
    with pytest.raises(error) as caught:
        read(data, "ply")
    assert said in str(caught.value)


def test_too_many_points() -> None:
    with pytest.raises(TooLarge, match="holds 7 points; this service takes at most 6"):
        read(make_ply("<"), "ply", max_points=6)


def test_labels_of_another_file() -> None:
    with pytest.raises(MalformedFile, match="holds 7 points, but 6 labels"):
        annotated(make_ply("<"), make_labels(6), "ply")


def test_a_list_that_claims_more_than_the_file_has() -> None:
    data = bytearray(make_ply("<", faces="before"))
    start = data.index(b"end_header\n") + 11
    data[start] = 255
    with pytest.raises(MalformedFile, match="vertex_indices"):
        read(bytes(data), "ply")
