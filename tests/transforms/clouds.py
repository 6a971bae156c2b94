"""Clouds for the tests, and a stand-in for a network that looks at single voxels."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.transforms import Prepared, Recipe
from service.values import ClassInfo, ModelCard

CPU = torch.device("cpu")
CLASSES = tuple(ClassInfo(id, name, (0, 0, 0)) for id, name in ((0, "low"), (5, "middle"), (7, "high")))
CARD = ModelCard("stub", "Stub", "none", CLASSES, ("height",), 0.05, 0, "nowhere")
RECIPE = Recipe(0.05, ("height", "residual"))


def local_network(prepared: Prepared) -> list[torch.Tensor]:
    """Return logits that a voxel's height and place in its cell decide, for recipes that begin with `height`."""
    answers = []
    for tile in prepared.tiles:
        height = tile.feat[:, :1]
        answers.append(torch.cat([0.3 - height, 0.2 - (height - 0.5).abs(), height - 0.7], dim=1) * 10)
    return answers


def room(count: int, seed: int = 0, extent: tuple[float, float, float] = (2.0, 1.5, 1.0)) -> NDArray[np.float64]:
    """Return points on the floor and on a wall of a room, in metres."""
    random = np.random.default_rng(seed)
    coord = random.uniform(0, 1, (count, 3)) * extent
    coord[: count // 2, 2] *= 0.01
    coord[count // 2 :, 0] *= 0.01
    return coord


@st.composite
def coords(draw: st.DrawFn, smallest: int = 1, largest: int = 60) -> NDArray[np.float64]:
    """Clouds of a few points in millimetre steps, some of them at the same place."""
    points = draw(st.lists(st.tuples(*[st.integers(0, 900)] * 3), min_size=smallest, max_size=largest))
    return np.array(points, dtype=np.float64).reshape(-1, 3) / 1000
