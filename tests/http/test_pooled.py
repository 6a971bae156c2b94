"""Clouds in memory that is used again: nobody gets another's labels, and nothing is kept for long."""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.load import infer
from benchmarks.running import Running, serving
from tests.engine.fakes import wait_for

BUSY_MS = 40.0  # of the device, for 100,000 points


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(BUSY_MS) as found:
        yield found


def labels(running: Running, cloud: np.ndarray, **headers: str) -> tuple[int, np.ndarray | None]:
    """Send a cloud as binary tensors; return the status, and the labels."""
    body = infer(cloud, "stub").partition(b"\r\n\r\n")[2]
    head_bytes = len(body) - cloud.astype("<f4").nbytes
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
    given = {"Inference-Header-Content-Length": str(head_bytes), **headers}
    connection.request("POST", "/v2/models/stub/infer", body, given)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    if answer.status != 200:
        return answer.status, None
    start = int(answer.headers["Inference-Header-Content-Length"])
    assert json.loads(content[:start])["outputs"][0]["shape"] == [len(cloud)]
    return 200, np.frombuffer(content[start:], "<i4")


def cloud_of(generator: np.random.Generator) -> np.ndarray:
    return generator.uniform(0, 1, (int(generator.integers(1, 40_000)), 3)).astype(np.float32)


def test_many_at_once_get_their_own_labels(running: Running) -> None:
    wrong: list[int] = []

    def ask(seed: int) -> None:
        generator = np.random.default_rng(seed)
        for _ in range(15):
            cloud = cloud_of(generator)
            status, found = labels(running, cloud)
            if status != 200 or not np.array_equal(found, cloud[:, 2] > 0.5):
                wrong.append(seed)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_memory_that_a_worker_still_has_is_nobody_else_s(running: Running) -> None:
    generator = np.random.default_rng(1)
    slow = generator.uniform(0, 1, (400_000, 3)).astype(np.float32)  # 160 ms of the device
    late = []
    for _ in range(4):
        late.append(labels(running, slow, **{"X-Deadline-Seconds": "0.1"})[0])
        # Of the size of the one that was given up, so that it would get its memory, while the worker is at it.
        other = generator.uniform(0, 1, (390_000, 3)).astype(np.float32)
        status, found = labels(running, other)
        assert status == 200
        np.testing.assert_array_equal(found, other[:, 2] > 0.5)
    assert set(late) <= {504, 200} and 504 in late


def test_memory_that_nobody_uses_goes_back(running: Running) -> None:
    labels(running, cloud_of(np.random.default_rng(2)))

    def held() -> int:
        count = 0
        for member in running.members():
            for link in Path(f"/proc/{member.pid}/fd").iterdir():
                try:
                    count += "memfd:" in os.readlink(link)
                except OSError:
                    continue
        return count

    assert held() > 0
    time.sleep(5.0)
    wait_for(lambda: held() == 0, 30.0)
