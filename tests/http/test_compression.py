"""Content-Encoding on the way in, Accept-Encoding on the way out."""

from __future__ import annotations

import gzip
import json
import zlib

import numpy as np
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from service.errors import MalformedRequest
from service.web.inflate import Inflated
from tests.http import clouds
from tests.http.conftest import Service
from tests.http.test_refusals import check_problem

SCENE = clouds.parcel_scene(20_000)
PLY = clouds.as_ply(SCENE)
raw = zlib.compressobj(6, zlib.DEFLATED, -15)
PACKED = {
    "gzip": ("gzip", gzip.compress(PLY)),
    "x-gzip": ("x-gzip", gzip.compress(PLY)),
    "capitals": ("GZip", gzip.compress(PLY)),
    "several members": ("gzip", gzip.compress(PLY[:100]) + gzip.compress(b"") + gzip.compress(PLY[100:])),
    "deflate": ("deflate", zlib.compress(PLY)),
    "raw deflate": ("deflate", raw.compress(PLY) + raw.flush()),
    "identity": ("identity", PLY),
}


@pytest.fixture(scope="module")
def labels(service: Service) -> list[int]:
    found: list[int] = service.post("/v1/segment", PLY).json()["labels"]
    return found


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("chunked", [False, True])
def test_compressed_bodies(service: Service, labels: list[int], name: str, chunked: bool) -> None:
    encoding, body = PACKED[name]
    sent = (body[start : start + 5000] for start in range(0, len(body), 5000)) if chunked else body
    answer = service.post("/v1/segment", sent, headers={"Content-Encoding": encoding})
    assert answer.status_code == 200, answer.text[:300]
    assert answer.json()["labels"] == labels


def test_a_compressed_form(service: Service, labels: list[int]) -> None:
    prepared = requests.Request("POST", service.url, files={"file": ("a.ply", PLY)}, data={"scores": "true"}).prepare()
    headers = {"Content-Type": prepared.headers["Content-Type"], "Content-Encoding": "gzip"}
    answer = service.post("/v1/segment", gzip.compress(prepared.body), headers=headers)
    assert answer.status_code == 200, answer.text[:300]
    assert answer.json()["labels"] == labels
    assert answer.json()["scores"]


