"""POST /v1/segment: every way in, every way out."""

from __future__ import annotations

import io
import json
import subprocess
import urllib.request
from pathlib import Path

import laspy
import numpy as np
import pytest
from plyfile import PlyData

from tests.http import clouds
from tests.http.conftest import Service

SCENE = clouds.parcel_scene()


@pytest.fixture(scope="module")
def labels(service: Service) -> np.ndarray:
    """The labels of the scene, as the JSON answer has them."""
    answer = service.post("/v1/segment", clouds.as_npz(SCENE))
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["labels"])


def test_the_answer_says_all_that_the_design_promises(service: Service) -> None:
    answer = service.post("/v1/segment?scores", clouds.as_npz(SCENE), headers={"X-Request-ID": "abc-1"})
    body = answer.json()
    assert body["model"] == "parcels"
    assert [c["name"] for c in body["classes"]] == ["background", "box"]
    assert all(c["color"].startswith("#") and len(c["color"]) == 7 for c in body["classes"])
    labels = np.array(body["labels"])
    assert labels.shape == (len(SCENE),)
    assert [c["count"] for c in body["classes"]] == [int((labels == c["id"]).sum()) for c in body["classes"]]
    assert body["ignored"] == 0
    scores = np.array(body["scores"])
    assert scores.shape == (len(SCENE), 2)
    np.testing.assert_allclose(scores.sum(1), 1, atol=1e-4)
    np.testing.assert_array_equal(scores.argmax(1), labels)
    assert body["warnings"] == []
    assert {"receive", "read", "prepare", "forward", "restore", "total"} <= body["timing_ms"].keys()
    assert body["request_id"] == answer.headers["X-Request-ID"] == "abc-1"
    assert "forward;dur=" in answer.headers["Server-Timing"]


def test_the_box_is_found(labels: np.ndarray) -> None:
    on_box = SCENE[:, 2] > 0.03
    assert (labels[on_box] == 1).mean() > 0.8
    assert (labels[~on_box] == 1).mean() < 0.1


WAYS_IN = {
    "ply": (clouds.as_ply(SCENE), "application/octet-stream"),
    "npz": (clouds.as_npz(SCENE), None),
    "json": (clouds.as_json(SCENE), "application/json"),
    "las": (clouds.as_las(SCENE), "application/vnd.las"),
    "laz": (clouds.as_las(SCENE, compressed=True), None),
    "pcd": (clouds.as_pcd(SCENE), None),
    "form type of curl": (clouds.as_ply(SCENE), "application/x-www-form-urlencoded"),
}


@pytest.mark.parametrize("way", WAYS_IN)
def test_every_way_in_gives_the_same_labels(service: Service, labels: np.ndarray, way: str) -> None:
    data, media_type = WAYS_IN[way]
    answer = service.post("/v1/segment", data, headers={"Content-Type": media_type} if media_type else {})
    assert answer.status_code == 200, answer.text
    # Files of float32 or of half millimetres move some points into the next voxel.
    assert (np.array(answer.json()["labels"]) == labels).mean() > 0.99


@pytest.mark.parametrize(
    ("query", "name"), [("?format=text", None), ("", "scan.xyz"), ("?filename=scan.txt", None)], ids=str
)
def test_text_is_recognised_by_word_or_name(service: Service, labels: np.ndarray, query: str, name: str | None) -> None:
    text = "\n".join(f"{x:.6f} {y:.6f} {z:.6f}" for x, y, z in SCENE).encode()
    headers = {"Content-Disposition": f'attachment; filename="{name}"'} if name else {}
    answer = service.post("/v1/segment" + query, text, headers=headers)
    assert answer.status_code == 200, answer.text
    assert (np.array(answer.json()["labels"]) == labels).mean() > 0.99


