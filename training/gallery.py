"""Pictures: right and wrong on held-out generated scenes, or the boxes found in real scans.

python -m training.gallery docs/images/held_out.png
python -m training.gallery docs/images/real_boxes.png --real DIR --names learn17 learn21
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from training import clouds, scenes
from training.clouds import Cloud
from training.evaluate import HELD_OUT, read_real
from training.labeller import Labeller, in_process
from training.recipe import NAME

_ROWS, _COLUMNS, _FOCAL = 168, 224, 168.0
_HIT, _MISSED, _EXTRA, _CLUTTER, _REST = (40, 160, 70), (50, 90, 230), (225, 60, 40), (170, 160, 90), (120, 120, 120)


def tile(cloud: Cloud, label: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the cloud as its camera saw it, (rows, columns, 3): boxes green, missed ones blue, false ones red."""
    x, y, z = clouds.in_camera(cloud).double().cpu().numpy().T
    truth, number = cloud.label.cpu().numpy(), cloud.number.cpu().numpy()
    column = (x / z * _FOCAL + _COLUMNS / 2).astype(int)
    row = (y / z * _FOCAL + _ROWS / 2).astype(int)
    seen = np.flatnonzero((z > 0) & (column >= 0) & (column < _COLUMNS) & (row >= 0) & (row < _ROWS))
    seen = seen[np.argsort(-z[seen])]
    kinds = np.select(
        [(truth == 1) & (label == 1), truth == 1, label == 1, number > 0], [0, 1, 2, 3], default=4
    )  # fmt: skip
    shade = np.interp(z, np.percentile(z, (2, 98)), (1.15, 0.55))[:, None]
    color = (np.array((_HIT, _MISSED, _EXTRA, _CLUTTER, _REST))[kinds] * shade).clip(0, 255)
    picture = np.full((_ROWS, _COLUMNS, 3), 20, dtype=np.uint8)
    picture[row[seen], column[seen]] = color[seen].astype(np.uint8)
    return picture


def gallery(label: Labeller, across: int) -> NDArray[np.uint8]:
    """Return `across` held-out scenes of each kind of place, a row for each kind."""
    rows = []
    for index, place in enumerate(scenes.PLACES[:-1]):
        tiles = []
        for number in range(across):
            cloud = clouds.generate(
                (HELD_OUT, 700 + index, number), 1, torch.device("cpu"), place=place,
                family="structured", shape=(240, 320), fuse=1,
            )[0]  # fmt: skip
            tiles.append(tile(cloud, label(clouds.in_camera(cloud).double().numpy()).label))
        rows.append(np.concatenate(tiles, axis=1))
    return np.concatenate(rows, axis=0)


_BACK = np.array((105, 105, 105))
_BOXES = np.array(
    ((230, 120, 30), (60, 140, 220), (90, 180, 80), (200, 80, 160), (220, 200, 60), (120, 90, 200), (70, 190, 190))
)


def scan(coord: NDArray[np.float64], instance: NDArray[np.int64], label: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return a depth camera's cloud (n, 3) as the camera saw it, each box (n,) in a colour of its own.

    Box points of no instance are white. The picture is (240, 320, 3) uint8.
    """
    kept = np.isfinite(coord).all(axis=1)
    (x, y, z), own, box = coord[kept].T, instance[kept], label[kept] == 1
    column, row = (x / z * 262 + 160).astype(int), (y / z * 262 + 120).astype(int)
    seen = np.flatnonzero((column >= 0) & (column < 320) & (row >= 0) & (row < 240))
    seen = seen[np.argsort(-z[seen])]
    color = np.where(box[:, None], 255, _BACK)
    color = np.where((own >= 0)[:, None], _BOXES[own % len(_BOXES)], color)
    shade = np.interp(z, np.percentile(z, (2, 98)), (1.15, 0.55))[:, None]
    picture = np.full((240, 320, 3), 20, dtype=np.uint8)
    picture[row[seen], column[seen]] = (color * shade)[seen].clip(0, 255).astype(np.uint8)
    return picture


def scans(folder: Path, names: Sequence[str], label: Labeller, across: int) -> NDArray[np.uint8]:
    """Return pictures of real scans, `across` in a row: on top what was found, below it what is true."""
    columns = []
    for name in names:
        coord, truth, box = read_real(folder / f"{name}.pcd")
        answer = label(coord)
        true = np.where(box >= 0, box - 2, -1)
        columns.append(np.concatenate([scan(coord, answer.instance, answer.label), scan(coord, true, truth)], axis=0))
    blank = np.full_like(columns[0], 20)
    columns += [blank] * (-len(columns) % across)
    rows = [np.concatenate(columns[first : first + across], axis=1) for first in range(0, len(columns), across)]
    return np.concatenate(rows, axis=0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the picture that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m training.gallery", description=__doc__)
    parser.add_argument("path", type=Path, nargs="?", default=Path("docs/images/held_out.png"))
    parser.add_argument("--across", type=int, default=4, help="scenes of each kind of place, or scans in a row")
    parser.add_argument("--real", type=Path, default=None, help="folder of labelled PCD scans")
    parser.add_argument("--names", nargs="+", default=("learn0",), help="names of the scans, without .pcd")
    chosen = parser.parse_args(arguments)
    label = in_process(NAME, torch.device("cpu"))
    if chosen.real:
        picture = scans(chosen.real, chosen.names, label, chosen.across)
    else:
        picture = gallery(label, chosen.across)
    chosen.path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).quantize(64).save(chosen.path, optimize=True)
    print(f"{chosen.path}: {picture.shape[1]} x {picture.shape[0]}")


if __name__ == "__main__":
    main()