def endless(size: int) -> bytes:
    """Return what unpacks to so many zeros."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join([packer.compress(bytes(1 << 20)) for _ in range(size >> 20)]) + packer.flush()


BAD: dict[str, tuple[str, bytes, int, str]] = {
    "another encoding": ("br", PLY, 415, "gzip or deflate"),
    "two encodings": ("gzip, gzip", PLY, 415, "gzip or deflate"),
    "not compressed": ("gzip", PLY, 400, "not compressed as Content-Encoding says"),
    "cut off": ("gzip", gzip.compress(PLY)[:-20], 400, "ended before its gzip data"),
    "cut off deflate": ("deflate", zlib.compress(PLY)[:-20], 400, "ended before its deflate data"),
    "a wrong checksum": ("gzip", gzip.compress(PLY)[:-8] + bytes(8), 400, "not compressed"),
    "garbage behind": ("gzip", gzip.compress(PLY) + b"garbage", 400, "not compressed"),
    "nothing": ("gzip", b"", 400, "ended before"),
    "a bomb": ("gzip", endless(60 << 20), 413, "200 times"),
    "too much unpacked": ("gzip", gzip.compress(np.random.default_rng(0).bytes(65 << 20), 1), 413, str(64 << 20)),
    "much that unpacks to nothing": ("gzip", gzip.compress(b"") * (4 << 20), 413, str(64 << 20)),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_compression(service: Service, name: str) -> None:
    encoding, body, status, words = BAD[name]
    answer = service.post("/v1/segment", body, headers={"Content-Encoding": encoding})
    check_problem(answer, status)
    assert words in answer.json()["detail"]


@given(
    data=st.binary(max_size=3000),
    cuts=st.lists(st.integers(1, 700), min_size=1),
    sizes=st.lists(st.integers(1, 900), min_size=1),
    kind=st.sampled_from(["gzip", "deflate", "raw"]),
)
def test_any_pieces_unpack_to_the_same(data: bytes, cuts: list[int], sizes: list[int], kind: str) -> None:
    packer = zlib.compressobj(6, zlib.DEFLATED, {"gzip": 31, "deflate": 15, "raw": -15}[kind])
    packed = packer.compress(data * 20) + packer.flush()
    stream = Inflated(Pieces(packed, cuts), "gzip" if kind == "gzip" else "deflate", 1 << 20)
    found = []
    while piece := stream.read(sizes[len(found) % len(sizes)]):
        assert len(piece) <= sizes[len(found) % len(sizes)]
        found.append(piece)
    assert b"".join(found) == data * 20
    assert stream.read(1) == b""
    with pytest.raises(MalformedRequest, match="ended before"):
        drain(Inflated(Pieces(packed[:-1], cuts), "gzip" if kind == "gzip" else "deflate", 1 << 20))


def drain(stream: Inflated) -> None:
    while stream.read(100):
        pass


class Pieces:
    """A stream that gives its bytes in pieces of odd sizes."""

    def __init__(self, data: bytes, cuts: list[int]) -> None:
        self._data, self._cuts, self._at = data, cuts, 0

    def read(self, size: int = -1) -> bytes:
        self._at += 1
        cut = min(size, self._cuts[self._at % len(self._cuts)])
        piece, self._data = self._data[:cut], self._data[cut:]
        return piece


# Coordinates that repeat, as those of a depth camera.
REGULAR = clouds.as_ply(np.round(SCENE, 1))


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("output", ["json", "ply", "las"])
def test_compressed_answers(service: Service, encoding: str, output: str) -> None:
    path = f"/v1/segment?output={output}"
    plain = service.post(path, REGULAR, headers={"Accept-Encoding": "identity"})
    packed = service.post(path, REGULAR, headers={"Accept-Encoding": encoding}, stream=True)
    assert packed.headers["Content-Encoding"] == encoding
    assert "Accept-Encoding" in packed.headers["Vary"]
    body = packed.raw.read()
    assert len(body) < 0.8 * len(plain.content)
    unpacked = zlib.decompress(body, 47)
    if output == "json":
        assert json.loads(unpacked)["labels"] == plain.json()["labels"]
    else:
        assert unpacked == plain.content
    assert "Content-Encoding" not in plain.headers


def test_what_hardly_shrinks_stays_as_it_is(service: Service) -> None:
    noise = clouds.as_ply(np.random.default_rng(0).normal(0, 0.2, (20_000, 3)))
    plain = service.post("/v1/segment?output=ply", noise, headers={"Accept-Encoding": "identity"})
    asked = service.post("/v1/segment?output=ply", noise, headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in asked.headers
    assert int(asked.headers["Content-Length"]) == len(asked.content)
    assert asked.content == plain.content


@pytest.mark.parametrize("output", ["npz", "laz"])
def test_what_is_compressed_already_stays(service: Service, output: str) -> None:
    answer = service.post(f"/v1/segment?output={output}", PLY)
    assert "Content-Encoding" not in answer.headers
    assert int(answer.headers["Content-Length"]) == len(answer.content)


def test_small_answers_errors_and_those_who_do_not_ask(service: Service) -> None:
    assert "Content-Encoding" not in service.get("/health").headers
    assert "Content-Encoding" not in service.post("/v1/segment", b"x" * 9000).headers
    assert "Content-Encoding" not in service.get("/openapi.json", headers={"Accept-Encoding": "br"}).headers
    assert service.get("/openapi.json").headers["Content-Encoding"] == "gzip"
    script = service.get("/static/vendor/swagger-ui/swagger-ui-bundle.js")
    assert script.headers["Content-Encoding"] == "gzip"
    again = service.get(
        "/static/vendor/swagger-ui/swagger-ui-bundle.js", headers={"If-None-Match": script.headers["ETag"]}
    )
    assert again.status_code == 304
