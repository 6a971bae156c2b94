"""POST /v1/measure as clients use it: the generated sample, whose five boxes are known, and what cannot be measured."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from typing import Any

import laspy
import numpy as np
import pytest
import requests
from PIL import Image
from plyfile import PlyData

from tests.http import clouds
from tests.http.conftest import ROOT, Service
from training.sample import _BOXES

SAMPLE = ROOT / "samples" / "parcels.ply"
EDGES = ("length_m", "width_m", "height_m")
KEYS = {
    *("id", "class", "score", "points", "measured", "reason", "length_m", "width_m", "height_m", "volume_m3"),
    *("uncertainty", "at_least", "center", "rotation", "corners", "faces_seen", "pose"),
}


def true_sizes() -> list[tuple[float, ...]]:
    """Return (length, width, height) of the sample's boxes."""
    return [(*sorted(size[:2], reverse=True), size[2]) for size, _at, _degrees in _BOXES]


def measured(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [box for box in answer["boxes"] if box["measured"]]


@pytest.fixture(scope="module")
def answer(service: Service) -> dict[str, Any]:
    """The answer for the sample."""
    response = service.post("/v1/measure?labels=true", SAMPLE.read_bytes())
    assert response.status_code == 200, response.text
    return dict(response.json())


def test_the_samples_boxes_have_their_sizes(answer: dict[str, Any]) -> None:
    found = [(box["length_m"], box["width_m"], box["height_m"]) for box in measured(answer)]
    assert len(found) == 5
    errors = []
    for true in true_sizes():
        nearest = min(found, key=lambda size: float(np.abs(np.array(size) - true).max()))
        errors.append(np.abs(np.array(nearest) - true))
    assert np.median(errors) < 0.004 and np.max(errors) < 0.015


def test_the_answer_has_what_the_description_says(answer: dict[str, Any], service: Service) -> None:
    shapes = service.get("/openapi.json").json()["components"]["schemas"]
    assert set(answer) == set(shapes["MeasureAnswer"]["properties"])
    assert answer["points"] == len(answer["labels"]) == len(answer["instance"])
    assert answer["metres_per_unit"] == 1.0 and answer["warnings"] == []
    assert {"receive", "read", "forward", "measure", "total"} <= set(answer["timing_ms"])
    assert np.linalg.norm(answer["up"]) == pytest.approx(1)
    assert set(answer["support"]) == {"point", "normal", "rms_m"} and answer["support"]["rms_m"] < 0.01
    counts = np.bincount(np.array(answer["labels"]))
    assert [one["count"] for one in answer["classes"]] == counts.tolist()
    for box in answer["boxes"]:
        assert set(box) == KEYS == set(shapes["BoxAnswer"]["properties"])
        assert box["points"] == answer["instance"].count(box["id"])
        numbers = [box[name] for name in ("length_m", "width_m", "height_m", "volume_m3", "center", "corners")]
        assert (box["reason"] is None) == box["measured"] == all(value is not None for value in numbers)
        for name, value in box["at_least"].items():
            assert value is None or (box[name] is None and not box["measured"])
    for box in measured(answer):
        assert box["length_m"] >= box["width_m"] > 0
        assert box["volume_m3"] == pytest.approx(box["length_m"] * box["width_m"] * box["height_m"], rel=1e-3)
        assert np.shape(box["corners"]) == (8, 3) and np.shape(box["rotation"]) == (3, 3)
        assert box["pose"] == "standing" and "top" in box["faces_seen"]


def test_labels_come_only_when_asked_for(service: Service) -> None:
    body = service.post("/v1/measure", clouds.as_npz(clouds.parcel_scene())).json()
    assert not {"labels", "instance"} & set(body)


def test_the_corners_lie_about_the_boxs_points(answer: dict[str, Any]) -> None:
    vertex = PlyData.read(SAMPLE)["vertex"]
    coord = np.stack([vertex[axis] for axis in "xyz"], axis=1).astype(float)
    own = np.array(answer["instance"])
    for box in measured(answer):
        inside = (coord[own == box["id"]] - box["center"]) @ np.array(box["rotation"]).T
        half = np.array([box["length_m"], box["width_m"], box["height_m"]]) / 2
        assert (np.abs(inside) < half + 0.015).all(axis=1).mean() > 0.9


@pytest.mark.parametrize(("query", "factor"), [("", 1000), ("?units=mm", 1000), ("?units=cm", 100), ("?scale=2", 0.5)])
def test_units(service: Service, query: str, factor: float) -> None:
    scene = clouds.parcel_scene()
    metres = measured(service.post("/v1/measure", clouds.as_npz(scene)).json())
    body = service.post(f"/v1/measure{query}", clouds.as_npz(scene * factor)).json()
    assert body["metres_per_unit"] == pytest.approx(1 / factor)
    assert len(metres) == len(measured(body)) == 1
    assert measured(body)[0]["length_m"] == pytest.approx(metres[0]["length_m"], abs=1e-4)
    np.testing.assert_allclose(measured(body)[0]["center"], factor * np.array(metres[0]["center"]), rtol=1e-3)
    assert any("millimetres" in warning for warning in body["warnings"]) == (query == "")


def test_millimetres_posted_as_metres_are_named(service: Service) -> None:
    body = service.post("/v1/measure?units=m", clouds.as_npz(clouds.parcel_scene() * 1000)).json()
    assert body["boxes"] and not measured(body)
    assert all("units=mm" in box["reason"] for box in body["boxes"])


def test_up(service: Service) -> None:
    scene = clouds.as_npz(clouds.parcel_scene())
    body = service.post("/v1/measure?up=0,0,1", scene).json()
    np.testing.assert_allclose(body["up"], (0, 0, 1), atol=0.01)
    assert measured(body)[0]["height_m"] == pytest.approx(0.2, abs=0.01)


def test_zeros_for_pixels_without_depth_and_views_of_no_single_sensor(service: Service) -> None:
    scene = np.concatenate([[[0.0, 0, 0]], clouds.parcel_scene() + [0, 0, 2.0]])
    for query in ("up=0,0,1e200", "up=1e-200,0,0", "viewpoint=none", "viewpoint=0,0,0"):
        response = service.post(f"/v1/measure?{query}", clouds.as_npz(scene))
        assert response.status_code == 200, response.text
        assert response.json()["points"] == len(scene)


def test_a_scene_without_boxes(service: Service) -> None:
    scene = clouds.parcel_scene()
    body = service.post("/v1/measure", clouds.as_npz(scene[scene[:, 2] < 0.01])).json()
    assert measured(body) == []
    if not body["boxes"]:
        assert "No box was found." in body["warnings"]


def test_what_is_known_of_a_box_that_the_view_cuts_off(service: Service, answer: dict[str, Any]) -> None:
    vertex = PlyData.read(SAMPLE)["vertex"]
    coord = np.stack([vertex[axis] for axis in "xyz"], axis=1).astype(float)
    whole = measured(answer)[0]
    left = coord[:, 0] / coord[:, 2] < whole["center"][0] / whole["center"][2]
    body = clouds.as_npz(coord[left])
    found = service.post("/v1/measure", body).json()["boxes"]
    cut = next(box for box in found if "the edge of the view cuts it off" in (box["reason"] or ""))
    known = [name for name in EDGES if cut[name] is not None]
    assert known and not cut["measured"] and cut["volume_m3"] is None and cut["center"] is None
    for name in EDGES:
        assert (cut[name] is None) == (cut["uncertainty"][name] is None) == (cut["at_least"][name] is not None)
    assert np.shape(cut["rotation"]) == (3, 3)
    assert 0 < cut["at_least"]["volume_m3"] < whole["volume_m3"]
    line = list(csv.DictReader(io.StringIO(service.post("/v1/measure?output=csv", body).text)))[cut["id"]]
    for name in EDGES:
        assert (line[name] == "") == (line[f"{name}_at_least"] != "")
    assert float(line["volume_m3_at_least"]) == cut["at_least"]["volume_m3"] and line["measured"] == "False"


def test_csv(service: Service, answer: dict[str, Any]) -> None:
    response = service.post("/v1/measure?output=csv", SAMPLE.read_bytes())
    assert response.headers["Content-Type"].startswith("text/csv")
    assert "cloud_boxes.csv" in response.headers["Content-Disposition"]
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert [int(row["id"]) for row in rows] == [box["id"] for box in answer["boxes"]]
    for row, box in zip(rows, answer["boxes"], strict=True):
        assert (row["length_m"] == "") == (box["length_m"] is None)
        if box["measured"]:
            assert float(row["length_m"]) == pytest.approx(box["length_m"])
            assert float(row["volume_m3_uncertainty"]) == pytest.approx(box["uncertainty"]["volume_m3"])
        assert row["faces_seen"].split() == box["faces_seen"]


def test_ply_has_the_points_and_the_boxes_edges(service: Service, answer: dict[str, Any]) -> None:
    response = service.post("/v1/measure?output=ply&filename=scan.ply", SAMPLE.read_bytes())
    assert "scan_boxes.ply" in response.headers["Content-Disposition"]
    vertex = PlyData.read(io.BytesIO(response.content))["vertex"]
    points = answer["points"]
    assert int(response.headers["X-Points"]) == points < len(vertex)
    np.testing.assert_array_equal(vertex["instance"][:points], answer["instance"])
    drawn = np.stack([vertex[axis][points:] for axis in "xyz"], axis=1)
    for box in measured(answer):
        own = drawn[vertex["instance"][points:] == box["id"]]
        for corner in box["corners"]:
            assert np.linalg.norm(own - corner, axis=1).min() < 1e-5


def test_png_shows_every_box(service: Service) -> None:
    response = service.post("/v1/measure", SAMPLE.read_bytes(), headers={"Accept": "image/png"})
    assert response.headers["Content-Type"] == "image/png"
    picture = np.asarray(Image.open(io.BytesIO(response.content)).convert("RGB"))
    assert picture.shape == (800, 1200, 3)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 500


def opened(response: requests.Response) -> dict[str, bytes]:
    """Return the members of an answer that is an archive, whole, by their names."""
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def test_one_labelling_gives_the_boxes_and_the_labelled_cloud(service: Service, answer: dict[str, Any]) -> None:
    response = service.post("/v1/measure?output=zip&filename=scan.ply&scores", SAMPLE.read_bytes())
    assert response.headers["Content-Type"] == "application/zip"
    assert "scan_boxes.zip" in response.headers["Content-Disposition"]
    members = opened(response)
    assert list(members) == ["scan_labelled.ply", "scan_boxes.json", "scan_boxes.csv"]
    vertex = PlyData.read(io.BytesIO(members["scan_labelled.ply"]))["vertex"]
    np.testing.assert_array_equal(vertex["label"], answer["labels"])
    np.testing.assert_array_equal(vertex["instance"], answer["instance"])
    assert vertex["confidence"].max() <= 1 and vertex["confidence"].mean() > 0.5
    told = json.loads(members["scan_boxes.json"])
    assert told["boxes"] == answer["boxes"] and told.keys() == answer.keys() - {"labels", "instance"}
    rows = list(csv.DictReader(io.StringIO(members["scan_boxes.csv"].decode())))
    assert [int(row["id"]) for row in rows] == [box["id"] for box in answer["boxes"]]
    assert "write" in response.headers["Server-Timing"]


def test_the_archive_has_the_users_own_file_and_its_units(service: Service) -> None:
    scene = clouds.parcel_scene() * 1000
    response = service.post(
        "/v1/measure?cloud=same&units=mm&filename=größe.las",
        clouds.as_las(scene),
        headers={"Accept": "application/zip"},
    )
    members = opened(response)
    las = laspy.read(io.BytesIO(members["größe_labelled.las"]))
    assert np.abs(las.xyz - scene).max() < 1e-3
    assert {"gps_time", "original_label"} <= set(las.point_format.dimension_names)
    assert measured(json.loads(members["größe_boxes.json"]))[0]["height_m"] == pytest.approx(0.2, abs=0.01)


def test_warnings_of_a_file_can_be_told_apart(service: Service) -> None:
    scene = clouds.parcel_scene()
    scene[:10] = np.nan
    body = clouds.as_npz(scene * 1000)
    warnings = service.post("/v1/measure", body).json()["warnings"]
    assert len(warnings) > 1
    for output in ("csv", "zip", "png"):
        headers = service.post(f"/v1/measure?output={output}", body).headers
        assert json.loads(headers["X-Warnings"]) == warnings
        # As `requests` joins headers of one name, browsers do.
        assert headers["X-Warning"] == ", ".join(warnings)
    whole = service.post("/v1/measure?output=csv", clouds.as_npz(clouds.parcel_scene())).headers
    assert not {"X-Warnings", "X-Warning"} & set(whole)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("output=zip&cloud=json", "cloud=json is unknown; choose one of: ply"),
        ("output=zip&cloud=doc", "cloud=doc is unknown; choose one of: ply"),
        ("units=inch", "'units'"),
        ("scale=0", "'scale'"),
        ("scale=inf", "'scale'"),
        ("up=0,1", "'up'"),
        ("up=0,0,0", "'up'"),
        ("up=a,b,c", "'up'"),
        ("viewpoint=1,2", "'viewpoint'"),
        ("viewpoint=nowhere", "'viewpoint'"),
        ("up=none", "'up'"),
        ("output=las", "'output'"),
        ("units=mm&scale=1", "units and scale"),
        ("nothing=1", "'nothing' is unknown"),
    ],
)
def test_options_that_are_wrong_are_named(service: Service, query: str, said: str) -> None:
    response = service.post(f"/v1/measure?{query}", clouds.as_npz(clouds.parcel_scene(500)))
    assert response.status_code == 400
    assert said in response.json()["detail"]


def test_a_body_that_is_no_file_gets_no_labels_written_into_it(service: Service) -> None:
    response = service.post("/v1/measure?output=zip&cloud=same", json={"points": clouds.parcel_scene(500).tolist()})
    assert response.status_code == 400
    assert response.json()["detail"].startswith("cloud=same: JSON")
    assert "takes no labels; choose one of: ply, las" in response.json()["detail"]


def test_no_acceptable_form(service: Service) -> None:
    response = service.post("/v1/measure", clouds.as_npz(clouds.parcel_scene(500)), headers={"Accept": "video/mp4"})
    assert response.status_code == 406
    assert "text/csv" in response.json()["detail"]
