"""How well boxes are measured, beside the plain way: python -m benchmarks.measuring [--scans 100] [--ours]

The plain way is what tutorials show: the floor's plane by RANSAC, statistical outlier removal, DBSCAN, and of each
cluster the oriented bounding box along its principal axes. Here it is written with SciPy; `--peer` is a Python with
Open3D, whose own functions then do it. All see the same generated scans, whose boxes are known.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from benchmarks.machine import machine
from service.measure import Frame, measure
from service.values import BoxPart, ClassInfo, Instance, Segmentation
from training import known, objects
from training.boxes import Box
from training.known import Known
from training.labeller import in_process
from training.recipe import NAME

CLASSES = (ClassInfo(0, "background", (128, 128, 128)), ClassInfo(1, "box", (230, 126, 34)))
FLOOR_M, VOXEL_M, NEIGHBOURS, DEVIATIONS, REACH_M, LEAST = 0.01, 0.005, 20, 2.0, 0.02, 30
GOOD_M = 0.015
_OURS = ("measured", "the same")


@dataclass(frozen=True)
class Result:
    """What a way said of one box; no error where it did not find or measure it.

    Attributes:
        faces: how many of the box's faces were seen.
        found: whether there is an object of which the box is the greater part, and that of the box.
        error: (3,) metres, of each edge.
        half: (3,) metres, half the width of the interval that it says holds the edge in nine of ten cases; or None.
        volume: relative error.
        part: of a box measured in part (3, 3) metres: error and half the interval of each edge, and by how much the
            edge is longer than what it is said to have at least; NaN where there is no such number.
    """

    faces: int
    found: bool
    error: NDArray[np.float64] | None
    half: NDArray[np.float64] | None
    volume: float | None
    part: NDArray[np.float64] | None = None


def edge_errors(size: NDArray[np.float64], rotation: NDArray[np.float64], box: Box) -> NDArray[np.float64]:
    """Return by how much edges (3,) along the rows (3, 3) differ from those of the box that they lie along."""
    along = np.abs(rotation @ box.axes.T)
    best = max(itertools.permutations(range(3)), key=lambda order: sum(along[i, order[i]] for i in range(3)))
    return np.asarray(size - 2 * box.half[list(best)])


def matches(scan: Known, instance: NDArray[np.int64]) -> list[int]:
    """Return for each box the object that shares more than half of both together with it, or -1."""
    found = []
    for box in scan.boxes:
        own = scan.number == box.number
        count = np.bincount(instance[own & (instance >= 0)], minlength=1)
        best = int(count.argmax())
        together = int((own | (instance == best)).sum())
        found.append(best if count[best] > 0.5 * together else -1)
    return found


def by_service(scan: Known, instance: NDArray[np.int64]) -> list[Result]:
    """Return what the service's measurement says of each box, from these objects."""
    number = int(instance.max(initial=-1)) + 1
    objects_ = tuple(Instance(i, 1, 1.0, int((instance == i).sum())) for i in range(number))
    label = (instance >= 0).astype(np.int32)
    answer = measure(
        scan.coord, Segmentation(label, CLASSES, NAME, instance=instance.astype(np.int32), instances=objects_), Frame()
    )
    results = []
    for box, faces, index in zip(scan.boxes, scan.faces, matches(scan, instance), strict=True):
        size = answer.boxes[index].size if index >= 0 else None
        if size is None:
            part = answer.boxes[index].part if index >= 0 else None
            known = None if part is None else in_part(part, box)
            results.append(Result(faces, index >= 0, None, None, None, known))
            continue
        error = edge_errors(np.array(size.size_m), np.array(size.rotation), box)
        results.append(
            Result(faces, True, error, np.array(size.size_uncertainty_m), size.volume_m3 / (2 * box.half).prod() - 1)
        )
    return results


def in_part(part: BoxPart, box: Box) -> NDArray[np.float64]:
    """Return what is said of a box measured in part beside the truth, as in Result."""
    said, half, least = np.array([part.size_m, part.size_uncertainty_m, part.at_least_m], dtype=np.float64)
    rotation = np.array(part.rotation)
    return np.stack([edge_errors(said, rotation, box), half, -edge_errors(least, rotation, box)])


def true_objects(scan: Known) -> NDArray[np.int64]:
    """Return each point's box as it truly is, counted from 0; -1: none."""
    _, own = np.unique(scan.number, return_inverse=True)
    return own.reshape(-1).astype(np.int64) - int((scan.number == 0).any())


