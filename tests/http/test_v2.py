"""The Open Inference Protocol, spoken by NVIDIA's own client."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.http as triton
from plyfile import PlyData
from tritonclient.utils import InferenceServerException

from service.errors import MalformedRequest
from service.values import Segmentation
from service.wire import v2, v2_outputs
from tests.http import clouds
from tests.http.conftest import ROOT, Service, wait_ready, wait_until

SCENE = clouds.parcel_scene(20_000)
TYPES = {np.dtype("f8"): "FP64", np.dtype("f4"): "FP32", np.dtype("u1"): "UINT8", np.dtype("i4"): "INT32"}
NAMES = ("label", "confidence", "scores")
OBJECTS = ("instance", "instance_class", "instance_score")


@pytest.fixture
def client(service: Service) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(service.url.removeprefix("http://"), network_timeout=180.0) as connected:
        yield connected


def tensors(binary: bool = True, **arrays: np.ndarray) -> list[triton.InferInput]:
    made = []
    for name, array in arrays.items():
        tensor = triton.InferInput(name, array.shape, TYPES[array.dtype])
        tensor.set_data_from_numpy(array, binary_data=binary)
        made.append(tensor)
    return made


@pytest.fixture(scope="module")
def expected(service: Service) -> dict[str, np.ndarray]:
    """What /v1/segment says of the scene."""
    answer = service.post("/v1/segment?scores", clouds.as_npz(SCENE)).json()
    return {"label": np.array(answer["labels"]), "scores": np.array(answer["scores"])}


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("parcels")
    assert client.is_model_ready("parcels", "1")
    assert not client.is_model_ready("resnet")
    assert {"binary_tensor_data", "statistics"} <= set(client.get_server_metadata()["extensions"])
    model = client.get_model_metadata("parcels")
    assert [tensor["name"] for tensor in model["inputs"]] == ["coord", "color", "normal", "intensity"]
    assert [tensor["name"] for tensor in model["outputs"]] == [*NAMES, *OBJECTS]
    assert model["outputs"][2]["shape"] == [-1, 2]
    assert model["versions"] == ["1"]
    config = client.get_model_config("parcels")
    assert [tensor.get("optional") for tensor in config["input"]] == [False, True, True, True]
    assert client.get_model_repository_index() == [{"name": "parcels", "version": "1", "state": "READY", "reason": ""}]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_the_labels_are_those_of_v1(
    client: triton.InferenceServerClient, expected: dict[str, np.ndarray], binary_in: bool, binary_out: bool
) -> None:
    wanted = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in NAMES]
    result = client.infer("parcels", tensors(binary_in, coord=SCENE), outputs=wanted, request_id="mine")
    assert result.get_response()["id"] == "mine"
    assert result.get_response()["model_version"] == "1"
    label, confidence, scores = (result.as_numpy(name) for name in NAMES)
    assert (label.dtype, confidence.dtype, scores.dtype) == (np.int32, np.float32, np.float32)
    np.testing.assert_array_equal(label, expected["label"])
    np.testing.assert_allclose(scores, expected["scores"], atol=1e-6)
    np.testing.assert_allclose(confidence, expected["scores"].max(axis=1), atol=1e-6)


@pytest.mark.parametrize("length", range(8))
def test_wherever_the_binary_data_begin(
    client: triton.InferenceServerClient, expected: dict[str, np.ndarray], length: int
) -> None:
    color = np.zeros((len(SCENE), 3), np.uint8)
    intensity = np.ones(len(SCENE), np.float32)
    normal = np.tile(np.float32([0, 0, 1]), (len(SCENE), 1))
    inputs = tensors(color=color, coord=SCENE, intensity=intensity, normal=normal)
    result = client.infer("parcels", inputs, request_id="x" * length)
    np.testing.assert_array_equal(result.as_numpy("label"), expected["label"])


def test_single_precision_and_a_column(client: triton.InferenceServerClient, expected: dict[str, np.ndarray]) -> None:
    inputs = tensors(coord=SCENE.astype(np.float32), intensity=np.ones((len(SCENE), 1), np.float32))
    only = [triton.InferRequestedOutput("label")]
    result = client.infer("parcels", inputs, outputs=only, model_version="1")
    assert result.as_numpy("scores") is None
    assert np.mean(result.as_numpy("label") == expected["label"]) > 0.99


@pytest.mark.parametrize("there", ["gzip", "deflate", None])
@pytest.mark.parametrize("back", ["gzip", "deflate", None])
@pytest.mark.parametrize("binary", [True, False])
def test_compressed(
    client: triton.InferenceServerClient,
    expected: dict[str, np.ndarray],
    there: str | None,
    back: str | None,
    binary: bool,
) -> None:
    wanted = [triton.InferRequestedOutput("label", binary_data=binary)]
    result = client.infer(
        "parcels",
        tensors(coord=SCENE),
        outputs=wanted,
        request_compression_algorithm=there,
        response_compression_algorithm=back,
    )
    np.testing.assert_array_equal(result.as_numpy("label"), expected["label"])


def test_the_answer_is_compressed_indeed(service: Service) -> None:
    body = infer_json(coord=SCENE)
    plain = service.post("/v2/models/parcels/infer", body, headers={"Accept-Encoding": "identity"})
    packed = service.post("/v2/models/parcels/infer", body, headers={"Accept-Encoding": "gzip"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert "Accept-Encoding" in packed.headers["Vary"]
    assert "Content-Encoding" not in plain.headers
    assert packed.json()["outputs"] == plain.json()["outputs"]


def test_invalid_points_get_no_label(client: triton.InferenceServerClient) -> None:
    coord = SCENE.copy()
    coord[7] = np.nan
    result = client.infer("parcels", tensors(coord=coord))
    assert result.as_numpy("label")[7] == -1
    assert (result.as_numpy("label")[:7] >= 0).all()
    assert result.as_numpy("scores")[7].tolist() == [0, 0]
    assert "1 of 20000 points" in result.get_response()["parameters"]["warnings"]


def test_statistics(client: triton.InferenceServerClient) -> None:
    def of_parcels() -> dict[str, Any]:
        (found,) = client.get_inference_statistics()["model_stats"]
        assert found == client.get_inference_statistics("parcels")["model_stats"][0]
        return found

    before = of_parcels()
    client.infer("parcels", tensors(coord=SCENE))
    with pytest.raises(InferenceServerException):
        client.infer("parcels", tensors(color=np.zeros((5, 3), np.uint8)))
    after = of_parcels()
    assert after["inference_count"] == before["inference_count"] + 1
    assert after["last_inference"] >= (time.time() - 60) * 1e3
    stages = after["inference_stats"]
    assert stages["fail"]["count"] == before["inference_stats"]["fail"]["count"] + 1
    for stage in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert stages[stage]["count"] == after["inference_count"]
        assert stages[stage]["ns"] > before["inference_stats"][stage]["ns"] or stage == "queue"
    parts = sum(stages[name]["ns"] for name in ("queue", "compute_input", "compute_infer", "compute_output"))
    assert 0.5 * stages["success"]["ns"] < parts <= 1.01 * stages["success"]["ns"]


def test_statistics_of_batches(client: triton.InferenceServerClient) -> None:
    def of_one() -> dict[str, Any]:
        (found,) = client.get_inference_statistics("parcels")["model_stats"]
        assert found["execution_count"] == sum(size["compute_infer"]["count"] for size in found["batch_stats"])
        return next((size for size in found["batch_stats"] if size["batch_size"] == 1), {})

    client.infer("parcels", tensors(coord=SCENE))
    wait_until(lambda: bool(of_one()))  # the report of a batch follows its answers
    before = of_one()
    client.infer("parcels", tensors(coord=SCENE))
    wait_until(lambda: of_one()["compute_infer"]["count"] > before["compute_infer"]["count"])
    for stage in ("compute_input", "compute_infer", "compute_output"):
        assert of_one()[stage]["count"] == of_one()["compute_infer"]["count"]
        assert of_one()[stage]["ns"] > before[stage]["ns"]


def test_objects(client: triton.InferenceServerClient, service: Service) -> None:
    assert service.get("/v1/models/parcels").json()["objects"] is True
    sample = PlyData.read(str(ROOT / "samples" / "parcels.ply"))["vertex"]
    coord = np.stack([sample["x"], sample["y"], sample["z"]], axis=1)
    result = client.infer("parcels", tensors(coord=coord))
    expected = service.post("/v1/segment", clouds.as_npz(coord)).json()
    np.testing.assert_array_equal(result.as_numpy("instance"), expected["instance"])
    assert result.as_numpy("instance_class").tolist() == [one["class"] for one in expected["instances"]]
    scores = [one["score"] for one in expected["instances"]]
    # JSON has them with four digits.
    np.testing.assert_allclose(result.as_numpy("instance_score"), scores, rtol=0, atol=5.1e-5)
    assert sum(score > 0.9 for score in scores) == 5


def test_objects_of_a_model_that_tells_none_apart() -> None:
    wanted = v2.InferRequest({}, {"label": True, "instance": True})
    plain: dict[str, Any] = {"name": "plain", "family": "f", "classes": []}
    result = Segmentation(np.zeros(3, np.int32), (), "plain")
    with pytest.raises(MalformedRequest, match="'instance': the model plain tells no objects apart"):
        v2.encode(wanted, result)
    head = b'{"inputs": [{"name": "coord", "shape": [1, 3], "datatype": "FP32", "data": [0, 0, 0]}]}'
    assert list(v2.decode(head, 0, 10, v2_outputs.offers(plain)).outputs) == list(NAMES)
    assert list(v2.decode(head, 0, 10, v2_outputs.offers({**plain, "objects": True})).outputs) == [*NAMES, *OBJECTS]
    assert [output["name"] for output in v2.metadata(plain)["outputs"]] == list(NAMES)


def infer_json(**arrays: np.ndarray) -> str:
    inputs = [
        {"name": name, "shape": array.shape, "datatype": TYPES[array.dtype], "data": array.tolist()}
        for name, array in arrays.items()
    ]
    return json.dumps({"inputs": inputs, "outputs": [{"name": "label"}]})


def one(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "coord", "shape": [1, 3], "datatype": "FP64", "data": [0, 0, 0], **changes}
    return {"inputs": [{key: value for key, value in tensor.items() if value is not ...}]}


DEEP = "a thousand lists"
"""Stands for lists in lists: as many as Python's own way of writing them down does not bear."""

