"""LAS and LAZ, against laspy."""

from __future__ import annotations

import io
import struct
from typing import Any

import laspy
import numpy as np
import pytest
from laspy.vlrs.known import ClassificationLookupVlr

from service import formats
from service.errors import MalformedFile, TooLarge, UnusableCloud
from service.values import PointCloud
from tests.formats.clouds import CLASSES, annotated, check_form, make_cloud, make_labels, read, written

VERSIONS = {
    0: "1.2",
    1: "1.2",
    2: "1.2",
    3: "1.2",
    4: "1.3",
    5: "1.3",
    6: "1.4",
    7: "1.4",
    8: "1.4",
    9: "1.4",
    10: "1.4",
}


def make_las(
    point_format: int, *, compressed: bool = False, count: int = 300, extra: bool = True, channels: bool = False
) -> bytes:
    """Return a file that laspy wrote: random points near 1e6, extra dimensions, records before and after them."""
    rng = np.random.default_rng(point_format)
    header = laspy.LasHeader(version=VERSIONS[point_format], point_format=point_format)
    header.scales, header.offsets = np.array([0.01, 0.01, 0.001]), np.array([6e5, 5e6, 0])
    lookup = ClassificationLookupVlr()
    lookup[2] = "ground"
    header.vlrs.append(lookup)
    header.vlrs.append(laspy.VLR("LASF_Projection", 2112, "WKT", b"PROJCS[...]\0"))
    if extra:
        header.add_extra_dims(
            [
                laspy.ExtraBytesParams("reflectance", "i2", scales=np.array([0.1]), offsets=np.array([5.0])),
                laspy.ExtraBytesParams("NormalX", "f4"),
                laspy.ExtraBytesParams("NormalY", "f4"),
                laspy.ExtraBytesParams("NormalZ", "f4"),
            ]
        )
    las = laspy.LasData(header)
    las.points = laspy.ScaleAwarePointRecord.zeros(count, header=header)
    for dim in las.point_format.dimensions:
        values: Any
        if dim.name in ("X", "Y", "Z"):
            values = rng.integers(-100000, 100000, count)
        elif dim.kind.name == "FloatingPoint":
            values = rng.normal(size=count)
        elif dim.name == "reflectance":
            values = rng.integers(0, 100, count)
        else:
            values = rng.integers(0, int(dim.max) + 1, count, dtype=np.uint64)
        las[dim.name] = values
    if point_format in (9, 10) and not channels:
        las["scanner_channel"] = np.zeros(count, np.uint8)
    if VERSIONS[point_format] == "1.4":
        las.evlrs = laspy.vlrs.vlrlist.VLRList([laspy.VLR("us", 7, "behind", b"evlr" * 20000)])
    out = io.BytesIO()
    las.write(out, do_compress=compressed, laz_backend=laspy.LazBackend.Lazrs if compressed else None)
    return out.getvalue()


def opened(data: bytes) -> laspy.LasData:
    """Return the file as laspy reads it."""
    return laspy.read(io.BytesIO(data))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("point_format", range(11))
def test_every_point_format(point_format: int, compressed: bool) -> None:
    data = make_las(point_format, compressed=compressed)
    las = opened(data)
    cloud = read(data, "laz" if compressed else "las")
    check_form(cloud)
    assert np.array_equal(cloud.coord, np.stack([las.x, las.y, las.z], axis=1))
    assert np.array_equal(cloud.intensity, las.intensity)  # type: ignore[arg-type]
    assert np.array_equal(cloud.normal, np.stack([las.NormalX, las.NormalY, las.NormalZ], axis=1))  # type: ignore[arg-type]
    assert (cloud.color is not None) == ("red" in set(las.point_format.dimension_names))
    if cloud.color is not None:
        assert np.array_equal(cloud.color[:, 1], np.asarray(las.green) >> 8)
    taken = {"X", "Y", "Z", "intensity", "red", "green", "blue", "NormalX", "NormalY", "NormalZ"}
    assert set(cloud.attributes) == set(las.point_format.dimension_names) - taken
    for name, values in cloud.attributes.items():
        assert np.array_equal(values, np.asarray(las[name])), name


