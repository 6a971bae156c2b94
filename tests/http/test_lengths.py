"""Options of a request that are far too long: a 400, and no process ends of them."""

from __future__ import annotations

import json
import time
from typing import Any, cast

import pytest

from service.errors import DeadlineExceeded
from service.web import v2 as routes
from service.wire import v2_outputs
from tests.http.conftest import Service

COORD = {"name": "coord", "shape": [2, 3], "datatype": "FP64", "data": [[0, 0, 0], [1, 1, 1]]}


def infer(service: Service, **more: Any) -> tuple[int, str]:
    answer = service.post("/v2/models/parcels/infer", json.dumps({"inputs": [COORD], **more}))
    return answer.status_code, answer.json().get("error", "")


def processes(service: Service) -> list[Any]:
    found = service.processes()
    return [found[name] for name in ("worker_pid", "worker_starts", "engine_pid")]


@pytest.mark.parametrize("letter", ["\\", "x", "\u00e9"])
def test_a_condition_of_megabytes(service: Service, letter: str) -> None:
    before = processes(service)
    status, sentence = infer(service, parameters={"condition": letter * 5_000_000})
    assert (status, "5000000 letters" in sentence) == (400, True)
    assert len(sentence) < 1000
    status, sentence = infer(service, parameters={"condition": letter * 100})
    assert status in (400, 422) and "condition" in sentence
    assert processes(service) == before


@pytest.mark.parametrize("length", [4001, 400_000])
def test_columns_without_end(service: Service, length: int) -> None:
    before = processes(service)
    files = {"file": ("a.txt", b"0 0 0\n1 1 1\n")}
    answer = service.post("/v1/segment", {"columns": "x" * length}, files=files)
    assert answer.status_code == 400
    assert "columns" in answer.json()["detail"] and "4000" in answer.json()["detail"]
    assert len(answer.json()["detail"]) < 1000
    assert processes(service) == before


def test_a_shape_whose_product_is_no_number_of_64_bits(service: Service) -> None:
    status, sentence = infer(service, inputs=[{**COORD, "shape": [6148914691236517206, 3], "data": [1.0, 2.0]}])
    assert (status, "18446744073709551618" in sentence) == (400, True), sentence


class Large:
    """A body of JSON that takes its turn."""

    size = routes.MANY_JSON_BYTES

    def first(self, size: int) -> bytes:
        return json.dumps({"inputs": [COORD]}).encode().ljust(size)


def test_large_json_waits_for_its_turn_until_its_deadline() -> None:
    offered = v2_outputs.offers({"tasks": ["segment"]})

    def decode(patience_s: float) -> int:
        until = time.monotonic() + patience_s
        return routes._decode(cast(Any, Large()), Large.size, 1000, offered, until).points

    with routes._large_json:
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded, match="JSON"):
            decode(0.2)
        assert 0.1 < time.monotonic() - started < 5
    assert decode(10) == decode(1e30) == 2
