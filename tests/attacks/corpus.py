"""Hostile bodies, each made by a few lines: what they claim is far from what they hold.

`ATTACKS` maps a name to the body, its query, and the statuses that are right answers to it. None is larger than a few
megabytes; all are meant for a service that takes at most a million points.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import laspy
import numpy as np

from tests.attacks import e57

MB = 1 << 20
REFUSED = (400, 413, 415, 422)


@dataclass(frozen=True)
class Attack:
    """A hostile body.

    Attributes:
        body: makes it.
        query: of the request.
        statuses: what may come back; 200 stands where the file is odd but says nothing untrue.
        words: what the answer's detail must name.
    """

    body: Callable[[], bytes]
    query: str = ""
    statuses: tuple[int, ...] = REFUSED
    words: tuple[str, ...] = ()


def cube(points: int = 200) -> np.ndarray:
    """Return (points, 3) float32 within a metre."""
    return np.random.default_rng(0).uniform(0, 1, (points, 3)).astype(np.float32)


# NPY and NPZ


def npy(shape: str, descr: str = "'<f4'", data: bytes = b"", fortran: str = "False") -> bytes:
    """Return an NPY array whose header says what it is told to."""
    header = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 13) % 64) + b"\n"
    return b"\x93NUMPY\x03\x00" + struct.pack("<I", len(header)) + header + data


def npz(**members: bytes) -> bytes:
    """Return an archive of members as they are, deflated."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "."), data)
    return out.getvalue()


