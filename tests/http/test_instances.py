"""Which box is which, over HTTP: the generated sample, whose boxes are known."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from plyfile import PlyData

from tests.http import clouds
from tests.http.conftest import ROOT, Service
from training import clouds as generator
from training.metrics import compare
from training.sample import SEED, parcels

SAMPLE = ROOT / "samples" / "parcels.ply"


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    """Which box each point of the sample lies on, -1: none; the same scan again, with what is true of it."""
    made = generator.generate(
        (SEED,), 1, torch.device("cpu"), place=parcels, family="structured", shape=(480, 640), fuse=1
    )[0]
    made = made.keep((made.coord - made.focus).norm(dim=1) < 1.0)
    return np.where(made.label == 1, made.number, -1)


def test_the_samples_five_boxes_are_told_apart(service: Service, truth: np.ndarray) -> None:
    answer = service.post("/v1/segment", SAMPLE.read_bytes()).json()
    instance, label = np.array(answer["instance"]), np.array(answer["labels"])
    assert instance.shape == label.shape == truth.shape
    found = compare(instance, {one["id"]: one["score"] for one in answer["instances"]}, truth)
    assert found.truth == 5 and min(found.best) > 0.8 and found.average_precision() > 0.95
    for one in answer["instances"]:
        assert one["points"] == int((instance == one["id"]).sum()) > 0
        assert (label[instance == one["id"]] == one["class"]).all()
        assert 0 <= one["score"] <= 1
    points = [one["points"] for one in answer["instances"]]
    assert points == sorted(points, reverse=True)
    assert [one["id"] for one in answer["instances"]] == list(range(len(points)))


def test_the_users_file_gets_a_column_of_boxes(service: Service) -> None:
    told = np.array(service.post("/v1/segment", SAMPLE.read_bytes()).json()["instance"])
    again = service.post("/v1/segment?output=same", SAMPLE.read_bytes())
    vertex = PlyData.read(io.BytesIO(again.content))["vertex"]
    np.testing.assert_array_equal(vertex["instance"], told)


def test_a_scene_without_boxes_has_an_empty_list(service: Service) -> None:
    flat = clouds.parcel_scene()
    flat = flat[flat[:, 2] < 0.01]
    body = service.post("/v1/segment", clouds.as_npz(flat)).json()
    if not any(one["name"] == "box" and one["count"] for one in body["classes"]):
        assert body["instances"] == [] and set(body["instance"]) == {-1}


def test_the_description_of_the_answer_names_the_objects(service: Service) -> None:
    shapes = service.get("/openapi.json").json()["components"]["schemas"]
    (answer,) = (shape for name, shape in shapes.items() if name == "SegmentAnswer")
    assert {"instance", "instances"} <= answer["properties"].keys()
    assert {"id", "class", "score", "points"} == shapes["InstanceAnswer"]["properties"].keys()
