"""PCD, against pypcd4."""

from __future__ import annotations

import io

import numpy as np
import pypcd4
import pytest

from service.errors import MalformedFile, TooLarge, UnusableCloud
from tests.formats.clouds import annotated, check_form, make_cloud, make_labels, read, written

KINDS = ("ascii", "binary", "binary_compressed")
FIELDS = [("x", "F", 4, 1), ("y", "F", 4, 1), ("z", "F", 4, 1), ("rgb", "F", 4, 1), ("intensity", "F", 4, 1)]
ODD_FIELDS = [
    ("label", "U", 4, 1),
    ("x", "F", 8, 1),
    ("_", "U", 1, 3),
    ("y", "F", 8, 1),
    ("z", "F", 4, 1),
    ("rgba", "U", 4, 1),
    ("histogram", "F", 4, 5),
    ("ring", "U", 2, 1),
    ("t", "I", 8, 1),
]


def make_pcd(kind: str, fields: list[tuple[str, str, int, int]], height: int = 1, width: int = 12) -> bytes:
    """Return a PCD file written by hand from random values, and a NaN in the second point."""
    import lzf

    rng = np.random.default_rng(1)
    count = height * width
    dtype = np.dtype([(f"{i}", f"<{letter.lower()}{size}", (n,)) for i, (_, letter, size, n) in enumerate(fields)])
    table = np.zeros(count, dtype=dtype)
    for i, (name, letter, *_rest) in enumerate(fields):
        values = rng.integers(0, 100, table[str(i)].shape)
        table[str(i)] = values / 4 if letter == "F" else values
        if name in "xyz":
            table[str(i)][1] = np.nan
        if name.startswith("rgb"):
            packed = rng.integers(0, 1 << 24, (count, 1)).astype(np.uint32)
            table[str(i)] = packed.view(np.float32) if letter == "F" else packed
    lines = [
        "# .PCD v0.7 - Point Cloud Data file format",
        "VERSION 0.7",
        "FIELDS " + " ".join(name for name, *_ in fields),
        "SIZE " + " ".join(str(size) for _, _, size, _ in fields),
        "TYPE " + " ".join(letter for _, letter, _, _ in fields),
        "COUNT " + " ".join(str(n) for *_, n in fields),
        f"WIDTH {width}",
        f"HEIGHT {height}",
        "VIEWPOINT 1 2 3 0.5 0.5 0.5 0.5",
        f"POINTS {count}",
        f"DATA {kind}",
    ]
    body = table.tobytes()
    if kind == "ascii":
        rows = [" ".join(repr(v.item()) for i in range(len(fields)) for v in row[str(i)]) for row in table]
        body = ("\n".join(rows) + "\n").encode()
    elif kind == "binary_compressed":
        planes = b"".join(np.ascontiguousarray(table[str(i)]).tobytes() for i in range(len(fields)))
        packed_body = lzf.compress(planes, 2 * len(planes) + 64)
        body = np.array([len(packed_body), len(planes)], "<u4").tobytes() + packed_body
    return ("\n".join(lines) + "\n").encode() + body


@pytest.mark.parametrize("kind", KINDS)
def test_read_as_pypcd4_does(kind: str) -> None:
    data = make_pcd(kind, FIELDS)
    oracle = pypcd4.PointCloud.from_fileobj(io.BytesIO(data))  # type: ignore[arg-type]
    cloud = read(data, "pcd")
    check_form(cloud)
    assert np.array_equal(cloud.coord, oracle.numpy(("x", "y", "z")), equal_nan=True)
    assert np.array_equal(cloud.color, pypcd4.PointCloud.decode_rgb(oracle.numpy(("rgb",))[:, 0]))  # type: ignore[arg-type]
    assert np.array_equal(cloud.intensity, oracle.numpy(("intensity",))[:, 0])  # type: ignore[arg-type]
    assert np.isnan(cloud.coord[1]).all()
    assert cloud.organized is None
    assert cloud.notes == ()


