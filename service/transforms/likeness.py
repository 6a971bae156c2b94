"""How much objects look like boxes: how much of each lies on flat faces at right angles."""

from __future__ import annotations

import numpy as np

from service.transforms.faces import Faces, Floats, Rows

_SQUARE, _PARALLEL = float(np.sin(np.radians(15))), float(np.cos(np.radians(15)))
_FIRST, _MOST = 6, 40
"""Faces that are tried as one of the right angles, and those that are looked at, the largest ones."""
_ONE_WAY = 0.7
"""What an object is worth whose faces look one way alone: a board, a wall and the ground do, and some boxes."""


def likeness(found: Faces, node: Rows, number: int) -> Floats:
    """Return for each object (number,), 0 to 1, the share of its cells on faces that are square or parallel to others.

    Args:
        found: the faces of all objects.
        node: (n,) int64, the object of each cell, from 0 on; below 0: none.
        number: of objects.
    """
    cells = np.bincount(node[node >= 0], minlength=number)
    on_face = (found.face >= 0) & (node >= 0)
    owner = np.full(len(found), -1, dtype=np.int64)
    owner[found.face[on_face]] = node[on_face]
    size = np.bincount(found.face[on_face], minlength=len(found))
    best = np.zeros(number)
    for one in np.unique(owner[owner >= 0]).tolist():
        own = np.flatnonzero(owner == one)
        own = own[np.argsort(-size[own], kind="stable")][:_MOST]
        cosine = np.abs(found.normal[own] @ found.normal[own].T)
        for first in range(min(_FIRST, len(own))):
            chosen = [first]
            for other in range(len(own)):
                if (cosine[other, chosen] < _SQUARE).all():
                    chosen.append(other)
            share = size[own[(cosine[:, chosen] > _PARALLEL).any(axis=1)]].sum() / cells[one]
            best[one] = max(best[one], share * (_ONE_WAY if len(chosen) == 1 else 1.0))
    return best.clip(max=1.0)
