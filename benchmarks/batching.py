"""Batches of small clouds against one cloud at a time: the same service, model and clients.

    python -m benchmarks.batching [--model NAME] [--clients 32] [--voxels 20000] [--seconds 20]

`--model` is a name that MODELS may hold; without, it is SpUNet-v1m1 in full size with weights at random, for which the
aim on an H100 is 2x at least, and 4x.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import untrained
from benchmarks.load import closed_loop, infer
from benchmarks.running import serving, show

ONE_AT_A_TIME = "1"  # BATCH_MEMORY_BYTES: room for no second cloud


def surface(voxels: int, grid_size: float, seed: int) -> np.ndarray:
    """Return points (N, 3) float32 of a room-like surface that fills about so many voxels of `grid_size` metres."""
    rng = np.random.default_rng(seed)
    edge = grid_size * np.sqrt(voxels / 3)
    count = voxels * 3 // 3 * 2
    floor, wall, side = (rng.uniform(0, edge, (count, 3)) for _ in range(3))
    floor[:, 2], wall[:, 1], side[:, 0] = 0, 0, 0
    return np.concatenate([floor, wall, side]).astype(np.float32)


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--voxels", type=int, default=20_000)
    parser.add_argument("--grid-size", type=float, default=untrained.GRID_SIZE, help="of the model, in metres")
    parser.add_argument("--seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    with chosen(arguments.model) as (model, models):
        measure(arguments, model, models)


@contextlib.contextmanager
def chosen(name: str | None) -> Iterator[tuple[str, str]]:
    """Yield a model's name for requests, and MODELS."""
    if name:
        yield name, os.environ.get("MODELS", name)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield "spunet", str(untrained.write(Path(folder) / "spunet"))


def measure(arguments: argparse.Namespace, model: str, models: str) -> None:
    """Measure and print the table."""
    requests = [infer(surface(arguments.voxels, arguments.grid_size, seed), model) for seed in range(4)]
    rates = {}
    rows = []
    for name, more in (("one at a time", {"BATCH_MEMORY_BYTES": ONE_AT_A_TIME}), ("batches", {})):
        with serving(MODELS=models, **more) as running:
            closed_loop(running.port, requests, arguments.clients, 3)
            outcome = closed_loop(running.port, requests, arguments.clients, arguments.seconds)
        rates[name] = outcome.rate
        rows.append(
            (
                name,
                f"{outcome.rate:.1f}",
                str(dict(outcome.statuses)),
                f"{outcome.percentile(0.5) * 1e3:.0f}",
                f"{outcome.rate / rates['one at a time']:.2f}x",
            )
        )
    title = f"{model}, clouds of about {arguments.voxels} voxels, {arguments.clients} clients; must 2x, goal 4x"
    show(title, ("", "clouds/s", "statuses", "p50, ms", "ratio"), rows)


if __name__ == "__main__":
    main()
