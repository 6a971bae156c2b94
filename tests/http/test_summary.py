"""POST /v1/classify and /v1/embed: the class of a cloud, and features of its points, over HTTP and from the shell."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.http as triton
from tritonclient.utils import triton_to_np_dtype

from service import transforms
from service.errors import MalformedRequest
from service.models.batch import collate
from service.models.catalogue import FAMILIES
from service.models.experiment import Experiment
from service.models.model import Model
from service.values import PointCloud
from service.wire import v2_outputs
from tests.http.conftest import ROOT, Service, start, wait_ready
from tests.models import experiments, objects

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier, an encoder, and a network that labels points."""
    folder = tmp_path_factory.mktemp("models")
    objects.write(folder / "shapes")
    objects.write_encoder(folder / "sonata.pth", objects.SONATA)
    experiments.write(folder / "room")
    return folder


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Model:
    """The encoder in this process."""
    return Experiment("sonata", folder / "sonata.pth", FAMILIES).load(CPU, "native")


@pytest.fixture(scope="module")
def serving(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with all three; the default labels points."""
    models = ",".join(str(folder / name) for name in ("room", "shapes", "sonata.pth"))
    running = start(tmp_path_factory.mktemp("service"), MODELS=models)
    wait_ready(running)
    yield running
    running.stop()


def shape(points: int = 800, seed: int = 0) -> dict[str, Any]:
    """Return a ball as a JSON body, with colours and normals."""
    random = np.random.default_rng(seed)
    normal = random.normal(size=(points, 3))
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    color = random.integers(0, 256, normal.shape)
    return {"points": (normal * 2 + 7).tolist(), "normals": normal.tolist(), "colors": color.tolist()}


def cloud(body: dict[str, Any]) -> PointCloud:
    return PointCloud(
        np.array(body["points"]), np.array(body["colors"], np.uint8), np.array(body["normals"], np.float32)
    )


def test_a_cloud_gets_the_class_that_its_network_gives(serving: Service, folder: Path) -> None:
    answer = serving.post("/v1/classify", json=shape())
    assert answer.status_code == 200
    told = answer.json()
    shapes = serving.get("/openapi.json").json()["components"]["schemas"]
    assert told.keys() == set(shapes["ClassifyAnswer"]["required"])
    assert told["classes"][0].keys() == set(shapes["ClassScore"]["required"])
    assert (told["model"], told["points"]) == ("shapes", 800)
    model = Experiment("shapes", folder / "shapes", FAMILIES).load(CPU, "native")
    logits = model.forward(collate(transforms.prepare(cloud(shape()), model.recipe, CPU).tiles))
    expected = logits[0].softmax(dim=0).numpy()
    assert [one["name"] for one in told["classes"]] == objects.CLASSES
    assert np.allclose([one["score"] for one in told["classes"]], expected, atol=1e-5)
    assert told["label"] == int(expected.argmax())
    assert told["name"] == objects.CLASSES[told["label"]] and told["score"] == told["classes"][told["label"]]["score"]
    assert {"receive", "read", "forward", "queue", "total"} <= told["timing_ms"].keys()
    assert "forward" in answer.headers["Server-Timing"]


def test_many_at_once_get_what_each_gets_alone(serving: Service) -> None:
    bodies = [shape(50 + 300 * i, i) for i in range(6)]
    alone = [serving.post("/v1/classify", json=body).json()["classes"] for body in bodies]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda body: serving.post("/v1/classify", json=body).json()["classes"], bodies))
    for one, other in zip(alone, together, strict=True):
        assert np.allclose([each["score"] for each in one], [each["score"] for each in other], atol=1e-5)


@pytest.mark.parametrize("named", [True, False])
def test_features_are_one_row_for_each_point(serving: Service, encoder: Model, named: bool) -> None:
    names = [card["name"] for card in serving.get("/v1/models").json()["models"] if "embed" in card["tasks"]]
    assert len(names) == 1
    body = shape()
    body["points"][3] = [None, 0, 0]
    body = {**body, "points": [[float("nan") if x is None else x for x in point] for point in body["points"]]}
    made = io.BytesIO()
    np.savez(made, points=np.array(body["points"]), colors=np.array(body["colors"], np.uint8), normals=body["normals"])
    options = {"filename": "ball.npz", **({"model": names[0]} if named else {})}
    answer = serving.post("/v1/embed", made.getvalue(), params=options)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Disposition"].endswith("ball_features.npz")
    assert answer.headers["X-Points"] == "800"
    with np.load(io.BytesIO(answer.content)) as arrays:
        assert arrays.files == ["feature"]
        feature = arrays["feature"]
    assert feature.dtype == np.float16 and feature.shape == (800, 12 + 24 + 36)
    assert np.isnan(feature[3]).all() and np.isfinite(np.delete(feature, 3, axis=0)).all()
    prepared = transforms.prepare(cloud(body), encoder.recipe, CPU)
    expected = encoder.embed(collate(prepared.tiles))[prepared.inverse].numpy()
    assert np.allclose(np.delete(feature, 3, axis=0), expected, atol=2e-3, rtol=2e-3)


def test_models_say_what_they_can_do_and_nothing_else_is_asked_of_them(serving: Service) -> None:
    cards = {card["tasks"][0]: card for card in serving.get("/v1/models").json()["models"]}
    assert cards.keys() == {"segment", "classify", "embed"}
    assert cards["embed"]["classes"] == []
    for route, model, said in (
        ("segment", "shapes", "the model shapes cannot segment; it serves POST /v1/classify"),
        ("classify", "room", "the model room cannot classify; it serves POST /v1/segment"),
        ("embed", "shapes", "the model shapes cannot embed; it serves POST /v1/classify"),
        ("measure", "shapes", "the model shapes cannot segment"),
    ):
        answer = serving.post(f"/v1/{route}", json=shape(), params={"model": model})
        assert answer.status_code == 400 and said in answer.json()["detail"]
    assert serving.post("/v1/segment", json=shape()).json()["model"] == "room"


@pytest.mark.parametrize(
    ("route", "options", "status", "said"),
    [
        ("classify", {"tta": "full"}, 400, "option 'tta'"),
        ("embed", {"output": "ply"}, 400, "option 'output' is unknown"),
        ("classify", {"model": "none"}, 404, "there is no model 'none'"),
        ("embed", {"model": "none"}, 404, "there is no model 'none'"),
    ],
)
def test_wrong_options_are_named(serving: Service, route: str, options: dict[str, str], status: int, said: str) -> None:
    answer = serving.post(f"/v1/{route}", json=shape(), params=options)
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json")
    assert said in answer.json()["detail"]


@pytest.fixture(scope="module")
def client(serving: Service) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(serving.url.removeprefix("http://"), network_timeout=180.0) as connected:
        yield connected


def tensors(body: dict[str, Any]) -> list[triton.InferInput]:
    """Return a JSON body as the protocol's inputs."""
    made = []
    for name, key, datatype, dtype in (
        ("coord", "points", "FP64", "f8"),
        ("color", "colors", "UINT8", "u1"),
        ("normal", "normals", "FP32", "f4"),
    ):
        array = np.array(body[key], dtype)
        made.append(triton.InferInput(name, array.shape, datatype))
        made[-1].set_data_from_numpy(array)
    return made


def test_metadata_of_the_protocol_name_what_infer_gives(client: triton.InferenceServerClient) -> None:
    outputs = {name: client.get_model_metadata(name)["outputs"] for name in ("shapes", "sonata", "room")}
    assert outputs["shapes"] == [
        {"name": "label", "datatype": "INT32", "shape": [1]},
        {"name": "scores", "datatype": "FP32", "shape": [4]},
    ]
    assert outputs["sonata"] == [{"name": "feature", "datatype": "FP16", "shape": [-1, -1]}]
    assert [output["name"] for output in outputs["room"]] == ["label", "confidence", "scores"]
    for name, told in outputs.items():
        assert client.is_model_ready(name)
        assert [tensor["name"] for tensor in client.get_model_config(name)["output"]] == [one["name"] for one in told]
        result = client.infer(name, tensors(shape()))
        assert [one["name"] for one in result.get_response()["outputs"]] == [one["name"] for one in told]
        for one in told:
            given = result.as_numpy(one["name"])
            assert given.dtype == triton_to_np_dtype(one["datatype"])
            assert [-1 if wanted < 0 else got for got, wanted in zip(given.shape, one["shape"], strict=True)] == one[
                "shape"
            ]


@pytest.mark.parametrize("binary", [True, False])
def test_the_protocol_gives_the_class(serving: Service, client: triton.InferenceServerClient, binary: bool) -> None:
    told = serving.post("/v1/classify", json=shape()).json()
    wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("scores", "label")]
    result = client.infer("shapes", tensors(shape()), outputs=wanted)
    assert result.as_numpy("label").tolist() == [told["label"]]
    assert np.allclose(result.as_numpy("scores"), [one["score"] for one in told["classes"]], atol=1e-6)