def zeros_in_zip(name: str, size: int, head: bytes = b"", coord: bool = False) -> bytes:
    """Return an archive with a member of `size` zeros behind a head: a thousandth of that in bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        if coord:
            archive.writestr("coord.npy", npy("(200, 3)", data=cube().tobytes()))
        with archive.open(name, "w", force_zip64=True) as member:
            member.write(head)
            for _ in range(size // MB):
                member.write(bytes(MB))
    return out.getvalue()


def overlapping_zip(members: int) -> bytes:
    """Return an archive whose many directory entries all point at one member (D. Fifield, "A better zip bomb")."""
    raw = zeros_in_zip("a.npy", 8 * MB, npy(f"({8 * MB // 12}, 3)"))
    end = raw.rfind(b"PK\x05\x06")
    (start,) = struct.unpack_from("<I", raw, end + 16)
    entry = raw[start:end]
    directory = b"".join(entry.replace(b"a.npy", b"%05d" % index)[: -0 or None] for index in range(members))
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, members, members, len(directory), start, 0)
    return raw[:start] + directory + tail


def lying_zip(size: int) -> bytes:
    """Return an archive whose directory says that a small member unpacks to `size` bytes."""
    raw = bytearray(npz(coord__npy=npy(f"({size // 12}, 3)", data=cube().tobytes())))
    start = raw.rfind(b"PK\x01\x02")
    struct.pack_into("<I", raw, start + 24, size)
    return bytes(raw)


# PLY, PCD, text


def ply(header: str, data: bytes = b"", kind: str = "binary_little_endian") -> bytes:
    """Return a PLY file with these lines in its header."""
    return f"ply\nformat {kind} 1.0\n{header}\nend_header\n".encode() + data


XYZ = "property float x\nproperty float y\nproperty float z"


def ply_lists(rows: int) -> bytes:
    """Return vertices with a list whose length changes from row to row."""
    row = struct.pack("<3fBB", 0, 0, 0, 1, 7) + struct.pack("<3fBBB", 1, 1, 1, 2, 7, 7)
    header = f"element vertex {rows}\n{XYZ}\nproperty list uchar uchar a"
    return ply(header, row * (rows // 2))


def pcd(points: int, data: bytes, kind: str = "binary", fields: str = "x y z", **lines: str) -> bytes:
    """Return a PCD file that claims so many points."""
    width = len(fields.split())
    said = {
        "FIELDS": fields,
        "SIZE": " ".join(["4"] * width),
        "TYPE": " ".join(["F"] * width),
        "COUNT": " ".join(["1"] * width),
        "WIDTH": str(points),
        "HEIGHT": "1",
        "POINTS": str(points),
        **lines,
        "DATA": kind,
    }
    return b"VERSION 0.7\n" + "".join(f"{key} {value}\n" for key, value in said.items()).encode() + data


def lzf_zeros(size: int) -> bytes:
    """Return an LZF body of about `size` zeros: a literal, then references of 264 bytes to the byte before."""
    references, left = divmod(size - 1, 264)
    return b"\x00\x00" + b"\xe0\xff\x00" * references + (bytes([left - 1]) + bytes(left) if left else b"")


def compressed_pcd(points: int, claimed: int | None = None, **lines: str) -> bytes:
    packed = lzf_zeros(points * 12)
    return pcd(points, struct.pack("<II", len(packed), claimed or points * 12) + packed, "binary_compressed", **lines)


# LAS and LAZ


def las(point_format: int = 6, compressed: bool = False, points: int = 200) -> bytearray:
    """Return a good LAS or LAZ file, to be spoilt."""
    made = laspy.create(point_format=point_format, file_version="1.4" if point_format > 5 else "1.2")
    made.header.scales = [0.001] * 3
    made.x, made.y, made.z = cube(points).T
    out = io.BytesIO()
    made.write(out, do_compress=compressed)
    return bytearray(out.getvalue())


def spoilt(data: bytearray, form: str, offset: int, *values: int | float) -> bytes:
    """Return the file with values packed over what it had at an offset."""
    struct.pack_into(form, data, offset, *values)
    return bytes(data)


def laz_of(points: int, chunk_size: int, point_size: int | None = None, table: int | None = None) -> bytes:
    """Return a LAZ file of 200 points that claims more, in chunks of another size."""
    data = las(6, compressed=True)
    struct.pack_into("<Q", data, 247, points)
    vlr = data.find(b"laszip encoded")
    struct.pack_into("<I", data, vlr + 52 + 12, chunk_size)
    if point_size is not None:
        struct.pack_into("<H", data, 105, point_size)
    if table is not None:
        (start,) = struct.unpack_from("<I", data, 96)
        (position,) = struct.unpack_from("<q", data, start)
        struct.pack_into("<I", data, position + 4, table)
    return bytes(data)


def laz_bomb(points: int) -> bytes:
    """Return a LAZ file of so many points that are all the same: a few bytes for each thousand of them."""
    made = laspy.create(point_format=6, file_version="1.4")
    made.x = made.y = made.z = np.zeros(points)
    out = io.BytesIO()
    made.write(out, do_compress=True)
    return out.getvalue()


def many_records(count: int, claimed: int) -> bytes:
    """Return a LAS file with a great many empty records."""
    data = las()
    (start,) = struct.unpack_from("<I", data, 96)
    records = struct.pack("<2x16sHH32s", b"nobody", 7, 0, b"") * count
    struct.pack_into("<II", data, 96, start + len(records), claimed)
    return bytes(data[:start]) + records + bytes(data[start:])


def many_dimensions(count: int) -> bytes:
    """Return a LAS file with `count` extra bytes a point, all of one name."""
    data = las()
    (start,) = struct.unpack_from("<I", data, 96)
    one = struct.pack("<2xBB32s4x24x24x24x24x24x32s", 1, 0, b"same", b"")
    body, left = b"", count
    records = 0
    while left > 0:
        part = min(left, 300)
        body += struct.pack("<2x16sHH32s", b"LASF_Spec", 4, part * 192, b"") + one * part
        left, records = left - part, records + 1
    rows = np.frombuffer(data, np.uint8, 200 * 30, start).reshape(200, 30)
    table = np.zeros((200, 30 + count), np.uint8)
    table[:, :30] = rows
    struct.pack_into("<II", data, 96, start + len(body), records)
    struct.pack_into("<H", data, 105, 30 + count)
    return bytes(data[:start]) + body + table.tobytes()


def json_of(text: str) -> Callable[[], bytes]:
    return lambda: text.encode()


ATTACKS: dict[str, Attack] = {
    # sizes that are not there
    "npy of 10^17 points": Attack(lambda: npy("(100000000000000000, 3)", data=bytes(36)), words=("promises",)),
    "npy of 10^30 x 0": Attack(lambda: npy("(1000000000000000000000000000000, 0)")),
    "npy of 0 x 10^30": Attack(lambda: npy("(0, 1000000000000000000000000000000)")),
    "npy of a negative shape": Attack(lambda: npy("(-5, -3)", data=bytes(60))),
    "npy of a true shape": Attack(lambda: npy("(True, 3)", data=bytes(60))),
    "npy of 30 axes": Attack(lambda: npy("(" + "1, " * 40 + "3)", data=bytes(60))),
    "npy of nested types": Attack(lambda: npy("(1,)", "[('a', " * 900 + "'<f4'" + ")]" * 900)),
    "npy of nested brackets": Attack(lambda: npy("(" * 20000 + ")" * 20000)),
    "npy of minus signs": Attack(lambda: npy("-" * 60000 + "1")),
    "npy with a header of 4 GB": Attack(lambda: b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100)),
    "npy of a type without size": Attack(lambda: npy("(100, 3)", "'|V0'")),
    "npy of texts": Attack(lambda: npy("(2, 3)", "'<U900000'", bytes(100))),
    "npy of objects": Attack(lambda: npy("(3, 3)", "'|O'", b"\x80\x04N."), words=("objects",)),
    "npz bomb": Attack(lambda: zeros_in_zip("coord.npy", 384 * MB, npy(f"({32 * MB}, 3)"))),
    "npz bomb beside the cloud": Attack(lambda: zeros_in_zip("more.npy", 384 * MB, npy("(5,)"), coord=True)),
    "npz bomb that is no array": Attack(lambda: zeros_in_zip("note.txt", 384 * MB, coord=True), "output=same"),
    "npz of entries that overlap": Attack(lambda: overlapping_zip(900)),
    "npz with 60000 members": Attack(lambda: overlapping_zip(60000)),
    "npz that lies of a size": Attack(lambda: lying_zip(3 << 30)),
    "npz in npz": Attack(lambda: npz(coord__npy=npz(coord__npy=npy("(3, 3)", data=bytes(36))))),
    "npz of nothing": Attack(lambda: npz()),
    "npz cut in its directory": Attack(lambda: npz(coord__npy=npy("(200, 3)", data=cube().tobytes()))[:-30]),
    "ply of 10^18 vertices": Attack(lambda: ply(f"element vertex {10**18}\n{XYZ}", bytes(120)), words=("promises",)),
    "ply of 10^18 vertices with lists": Attack(
        lambda: ply(f"element vertex {10**18}\n{XYZ}\nproperty list uchar uchar a", bytes(1200)), words=("promises",)
    ),
    "ply with a list of 4 billion": Attack(
        lambda: ply(f"element vertex 1\n{XYZ}\nproperty list uint double a", bytes(12) + b"\xff\xff\xff\xff" + bytes(9))
    ),
    "ply with a list of -1": Attack(
        lambda: ply(f"element vertex 1\n{XYZ}\nproperty list int double a", bytes(12) + b"\xff\xff\xff\xff" + bytes(9))
    ),
    "ply with ragged lists": Attack(lambda: ply_lists(20_000), statuses=(200, *REFUSED)),
    "ply of 60000 properties": Attack(
        lambda: ply("element vertex 1\n" + XYZ + "\nproperty char a" * 60000, bytes(60012)), words=("fields",)
    ),
    "ply of 80000 elements": Attack(
        lambda: ply("element a 0\n" * 80000 + f"element vertex 1\n{XYZ}", bytes(12)), statuses=(200, *REFUSED)
    ),
    "ply of rows of nothing": Attack(lambda: ply(f"element a {10**18}\nelement vertex 1\n{XYZ}"), words=("promises",)),
    "ply of vertices of nothing": Attack(lambda: ply(f"element vertex {10**18}")),
    "ascii ply that skips 10^18 lines": Attack(
        lambda: ply(f"element a {10**18}\nproperty int b\nelement vertex 1\n{XYZ}", b"0\n" * 100, "ascii")
    ),
    "ascii ply in one line": Attack(
        lambda: ply(f"element vertex 900000\n{XYZ}", b"1 " * 5_000_000, "ascii"), words=("line",)
    ),
    "ascii ply with a list of nan": Attack(
        lambda: ply(f"element vertex 1\n{XYZ}\nproperty list int int a", b"0 0 0 nan 1\n", "ascii")
    ),
    "ply whose header does not end": Attack(lambda: b"ply\nformat ascii 1.0\n" + b"comment x\n" * 300_000),
    "pcd of 10^18 points": Attack(lambda: pcd(10**18, bytes(120)), words=("promises",)),
    "pcd of 10^18 points in ascii": Attack(lambda: pcd(10**18, b"0 0 0\n" * 9, "ascii"), words=("promises",)),
    "pcd of 100000 fields": Attack(lambda: pcd(1, bytes(400_000), fields=" ".join(["x"] * 100_000)), words=("fields",)),
    "pcd of huge counts": Attack(lambda: pcd(1, bytes(99), fields="x y z w", COUNT="1 1 1 65536")),
    "pcd of a count of 10^12": Attack(lambda: pcd(1, bytes(99), fields="x y z w", COUNT="1 1 1 1000000000000")),
    "compressed pcd that claims 4 GB": Attack(lambda: compressed_pcd(300_000, 0xFFFFFFFF)),
    "compressed pcd bomb": Attack(lambda: compressed_pcd(900_000), statuses=(200, *REFUSED)),
    "compressed pcd bomb of wide points": Attack(
        lambda: pcd(
            900_000,
            struct.pack("<II", 12 * MB, 900_000 * 4112) + b"\x00\x00" + b"\xe0\xff\x00" * (4 * MB - 1) + b"\x00",
            "binary_compressed",
            fields="x y z w",
            COUNT="1 1 1 1025",
        )
    ),
    "compressed pcd of back references to nothing": Attack(
        lambda: pcd(100, struct.pack("<II", 300, 1200) + b"\xff\xff\xff" * 100, "binary_compressed")
    ),
    "las of 2^64 points": Attack(lambda: spoilt(las(), "<Q", 247, 2**64 - 1), words=("promises",)),
    "las of 2^32 points": Attack(lambda: spoilt(las(3), "<I", 107, 2**32 - 1), words=("promises",)),
    "las whose points begin at 4 GB": Attack(lambda: spoilt(las(), "<I", 96, 2**32 - 1)),
    "las of 4 billion records": Attack(lambda: spoilt(las(), "<I", 100, 2**32 - 1)),
    "las of 40000 records": Attack(lambda: many_records(40_000, 40_000), statuses=(200, *REFUSED)),
    "las of 10^9 long records": Attack(lambda: spoilt(las(), "<QI", 235, 375, 10**9), statuses=(200, *REFUSED)),
    "las of 30000 dimensions": Attack(lambda: many_dimensions(30_000), words=("fields",)),
    "las of scale nan": Attack(lambda: spoilt(las(), "<d", 131, float("nan"))),
    "las of scale 10^308": Attack(lambda: spoilt(las(), "<3d", 131, 1e308, 1e308, 1e308)),
    "laz of 2^64 points": Attack(lambda: laz_of(2**64 - 1, 50_000)),
    "laz of 2^64 points in one chunk": Attack(lambda: laz_of(2**64 - 1, 2**32 - 2)),
    "laz of chunks of 0": Attack(lambda: laz_of(200, 0), statuses=(200, *REFUSED)),
    "laz of chunks that differ": Attack(lambda: laz_of(900_000, 2**32 - 1)),
    "laz of 4 billion chunks": Attack(lambda: laz_of(200, 50_000, table=2**32 - 1)),
    "laz of points of 65535 bytes": Attack(lambda: laz_of(900_000, 900_000, point_size=65535)),
    "laz bomb": Attack(lambda: laz_bomb(1_000_000), statuses=(200, *REFUSED)),
    "laz bomb past the limit": Attack(lambda: spoilt(bytearray(laz_bomb(1000)), "<Q", 247, 2**31)),
    "laz whose table is elsewhere": Attack(
        lambda: spoilt(las(6, True), "<q", struct.unpack_from("<I", las(6, True), 96)[0], 2**62)
    ),
    "e57 of 10^15 points": Attack(lambda: e57.of_constants(10**15)),
    "e57 of 10^15 points of floats": Attack(lambda: e57.of_floats(10**15), words=("promises",)),
    "e57 of a million points in no bytes": Attack(lambda: e57.of_constants(1_000_000), statuses=(200, *REFUSED)),
    "e57 with a document type": Attack(lambda: e57.with_entities(9), words=("DOCTYPE",)),
    "e57 that reads a file": Attack(lambda: e57.with_outside_entity("file:///etc/passwd"), words=("DOCTYPE",)),
    "e57 with a deep tree": Attack(lambda: e57.deep(5_000), statuses=(200, *REFUSED)),
    "e57 of nothing": Attack(lambda: b"ASTM-E57" + bytes(2040)),
    # text
    "text with a billion columns": Attack(lambda: b"1 " * 16_000_000, "format=text", words=("line",)),
    "text with 100000 columns": Attack(lambda: (b"1 " * 100_000 + b"\n") * 3, "format=text", words=("fields",)),
    "text with 100000 names": Attack(
        lambda: b"x,y,z" + b",a" * 100_000 + b"\n" + b"1," * 100_002 + b"1\n", "format=text", words=("fields",)
    ),
    "text without a line's end": Attack(lambda: b"7" * 32 * MB, "format=text", words=("line",)),
    "text of 10^20 points": Attack(lambda: b"100000000000000000000\n" + b"0 0 0\n" * 9, "format=text"),
    "pts of empty scans": Attack(lambda: b"1\n0 0 0\n" + b"0\n" * 1_000_000, "format=text", words=("scans",)),
    "text of numbers too large": Attack(
        lambda: b"1e999 1e-999 9" + b"9" * 4000 + b"\n0 0 0\n", "format=text", (200, *REFUSED)
    ),
    "text of zeros": Attack(lambda: b"0 0 0\n" * 1_000_001, "format=text", words=("1000001",)),
    "text with comments at each line": Attack(lambda: b"0 0 1 # a\n" * 300_000, "format=text", (200, *REFUSED)),
    "text of commas": Attack(lambda: b"," * 2 * MB, "format=text"),
    # JSON
    "json of brackets": Attack(json_of('{"points": ' + "[" * 1_000_000), "format=json"),
    "json of open objects": Attack(json_of('{"a":' * 300_000), "format=json"),
    "json of commas": Attack(json_of('{"points": [' + "0," * 8_000_000), "format=json"),
    "json of zeros": Attack(json_of('{"points": [' + "[0,0,0]," * 1_000_000 + "[0,0,0]]}"), "format=json"),
    "json of a long number": Attack(json_of('{"points": [[' + "9" * 3_000_000 + ",0,0]]}"), "format=json"),
    "json of keys": Attack(
        json_of("{" + ",".join(f'"k{i}": [0]' for i in range(100_000)) + ', "points": [[0,0,0]]}'),
        "format=json",
        words=("members",),
    ),
    "json of a ragged list": Attack(json_of('{"points": [[0,0,0], [' + "0," * 3_000_000 + "0]]}"), "format=json"),
    "json of texts": Attack(json_of('{"points": [["a","b","c"]]}'), "format=json", words=("points",)),
    "json of 30 axes": Attack(json_of('{"points": ' + "[" * 40 + "0" + "]" * 40 + "}"), "format=json"),
    "json of a lone surrogate": Attack(
        json_of('{"points": [[0,0,0]], "\\ud800": [1]}'), "format=json", (200, *REFUSED)
    ),
    # clouds that read well and cannot be labelled
    "points of infinity": Attack(lambda: np.full((99, 4), np.inf, "<f4").tobytes(), "format=kitti", (400, 422)),
    "points 10^300 m apart": Attack(lambda: npy("(2, 3)", "'<f8'", np.array([[0.0] * 3, [1e300] * 3]).tobytes())),
    **{
        f"a point 10^{power} m away": Attack(
            lambda power=power: npy("(200, 3)", "'<f8'", np.r_[cube(199), [[10.0**power] * 3]].tobytes()),
            statuses=(200, 422),
        )
        for power in (3, 6, 9, 15, 19, 25, 38, 100, 160, 300, 308)
    },
    "points in a line of 10^9 m": Attack(
        lambda: npy("(1000, 3)", "'<f8'", (np.linspace(0, 1e9, 1000)[:, None] * [1, 0, 0]).tobytes()), "", (200, 422)
    ),
    "points in one place": Attack(lambda: npy("(900000, 3)", data=bytes(900000 * 12)), "", (200,)),
    "points all in voxels of their own": Attack(
        lambda: npy("(100000, 3)", data=(cube(100_000) * 60).tobytes()), "", (200, 422)
    ),
    # no format at all
    "zeros": Attack(lambda: bytes(MB)),
    "noise": Attack(lambda: np.random.default_rng(1).bytes(MB)),
    "gzip": Attack(lambda: zlib.compress(bytes(MB), wbits=31)),
    "a pickle": Attack(
        lambda: b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94."
    ),
    "an xml bomb": Attack(
        lambda: b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><a>&c;</a>'
    ),
}
