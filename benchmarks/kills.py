"""The worker killed again and again under load: no request may be lost.

    python -m benchmarks.kills [--kills 100] [--clients 8] [--real]

Each time the worker is ready and busy it gets a SIGKILL. Issue: 100 kills, no request lost. `--real` kills the worker
of the bundled model instead of the stand-in's.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import threading
import time
from collections.abc import Callable

from benchmarks.load import Outcome, closed_loop, infer
from benchmarks.running import Running, serving, show
from benchmarks.stub_model import points


def kill_again_and_again(
    running: Running, kills: int, answered: Callable[[], int], at_once: int, restarts: list[float]
) -> None:
    """Kill the worker so many times; add to `restarts` the seconds until each next one was ready.

    A request that two workers died with is taken for the cause and refused. So each kill waits until the requests that
    the last one met are answered: after three times as many as there are clients none of them is left.
    """
    moments = random.Random(0)
    for _ in range(kills):
        reached = answered() + 3 * at_once
        while answered() < reached:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.1))
        before = running.health()["processes"]["worker_pid"]
        os.kill(before, signal.SIGKILL)
        started = time.monotonic()
        while True:
            health = running.health()
            if health.get("status") == "ready" and health["processes"]["worker_pid"] not in (before, None):
                break
            time.sleep(0.01)
        restarts.append(time.monotonic() - started)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--real", action="store_true", help="the bundled model's worker")
    arguments = parser.parse_args()
    request = infer(points(arguments.points), "parcels" if arguments.real else "stub")
    restarts: list[float] = []
    total, ended = Outcome(), threading.Event()
    with serving(None if arguments.real else 100.0) as running:
        load = threading.Thread(
            target=closed_loop,
            args=(running.port, [request], arguments.clients, 3600.0),
            kwargs={"outcome": total, "ended": ended},
        )
        load.start()
        try:
            kill_again_and_again(running, arguments.kills, lambda: total.statuses[200], arguments.clients, restarts)
        finally:
            ended.set()
            load.join()
        starts = running.health()["processes"]["worker_starts"]
    lost = sum(number for status, number in total.statuses.items() if status != 200)
    rows = [
        ("kills", str(len(restarts)), str(arguments.kills)),
        ("workers started", str(starts), str(arguments.kills + 1)),
        ("requests", str(sum(total.statuses.values())), ""),
        ("lost: any answer but labels", f"{lost} {dict(total.statuses)}", "0"),
        ("ready again, median / longest", f"{sorted(restarts)[len(restarts) // 2]:.2f} / {max(restarts):.2f} s", ""),
        ("slowest answer", f"{max(total.seconds):.2f} s", ""),
    ]
    show(f"worker kills under {arguments.clients} clients", ("figure", "measured", "bound"), rows)


if __name__ == "__main__":
    main()