def test_the_protocol_gives_features(serving: Service, client: triton.InferenceServerClient) -> None:
    feature = client.infer("sonata", tensors(shape())).as_numpy("feature")
    answer = serving.post("/v1/embed?model=sonata", json=shape())
    with np.load(io.BytesIO(answer.content)) as arrays:
        assert feature.dtype == np.float16 and np.allclose(feature, arrays["feature"], atol=1e-3)


@pytest.mark.parametrize(
    ("model", "outputs", "said"),
    [
        ("shapes", ["confidence"], "there is no output 'confidence'; there are: label, scores"),
        ("sonata", ["label"], "there is no output 'label'; there are: feature"),
        ("room", ["feature"], "there is no output 'feature'"),
        ("sonata", ["feature"], "output feature is FP16, which has no form in JSON"),
        ("sonata", [], "output feature is FP16, which has no form in JSON"),
    ],
)
def test_outputs_that_a_model_does_not_give(serving: Service, model: str, outputs: list[str], said: str) -> None:
    data = {"name": "coord", "shape": [1, 3], "datatype": "FP32", "data": [0, 0, 0]}
    body = {"inputs": [data], "outputs": [{"name": name} for name in outputs]}
    answer = serving.post(f"/v2/models/{model}/infer", json=body)
    assert answer.status_code == 400 and said in answer.json()["error"]