@pytest.mark.parametrize("confidence", [False, True])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("point_format", range(11))
def test_annotate_keeps_everything(point_format: int, compressed: bool, confidence: bool) -> None:
    data = make_las(point_format, compressed=compressed)
    labels = make_labels(300, high=31, confidence=confidence)
    out = annotated(data, labels, "laz" if compressed else "las")
    before, after = opened(data), opened(out)
    assert after.header.are_points_compressed == compressed
    assert after.header.version == before.header.version
    assert after.header.uuid == before.header.uuid
    assert after.header.creation_date == before.header.creation_date
    assert np.array_equal(after.header.scales, before.header.scales)
    assert np.array_equal(after.header.offsets, before.header.offsets)
    assert np.array_equal(after.header.maxs, before.header.maxs)
    assert np.array_equal(after.header.number_of_points_by_return, before.header.number_of_points_by_return)
    for name in before.point_format.dimension_names:
        if name != "classification":
            assert np.array_equal(np.asarray(after[name]), np.asarray(before[name])), name
    assert np.array_equal(np.asarray(after.classification), labels.label)
    assert np.array_equal(np.asarray(after.original_label), np.asarray(before.classification))
    assert ("confidence" in set(after.point_format.dimension_names)) == confidence
    if confidence:
        assert np.array_equal(after.confidence, labels.confidence)
    old = {(vlr.user_id, vlr.record_id): vlr.record_data_bytes() for vlr in before.vlrs}
    new = {(vlr.user_id, vlr.record_id): vlr.record_data_bytes() for vlr in after.vlrs}
    for key, body in old.items():
        assert new[key][: len(body)] == body
    assert b'"box"' in new["PointServe", 1]
    if before.evlrs:
        assert [(v.user_id, v.record_id, v.record_data) for v in after.evlrs] == [
            (v.user_id, v.record_id, v.record_data) for v in before.evlrs
        ]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("point_format", [1, 3, 4, 7])
def test_las_comes_back_as_laz_and_the_reverse(point_format: int, compressed: bool) -> None:
    source, target = (formats.by_name(name) for name in (("laz", "las") if compressed else ("las", "laz")))
    data = make_las(point_format, compressed=compressed)
    assert formats.keeps(source, target)
    before, after = opened(data), opened(annotated(data, make_labels(300), target))
    assert after.header.are_points_compressed is not compressed
    assert np.array_equal(np.asarray(after.classification), make_labels(300).label)
    for name in set(before.point_format.dimension_names) - {"classification"}:
        assert np.array_equal(np.asarray(after[name]), np.asarray(before[name])), name
    assert {vlr.user_id for vlr in before.vlrs} < {vlr.user_id for vlr in after.vlrs}
    assert [vlr.record_data for vlr in after.evlrs or []] == [vlr.record_data for vlr in before.evlrs or []]
    assert not formats.keeps(source, formats.by_name("ply"))
    assert not formats.keeps(formats.by_name("json"), formats.by_name("json"))


@pytest.mark.parametrize(("point_format", "high"), [(3, 32), (7, 256)])
def test_codes_that_do_not_fit_go_into_an_extra_dimension(point_format: int, high: int) -> None:
    data = make_las(point_format)
    labels = make_labels(300, high=high, low=-1)
    after, before = opened(annotated(data, labels, "las")), opened(data)
    assert np.array_equal(after.label, labels.label)
    assert np.array_equal(np.asarray(after.classification), np.asarray(before.classification))
    assert "original_label" not in set(after.point_format.dimension_names)
    largest = make_labels(300, high=high - 1)
    assert np.array_equal(np.asarray(opened(annotated(data, largest, "las")).classification), largest.label)


