"""Several GPUs behind one queue: the same load on one of them and on all, and one worker killed under it.

    python -m benchmarks.devices [--clients 32] [--voxels 100000] [--seconds 15]

SpUNet-v1m1 in full size with weights at random. On N GPUs the aim is N times the clouds a second of one, and that no
request is lost when a worker ends.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time

import torch

from benchmarks.batching import chosen, surface
from benchmarks.load import closed_loop, infer
from benchmarks.running import START_S, Running, serving, show
from benchmarks.untrained import GRID_SIZE

KILL_AFTER_S = 3.0


def main() -> None:
    """Read the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--voxels", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=15.0)
    arguments = parser.parse_args()
    count = torch.cuda.device_count()
    if count < 2:
        raise SystemExit(f"this machine has {count} CUDA devices; two are needed")
    rows = []
    first = 0.0
    with chosen(None) as (model, models):
        requests = [infer(surface(arguments.voxels, GRID_SIZE, seed), model) for seed in range(4)]
        for title, devices, kill in (
            ("one", "cuda:0", False),
            (f"{count}", "auto", False),
            (f"{count}, a worker killed", "auto", True),
        ):
            with serving(MODELS=models, DEVICE=devices) as running:
                _wait_for_all(running)
                closed_loop(running.port, requests, arguments.clients, 3)
                if kill:
                    threading.Timer(KILL_AFTER_S, _kill_one, (running,)).start()
                outcome = closed_loop(running.port, requests, arguments.clients, arguments.seconds)
                _wait_for_all(running)
                workers = running.health()["workers"]
            first = first or outcome.rate
            rows.append(
                (
                    title,
                    f"{outcome.rate:.1f}",
                    str(dict(outcome.statuses)),
                    ", ".join(f"{worker['device']} {worker['starts']}" for worker in workers),
                    f"{outcome.rate / first:.2f}x",
                )
            )
    title = f"SpUNet-v1m1, clouds of about {arguments.voxels} voxels, {arguments.clients} clients"
    show(title, ("GPUs", "clouds/s", "statuses", "workers started", "ratio"), rows)


def _wait_for_all(running: Running) -> None:
    """Return once the worker of each device is ready."""
    until = time.monotonic() + START_S
    while any(worker["state"] != "ready" for worker in running.health()["workers"]):
        if time.monotonic() > until:
            raise SystemExit("not every worker starts:\n" + running.log.read_text()[-3000:])
        time.sleep(0.1)


def _kill_one(running: Running) -> None:
    os.kill(int(running.health()["workers"][-1]["pid"]), signal.SIGKILL)


if __name__ == "__main__":
    main()
