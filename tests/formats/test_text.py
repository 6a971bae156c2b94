"""Text files of numbers."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import MalformedFile, MalformedRequest, TooLarge, UnusableCloud
from tests.formats.clouds import annotated, check_form, make_labels, read

ROWS = [[1.5, 2, -3, 10, 200, 30], [4, 5.25, 6e2, 40, 50, 255], [7, 8, 9, 0, 0, 7]]


def lines(separator: str = " ", end: str = "\n", rows: list[list[float]] = ROWS) -> bytes:
    return "".join(separator.join(map(str, row)) + end for row in rows).encode()


@pytest.mark.parametrize("separator", [" ", "\t", ",", ";", ", ", "   ", " ; "])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "opening",
    [
        b"",
        b"\xef\xbb\xbf",
        b"\n\n",
        b"# a comment\n",
        b"// one\n# another\n",
        b"x y z r g b\n",
        b"//X,Y,Z,R,G,B\n",
        b'"x";"y";"z";"Red";"Green";"Blue"\n',
    ],
)
def test_separators_openings_and_ends(separator: str, end: str, opening: bytes) -> None:
    cloud = read(opening + lines(separator, end), "text")
    check_form(cloud)
    assert np.array_equal(cloud.coord, np.array(ROWS)[:, :3])
    assert cloud.color is not None
    assert np.array_equal(cloud.color, np.array(ROWS)[:, 3:])
    assert (cloud.notes == ()) == any(word in opening.lower() for word in (b"r g b", b"r,g,b", b"red"))


def test_header_names_the_columns() -> None:
    data = b"X,Y,Z,Intensity,Classification,nx,ny,nz,Weird Name\n1,2,3,0.5,7,0,0,1,8\n4,5,6,0.25,8,0,1,0,9\n"
    cloud = read(data, "text")
    assert cloud.intensity is not None
    assert cloud.intensity.tolist() == [0.5, 0.25]
    assert cloud.normal is not None
    assert cloud.attributes["Classification"].dtype == np.int32
    assert cloud.attributes["Weird Name"].tolist() == [8, 9]
    assert cloud.notes == ()


def test_columns_and_separator_said_in_the_request() -> None:
    data = b"1 2 3 4 5\n6 7 8 9 10\n"
    cloud = read(data, "text", columns=("time", "z", "y", "x", "skip"))
    assert cloud.coord.tolist() == [[4, 3, 2], [9, 8, 7]]
    assert list(cloud.attributes) == ["time"]
    assert read(b"1;2;3\n", "text", separator="semicolon").coord.tolist() == [[1, 2, 3]]
    assert read(b"1\t2\t3\n", "text", separator="\t").coord.tolist() == [[1, 2, 3]]
    assert read(b"title 1 2 3\n4 5 6\n", "text", skip_rows=1).coord.tolist() == [[4, 5, 6]]
    with pytest.raises(MalformedRequest, match="3 columns are named"):
        read(data, "text", columns=("x", "y", "z"))
    with pytest.raises(MalformedRequest, match="separator 'pipe'"):
        read(data, "text", separator="pipe")
    with pytest.raises(UnusableCloud, match="no x, y, z"):
        read(data, "text", columns=("a", "b", "c", "d", "e"))


def test_pts() -> None:
    cloud = read(b"2\n1 2 3 -1613 52 70 64\n4 5 6 2047 1 2 3\n", "pts")
    assert cloud.intensity is not None
    assert cloud.intensity.tolist() == [-1613, 2047]
    assert cloud.color is not None
    assert cloud.color.tolist() == [[52, 70, 64], [1, 2, 3]]
    assert cloud.notes == ()
    two = b"2\n1 2 3 4\n5 6 7 8\n\n3\n1 1 1 1\n2 2 2 2\n3 3 3 3\n"
    assert read(two, "pts").coord[:, 0].tolist() == [1, 5, 1, 2, 3]
    labels = make_labels(5, confidence=False)
    after = annotated(two, labels, "pts").decode().splitlines()
    assert [len(line.split()) for line in after] == [1, 5, 5, 0, 1, 5, 5, 5]
    assert [int(line.split()[-1]) for line in after if len(line.split()) == 5] == labels.label.tolist()


def test_cells_that_are_empty_or_no_number() -> None:
    cloud = read(b"x,y,z,q\n1,2,3,\n4,,6,7\nnan,NULL,-inf,1.#IND\n", "text")
    assert np.isnan(cloud.attributes["q"]).tolist() == [True, False, True]
    assert np.isfinite(cloud.coord).tolist() == [[True] * 3, [True, False, True], [False] * 3]


def test_comments_between_the_points() -> None:
    assert read(b"1 2 3\n# here\n\n4 5 6 # there\n// done\n", "text").coord.tolist() == [[1, 2, 3], [4, 5, 6]]


@given(
    rows=st.lists(st.lists(st.floats(-1e9, 1e9), min_size=4, max_size=4), min_size=1, max_size=20),
    separator=st.sampled_from([" ", "\t", ",", ";"]),
)
@settings(max_examples=50, deadline=None)
def test_any_numbers(rows: list[list[float]], separator: str) -> None:
    cloud = read(lines(separator, rows=rows), "text")
    assert np.array_equal(cloud.coord, np.array(rows)[:, :3])
    assert np.array_equal(cloud.intensity, np.array(rows, dtype=np.float32)[:, 3])  # type: ignore[arg-type]


@pytest.mark.parametrize("separator", [" ", "\t", ",", ";"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("names", [True, False])
def test_annotate_adds_columns(separator: str, end: str, names: bool) -> None:
    header = separator.join(["x", "y", "z", "r", "label", "b"]) + end if names else ""
    data = b"# kept" + end.encode() + header.encode() + lines(separator, end)
    labels = make_labels(3, low=-1)
    out = annotated(data, labels, "text")
    before, after = data.decode().split(end), out.decode().split(end)
    assert after[0] == "# kept"
    assert len(after) == len(before)
    if names:
        assert after[1].split(separator) == ["x", "y", "z", "r", "original_label", "b", "label", "confidence"]
        assert read(out, "text").attributes["label"].tolist() == labels.label.tolist()
    for old, new, label in zip(before[1 + names :], after[1 + names :], labels.label, strict=False):
        assert new.startswith(old + separator)
        assert int(new.split(separator)[6]) == label


def test_annotate_leaves_comments_and_what_has_no_newline() -> None:
    labels = make_labels(2, confidence=False)
    out = annotated(b"1 2 3 # first\n\n// no point\n4 5 6", labels, "text")
    assert out == b"1 2 3 0 # first\n\n// no point\n4 5 6 1\n"
    assert annotated(b"1,2,3,\n4,5,6,\n", labels, "text") == b"1,2,3,0\n4,5,6,1\n"


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (b"1 2 3\n4 5\n6 7 8\n", MalformedFile, "Line 2 holds 2 values where 3 are expected"),
        (b"# one\n1 2 3\n4 5 x6\n", MalformedFile, "Value 3 of line 3 is 'x6'"),
        (b"1_0 2 3\n", MalformedFile, "Line 1 is neither"),
        (b"hello world out there\n1 2 3\n", MalformedFile, "Line 1 is neither numbers nor names"),
        (b"1,5;2,5;3,5\n", MalformedFile, "Decimals take a point"),
        (b"x y z\n1 2 3 4\n", MalformedFile, "Line 1 names 3 columns, but line 2 holds 4"),
        (b"3\n1 2 3\n4 5 6\n", MalformedFile, "Line 1 promises 3 points"),
        (b"1\n1 2 3\n4 5 6\n", MalformedFile, "Line 3 should be the number of points"),
        (b"x y z\n", UnusableCloud, "no points"),
        (b"\n\n", UnusableCloud, "no points"),
        (b"1 2\n3 4\n", UnusableCloud, "x, y and z"),
        ("1 2 3\n".encode("utf-16"), MalformedFile, "UTF-16"),
        (b"1 2 3\0\n", MalformedFile, "no text"),
        (b"4000000000\n1 2 3\n", MalformedFile, "4000000000"),
    ],
)
def test_bad_files(data: bytes, error: type[Exception], said: str) -> None:
    with pytest.raises(error) as caught:
        read(data, "text")
    assert said in str(caught.value)


def test_too_many_points() -> None:
    with pytest.raises(TooLarge, match="holds 3 points"):
        read(lines(), "text", max_points=2)
    with pytest.raises(TooLarge):
        read(b"1 2 3\n" * 5000, "text", max_points=1000)


def test_a_large_file_is_read_quickly() -> None:
    rng = np.random.default_rng(0)
    table = np.concatenate([rng.uniform(-9, 9, (200_000, 3)), rng.integers(0, 256, (200_000, 3))], axis=1)
    data = "\n".join(f"{x:.4f} {y:.4f} {z:.4f} {r:.0f} {g:.0f} {b:.0f}" for x, y, z, r, g, b in table.tolist()).encode()
    start = time.process_time()
    cloud = read(data, "text")
    assert time.process_time() - start < 2.0  # measured: 0.28 s
    assert np.allclose(cloud.coord, table[:, :3], atol=1e-4)
    assert np.array_equal(cloud.color, table[:, 3:])  # type: ignore[arg-type]