@pytest.mark.parametrize("point_format", [1, 6])
def test_ignored_points_are_withheld(point_format: int) -> None:
    data = make_las(point_format, extra=False)
    labels = make_labels(300, low=-1)
    before, after = opened(data), opened(annotated(data, labels, "las"))
    ignored = labels.label == -1
    assert np.array_equal(np.asarray(after.classification), np.where(ignored, 0, labels.label))
    assert np.array_equal(np.asarray(after.withheld), np.asarray(before.withheld) | ignored)
    assert np.array_equal(np.asarray(after.synthetic), np.asarray(before.synthetic))


def test_labelled_twice() -> None:
    first, second, third = (make_labels(300, seed=seed, high=31) for seed in range(3))
    data = annotated(make_las(3), first, "las")
    data = annotated(data, second, "las")
    las = opened(annotated(data, third, "las"))
    assert np.array_equal(np.asarray(las.classification), third.label)
    assert np.array_equal(las.original_label_3, second.label)
    assert np.array_equal(las.original_label_2, first.label)
    assert np.array_equal(las.original_confidence, first.confidence)
    assert np.array_equal(las.original_confidence_2, second.confidence)
    assert [v.user_id for v in las.vlrs].count("PointServe") == 1


def test_an_extra_dimension_called_label_is_kept() -> None:
    labels = make_labels(300, high=300)
    first = annotated(make_las(6), labels, "las")
    las = opened(annotated(first, make_labels(300), "las"))
    assert np.array_equal(las.original_label, labels.label)
    assert np.array_equal(las.original_classification, np.asarray(opened(make_las(6)).classification))


def test_extra_bytes_without_description_are_kept() -> None:
    header = laspy.LasHeader(version="1.2", point_format=0)
    header.add_extra_dims([laspy.ExtraBytesParams("a", "u4"), laspy.ExtraBytesParams("b", "u2")])
    las = laspy.LasData(header)
    las.x, las.a, las.b = np.arange(5), np.arange(5), np.arange(5)
    out = io.BytesIO()
    las.write(out)
    data = bytearray(out.getvalue())
    data[data.index(b"LASF_Spec") : data.index(b"LASF_Spec") + 9] = b"LASF_Xpec"
    cloud = read(bytes(data), "las")
    assert cloud.attributes["ExtraBytes"].shape == (5, 6)
    after = opened(annotated(bytes(data), make_labels(5), "las"))
    assert np.array_equal(after.ExtraBytes, cloud.attributes["ExtraBytes"])
    assert np.array_equal(np.asarray(after.classification), make_labels(5).label)


def test_las_1_0_with_its_two_bytes_before_the_points() -> None:
    data = bytearray(make_las(1, extra=False))
    data[25] = 0
    start = struct.unpack_from("<I", data, 96)[0]
    struct.pack_into("<I", data, 96, start + 2)
    data[start:start] = b"\xdd\xcc"
    labels = make_labels(300)
    out = annotated(bytes(data), labels, "las")
    assert out[25] == 0
    assert out[struct.unpack_from("<I", out, 96)[0] - 2 :][:2] == b"\xdd\xcc"
    assert np.array_equal(read(out, "las").attributes["classification"], labels.label)


def test_waveforms_stay_where_the_header_says() -> None:
    data = bytearray(make_las(4))
    body = struct.pack("<H16sHQ32s", 0, b"LASF_Spec", 65535, 1000, b"waveforms") + bytes(range(250)) * 4
    struct.pack_into("<Q", data, 227, len(data))
    out = annotated(bytes(data) + body, make_labels(300), "las")
    (start,) = struct.unpack_from("<Q", out, 227)
    assert out[start:] == body