def test_the_three_kinds_hold_the_same() -> None:
    clouds = [read(make_pcd(kind, ODD_FIELDS), "pcd") for kind in KINDS]
    for cloud in clouds:
        check_form(cloud)
        assert np.array_equal(cloud.coord, clouds[0].coord, equal_nan=True)
        assert np.array_equal(cloud.color, clouds[0].color)  # type: ignore[arg-type]
        assert set(cloud.attributes) == {"label", "histogram", "ring", "t"}
        for name, values in cloud.attributes.items():
            assert values.dtype == clouds[0].attributes[name].dtype
            assert np.array_equal(values, clouds[0].attributes[name])
    assert clouds[0].attributes["histogram"].shape == (12, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_annotate_keeps_fields_shape_and_viewpoint(kind: str) -> None:
    data = make_pcd(kind, ODD_FIELDS, height=3, width=4)
    labels = make_labels(12, low=-1)
    out = annotated(data, labels, "pcd")
    header = dict(line.split(" ", 1) for line in out[: out.index(b"DATA")].decode().splitlines() if line[0] != "#")
    assert header["FIELDS"] == "original_label x _ y z rgba histogram ring t label confidence"
    assert header["COUNT"] == "1 1 3 1 1 1 5 1 1 1 1"
    assert header["TYPE"] == "U F U F F U F U I I F"
    assert header["SIZE"] == "4 8 1 8 4 4 4 2 8 4 4"
    assert (header["WIDTH"], header["HEIGHT"], header["POINTS"]) == ("4", "3", "12")
    assert header["VIEWPOINT"] == "1 2 3 0.5 0.5 0.5 0.5"
    assert f"DATA {kind}\n".encode() in out
    before, after = read(data, "pcd"), read(out, "pcd")
    assert after.organized == before.organized == (3, 4)
    assert np.array_equal(before.coord, after.coord, equal_nan=True)
    assert np.array_equal(before.color, after.color)  # type: ignore[arg-type]
    assert np.array_equal(after.attributes["original_label"], before.attributes["label"])
    assert np.array_equal(after.attributes["histogram"], before.attributes["histogram"])
    assert np.array_equal(after.attributes["label"], labels.label)
    assert np.allclose(after.attributes["confidence"], labels.confidence, rtol=1e-5)  # type: ignore[arg-type]


def test_pypcd4_reads_what_is_annotated() -> None:
    labels = make_labels(12, confidence=False)
    for kind in KINDS:
        out = annotated(make_pcd(kind, FIELDS), labels, "pcd")
        oracle = pypcd4.PointCloud.from_fileobj(io.BytesIO(out))  # type: ignore[arg-type]
        assert oracle.fields == ("x", "y", "z", "rgb", "intensity", "label")
        assert np.array_equal(oracle.pc_data["label"], labels.label)
        assert oracle.metadata.viewpoint == (1, 2, 3, 0.5, 0.5, 0.5, 0.5)


@pytest.mark.parametrize("far", [0.0, 1e6])
def test_write_and_read_again(far: float) -> None:
    cloud, labels = make_cloud(30, far=far, organized=(5, 6)), make_labels(30, low=-1)
    data = written(cloud, labels, "pcd")
    again = read(data, "pcd")
    assert again.organized == (5, 6)
    assert np.array_equal(again.coord, cloud.coord)
    assert np.array_equal(again.color, cloud.color)  # type: ignore[arg-type]
    assert np.array_equal(again.normal, cloud.normal)  # type: ignore[arg-type]
    assert np.array_equal(again.intensity, cloud.intensity)  # type: ignore[arg-type]
    for name, values in cloud.attributes.items():
        assert np.array_equal(again.attributes[name], values)
    oracle = pypcd4.PointCloud.from_fileobj(io.BytesIO(data[data.index(b"VERSION") :]))  # type: ignore[arg-type]
    assert np.array_equal(oracle.pc_data["label"], labels.label)
    assert b"# class 1 230 140 30 box\n" in data


HEAD = (
    "VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH {w}\nHEIGHT {h}\nPOINTS {n}\nDATA {kind}\n"
)


def head(kind: str = "binary", n: int = 2, w: int = 2, h: int = 1) -> bytes:
    return HEAD.format(kind=kind, n=n, w=w, h=h).encode()


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (head()[:-12], MalformedFile, "no line 'DATA'"),
        (head() + bytes(23), MalformedFile, "truncated"),
        (head(n=4_000_000_000, w=4_000_000_000) + bytes(24), MalformedFile, "promises 4000000000 points"),
        (head("ascii", n=4_000_000_000, w=4_000_000_000) + b"1 2 3\n", MalformedFile, "promises 4000000000 points"),
        (head(n=3) + bytes(99), MalformedFile, "WIDTH 2 x HEIGHT 1 but POINTS 3"),
        (head(n=0, w=0), UnusableCloud, "no points"),
        (head("ascii") + b"1 2 3\n4 5 six\n", MalformedFile, "line 11 is 'six'"),
        (head("ascii") + b"1 2 3 4\n5 6\n", MalformedFile, "Line 10 holds 4 values"),
        (head("ascii") + b"1 2 3     \n    ", MalformedFile, "ends after 1"),
        (head("lzma"), MalformedFile, "'lzma'"),
        (head().replace(b"SIZE 4 4 4", b"SIZE 4 4"), MalformedFile, "3 FIELDS but 2 in SIZE"),
        (head().replace(b"TYPE F F F", b"TYPE F F"), MalformedFile, "3 FIELDS but 2 in TYPE"),
        (head().replace(b"SIZE 4 4 4", b"SIZE 4 4 3"), MalformedFile, "'z'"),
        (head().replace(b"COUNT 1 1 1", b"COUNT 1 1 0"), MalformedFile, "COUNT 0"),
        (head().replace(b"WIDTH 2", b"WIDTH two"), MalformedFile, "'two'"),
        (head().replace(b"FIELDS x y z\n", b""), MalformedFile, "no FIELDS"),
        (head().replace(b"FIELDS x y z", b"FIELDS a b c") + bytes(24), UnusableCloud, "a"),
        (head().replace(b"COUNT", b"CONUT"), MalformedFile, "'CONUT'"),
        (head("binary_compressed") + b"\x05\0\0\0\x18\0\0\0", MalformedFile, "truncated"),
        (head("binary_compressed") + b"\x05\0\0\0\x17\0\0\0abcde", MalformedFile, "23 bytes"),
        (head("binary_compressed") + b"\x05\0\0\0\x18\0\0\0\xff\x00abc", MalformedFile, "decompress"),
        (head("binary_compressed") + b"\x02\0\0\0\x18\0\0\0\x00a", MalformedFile, "24 bytes"),
    ],
)
def test_bad_files(data: bytes, error: type[Exception], said: str) -> None:
    with pytest.raises(error) as caught:
        read(data, "pcd")
    assert said in str(caught.value)


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = head("binary_compressed", n=100_000_000, w=100_000_000)
    bomb += np.array([100, 1_200_000_000], "<u4").tobytes() + bytes(100)
    with pytest.raises(TooLarge):
        read(bomb, "pcd")
    with pytest.raises(MalformedFile, match="cannot hold"):
        read(bomb, "pcd", max_points=10**9)


