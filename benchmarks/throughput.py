"""16 clients against the bare model fed in a loop: how much of the device's time the service uses.

    python -m benchmarks.throughput [--seconds 20] [--clients 16] [--points 100000] [--stub-ms 20]

Issue: at least 90 % of the bare model's clouds a second; goal 97 %.
"""

from __future__ import annotations

import argparse
import statistics

from benchmarks.load import closed_loop, infer
from benchmarks.running import serving, show
from benchmarks.stub_model import bare_s, points


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--stub-ms", type=float, default=20.0)
    arguments = parser.parse_args()
    cloud = points(arguments.points)
    request = infer(cloud, "stub")
    bare = 1 / statistics.mean(bare_s(cloud, arguments.stub_ms, 200))
    with serving(arguments.stub_ms) as running:
        closed_loop(running.port, [request], arguments.clients, min(2.0, arguments.seconds))
        outcome = closed_loop(running.port, [request], arguments.clients, arguments.seconds)
        batches = running.health()
    rows = [
        ("bare model in a loop", f"{bare:.1f}", "", "", ""),
        (
            f"served, {arguments.clients} clients",
            f"{outcome.rate:.1f}",
            str(dict(outcome.statuses)),
            f"{outcome.percentile(0.5) * 1e3:.0f} / {outcome.percentile(0.99) * 1e3:.0f}",
            f"{outcome.rate / bare:.1%}",
        ),
    ]
    columns = ("", "clouds/s", "statuses", "p50 / p99, ms", "of the bare model")
    title = f"{arguments.points} points, {arguments.stub_ms:g} ms of the device each; must 90 %, goal 97 %"
    show(title, columns, rows)
    print("engine:", {name: batches.get(name) for name in ("batches", "queue") if name in batches})


if __name__ == "__main__":
    main()