@pytest.mark.parametrize("point_format", [9, 10])
def test_waveforms_of_several_channels_are_not_harmed(point_format: int) -> None:
    data = make_las(point_format, compressed=True, channels=True)
    assert any("several scanner channels" in note for note in read(data, "laz").notes)
    with pytest.raises(UnusableCloud, match="ask for LAS"):
        annotated(data, make_labels(300), "laz")
    plain = make_las(point_format, channels=True)
    assert read(plain, "las").notes == ()
    assert np.array_equal(
        opened(annotated(plain, make_labels(300), "las")).wavepacket_size, opened(plain).wavepacket_size
    )


def test_colors_of_8_bits_in_16_bit_fields() -> None:
    las = opened(make_las(2))
    for name in ("red", "green", "blue"):
        las[name] = np.asarray(las[name]) >> 8
    out = io.BytesIO()
    las.write(out)
    cloud = read(out.getvalue(), "las")
    assert np.array_equal(cloud.color[:, 0], np.asarray(las.red))  # type: ignore[index]
    assert any("16 bits" in note for note in cloud.notes)


@pytest.mark.parametrize("name", ["las", "laz"])
@pytest.mark.parametrize("far", [0.0, 1e6])
def test_write_and_read_again(name: str, far: float) -> None:
    cloud, labels = make_cloud(500, far=far), make_labels(500)
    data = written(cloud, labels, name)
    again, las = read(data, name), opened(data)
    check_form(again)
    assert np.abs(again.coord - cloud.coord).max() < 0.00005
    assert np.array_equal(again.color, cloud.color)  # type: ignore[arg-type]
    assert np.array_equal(again.normal, cloud.normal)  # type: ignore[arg-type]
    assert np.array_equal(again.intensity, cloud.intensity)  # type: ignore[arg-type]
    for attribute, values in cloud.attributes.items():
        assert np.array_equal(again.attributes[attribute], values)
    assert np.array_equal(np.asarray(las.gps_time), cloud.attributes["gps_time"])
    assert "gps_time" in set(las.point_format.standard_dimension_names)
    assert (las.header.point_format.id, str(las.header.version)) == (7, "1.4")
    assert np.array_equal(np.asarray(las.classification), labels.label)
    assert np.array_equal(las.confidence, labels.confidence)
    assert np.asarray(las.red).max() > 60000


def test_las_to_laz_keeps_the_standard_dimensions() -> None:
    cloud = read(make_las(8, extra=False), "las")
    las = opened(written(cloud, make_labels(300), "laz"))
    assert las.header.point_format.id == 8
    assert np.array_equal(np.asarray(las.nir), cloud.attributes["nir"])
    for name in ("return_number", "scan_angle", "point_source_id", "scanner_channel", "gps_time"):
        assert np.array_equal(np.asarray(las[name]), cloud.attributes[name])
    assert np.array_equal(las.original_label, cloud.attributes["classification"])
    old = read(make_las(1, extra=False), "las")
    angles = opened(written(old, make_labels(300), "las")).scan_angle
    assert np.abs(np.asarray(angles) * 0.006 - old.attributes["scan_angle_rank"]).max() < 0.004


def test_many_classes_written_from_another_format() -> None:
    labels = make_labels(40, high=1000, low=-1)
    las = opened(written(make_cloud(40), labels, "las"))
    assert np.array_equal(las.label, labels.label)
    assert not np.asarray(las.classification).any()
    assert np.array_equal(np.asarray(las.withheld), labels.label == -1)


def test_invalid_points_are_withheld_and_counted() -> None:
    cloud = make_cloud(10)
    cloud.coord[3] = np.nan
    labels = make_labels(10)
    labels.label[3] = -1
    las = opened(written(cloud, labels, "las"))
    assert len(las.points) == 10
    assert np.flatnonzero(np.asarray(las.withheld)).tolist() == [3]
    valid = np.isfinite(cloud.coord).all(axis=1)
    assert np.allclose(las.header.mins, cloud.coord[valid].min(axis=0), atol=1e-5)
    all_invalid = written(make_cloud(2, coord=np.full((2, 3), np.nan)), make_labels(2), "las")
    assert len(opened(all_invalid).points) == 2


