"""A picture of right and wrong on held-out generated scenes: python -m training.gallery docs/images/held_out.png"""

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
from training.evaluate import HELD_OUT
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the picture that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m training.gallery", description=__doc__)
    parser.add_argument("path", type=Path, nargs="?", default=Path("docs/images/held_out.png"))
    parser.add_argument("--across", type=int, default=4, help="scenes of each kind of place")
    chosen = parser.parse_args(arguments)
    picture = gallery(in_process(NAME, torch.device("cpu")), chosen.across)
    chosen.path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).quantize(64).save(chosen.path, optimize=True)
    print(f"{chosen.path}: {picture.shape[1]} x {picture.shape[0]}")


if __name__ == "__main__":
    main()
