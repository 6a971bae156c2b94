"""Bad input over HTTP: the right status, and a sentence that names what is wrong."""

from __future__ import annotations

import io
import json
import struct
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import requests

from tests.http import clouds
from tests.http.conftest import Service

SCENE = clouds.parcel_scene(2000)
PLY = clouds.as_ply(SCENE)
LAS = clouds.as_las(SCENE)


def npz_bomb() -> bytes:
    """An archive of 2 MB that would unpack to 2 GB."""
    out = io.BytesIO()
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (89000000, 3), }"
    header += b" " * (118 - len(header) - 1) + b"\n"
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("coord.npy", "w") as entry:
        entry.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
        for _ in range(2136):
            entry.write(bytes(1_000_000))
    return out.getvalue()


def lying_las() -> bytes:
    data = bytearray(LAS)
    struct.pack_into("<I", data, 107, 0xFFFFFFFF)  # LAS 1.2 header: legacy number of point records
    return bytes(data)


REFUSALS: dict[str, tuple[bytes, str, int, list[str]]] = {
    "empty body": (b"", "", 400, ["empty"]),
    "no format": (b"\x00\x01garbage", "", 415, ["format"]),
    "wrong format word": (PLY, "format=dwg", 415, ["dwg", "ply"]),
    "word against bytes": (PLY, "format=las", 400, ["las", "PLY"]),
    "truncated ply": (PLY[:-1000], "", 400, ["bytes"]),
    "truncated las": (LAS[:-1000], "", 400, ["point"]),
    "truncated laz": (clouds.as_las(SCENE, compressed=True)[:-500], "", 400, []),
    "4 billion points in las": (lying_las(), "", 400, ["4294967295"]),
    "4 billion points in ply": (PLY.replace(b"vertex 2000", b"vertex 4000000000"), "", 400, ["4000000000"]),
    "4 billion points in pcd": (
        clouds.as_pcd(SCENE).replace(b"POINTS 2000", b"POINTS 4000000000").replace(b"WIDTH 2000", b"WIDTH 4000000000"),
        "",
        400,
        ["4000000000"],
    ),
    "zero points": (clouds.as_ply(SCENE[:0]), "", 422, ["no points"]),
    "all NaN": (clouds.as_npz(np.full((50, 3), np.nan)), "", 422, ["no valid point", "50", "NaN"]),
    "unknown model": (PLY, "model=resnet", 404, ["resnet", "parcels"]),
    "unknown option": (PLY, "modell=parcels", 400, ["modell", "model"]),
    "bad option": (PLY, "scores=perhaps", 400, ["scores"]),
    "unknown output": (PLY, "output=dwg", 400, ["dwg", "ply"]),
    "same of a format without labels": (np.zeros((5, 4), "<f4").tobytes(), "format=kitti&output=same", 400, ["same"]),
    "more points than allowed": (clouds.as_npz(np.zeros((1_000_001, 3), np.float32)), "", 413, ["1000000"]),
    "npz bomb": (npz_bomb(), "", 413, []),
    "kitti of 7 bytes": (b"\x00" * 7, "format=kitti", 400, ["16"]),
    "text with a bad line": (b"0 0 0\n0 0 one\n0 1 0\n", "format=text&columns=x,y,z", 400, ["line 2"]),
    "pickle in npy": (
        b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (3, 3), }".ljust(128) + b"\x80\x04N.",
        "",
        400,
        ["object"],
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(service: Service, name: str) -> None:
    data, query, status, words = REFUSALS[name]
    answer = service.post(f"/v1/segment?{query}", data)
    assert answer.status_code == status, answer.text[:500]
    check_problem(answer, status)
    for word in words:
        assert word in answer.json()["detail"], answer.json()["detail"]


def check_problem(answer: requests.Response, status: int) -> None:
    assert answer.headers["Content-Type"] == "application/problem+json"
    body = answer.json()
    assert body.keys() == {"type", "title", "status", "detail", "error", "request_id"}
    assert body["status"] == status
    assert body["error"] == body["detail"] != ""
    assert body["request_id"] == answer.headers["X-Request-ID"]
    assert "/work" not in body["detail"]
    assert "Traceback" not in body["detail"]


JSON_REFUSALS: dict[str, tuple[Any, list[str]]] = {
    "no object": ([1, 2], ["object"]),
    "no points": ({"pts": []}, ["points"]),
    "points no list": ({"points": 7}, ["points"]),
    "two coordinates": ({"points": [[0, 0, 0], [0, 0]]}, ["points"]),
    "a word": ({"points": [[0, 0, 0], [0, 0, "x"]]}, ["points"]),
    "colors too few": ({"points": [[0, 0, 0], [0, 0, 1]], "colors": [[1, 2, 3]]}, ["colors", "2"]),
}


@pytest.mark.parametrize("name", JSON_REFUSALS)
def test_json_of_the_wrong_shape(service: Service, name: str) -> None:
    value, words = JSON_REFUSALS[name]
    answer = service.post("/v1/segment", json.dumps(value), headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text[:300]
    for word in words:
        assert word in answer.json()["detail"]


def test_json_that_does_not_parse(service: Service) -> None:
    answer = service.post("/v1/segment", b'{"points": [[0,0,', headers={"Content-Type": "application/json"})
    assert answer.status_code == 400


def test_a_form_without_the_file(service: Service) -> None:
    answer = service.post("/v1/segment", files={"cloud": ("a.ply", PLY)})
    assert answer.status_code == 400
    assert "'file'" in answer.json()["detail"]
    assert "cloud" in answer.json()["detail"]


def test_nothing_acceptable(service: Service) -> None:
    answer = service.post("/v1/segment", PLY, headers={"Accept": "image/png"})
    check_problem(answer, 406)


def test_unknown_paths_and_methods_are_problems_too(service: Service) -> None:
    check_problem(service.get("/v1/nothing"), 404)
    answer = service.get("/v1/segment")
    check_problem(answer, 405)
    assert "POST" in answer.headers["Allow"]


def by_requests(url: str, size: int) -> tuple[int, dict[str, Any]]:
    answer = requests.post(url, bytes(size), timeout=60)
    return answer.status_code, answer.json()


def by_requests_in_chunks(url: str, size: int) -> tuple[int, dict[str, Any]]:
    answer = requests.post(url, (bytes(1 << 20) for _ in range(size >> 20)), timeout=60)
    return answer.status_code, answer.json()


def by_requests_form(url: str, size: int) -> tuple[int, dict[str, Any]]:
    answer = requests.post(url, files={"file": bytes(size)}, timeout=60)
    return answer.status_code, answer.json()


def by_urllib(url: str, size: int) -> tuple[int, dict[str, Any]]:
    try:
        urllib.request.urlopen(url, bytes(size), timeout=60)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
    raise AssertionError("it was accepted")


@pytest.mark.parametrize("client", [by_requests, by_requests_in_chunks, by_requests_form, by_urllib])
def test_a_body_over_the_limit_is_heard_of(
    service: Service, client: Callable[[str, int], tuple[int, dict[str, Any]]]
) -> None:
    status, problem = client(f"{service.url}/v1/segment", 100 << 20)
    assert status == 413
    assert str(64 << 20) in problem["detail"]


def test_a_connection_lives_on_after_a_refusal(service: Service) -> None:
    with requests.Session() as session:
        for _ in range(3):
            assert session.post(f"{service.url}/v1/segment?format=dwg", PLY, timeout=60).status_code == 415
            assert session.post(f"{service.url}/v1/segment", PLY, timeout=60).status_code == 200
