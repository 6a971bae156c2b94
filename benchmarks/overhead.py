"""What the service adds to one request: the time of its answer less that of the bare model call, one client, warm.

    python -m benchmarks.overhead [--repeats 200] [--points 100000] [--stub-ms 10]

Issue: at most 8 ms for 100,000 points as binary tensors; goal 3 ms. The peer is in `benchmarks.against_litserve`.
"""

from __future__ import annotations

import argparse
import io
import statistics

import numpy as np

from benchmarks.load import Connection, infer, median_ms, one_by_one, post
from benchmarks.running import serving, show
from benchmarks.stub_model import bare_s, points

MUST_MS, GOAL_MS = 8.0, 3.0
WARM = 20


def requests_of(cloud: np.ndarray) -> dict[str, bytes]:
    """Return the same cloud in the forms in which clients send it."""
    file = io.BytesIO()
    np.save(file, cloud)
    npy = file.getvalue()
    kind = "application/octet-stream"
    return {
        "/v2 infer, binary tensors": infer(cloud, "stub"),
        "/v1/segment, NPY in, JSON out": post("/v1/segment", npy, kind),
        "/v1/segment, NPY in, NPZ out": post("/v1/segment?output=npz", npy, kind),
    }


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--stub-ms", type=float, default=10.0, help="what the device takes for 100,000 points")
    arguments = parser.parse_args()
    cloud = points(arguments.points)
    rows = []
    with serving(arguments.stub_ms) as running:
        for name, request in requests_of(cloud).items():
            connection = Connection(running.port)
            if (answer := connection.ask(request)).status != 200:
                rows.append((name, f"status {answer.status}", "", "", ""))
                continue
            one_by_one(running.port, request, WARM)
            # In turns, so that a machine that grows slower or faster does so for both.
            bare: list[float] = []
            served: list[float] = []
            for _ in range(10):
                bare += bare_s(cloud, arguments.stub_ms, max(1, arguments.repeats // 10))
                served += one_by_one(running.port, request, max(1, arguments.repeats // 10))
            added = median_ms(served) - median_ms(bare)
            spread = statistics.quantiles(served, n=20)
            rows.append(
                (name, f"{median_ms(bare):.2f}", f"{median_ms(served):.2f}", f"{spread[-1] * 1e3:.2f}", f"{added:.2f}")
            )
    columns = ("request", "bare model, ms", "served, ms", "95 %, ms", "added, ms")
    show(f"{arguments.points} points, one client; must {MUST_MS:g} ms, goal {GOAL_MS:g} ms added", columns, rows)


if __name__ == "__main__":
    main()
