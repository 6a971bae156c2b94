"""The slow answers at 80 % load: requests at set times, each answer's time counted from the time that was set.

    python -m benchmarks.tail [--seconds 30] [--points 100000] [--stub-ms 20]

Full load is what 16 clients get that wait for each other. Aim: p99 / p50 at most 3, better 2. A second row sends at
random times (Poisson). The last column is what a queue alone makes of the same times: one after another, each as long
as full load allows, and nothing else.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benchmarks.load import Outcome, closed_loop, infer, open_loop, set_times
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
                    f"{queue_alone(set_times(rate, arguments.seconds, poisson), 1 / full):.2f}",
                )
            )
    columns = ("requests", "a second", "statuses", "p50, ms", "p99, ms", "p99 / p50", "of a queue alone")
    show(f"{arguments.points} points, open loop at {arguments.load:.0%} load; aim 3, better 2", columns, rows)


def queue_alone(due: Sequence[float], service_s: float) -> float:
    """Return p99 / p50 of requests at these times that wait for one another and take `service_s` each."""
    free, outcome = 0.0, Outcome()
    for at in due:
        free = max(free, at) + service_s
        outcome.seconds.append(free - at)
    return outcome.percentile(0.99) / outcome.percentile(0.5)


if __name__ == "__main__":
    main()