@pytest.mark.parametrize(
    ("values", "expected", "dimension"),
    [
        ([0, 100, 65535], [0, 100, 65535], "intensity"),
        ([0, 0.5, 1], [0, 32768, 65535], "intensity"),
        ([-2048, 0, 2047], [-2048, 0, 2047], "original_intensity"),
        ([0, 1, 70000], [0, 1, 70000], "original_intensity"),
        ([0, np.nan, 7], [0, 0, 7], "intensity"),
    ],
)
def test_ranges_of_intensity(values: list[float], expected: list[float], dimension: str) -> None:
    cloud = make_cloud(3, intensity=np.array(values, dtype=np.float32))
    las = opened(written(cloud, make_labels(3), "las"))
    assert np.asarray(las[dimension]).tolist() == expected


@pytest.mark.parametrize(("extent", "most"), [(1.0, 5e-6), (900, 5e-6), (9e4, 5e-5), (1e6, 5e-4), (1e9, 0.5)])
def test_scale_follows_the_extent(extent: float, most: float) -> None:
    coord = np.random.default_rng(0).random((100, 3)) * extent
    cloud = PointCloud(coord=coord)
    assert np.abs(read(written(cloud, make_labels(100), "las"), "las").coord - coord).max() <= most * 1.001


def test_coordinates_that_las_cannot_hold() -> None:
    cloud = PointCloud(coord=np.array([[-1e308, 0, 0], [1.7e308, 0, 0]]))
    with pytest.raises(UnusableCloud, match="span"):
        written(cloud, make_labels(2), "las")


def test_names_that_las_cannot_hold() -> None:
    attributes = {name: np.arange(3) for name in ("las:id", "", "X", "a" * 40, "a" * 41, "ä b", "text")}
    attributes["text"] = np.array(["a", "b", "c"])
    las = opened(written(make_cloud(3, attributes=attributes), make_labels(3), "las"))
    names = set(las.point_format.extra_dimension_names)
    assert len(names) == 6 + 3 + 1
    assert {"las_id", "NormalX", "confidence"} <= names


def test_names_of_classes_are_in_a_record() -> None:
    las = opened(written(make_cloud(3), make_labels(3), "laz"))
    (record,) = [vlr for vlr in las.vlrs if vlr.user_id == "PointServe"]
    assert all(info.name.encode() in record.record_data for info in CLASSES)


def patched(data: bytes, *changes: tuple[str, int, Any]) -> bytes:
    """Return the bytes with values packed over them."""
    copy = bytearray(data)
    for form, position, value in changes:
        struct.pack_into(form, copy, position, value)
    return bytes(copy)


BASE = make_las(3)
LONG = make_las(6)


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (BASE[:100], MalformedFile, "at least 227 bytes"),
        (b"LASX" + BASE[4:], MalformedFile, "begins with 'LASF'"),
        (patched(BASE, ("B", 25, 7)), MalformedFile, "LAS 1.7"),
        (patched(BASE, ("<H", 94, 100)), MalformedFile, "header size of LAS 1.2 is 227"),
        (patched(BASE, ("<I", 96, 1 << 31)), MalformedFile, "points begin at byte 2147483648"),
        (patched(BASE, ("<I", 100, 4_000_000_000)), MalformedFile, "4000000000 variable length records"),
        (patched(BASE, ("<H", 227 + 20, 65535)), MalformedFile, "Variable length record 1"),
        (patched(BASE, ("B", 104, 42)), MalformedFile, "Point format 42"),
        (patched(BASE, ("<H", 105, 20)), MalformedFile, "takes 34 bytes"),
        (patched(BASE, ("<I", 107, 4_000_000_000)), MalformedFile, "promises 4000000000 points"),
        (patched(LONG, ("<Q", 247, 1 << 60)), MalformedFile, "promises 1152921504606846976 points"),
        (patched(BASE, ("<I", 107, 0)), UnusableCloud, "no points"),
        (patched(BASE, ("<d", 131, float("nan"))), MalformedFile, "Scale and offset"),
        (patched(BASE, ("<d", 139, 0.0)), MalformedFile, "Scale and offset"),
        (BASE[:-1], MalformedFile, "truncated"),
    ],
)
def test_bad_headers(data: bytes, error: type[Exception], said: str) -> None:
    with pytest.raises(error) as caught:
        read(data, "las")
    assert said in str(caught.value)