REFUSALS: dict[str, tuple[Any, int, list[str]]] = {
    "no JSON": (b"\x00\x01", 400, ["character"]),
    "no object": ([1], 400, ["object"]),
    "no inputs": ({}, 400, ["inputs"]),
    "inputs no list": ({"inputs": {}}, 400, ["inputs"]),
    "no coord": ({"inputs": []}, 400, ["coord"]),
    "unknown input": (one(name="xyz"), 400, ["xyz", "coord"]),
    "datatype of a thousand lists": (one(datatype=DEEP), 400, ["datatype", "[[["]),
    "shape of a thousand lists": (one(shape=DEEP), 400, ["shape", "[[["]),
    "size of a thousand lists": (one(parameters={"binary_data_size": DEEP}, data=...), 400, ["binary_data_size"]),
    "timeout of a thousand lists": ({**one(), "parameters": {"timeout": DEEP}}, 400, ["timeout"]),
    "input whose name is a list": (one(name=[]), 400, ["name of an input", "coord"]),
    "input whose name is an object": (one(name={"a": 1}), 400, ["name of an input", "coord"]),
    "input without a name": (one(name=...), 400, ["name of an input", "coord"]),
    "two coords": ({"inputs": one()["inputs"] * 2}, 400, ["two inputs coord"]),
    "datatype": (one(datatype="INT64"), 400, ["coord", "FP64", "INT64"]),
    "shape": (one(shape=[3]), 400, ["[N, 3]", "[3]"]),
    "negative shape": (one(shape=[-1, 3]), 400, ["shape"]),
    "huge shape": (one(shape=[10**15, 3]), 400, ["takes"]),
    "shape of words": (one(shape=["1", 3]), 400, ["shape"]),
    "too few data": (one(data=[0, 0]), 400, ["3 numbers", "has 2"]),
    "words": (one(data=["a", "b", "c"]), 400, ["numbers only"]),
    "ragged": (one(shape=[2, 3], data=[[0, 0, 0], [0]]), 400, ["same length"]),
    "no data": (one(data=...), 400, ["data"]),
    "both data": (one(parameters={"binary_data_size": 24}), 400, ["both"]),
    "binary size": (one(data=..., parameters={"binary_data_size": 23}), 400, ["24 bytes", "23"]),
    "binary that is not there": (one(data=..., parameters={"binary_data_size": 24}), 400, ["24 bytes", "0 follow"]),
    "parameters no object": (one(parameters=3), 400, ["parameters of input coord"]),
    "shared memory": (one(data=..., parameters={"shared_memory_region": "x"}), 400, ["binary_data_size"]),
    "no points": (one(shape=[0, 3], data=[]), 422, ["no points"]),
    "too many points": (
        one(shape=[1_000_001, 3], data=..., parameters={"binary_data_size": 24_000_024}),
        413,
        ["1000001"],
    ),
    "unknown output": ({**one(), "outputs": [{"name": "boxes"}]}, 400, ["boxes", "label"]),
    "output whose name is a list": ({**one(), "outputs": [{"name": []}]}, 400, ["name of an output", "label"]),
    "output whose name is an object": ({**one(), "outputs": [{"name": {}}]}, 400, ["name of an output", "label"]),
    "outputs no list": ({**one(), "outputs": 3}, 400, ["outputs"]),
    "classification": ({**one(), "outputs": [{"name": "label", "parameters": {"classification": 2}}]}, 400, ["class"]),
    "timeout": ({**one(), "parameters": {"timeout": "soon"}}, 400, ["timeout"]),
    "id": ({**one(), "id": 7}, 400, ["id"]),
    "rows": (
        {
            "inputs": [
                *one()["inputs"],
                {"name": "intensity", "shape": [2], "datatype": "FP32", "data": [1, 2]},
            ]
        },
        400,
        ["intensity has 2 rows", "coord has 1"],
    ),
    "colour too large": (
        {
            "inputs": [
                *one()["inputs"],
                {"name": "color", "shape": [1, 3], "datatype": "UINT8", "data": [1, 2, 256]},
            ]
        },
        400,
        ["0 to 255"],
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(service: Service, name: str) -> None:
    body, status, words = REFUSALS[name]
    text = body if isinstance(body, bytes) else json.dumps(body).replace(f'"{DEEP}"', "[" * 990 + "]" * 990)
    answer = service.post("/v2/models/parcels/infer", text)
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    for word in words:
        assert word in answer.json()["error"], answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "status", "word"),
    [
        ("/v2/models/resnet", 404, "resnet"),
        ("/v2/models/parcels/versions/2", 404, "version '2'"),
        ("/v2/models/parcels/versions/2/stats", 404, "version"),
        ("/v2/models/resnet/config", 404, "resnet"),
        ("/v2/nothing", 404, ""),
    ],
)
def test_what_is_not_there(service: Service, path: str, status: int, word: str) -> None:
    answer = service.get(path)
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/json"
    assert word in answer.json()["error"]


