"""The whole of the mutation run, on a service of its own.

    python -m tests.attacks [--count 5000] [--seed 0] [--clients 4] [--shared ../shared]

Prints how the files were answered, how many processes died (web, engine, worker) and how many answers came past their
deadline. Both must be 0; the exit status says whether they are.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from tests.attacks import mutations
from tests.attacks.conftest import LIMITS, leaked
from tests.http.conftest import Service, start, wait_ready


def processes(service: Service) -> dict[str, int]:
    """Return the process ids that must not change: the web's, the engine's and the worker's."""
    found = service.processes()
    web = [one for one in psutil.Process(service.process.pid).children(recursive=True) if "gunicorn" in one.cmdline()]
    own = {f"web {number}": pid for number, pid in enumerate(sorted(one.pid for one in web))}
    return {**own, "engine": found["engine_pid"], "worker": found["worker_pid"]}


def main() -> int:
    """Run and print; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000, help="changed files beside the odd ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--shared", type=Path, default=Path(__file__).resolve().parents[3] / "shared")
    arguments = parser.parse_args()
    shared = arguments.shared if (arguments.shared / "data" / "odd").is_dir() else None
    files = mutations.sources(shared)
    with tempfile.TemporaryDirectory() as folder:
        service = start(Path(folder), **LIMITS)
        try:
            wait_ready(service)
            before, started = processes(service), time.monotonic()
            bodies = mutations.bodies(files, arguments.count, arguments.seed)
            run = mutations.send(service.url, bodies, float(LIMITS["DEADLINE_S"]), arguments.clients)
            seconds, after = time.monotonic() - started, processes(service)
            readers, held = service.processes()["readers"]["replaced"], leaked(service)
        finally:
            service.stop()
    died = sum(after.get(name) != pid for name, pid in before.items())
    print(
        f"{len(files)} files ({'with' if shared else 'without'} ../shared/data/odd) and {arguments.count} changed ones"
    )
    print(f"{sum(run.statuses.values())} answers in {seconds:.0f} s, the slowest after {run.slowest_s:.1f} s")
    print("statuses:", dict(sorted(run.statuses.items())))
    for reason, number in run.refusals.most_common(12):
        print(f"  {number:5d} {reason}")
    print(f"readers replaced: {readers}; shared memory still held: {Counter(held).total()}")
    print(f"process deaths (web, engine, worker): {died}")
    print(f"answers past their deadline: {run.late}")
    print(f"answers without a reason: {len(run.strange)}")
    for line in run.strange[:20]:
        print("  ", line)
    return 1 if died or run.late or run.strange else 0


if __name__ == "__main__":
    raise SystemExit(main())
