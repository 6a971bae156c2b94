"""Objects as masks over superpoints, over HTTP: a file's own superpoints, and a cloud without."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from plyfile import PlyData, PlyElement

from service.engine.labelling import Wishes, label
from service.models.catalogue import FAMILIES
from service.models.experiment import Experiment
from service.values import PointCloud, Segmentation
from tests.http.conftest import Service, start, wait_ready
from tests.models import families

NAME = "SGIFormer-v1m1"
POINTS = 2000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment."""
    folder = tmp_path_factory.mktemp("exp") / "objects"
    families.write(folder, NAME)
    return folder


@pytest.fixture(scope="module")
def serving(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of this experiment."""
    running = start(tmp_path_factory.mktemp("service"), MODELS=str(folder))
    wait_ready(running)
    yield running
    running.stop()


def scan() -> dict[str, NDArray[Any]]:
    """Return a floor and a wall in strips of many colours."""
    random = np.random.default_rng(0)
    coord = random.uniform(0, 0.6, (POINTS, 3))
    coord[:1000, 2] = coord[1000:, 1] = 0.01
    normal = np.repeat(np.array([[0, 0, 1], [0, 1, 0]], np.float32), 1000, axis=0)
    strip = np.floor(coord[:, 0] / 0.1).astype(np.int32) * 7 + (np.arange(POINTS) >= 1000)
    return {
        "coord": coord.astype(np.float32),
        "color": random.integers(0, 256, (60, 3)).astype(np.uint8)[strip],
        "normal": normal,
        "superpoint": strip.astype(np.int32),
    }


def npz(arrays: dict[str, NDArray[Any]]) -> bytes:
    """Return the bytes of an NPZ file."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def ply(arrays: dict[str, NDArray[Any]]) -> bytes:
    """Return the bytes of a PLY file as CloudCompare would write it."""
    names = ["x", "y", "z", "nx", "ny", "nz", "scalar_superpoint"]
    rows = np.zeros(POINTS, [(name, "f4") for name in names] + [(name, "u1") for name in ("red", "green", "blue")])
    for place, own in enumerate(("coord", "normal")):
        for axis in range(3):
            rows[names[3 * place + axis]] = arrays[own][:, axis]
    for axis, channel in enumerate(("red", "green", "blue")):
        rows[channel] = arrays["color"][:, axis]
    rows["scalar_superpoint"] = arrays["superpoint"]
    file = io.BytesIO()
    PlyData([PlyElement.describe(rows, "vertex")]).write(file)
    return file.getvalue()


def test_a_files_superpoints_are_taken_and_stay_in_it(serving: Service, folder: Path) -> None:
    arrays = scan()
    model = Experiment("objects", folder, FAMILIES).load(torch.device("cpu"), "native")
    (expected,) = label(model, [PointCloud(**arrays)], [Wishes()])  # type: ignore[arg-type]
    assert isinstance(expected, Segmentation)
    assert expected.instance is not None
    assert len(expected.instances) > 1
    answer = serving.post("/v1/segment?format=npz", npz(arrays))
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert [entry["name"] for entry in told["classes"]] == ["floor", "cabinet", "no object"]
    assert told["warnings"] == []
    assert told["labels"] == expected.label.tolist()
    assert [(one["class"], one["points"]) for one in told["instances"]] == [
        (one.class_id, one.points) for one in expected.instances
    ]
    labelled = serving.post("/v1/segment?format=ply&output=ply", ply(arrays))
    assert labelled.status_code == 200, labelled.text
    rows = PlyData.read(io.BytesIO(labelled.content))["vertex"]
    np.testing.assert_array_equal(rows["instance"], expected.instance)
    np.testing.assert_array_equal(rows["label"], expected.label)
    np.testing.assert_array_equal(rows["scalar_superpoint"], arrays["superpoint"])


def test_a_cloud_without_superpoints_is_told_that_they_were_made(serving: Service) -> None:
    arrays = {name: values for name, values in scan().items() if name != "superpoint"}
    told = serving.post("/v1/segment?format=npz", npz(arrays)).json()
    assert [warning[:44] for warning in told["warnings"]] == ["The cloud has no field superpoint, which the"]
    assert len(told["labels"]) == POINTS


def test_superpoints_that_are_no_whole_numbers_are_refused(serving: Service) -> None:
    arrays = scan()
    arrays["superpoint"] = arrays["superpoint"] + 0.25
    answer = serving.post("/v1/segment?format=npz", npz(arrays))
    assert answer.status_code == 422
    assert "The field superpoint holds" in answer.json()["detail"]
