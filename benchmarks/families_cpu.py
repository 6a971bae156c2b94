"""How long families take on a CPU in their full size, their weights at random.

    python -m benchmarks.families_cpu [--voxels 20000] [--threads 2] [--repeat 3] [--only PART]

From a batch to its logits, in float32, norms folded, all that follows from the points made anew in each pass. `CPU s`
is the processor time of all threads: it is what remains of the figure on a machine that others use too.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np
import torch

from benchmarks.machine import machine
from benchmarks.rooms import room
from service.models.batch import Batch
from service.models.catalogue import FAMILIES
from service.models.layers.engine import engine
from service.models.site import Site

CELL_M = 0.02
_ENCODER = {"in_channels": 6, "enc_mode": True, "enc_patch_size": (1024,) * 5}
FAMILY: dict[str, dict[str, Any]] = {
    "PointTransformer-Seg26": {"in_channels": 6, "num_classes": 20},
    "PointTransformer-Seg50": {"in_channels": 6, "num_classes": 20},
    "PT-v2m1": {"in_channels": 6, "num_classes": 20},
    "PT-v2m2": {"in_channels": 6, "num_classes": 20},
    "PT-v2m3": {"in_channels": 6, "num_classes": 20, "norm_adaptive": False},
    "PointTransformer-Cls50": {"in_channels": 9, "num_classes": 40},
    "DefaultClassifier": {"backbone_embed_dim": 512, "backbone": {"type": "PT-v3m1", **_ENCODER}},
    "DefaultClassifier of SpUNet-v1m1": {
        "type": "DefaultClassifier",
        "backbone": {"type": "SpUNet-v1m1", "in_channels": 6, "num_classes": 0, "enc_mode": True},
    },
    "DefaultSegmentor of SpUNet-v1m3": {
        "type": "DefaultSegmentor",
        "backbone": {"type": "SpUNet-v1m3", "in_channels": 6, "num_classes": 20, "norm_adaptive": False},
    },
    "OACNNs": {"in_channels": 6, "num_classes": 20, "enc_depth": (3, 3, 9, 8)},
    "LitePT-v1": {"in_channels": 6},
    "CAC-v1m1": {
        "num_classes": 20,
        "backbone_out_channels": 96,
        "backbone": {"type": "SpUNet-v1m1", "in_channels": 6, "num_classes": 0},
    },
    "PT-v3m2": {**_ENCODER, "enc_depths": (3, 3, 3, 12, 3), "enc_channels": (48, 96, 192, 384, 512)}
    | {"enc_num_head": (3, 6, 12, 24, 32)},
}
"""Arguments that are not the family's own defaults; the last one is of Sonata's size."""


def batch(voxels: int) -> Batch:
    """Return a room of about so many voxels, with a point somewhere in each."""
    cells, random = room(voxels, grid_size=CELL_M), np.random.default_rng(0)
    coord = (cells + random.uniform(0.05, 0.95, cells.shape)) * CELL_M
    feat = random.normal(size=(len(cells), 6)).astype(np.float32)
    return Batch(
        torch.from_numpy(coord.astype(np.float32)),
        torch.from_numpy(cells.astype(np.int32)),
        torch.from_numpy(feat),
        torch.tensor([len(cells)]),
        condition="ScanNet",
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--voxels", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", default="", help="part of a family's name")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    made = batch(arguments.voxels)
    print(f"{machine()}, {arguments.threads} threads, {len(made.coord):,} voxels\n")
    print("| family | parameters | s | CPU s |\n| --- | --- | --- | --- |")
    for name, config in FAMILY.items():
        if arguments.only not in name:
            continue
        torch.manual_seed(0)
        network: Any = Site(engine("native", torch.device("cpu")), FAMILIES).build({"type": name, **config})
        parameters = sum(parameter.numel() for parameter in network.parameters())
        network.eval().fold()
        walls, busy = [], []
        with torch.inference_mode():
            for _ in range(arguments.repeat + 1):
                started, used = time.perf_counter(), time.process_time()
                network(fresh(made))
                walls.append(time.perf_counter() - started)
                busy.append(time.process_time() - used)
        wall, cpu = statistics.median(walls[1:]), statistics.median(busy[1:])
        print(f"| `{name}` | {parameters / 1e6:.1f} M | {wall:.2f} | {cpu:.2f} |", flush=True)


def fresh(made: Batch) -> Batch:
    """Return the batch without what was made of it."""
    return made.to(made.coord.device)


if __name__ == "__main__":
    main()