def test_multipart_carries_file_and_options(service: Service, labels: np.ndarray) -> None:
    answer = service.post(
        "/v1/segment", {"output": "npz"}, files={"file": ("scan.ply", clouds.as_ply(SCENE), "application/octet-stream")}
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Disposition"] == "attachment; filename=scan_labelled.npz"
    found = np.load(io.BytesIO(answer.content))
    assert (found["label"] == labels).mean() > 0.99


def test_curl_as_the_readme_shows_it(service: Service, tmp_path: Path, labels: np.ndarray) -> None:
    scan = tmp_path / "scan.ply"
    scan.write_bytes(clouds.as_ply(SCENE))
    command = ["curl", "-fsS", "--data-binary", f"@{scan}", f"{service.url}/v1/segment?output=same", "-o"]
    subprocess.run([*command, str(tmp_path / "out.ply")], check=True)
    found = PlyData.read(str(tmp_path / "out.ply"))["vertex"]["label"]
    assert (found == labels).mean() > 0.99


def test_labels_in_ply(service: Service) -> None:
    answer = service.post("/v1/segment?output=ply", clouds.as_npz(SCENE))
    vertex = PlyData.read(io.BytesIO(answer.content))["vertex"]
    np.testing.assert_allclose(np.c_[vertex["x"], vertex["y"], vertex["z"]], SCENE, atol=1e-6)
    assert set(np.unique(vertex["label"])) == {0, 1}


@pytest.mark.parametrize("output", ["las", "laz", "same"])
@pytest.mark.parametrize("point_format", [1, 3, 7])
def test_labels_in_las_keep_the_rest(service: Service, output: str, point_format: int) -> None:
    data = clouds.as_las(SCENE, point_format=point_format)
    answer = service.post(f"/v1/segment?output={output}&scores=true", data)
    assert answer.status_code == 200, answer.text
    before, after = laspy.read(io.BytesIO(data)), laspy.read(io.BytesIO(answer.content))
    for name in ("X", "Y", "Z", "gps_time"):
        np.testing.assert_array_equal(after[name], before[name])
    if output == "same":
        assert after.header.point_format.id == point_format
        np.testing.assert_array_equal(after.header.scales, before.header.scales)
    names = list(after.point_format.dimension_names)
    assert "original_label" in names
    np.testing.assert_array_equal(after["original_label"], before.classification)
    assert set(np.unique(after.classification)) <= {0, 1}
    assert "confidence" in names


def test_pcd_keeps_its_width_and_height(service: Service) -> None:
    answer = service.post("/v1/segment?output=same", clouds.as_pcd(SCENE, width=100))
    assert answer.status_code == 200, answer.text
    header = answer.content.split(b"DATA")[0].decode()
    assert "WIDTH 100" in header
    assert f"HEIGHT {len(SCENE) // 100}" in header
    assert "label" in header


def test_accept_chooses_the_form(service: Service) -> None:
    by_type = service.post("/v1/segment", clouds.as_ply(SCENE), headers={"Accept": "application/vnd.laszip"})
    assert by_type.content[:4] == b"LASF"
    preferred = service.post(
        "/v1/segment", clouds.as_ply(SCENE), headers={"Accept": "application/vnd.las;q=0.1, application/json"}
    )
    assert "labels" in preferred.json()


def test_invalid_points_keep_their_place(service: Service) -> None:
    holed = SCENE.copy()
    holed[::7] = np.nan
    holed[3] = [0, np.inf, 0]
    body = service.post("/v1/segment", clouds.as_npz(holed)).json()
    found = np.array(body["labels"])
    invalid = ~np.isfinite(holed).all(1)
    np.testing.assert_array_equal(found == -1, invalid)
    assert body["ignored"] == invalid.sum()


def test_one_point_is_a_cloud(service: Service) -> None:
    body = service.post("/v1/segment", clouds.as_json(np.zeros((1, 3)))).json()
    assert len(body["labels"]) == 1
    assert body["labels"][0] in (0, 1)


def test_large_coordinates_change_nothing(service: Service, labels: np.ndarray) -> None:
    body = service.post("/v1/segment", clouds.as_npz(SCENE + [652_000.0, 6_860_000.0, 180.0])).json()
    assert (np.array(body["labels"]) == labels).mean() > 0.99


def test_millimetres_are_taken_as_such(service: Service, labels: np.ndarray) -> None:
    body = service.post("/v1/segment", clouds.as_npz(SCENE * 1000)).json()
    assert (np.array(body["labels"]) == labels).mean() > 0.99
    assert any("millimet" in warning for warning in body["warnings"])


@pytest.mark.parametrize("peak", [1.0, 255, 65535])
def test_colours_of_any_range_are_taken(service: Service, labels: np.ndarray, peak: float) -> None:
    color = np.random.default_rng(0).uniform(0, peak, SCENE.shape)
    answer = service.post("/v1/segment", clouds.as_npz(SCENE, color=color if peak == 1 else color.astype(np.uint16)))
    assert answer.status_code == 200, answer.text
    np.testing.assert_array_equal(answer.json()["labels"], labels)


def test_the_same_request_gives_the_same_bytes(service: Service) -> None:
    first, second = (service.post("/v1/segment?output=npz&scores", clouds.as_npz(SCENE)).content for _ in range(2))
    assert first == second


def test_urllib_sends_chunks_too(service: Service, labels: np.ndarray) -> None:
    data = clouds.as_npz(SCENE)
    pieces = (data[start : start + 50_000] for start in range(0, len(data), 50_000))
    request = urllib.request.Request(f"{service.url}/v1/segment", pieces, method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        np.testing.assert_array_equal(json.load(answer)["labels"], labels)