def test_damaged_records_behind_the_points_do_not_matter() -> None:
    cloud = read(patched(LONG, ("<Q", 235, 1 << 40)), "las")
    assert any("does not lie within the file" in note for note in cloud.notes)
    assert len(opened(annotated(patched(LONG, ("<Q", 235, 1 << 40)), make_labels(300), "las")).points) == 300


def test_too_many_points() -> None:
    for name in ("las", "laz"):
        with pytest.raises(TooLarge, match="at most 299"):
            read(make_las(6, compressed=name == "laz"), name, max_points=299)


@pytest.mark.parametrize("point_format", [3, 6])
def test_bad_compressed_points(point_format: int) -> None:
    data = make_las(point_format, compressed=True)
    (start,) = struct.unpack_from("<I", data, 96)
    (table,) = struct.unpack_from("<q", data, start)
    body = data.index(b"laszip encoded") + 52
    count = ("<I", 107, 19_000_000) if point_format == 3 else ("<Q", 247, 19_000_000)
    cases = [
        (data[: start + 2000], "chunk table"),
        (patched(data, ("<q", start, -5)), "chunk table"),
        (patched(data, ("<I", table + 4, 4_000_000_000)), "4000000000 chunks"),
        (patched(data, count), "chunks" if point_format == 3 else "Chunk"),
        (patched(data, ("<H", body, 9)), "compressor 9"),
        (patched(data, ("<H", body + 36, 3)), "item of type"),
        (patched(data, ("<H", body + 32, 60000)), "too short"),
        (data.replace(b"laszip encoded", b"laszip decoded"), "'laszip encoded' that says how is missing"),
    ]
    if point_format == 6:
        cases.append((patched(data, ("<I", start + 8 + 44 + 4, 1 << 31)), "Chunk 1"))
    for bad, said in cases:
        with pytest.raises(MalformedFile) as caught:
            read(bad, "laz")
        assert said in str(caught.value)


def test_real_files_read_as_laspy_reads_them(shared: Any) -> None:
    folders = [shared / "data" / "odd", shared / "data" / "airborne"]
    paths = [path for folder in folders for path in sorted(folder.glob("*/*.la[sz]"))]
    refused = {"1.2-with-color-clipped.las", "2-2-2-2.laz", "fuck.laz"}  # cut off; garbled; garbled
    assert len(paths) > 150
    for path in paths[::3]:
        if path.name in refused:
            continue
        data = path.read_bytes()
        las = opened(data)
        cloud = read(data, "laz")
        assert np.array_equal(cloud.coord, np.stack([las.x, las.y, las.z], axis=1), equal_nan=True), path
        labels = make_labels(len(cloud), high=31)
        again = opened(annotated(data, labels, path.suffix[1:]))
        assert np.array_equal(np.asarray(again.classification), labels.label), path
        assert np.array_equal(
            np.asarray(again.gps_time if "gps_time" in again.point_format.dimension_names else 0),
            np.asarray(las.gps_time if "gps_time" in las.point_format.dimension_names else 0),
            equal_nan=True,
        ), path
        kept = {(v.user_id, v.record_id) for v in las.vlrs if v.user_id != "copc"}
        assert kept <= {(v.user_id, v.record_id) for v in again.vlrs}, path
