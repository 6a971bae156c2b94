"""Where the time of one cloud goes on a CPU: prepare, forward, restore; without HTTP on a file or a made-up scene.

    python -m benchmarks.forward_cpu [FILE | --points 200000] [--model parcels] [--threads 2] [--repeat 9]

Prints a table with the machine's name, and the peak memory of the process. `CPU ms` is the median of the processor
time of all threads: it is what remains of the figure on a machine that others use too.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.machine import machine
from service import formats, transforms
from service.formats.format import Options
from service.models import catalogue
from service.models.batch import collate
from service.values import PointCloud


def scene(points: int) -> NDArray[np.float64]:
    """Return the tops and sides of twelve parcels on a table of 2 m x 1.5 m, with a depth camera's noise."""
    random = np.random.default_rng(0)
    table = random.uniform(0, 1, (points // 2, 3)) * (2.0, 1.5, 0.0)
    parts = [table]
    for box in range(12):
        size = random.uniform(0.1, 0.4, 3)
        faces = random.uniform(0, 1, ((points - len(table)) // 12 + (box < (points - len(table)) % 12), 3))
        side = random.integers(0, 3, len(faces))
        faces[np.arange(len(faces)), side] = np.where(side == 2, 1, random.integers(0, 2, len(faces)))
        parts.append(faces * size + (0.5 * (box % 4), 0.5 * (box // 4), 0))
    return np.concatenate(parts) + random.normal(0, 0.0015, (points, 3))


def read(path: Path) -> PointCloud:
    """Return a file's cloud."""
    data = memoryview(path.read_bytes())
    found = formats.recognise(bytes(data[:4096]), declared=None, media_type=None, filename=path.name)
    return formats.read(data, found, Options())


def now() -> tuple[float, float]:
    """Return the clock's seconds and the processor's seconds of all threads of this process."""
    return time.perf_counter(), time.process_time()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--points", type=int, default=200_000)
    parser.add_argument("--model", default="parcels")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeat", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device("cpu")
    started = time.perf_counter()
    model = catalogue.load(arguments.model, device)
    loaded_s = time.perf_counter() - started
    cloud = read(arguments.file) if arguments.file else PointCloud(scene(arguments.points))
    stages: dict[str, list[tuple[float, float]]] = {"prepare": [], "forward": [], "restore": [], "all": []}
    voxels = tiles = 0
    for _ in range(arguments.repeat):
        at = [now()]
        prepared = transforms.prepare(cloud, model.recipe, device)
        at.append(now())
        logits = [model.forward(collate([tile])) for tile in prepared.tiles]
        at.append(now())
        transforms.restore(prepared, logits, model.card, scores=False)
        at.append(now())
        for name, start, end in zip(stages, (at[0], at[1], at[2], at[0]), (*at[1:], at[3]), strict=True):
            stages[name].append(((end[0] - start[0]) * 1e3, (end[1] - start[1]) * 1e3))
        voxels, tiles = prepared.voxels, len(prepared.tiles)
    print(f"{machine()}, {arguments.threads} threads")
    print(
        f"{arguments.model}: {model.card.family}, {model.card.parameters / 1e6:.2f} M parameters, engine {model.engine}"
    )
    print(f"{len(cloud)} points, {voxels} voxels of {model.recipe.grid_size} m, {tiles} tile(s)")
    print(f"{'stage':10}{'median ms':>12}{'best ms':>12}{'worst ms':>12}{'CPU ms':>12}")
    for name, pairs in stages.items():
        times, cpu = zip(*pairs, strict=True)
        shown = (statistics.median(times), min(times), max(times), statistics.median(cpu))
        print(f"{name:10}" + "".join(f"{value:12.1f}" for value in shown))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"loading {loaded_s * 1e3:.0f} ms; peak memory {peak_mb:.0f} MB")


if __name__ == "__main__":
    main()
