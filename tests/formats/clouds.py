"""Clouds and labels that the tests of formats share."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from service import formats
from service.formats import Format, Options
from service.values import ClassInfo, PointCloud, Segmentation

CLASSES = (ClassInfo(0, "background", (128, 128, 128)), ClassInfo(1, "box", (230, 140, 30)))
ATTRIBUTES = {"ring": np.uint16, "gps_time": np.float64, "echo": np.int8}


def make_cloud(count: int = 50, seed: int = 0, *, far: float = 0.0, **changes: Any) -> PointCloud:
    """Return a cloud with every kind of attribute; `far` metres from the origin."""
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=(count, 3)).astype(np.float32)
    values: dict[str, Any] = {
        "coord": rng.uniform(-5, 5, (count, 3)) + far,
        "color": rng.integers(0, 256, (count, 3), dtype=np.uint8),
        "normal": normal / np.linalg.norm(normal, axis=1, keepdims=True),
        "intensity": rng.integers(0, 4096, count).astype(np.float32),
        "attributes": {name: rng.integers(0, 100, count).astype(kind) for name, kind in ATTRIBUTES.items()},
    }
    return PointCloud(**(values | changes))


def make_labels(count: int, seed: int = 0, *, high: int = 1, confidence: bool = True, low: int = 0) -> Segmentation:
    """Return labels from `low` to `high` for `count` points."""
    rng = np.random.default_rng(seed)
    label = rng.integers(low, high + 1, count).astype(np.int32)
    label[: 2 if count > 1 else 0] = (low, high)[: min(2, count)]
    scores = rng.random(count, dtype=np.float32) if confidence else None
    return Segmentation(label=label, classes=CLASSES, model="parcels", confidence=scores)


def read(data: bytes, name: str, **options: Any) -> PointCloud:
    """Read bytes as the format of that name."""
    return formats.read(memoryview(data), formats.by_name(name), Options(**options))


def written(cloud: PointCloud, segmentation: Segmentation, name: str) -> bytes:
    """Return the cloud and its labels as a file of that format."""
    out = io.BytesIO()
    formats.write(cloud, segmentation, formats.by_name(name), out)
    return out.getvalue()


def annotated(data: bytes, segmentation: Segmentation, name: str | Format) -> bytes:
    """Return the file with the labels added."""
    out = io.BytesIO()
    format = formats.by_name(name) if isinstance(name, str) else name
    formats.annotate(memoryview(data), format, segmentation, out, Options())
    return out.getvalue()


def check_form(cloud: PointCloud) -> None:
    """Assert that the arrays are as `PointCloud` promises, whatever they hold."""
    count = len(cloud)
    assert cloud.coord.shape == (count, 3)
    assert cloud.coord.dtype == np.float64
    assert cloud.coord.flags.c_contiguous
    parts = [(cloud.color, np.uint8, (count, 3)), (cloud.normal, np.float32, (count, 3))]
    for values, dtype, shape in [*parts, (cloud.intensity, np.float32, (count,))]:
        if values is not None:
            assert values.dtype == dtype
            assert values.shape == shape
            assert values.flags.c_contiguous
    for name, column in cloud.attributes.items():
        assert len(column) == count, name
        assert column.dtype.isnative, name
        assert column.flags.c_contiguous, name
    if cloud.organized is not None:
        assert cloud.organized[0] * cloud.organized[1] == count
    assert all(note.endswith(".") for note in cloud.notes)
