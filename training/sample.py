"""The sample cloud of the repository: python -m training.sample samples/parcels.ply"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from training import clouds, objects
from training.objects import cuboid, move, turn
from training.scenes import Scene

SEED = 2026
_BOXES = (
    # size (x, y, z), place (x, y, z), heading in degrees; metres
    ((0.36, 0.26, 0.18), (-0.24, 0.08, 0.0), 14.0),
    ((0.26, 0.20, 0.12), (-0.22, 0.07, 0.18), 33.0),
    ((0.22, 0.16, 0.30), (0.22, 0.20, 0.0), -24.0),
    ((0.30, 0.21, 0.09), (0.20, -0.17, 0.0), 52.0),
    ((0.13, 0.09, 0.07), (-0.12, -0.26, 0.0), -12.0),
)


def parcels(rng: Generator) -> Scene:
    """Return the sample's scene: five parcels, two of them stacked, a tube, a ball and a bottle on a table."""
    del rng  # nothing in it is drawn
    own = np.random.default_rng(SEED)
    top = 0.75
    parts = [cuboid((6, 6, 0.1), (0, 0, -0.1)), cuboid((1.5, 1.0, 0.03), (0, 0, top - 0.03))]
    for number, (size, at, degrees) in enumerate(_BOXES, start=1):
        body = objects.closed_box(own, np.array(size))
        placed = move(body, turn(2, np.radians(degrees)), (*at[:2], top + at[2]))
        parts += [replace(part, number=number) for part in placed]
    clutter = (
        (objects.tube(own, 0.2), (0.02, 0.36), 0.4),
        (objects.ball(own, 0.2), (0.46, 0.05), 0.0),
        (objects.bottle(own, 0.28), (-0.5, 0.28), 0.0),
    )
    for number, (thing, spot, heading) in enumerate(clutter, start=len(_BOXES) + 1):
        parts += [replace(part, number=number) for part in move(thing, turn(2, heading), (*spot, top))]
    return Scene(tuple(parts), np.array((0.0, 0.0, top + 0.05)), 0.05, (1.15, 1.2), (42, 44))


def scan() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the sample's coordinates (n, 3) in the camera's frame, and which points lie on boxes (n,)."""
    cloud = clouds.generate(
        (SEED,), 1, torch.device("cpu"), place=parcels, family="structured", shape=(480, 640), fuse=1
    )[0]
    near = (cloud.coord - cloud.focus).norm(dim=1) < 1.0
    cloud = cloud.keep(near)
    # Sensors report whole tenths of a millimetre at best.
    coord = (clouds.in_camera(cloud) * 1e4).round() / 1e4
    return coord.numpy(), cloud.label.numpy()


def write_ply(path: Path, coord: NDArray[np.float32]) -> None:
    """Write the coordinates (n, 3) as a binary PLY file."""
    header = (
        "ply\nformat binary_little_endian 1.0\n"
        "comment generated scan of parcels, a simulated depth camera, metres, MIT licence\n"
        f"element vertex {len(coord)}\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header.encode("ascii") + coord.astype("<f4").tobytes())


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the sample where the command line says."""
    parser = argparse.ArgumentParser(prog="python -m training.sample", description=__doc__)
    parser.add_argument("path", type=Path, nargs="?", default=Path("samples/parcels.ply"))
    chosen = parser.parse_args(arguments)
    coord, label = scan()
    write_ply(chosen.path, coord)
    share = 100 * float((label == 1).mean())
    print(f"{chosen.path}: {len(coord)} points, {share:.1f} % on boxes, {chosen.path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