def test_outputs_of_two_tasks_do_not_come_at_once() -> None:
    offered = v2_outputs.offers({"tasks": ["segment", "embed"]})
    assert v2_outputs.choose([{"name": "feature"}], offered, True) == ("embed", {"feature": True})
    assert v2_outputs.choose([{"name": "label"}], offered, True)[0] == "segment"
    assert v2_outputs.choose(None, offered, True)[0] == "segment"
    with pytest.raises(MalformedRequest, match="the outputs label, feature do not come from one pass"):
        v2_outputs.choose([{"name": "label"}, {"name": "feature"}], offered, True)


@pytest.mark.parametrize("points", [1, 2, 3, 10])
def test_a_few_points_are_classified_too(serving: Service, points: int) -> None:
    answer = serving.post("/v1/classify", json=shape(points))
    assert answer.status_code == 200, answer.text
    assert sum(one["score"] for one in answer.json()["classes"]) == pytest.approx(1, abs=1e-5)
    assert serving.post("/v1/embed", json=shape(points)).status_code == 200


def test_a_missing_input_is_named(serving: Service) -> None:
    body = shape()
    del body["colors"]
    answer = serving.post("/v1/embed", json=body)
    assert answer.status_code == 422 and "colo" in answer.json()["detail"]
    assert serving.post("/v1/classify", json=body).status_code == 200
    one = serving.post("/v1/classify", json={"points": [[0, 0, 0]]})
    assert one.status_code == 422 and "needs normals" in one.json()["detail"]
    nothing = serving.post("/v1/classify", json={"points": [[None, None, None]]})
    assert nothing.status_code in (400, 422)


def test_the_shell_tells_the_class_too(serving: Service, folder: Path, tmp_path: Path) -> None:
    body, file = shape(), tmp_path / "ball.npz"
    np.savez(file, points=np.array(body["points"]), normals=np.array(body["normals"]))
    expected = serving.post("/v1/classify", file.read_bytes(), params={"filename": file.name}).json()
    command = [sys.executable, "-m", "service.cli", "classify", str(file)]
    for more in (["--url", serving.url], ["--model", str(folder / "shapes")]):
        told = subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert told.returncode == 0, told.stderr
        assert f"{file}: {expected['name']} ({expected['score']:.3f})" in told.stdout
    wrong = subprocess.run(
        [*command, "--url", serving.url, "--model", "room"], cwd=ROOT, capture_output=True, text=True
    )
    assert wrong.returncode == 1 and "the model room cannot classify" in wrong.stderr
