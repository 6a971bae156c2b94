"""Which format a file is taken for."""

from __future__ import annotations

import pytest

from service import formats
from service.errors import MalformedRequest, UnknownFormat
from tests.formats.clouds import make_cloud, make_labels, written

PLY = b"ply\nformat ascii 1.0\n"
PCD = b"# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\n"
LAS = b"LASF" + bytes(100) + b"\x03" + bytes(200)
LAZ = b"LASF" + bytes(100) + b"\x83" + bytes(200)
JSON = b'{"points": [[1, 2, 3]]}'
TEXT = b"1.0 2.0 3.0\n4 5 6\n"
NPY = b"\x93NUMPY\x01\x00"
NPZ = b"PK\x03\x04\x14\x00"
E57 = b"ASTM-E57\x01\x00\x00\x00"
BINARY = bytes(range(128, 192))


def recognise(head: bytes, declared: str | None = None, media: str | None = None, name: str | None = None) -> str:
    return formats.recognise(head, declared=declared, media_type=media, filename=name).name


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (PLY, "ply"),
        (b"ply\r\nformat ascii 1.0\r\n", "ply"),
        (PCD, "pcd"),
        (b"VERSION .7\nFIELDS x y z\n", "pcd"),
        (b"#comment by CloudCompare\nVERSION .7\n", "pcd"),
        (LAS, "las"),
        (LAZ, "laz"),
        (JSON, "json"),
        (b" \n\t{}", "json"),
        (NPY, "npy"),
        (NPZ, "npz"),
        (E57, "e57"),
        (TEXT, "text"),
        (b"x,y,z\n1,2,3\n", "text"),
        (b"10\n1 2 3 -200\n", "text"),
        (b"// X Y Z\n# more\n1;2;3\n", "text"),
    ],
)
def test_bytes_alone_tell_the_format(head: bytes, name: str) -> None:
    assert recognise(head) == name
    assert recognise(head, media="application/octet-stream") == name
    assert recognise(head, media="application/x-www-form-urlencoded") == name
    assert recognise(head, media="multipart/form-data; boundary=x") == name
    assert recognise(head, media="text/plain; charset=utf-8") == name


@pytest.mark.parametrize("name", ["ply", "pcd", "las", "laz", "npz"])
def test_what_is_written_is_recognised(name: str) -> None:
    assert recognise(written(make_cloud(5), make_labels(5), name)[:4096]) == name


@pytest.mark.parametrize(
    ("filename", "head", "name"),
    [
        ("scan.PLY", PLY, "ply"),
        ("C:\\data\\tile.copc.laz", LAZ, "laz"),
        ("tile.las", LAZ, "laz"),
        ("tile.laz", LAS, "las"),
        ("000000.bin", BINARY, "kitti"),
        ("cloud.bin", PLY, "ply"),
        ("cloud.txt", LAS, "las"),
        ("a.csv", TEXT, "text"),
        ("a.asc", b"X Y Z\n", "text"),
        ("noending", TEXT, "text"),
        (".ply", PLY, "ply"),
    ],
)
def test_file_name(filename: str, head: bytes, name: str) -> None:
    assert recognise(head, name=filename) == name


def test_content_type() -> None:
    assert recognise(JSON, media="application/json; charset=utf-8") == "json"
    assert recognise(LAZ, media="application/vnd.las") == "laz"
    assert recognise(BINARY, media="application/x-kitti") == "kitti"
    assert recognise(TEXT, media="text/csv", name="cloud.txt") == "text"
    assert recognise(b"!?", media="text/plain") == "text"


def test_declared_word_may_be_a_file_ending() -> None:
    assert recognise(TEXT, declared="csv") == "text"
    assert recognise(TEXT, declared=".XYZ") == "text"
    assert recognise(BINARY, declared="kitti") == "kitti"
    assert recognise(LAZ, declared="las") == "laz"


@pytest.mark.parametrize(
    ("arguments", "both"),
    [
        ({"head": LAS, "declared": "ply"}, ("?format=ply", "PLY", "first bytes", "LAS")),
        ({"head": PLY, "declared": "kitti"}, ("?format=kitti", "KITTI", "PLY")),
        ({"head": PLY, "name": "a.pcd"}, ("file name 'a.pcd'", "PCD", "PLY")),
        ({"head": PLY, "media": "application/json"}, ("Content-Type application/json", "JSON", "PLY")),
        ({"head": BINARY, "declared": "pcd", "name": "a.ply"}, ("?format=pcd", "'a.ply'")),
        ({"head": BINARY, "media": "application/vnd.las", "name": "a.ply"}, ("application/vnd.las", "'a.ply'")),
        ({"head": TEXT, "declared": "ply"}, ("?format=ply", "text")),
    ],
)
def test_contradiction_names_both_sides(arguments: dict[str, str], both: tuple[str, ...]) -> None:
    with pytest.raises(MalformedRequest) as caught:
        recognise(**arguments)  # type: ignore[arg-type]
    assert all(side in caught.value.detail for side in both), caught.value.detail


def test_unknown_word_lists_the_words() -> None:
    with pytest.raises(UnknownFormat) as caught:
        recognise(PLY, declared="dwg")
    assert all(format.name in caught.value.detail for format in formats.FORMATS)


@pytest.mark.parametrize(
    ("head", "media", "name", "said"),
    [
        (BINARY, None, None, "?format="),
        (BINARY, None, "a.dwg", "'.dwg'"),
        (b"2\n6\n-3 -3 -1\n", None, "scan.ptx", "PTX"),
        (BINARY, None, "mesh.obj", "OBJ"),
        (PLY, "image/png", None, "image/png"),
    ],
)
def test_unknown_format(head: bytes, media: str | None, name: str | None, said: str) -> None:
    with pytest.raises(UnknownFormat) as caught:
        recognise(head, media=media, name=name)
    assert said in caught.value.detail


def test_empty_body() -> None:
    with pytest.raises(MalformedRequest, match="body is empty"):
        recognise(b"", declared="ply")


def test_formats_that_are_only_read_say_what_is_written() -> None:
    from service.formats import Options

    cloud, labels = make_cloud(3), make_labels(3)
    with pytest.raises(UnknownFormat, match="written are: ply, las, laz, pcd, npz"):
        written(cloud, labels, "kitti")
    with pytest.raises(UnknownFormat, match="they can to: ply"):
        formats.annotate(memoryview(JSON), formats.by_name("json"), labels, None, Options())  # type: ignore[arg-type]