def test_errors_reach_the_client(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="resnet"):
        client.infer("resnet", tensors(coord=SCENE), response_compression_algorithm="gzip")
    with pytest.raises(InferenceServerException, match="MODELS"):
        client.load_model("parcels")
    with pytest.raises(InferenceServerException, match="deadline"):
        client.infer("parcels", tensors(coord=SCENE), timeout=1)


@pytest.mark.parametrize("length", ["x", "-1", "0", "1e3", "99999999", "9" * 40])
def test_a_wrong_length_of_the_header(service: Service, length: str) -> None:
    headers = {"Inference-Header-Content-Length": length}
    answer = service.post("/v2/models/parcels/infer", infer_json(coord=SCENE[:5]), headers=headers)
    assert answer.status_code == 400
    assert "Inference-Header-Content-Length" in answer.json()["error"]


def test_too_much_json(service: Service) -> None:
    body = b'{"id": "' + b"x" * (60 << 20) + b'"}'
    assert service.post("/v2/models/parcels/infer", body).status_code == 400  # no inputs
    answer = service.post("/v2/models/parcels/infer", b" " * (64 << 20))
    assert answer.status_code == 400  # as much as a body may have here; the JSON's own limit is as large


def highest_bytes(pid: int) -> int:
    """Return the most memory that a process has had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) << 10


@pytest.mark.slow
def test_ten_million_points(start_service: Callable[..., Service]) -> None:
    service = start_service()
    wait_ready(service)
    web = [
        p for p in psutil.Process(service.process.pid).children(recursive=True) if "gunicorn" in " ".join(p.cmdline())
    ]
    before = max(p.memory_info().rss for p in web)
    coord = np.resize(clouds.parcel_scene(1_000_000), (10_000_000, 3)).astype(np.float32)
    body = coord.nbytes
    with triton.InferenceServerClient(service.url.removeprefix("http://"), network_timeout=300.0) as client:
        result = client.infer("parcels", tensors(coord=coord), outputs=[triton.InferRequestedOutput("label")])
    label = result.as_numpy("label")
    assert len(label) == 10_000_000
    np.testing.assert_array_equal(label[:1_000_000], label[1_000_000:2_000_000])
    peak = max(highest_bytes(process.pid) for process in web)
    print(f"web process: {(peak - before) / 2**20:.0f} MB more at its peak for a body of {body / 2**20:.0f} MB")
    assert peak - before < 1.05 * body
