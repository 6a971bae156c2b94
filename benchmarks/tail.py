"""The slow answers at 80 % load: requests at set times, each answer's time counted from the time that was set.

    python -m benchmarks.tail [--seconds 30] [--points 100000] [--stub-ms 20]

Full load is what 16 clients get that wait for each other. Issue: p99 / p50 at most 3; goal 2. A second row sends at
random times (Poisson), where a queue alone makes p99 / p50 about 4 even if nothing but the device took time.
"""

from __future__ import annotations

import argparse

from benchmarks.load import closed_loop, infer, open_loop
from benchmarks.running import serving, show
from benchmarks.stub_model import points


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--stub-ms", type=float, default=20.0)
    parser.add_argument("--load", type=float, default=0.8)
    arguments = parser.parse_args()
    request = infer(points(arguments.points), "stub")
    rows = []
    with serving(arguments.stub_ms) as running:
        closed_loop(running.port, [request], 16, 1)
        full = closed_loop(running.port, [request], 16, min(10.0, arguments.seconds)).rate
        for name, poisson in (("evenly spaced", False), ("at random times", True)):
            rate = arguments.load * full
            outcome = open_loop(running.port, [request], 64, arguments.seconds, rate, poisson=poisson)
            middle, late = outcome.percentile(0.5), outcome.percentile(0.99)
            rows.append(
                (
                    name,
                    f"{rate:.1f} of {full:.1f}",
                    str(dict(outcome.statuses)),
                    f"{middle * 1e3:.1f}",
                    f"{late * 1e3:.1f}",
                    f"{late / middle:.2f}",
                )
            )
    columns = ("requests", "a second", "statuses", "p50, ms", "p99, ms", "p99 / p50")
    show(f"{arguments.points} points, open loop at {arguments.load:.0%} load; must 3, goal 2", columns, rows)


if __name__ == "__main__":
    main()
