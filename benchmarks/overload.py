"""Ten times as many requests as the device can take: every answer is labels, or 503 with Retry-After; memory stays.

    python -m benchmarks.overload [--seconds 60] [--times 10] [--points 5000]

Small clouds, so that the clients and the service find room on one machine. Issue: no other answer, no memory growth.
"""

from __future__ import annotations

import argparse

from benchmarks.load import closed_loop, infer, open_loop
from benchmarks.running import serving, show
from benchmarks.stub_model import points


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--times", type=float, default=10.0)
    parser.add_argument("--points", type=int, default=5000)
    parser.add_argument("--busy-ms", type=float, default=40.0, help="what the device takes for one of these clouds")
    parser.add_argument("--clients", type=int, default=256)
    arguments = parser.parse_args()
    request = infer(points(arguments.points), "stub")
    with serving(arguments.busy_ms * 100_000 / arguments.points) as running:
        full = closed_loop(running.port, [request], 8, 3).rate
        # A first wave makes the threads and their memory; growth is what the second adds.
        wave = arguments.times * full
        open_loop(running.port, [request], arguments.clients, min(10.0, arguments.seconds), wave)
        before = running.memory_bytes()
        outcome = open_loop(running.port, [request], arguments.clients, arguments.seconds, wave)
        after = running.memory_bytes()
        alive = running.health().get("status")
    rows = [
        ("offered, requests/s", f"{wave:.0f}", f"{arguments.times:g} x {full:.1f}"),
        ("sent, requests/s", f"{sum(outcome.statuses.values()) / outcome.took_s:.0f}", ""),
        ("statuses", str(dict(sorted(outcome.statuses.items()))), "200, 503"),
        ("503 without Retry-After", str(outcome.without_retry_after), "0"),
        ("other answers, or none", str(outcome.wrong - outcome.without_retry_after), "0"),
        ("labelled, requests/s", f"{outcome.rate:.1f}", f"{full:.1f}"),
        ("p50 / p99 of these, ms", f"{outcome.percentile(0.5) * 1e3:.0f} / {outcome.percentile(0.99) * 1e3:.0f}", ""),
        ("memory of all processes, growth", f"{(after - before) / 1e6:+.1f} MB of {before / 1e6:.0f}", "none"),
        ("afterwards", str(alive), "ready"),
    ]
    show(
        f"overload for {arguments.seconds:g} s, {arguments.clients} connections", ("figure", "measured", "bound"), rows
    )


if __name__ == "__main__":
    main()