def principal_box(coord: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the edges (3,) and the axes (3, 3) of the bounding box along the principal axes of points (n, 3)."""
    away = coord - coord.mean(axis=0)
    rows = np.linalg.eigh(away.T @ away)[1].T
    along = away @ rows.T
    return along.max(axis=0) - along.min(axis=0), rows


def without_outliers(coord: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which points (n, 3) are as near to their neighbours as most are (Open3D's statistical outlier removal)."""
    if len(coord) <= NEIGHBOURS:
        return np.ones(len(coord), dtype=bool)
    distance, _ = cKDTree(coord).query(coord, NEIGHBOURS)
    mean = distance.mean(axis=1)
    return np.asarray(mean < mean.mean() + DEVIATIONS * mean.std())


def plain_objects(coord: NDArray[np.float64], seed: int) -> NDArray[np.int64]:
    """Return each point's cluster, -1: none: the largest plane taken away, then outliers, then DBSCAN.

    DBSCAN: Ester, Kriegel, Sander and Xu, KDD 1996; points within reach of a core point are of its cluster.
    """
    rng = np.random.default_rng(seed)
    sample = coord[rng.integers(0, len(coord), 20_000)]
    triples = sample[rng.integers(0, len(sample), (300, 3))]
    normal = np.cross(triples[:, 1] - triples[:, 0], triples[:, 2] - triples[:, 0])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    offset = (normal * triples[:, 0]).sum(axis=1)
    best = int((np.abs(sample @ normal.T - offset) < FLOOR_M).sum(axis=0).argmax())
    rows = np.flatnonzero(np.abs(coord @ normal[best] - offset[best]) > FLOOR_M)
    # One point a voxel: else the neighbours within reach are too many.
    _, first = np.unique(np.floor(coord[rows] / VOXEL_M).astype(np.int64), axis=0, return_index=True)
    rows = rows[first]
    rows = rows[without_outliers(coord[rows])]
    tree = cKDTree(coord[rows])
    pairs = tree.query_pairs(REACH_M, output_type="ndarray")
    degree = np.bincount(pairs.ravel(), minlength=len(rows))
    core = degree + 1 >= 10
    both = pairs[core[pairs].all(axis=1)]
    graph = coo_matrix((np.ones(len(both), dtype=bool), (both[:, 0], both[:, 1])), shape=(len(rows), len(rows)))
    cluster = connected_components(graph, directed=False)[1]
    cluster = np.where(core, cluster, -1)
    found = np.full(len(coord), -1, dtype=np.int64)
    distance, nearest = tree.query(coord, distance_upper_bound=VOXEL_M * 2)
    near = np.isfinite(distance)
    found[near] = cluster[nearest[near]]
    on_floor = np.abs(coord @ normal[best] - offset[best]) <= FLOOR_M
    found[on_floor] = -1
    large = np.bincount(found[found >= 0], minlength=1) >= LEAST
    return np.where((found >= 0) & large[found.clip(min=0)], found, -1)


def by_plain_way(scan: Known, instance: NDArray[np.int64]) -> list[Result]:
    """Return what bounding boxes along the principal axes say of each box, from these objects."""
    results = []
    for box, faces, index in zip(scan.boxes, scan.faces, matches(scan, instance), strict=True):
        own = scan.coord[instance == index] if index >= 0 else scan.coord[:0]
        if len(own) < LEAST:
            results.append(Result(faces, index >= 0, None, None, None))
            continue
        size, rows = principal_box(own[without_outliers(own)])
        results.append(Result(faces, True, edge_errors(size, rows, box), None, size.prod() / (2 * box.half).prod() - 1))
    return results


def turned(scan: Known, seed: int) -> Known:
    """Return the scan turned and shifted at random, so that nothing tells where the camera stood."""
    rng = np.random.default_rng((seed, 9))
    rows, shift = objects.tumble(rng), rng.normal(0, 1, 3)
    boxes = tuple(Box(box.number, rows @ box.center + shift, box.axes @ rows.T, box.half) for box in scan.boxes)
    return Known(scan.coord @ rows.T + shift, scan.number, boxes, scan.faces, scan.family, scan.distance_m)


def by_peer(scans: Sequence[Known], python: str) -> list[Result]:
    """Return what Open3D's own functions say of each box: its clusters and its oriented bounding boxes."""
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        for index, scan in enumerate(scans):
            np.save(Path(folder) / f"{index}.npy", scan.coord)
        subprocess.run([python, str(Path(__file__).with_name("measuring_peer.py")), folder], check=True)
        for index, scan in enumerate(scans):
            said = np.load(Path(folder) / f"{index}.npz")
            instance = said["cluster"].astype(np.int64)
            for box, faces, number in zip(scan.boxes, scan.faces, matches(scan, instance), strict=True):
                if number < 0:
                    results.append(Result(faces, False, None, None, None))
                    continue
                size = said["size"][number]
                error = edge_errors(size, said["axes"][number], box)
                results.append(Result(faces, True, error, None, size.prod() / (2 * box.half).prod() - 1))
    return results


def row(name: str, results: Sequence[Result], seconds: float | None) -> list[str]:
    """Return a line of the table, of boxes with two or more faces seen."""
    two = [one for one in results if one.faces >= 2]
    measured = [one for one in two if one.error is not None]
    error = np.abs(np.concatenate([one.error for one in measured if one.error is not None])) if measured else np.ones(1)
    halves = [one for one in measured if one.half is not None]
    held = np.concatenate([np.abs(one.error) <= one.half for one in halves]).mean() if halves else None
    volume = np.median(np.abs([one.volume for one in measured])) if measured else np.nan
    return [
        name,
        f"{sum(one.found for one in two)} of {len(two)}",
        str(len(measured)),
        f"{1000 * np.median(error):.1f}",
        f"{1000 * np.percentile(error, 90):.1f}",
        f"{1000 * np.percentile(error, 95):.1f}",
        f"{(error < GOOD_M).mean():.1%}",
        f"{volume:.1%}",
        "" if held is None else f"{held:.1%}",
        "" if seconds is None else f"{seconds:.2f}",
    ]


def parts_row(name: str, results: Sequence[Result]) -> list[str]:
    """Return a line of the table of boxes measured in part, of those with two or more faces seen."""
    two = [one for one in results if one.faces >= 2]
    parts = [one.part for one in two if one.part is not None]
    error, half, over = np.concatenate([*parts, np.full((3, 0), np.nan)], axis=1)
    known, bound = np.isfinite(error), np.isfinite(over)
    if not known.any():
        return [name, str(len(parts)), *[""] * 7]
    off = np.abs(error[known])
    return [
        name,
        str(len(parts)),
        str(int(known.sum())),
        *(f"{1000 * value:.1f}" for value in (np.median(off), np.percentile(off, 90), np.percentile(off, 95))),
        f"{(off <= half[known]).mean():.1%}",
        str(int(bound.sum())),
        f"{(over[bound] >= 0).mean():.1%}" if bound.any() else "",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the ways over the same scans and print what they said."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.measuring", description=__doc__)
    parser.add_argument("--scans", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="seed of the first scan")
    parser.add_argument("--peer", default=None, help="a Python that has Open3D")
    parser.add_argument("--ours", action="store_true", help="leave the plain way out")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    label = in_process(NAME, torch.device("cpu"))
    ways: dict[str, list[Result]] = {}
    seconds: dict[str, float] = {}
    scans = []

    def add(name: str, results: list[Result], began: float) -> None:
        ways.setdefault(name, []).extend(results)
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - began

    for seed in track(range(chosen.first, chosen.first + chosen.scans), "scans"):
        scan = known.scan(seed)
        scans.append(scan)
        true, found = true_objects(scan), label(scan.coord).instance
        began = time.perf_counter()
        add("measured, from true objects", by_service(scan, true), began)
        began = time.perf_counter()
        add("the same, turned and shifted", by_service(turned(scan, seed), true), began)
        began = time.perf_counter()
        add("measured, from the model's objects", by_service(scan, found), began)
        if chosen.ours:
            continue
        began = time.perf_counter()
        add("plain way, from true objects", by_plain_way(scan, true), began)
        began = time.perf_counter()
        add("plain way, from the model's objects", by_plain_way(scan, found), began)
        began = time.perf_counter()
        add("plain way, its own clusters", by_plain_way(scan, plain_objects(scan.coord, seed)), began)
    if chosen.peer:
        began = time.perf_counter()
        add("Open3D, its own clusters", by_peer(scans, chosen.peer), began)
    table = Table(title=f"{chosen.scans} generated scans, boxes with two or more faces seen; {machine()}")
    heads = ("", "found", "measured", "median mm", "90 % mm", "95 % mm", "under 15 mm", "volume", "held", "s a scan")
    for head in heads:
        table.add_column(head, justify="left" if not head else "right")
    for name, results in ways.items():
        table.add_row(*row(name, results, seconds[name] / chosen.scans))
    parts = Table(title="Of these, boxes measured in part: edges that are known, and what others have at least")
    for head in ("", "boxes", "edges", "median mm", "90 % mm", "95 % mm", "held", "bounds", "true"):
        parts.add_column(head, justify="left" if not head else "right")
    for name, results in ways.items():
        if name.startswith(_OURS):
            parts.add_row(*parts_row(name, results))
    console = Console(width=140, file=sys.stdout)
    console.print(table)
    console.print(parts)


if __name__ == "__main__":
    main()
