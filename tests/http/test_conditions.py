"""Models of several data sets and models of objects, from experiments, over HTTP: `?condition=`, `instance`."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from plyfile import PlyData, PlyElement

from service.models.conventions import names
from tests.http.conftest import Service, start, wait_ready
from tests.models import families


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a model of two data sets and one of objects."""
    folder = tmp_path_factory.mktemp("exp")
    families.write(folder / "joint", "PPT-v1m2")
    families.write(folder / "objects", "PG-v1m1")
    running = start(tmp_path_factory.mktemp("service"), MODELS=f"{folder / 'joint'},{folder / 'objects'}")
    wait_ready(running)
    yield running
    running.stop()


def _arrays(points: int = 700) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    coord = (np.unique(random.integers(0, 12, (4 * points, 3)), axis=0)[:points] + 0.5) * 0.02
    color = random.integers(0, 256, coord.shape).astype(np.uint8)
    return {"coord": coord, "color": color, "normal": random.normal(size=coord.shape).astype(np.float32)}


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _ply(arrays: dict[str, np.ndarray]) -> bytes:
    columns = {"x": 0, "y": 1, "z": 2}
    dtype = [(axis, "f8") for axis in columns] + [(name, "u1") for name in ("red", "green", "blue")]
    rows = np.empty(len(arrays["coord"]), [*dtype, *((f"n{axis}", "f4") for axis in columns)])
    for place, (axis, name) in enumerate(zip(columns, ("red", "green", "blue"), strict=True)):
        rows[axis], rows[name], rows[f"n{axis}"] = (arrays[part][:, place] for part in ("coord", "color", "normal"))
    file = io.BytesIO()
    PlyData([PlyElement.describe(rows, "vertex")]).write(file)
    return file.getvalue()


def _names(answer: dict[str, Any]) -> list[str]:
    return [one["name"] for one in answer["classes"]]


def test_the_card_names_the_data_sets(serving: Service) -> None:
    about = serving.get("/v1/models/joint").json()["about"]
    assert about["condition"] == "ScanNet"
    assert about["conditions"] == {"ScanNet": ["wall", "floor", "cabinet"], "S3DIS": list(names("S3DIS"))}


def test_a_request_chooses_the_data_set(serving: Service) -> None:
    body = _npz(_arrays())
    usual = serving.post("/v1/segment?model=joint&scores=true", body).json()
    other = serving.post("/v1/segment?model=joint&scores=true&condition=S3DIS", body).json()
    same = serving.post("/v1/segment?model=joint&scores=true&condition=ScanNet", body).json()
    assert _names(usual) == _names(same) == ["wall", "floor", "cabinet"]
    assert _names(other) == list(names("S3DIS"))
    assert same["scores"] == usual["scores"]
    assert len(other["scores"][0]) == 13
    wrong = serving.post("/v1/segment?model=joint&condition=Waymo", body)
    assert wrong.status_code == 400
    assert wrong.json()["detail"] == "condition is 'Waymo', but the model joint knows ScanNet, S3DIS"
    single = serving.post("/v1/segment?model=objects&condition=ScanNet", body)
    assert single.status_code == 400
    assert "objects was not trained for several datasets" in single.json()["detail"]
    (option,) = [
        parameter
        for parameter in serving.get("/openapi.json").json()["paths"]["/v1/segment"]["post"]["parameters"]
        if parameter["name"] == "condition"
    ]
    assert "trained on several datasets" in option["description"]


def test_protocol_clients_choose_it_too(serving: Service) -> None:
    arrays = _arrays()
    client = triton.InferenceServerClient(serving.url.removeprefix("http://"), network_timeout=60.0)
    inputs = []
    for name, datatype in (("coord", "FP64"), ("color", "UINT8"), ("normal", "FP32")):
        inputs.append(triton.InferInput(name, arrays[name].shape, datatype))
        inputs[-1].set_data_from_numpy(arrays[name])
    outputs = [triton.InferRequestedOutput("scores")]
    found = client.infer("joint", inputs, outputs=outputs, parameters={"condition": "S3DIS"}).as_numpy("scores")
    other = serving.post("/v1/segment?model=joint&scores=true&condition=S3DIS", _npz(arrays)).json()
    np.testing.assert_allclose(found, np.array(other["scores"]), atol=1e-6)
    with pytest.raises(triton.InferenceServerException, match="parameter condition must be a text"):
        client.infer("joint", inputs, outputs=outputs, parameters={"condition": 3})


def test_objects_stand_in_json_and_in_files(serving: Service) -> None:
    arrays = _arrays()
    answer = serving.post("/v1/segment?model=objects", _ply(arrays)).json()
    instance, label = np.array(answer["instance"]), np.array(answer["labels"])
    assert len(answer["instances"]) > 0
    for one in answer["instances"]:
        assert one["points"] == int((instance == one["id"]).sum()) > 10
        assert set(label[instance == one["id"]].tolist()) == {one["class"]}
        assert 0 < one["score"] <= 1
    again = serving.post("/v1/segment?model=objects&output=same", _ply(arrays))
    vertex = PlyData.read(io.BytesIO(again.content))["vertex"]
    np.testing.assert_array_equal(vertex["instance"], instance)
    written = serving.post("/v1/segment?model=objects&output=npz", _npz(arrays))
    with np.load(io.BytesIO(written.content)) as stored:
        np.testing.assert_array_equal(stored["instance"], instance)
    refused = serving.post("/v1/segment?model=objects&tta=full", _npz(arrays))
    assert refused.status_code == 400
    assert "has no test-time augmentations" in refused.json()["detail"]


def test_the_shell_chooses_the_data_set(serving: Service, tmp_path: Path) -> None:
    (tmp_path / "room.npz").write_bytes(_npz(_arrays()))
    command = [sys.executable, "-m", "service.cli", "segment", str(tmp_path / "room.npz"), "--out", str(tmp_path)]
    options = ["--url", serving.url, "--model", "joint", "--condition", "S3DIS", "--output", "json"]
    subprocess.run([*command, *options], check=True, capture_output=True, timeout=120)
    assert _names(json.loads((tmp_path / "room_labelled.json").read_text())) == list(names("S3DIS"))