def test_missing_and_old_keywords() -> None:
    data = b"VERSION .5\nCOLUMNS x y z\nPOINTS 2\nDATA ascii\n1 2 3\n4 5 6\n"
    assert read(data, "pcd").coord.tolist() == [[1, 2, 3], [4, 5, 6]]
    out = annotated(data, make_labels(2, confidence=False), "pcd")
    assert read(out, "pcd").attributes["label"].tolist() == [0, 1]
    assert pypcd4.PointCloud.from_fileobj(io.BytesIO(head("ascii") + b"1 2 3\n4 5 6\n")).points == 2  # type: ignore[arg-type]


def test_spaces_commas_and_comments_in_ascii() -> None:
    body = b"# a comment\n 1   2\t3 \n\n4 5 6\nand what follows is not looked at"
    assert read(head("ascii") + body, "pcd").coord.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert read(head("ascii") + b"1,2,3\n4,5,6\n", "pcd").coord.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_many_digits_of_ascii_positions_are_kept() -> None:
    cloud = read(head("ascii") + b"289814.15 4320978.61 170.76\n289814.64 4320978.84 170.76\n", "pcd")
    assert cloud.coord[1].tolist() == [289814.64, 4320978.84, 170.76]


def test_packed_colors_as_whole_numbers_in_a_float_field() -> None:
    fields = head("ascii").replace(b"x y z", b"x y z rgb").replace(b"4 4 4", b"4 4 4 4").replace(b"F F F", b"F F F F")
    data = fields.replace(b"1 1 1", b"1 1 1 1") + b"1 2 3 16711680\n4 5 6 255\n"
    cloud = read(data, "pcd")
    assert cloud.color is not None
    assert cloud.color.tolist() == [[255, 0, 0], [0, 0, 255]]
    assert any("whole numbers" in note for note in cloud.notes)
