"""How long families take in their full size, their weights at random, and how much memory.

    python -m benchmarks.families [--device cpu] [--voxels 20000] [--threads 2] [--repeat 3] [--only PART]

From a batch to its logits, norms folded, all that follows from the points made anew in each pass; medians. On a GPU in
float32 and in half precision, and MB are the peak of the device's memory above weights and batch. On a CPU in float32,
MB are what passes added to the process at most, and `CPU s` is the processor time of all threads: it is
what remains of the figure on a machine that others use too.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import multiprocessing
import statistics
import time
from dataclasses import replace
from pathlib import Path
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
_PATCHES = {"in_channels": 6, "enc_patch_size": (1024,) * 5, "dec_patch_size": (1024,) * 4}
_DATASETS = ("Structured3D", "ScanNet", "S3DIS")
FAMILY: dict[str, dict[str, Any]] = {
    "DefaultSegmentor of SpUNet-v1m1": {
        "type": "DefaultSegmentor",
        "backbone": {"type": "SpUNet-v1m1", "in_channels": 6, "num_classes": 20},
    },
    "DefaultSegmentor of SpUNet-v1m2": {
        "type": "DefaultSegmentor",
        "backbone": {"type": "SpUNet-v1m2", "in_channels": 6, "num_classes": 20},
    },
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
    "PPT-v1m2 of PT-v3m1": {
        "type": "PPT-v1m2",
        "backbone": {"type": "PT-v3m1", **_PATCHES, "pdnorm_bn": True, "pdnorm_ln": True, "pdnorm_decouple": True}
        | {"pdnorm_adaptive": False, "pdnorm_affine": True, "pdnorm_conditions": _DATASETS},
        "backbone_out_channels": 64,
        "context_channels": 256,
        "conditions": _DATASETS,
        "num_classes": (25, 20, 13),
    },
    "PG-v1m1 of SpUNet-v1m1": {
        "type": "PG-v1m1",
        "backbone": {"type": "SpUNet-v1m1", "in_channels": 6, "num_classes": 0},
        "backbone_out_channels": 96,
        "semantic_num_classes": 20,
        "semantic_ignore_index": -1,
        "segment_ignore_index": (-1, 0, 1),
        "instance_ignore_index": -1,
        "cluster_thresh": 1.5,
        "cluster_closed_points": 300,
        "cluster_propose_points": 100,
        "cluster_min_points": 50,
    },
    "PT-v3m1": {**_PATCHES},
    "PT-v3m2, Sonata's encoder": {"type": "PT-v3m2", **_ENCODER, "enc_depths": (3, 3, 3, 12, 3)}
    | {"enc_channels": (48, 96, 192, 384, 512), "enc_num_head": (3, 6, 12, 24, 32)},
    "PT-v3m3, Utonia's encoder": {"type": "PT-v3m3", **_ENCODER, "enc_depths": (3, 3, 3, 12, 3), "rope_base": 10}
    | {"enc_channels": (54, 108, 216, 432, 576), "enc_num_head": (3, 6, 12, 24, 32)},
}
"""Arguments that are not the family's own defaults; a `type` where the name says more than the family's."""


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


def measure(name: str, voxels: int, device: str, threads: int, repeat: int) -> str:
    """Return a family's line of the table; its process is its own, so that the most memory held is its own too."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    where = torch.device(device)
    on_gpu = where.type == "cuda"
    network: Any = Site(engine("auto", where), FAMILIES).build({"type": name, **FAMILY[name]})
    parameters = sum(parameter.numel() for parameter in network.parameters())
    for key, tensor in network.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.8, 1.2)
    network.eval().to(where)
    if hasattr(network, "fold"):
        network.fold()
    made = batch(voxels).to(where)
    columns = [f"`{name}`", f"{parameters / 1e6:.1f} M"]
    for dtype in (torch.float32, torch.float16) if on_gpu else (torch.float32,):
        network.to(dtype)
        walls, busy, memory = _passes(network, replace(made, feat=made.feat.to(dtype)), repeat, on_gpu)
        wall = statistics.median(walls)
        columns += [f"{wall * 1e3:.1f}", f"{memory:.0f}"]
        if not on_gpu:
            columns.append(f"{statistics.median(busy):.2f}")
    return f"| {' | '.join(columns)} |"


@torch.inference_mode()
def _passes(network: Any, made: Batch, repeat: int, on_gpu: bool) -> tuple[list[float], list[float], float]:
    """Return the seconds of each pass, the processor's seconds, and the megabytes that passes took."""
    walls, busy = [], []
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the most that was held is what is held now
        before = _most_held()
    for _ in range(repeat + 2):
        one = made.to(made.coord.device)  # without what was made of it
        started, used = time.perf_counter(), time.process_time()
        network(one)
        if on_gpu:
            torch.cuda.synchronize()
        walls.append(time.perf_counter() - started)
        busy.append(time.process_time() - used)
    most = torch.cuda.max_memory_allocated() if on_gpu else _most_held()
    return walls[2:], busy[2:], (most - before) / 2**20


def _most_held() -> int:
    """Return the most bytes of main memory that this process held."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--voxels", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", default="", help="part of a family's name")
    arguments = parser.parse_args()
    on_gpu = arguments.device != "cpu"
    place = torch.cuda.get_device_name(arguments.device) if on_gpu else f"{arguments.threads} threads"
    print(f"{machine()}, {place}, {len(batch(arguments.voxels).coord):,} voxels\n")
    titles = ["float32, ms", "MB", "float16, ms", "MB"] if on_gpu else ["ms", "MB", "CPU s"]
    print(f"| family | parameters | {' | '.join(titles)} |\n|{' --- |' * (2 + len(titles))}")
    spawn = multiprocessing.get_context("spawn")
    for name in FAMILY:
        if arguments.only not in name:
            continue
        with concurrent.futures.ProcessPoolExecutor(1, spawn) as process:
            asked = (name, arguments.voxels, arguments.device, arguments.threads, arguments.repeat)
            print(process.submit(measure, *asked).result(), flush=True)


if __name__ == "__main__":
    main()
