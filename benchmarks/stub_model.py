"""A model that costs what it is told to: the same for our service and for its peers. It needs numpy alone.

STUB_MS in the environment are the milliseconds that a cloud of 100,000 points keeps the device busy: the process sleeps
for them, as it would while it waits for a GPU. 0 leaves what numpy takes.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

BUSY_S_A_POINT = float(os.environ.get("STUB_MS", "0")) / 1e8


def labels(coord: NDArray[Any], busy_s_a_point: float = BUSY_S_A_POINT) -> NDArray[np.int32]:
    """Return the labels (N,) of points (N, 3), after the time that the device takes."""
    if busy_s_a_point:
        time.sleep(busy_s_a_point * len(coord))
    found: NDArray[np.int32] = (coord[:, 2] > 0.5).astype(np.int32)
    return found


def points(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Return (count, 3) points within a metre."""
    return np.random.default_rng(seed).uniform(0, 1, (count, 3)).astype(np.float32)


def bare_s(cloud: NDArray[Any], stub_ms: float, repeats: int) -> list[float]:
    """Return the seconds of each call of the model as a function, `stub_ms` being what 100,000 points cost."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        labels(cloud, stub_ms / 1e8)
        times.append(time.perf_counter() - started)
    return times
