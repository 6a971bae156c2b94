"""The test-time procedure, `tta=full`: a cloud looked at again and again, its points labelled by all looks together.

Pointcept's tester: softmax summed over fragments and augmentations, then argmax. The fragments of one augmentation have
the same cells, so that kernel maps and orders are made once for all of them; several run in one pass.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

import torch

from service.models.batch import Batch
from service.models.model import Model
from service.transforms.fragments import Look, Scene
from service.transforms.tiles import Cells

Tick = Callable[[float], None]
"""Called before each pass with the share of the work that is done, 0 to 1; what it raises ends the work."""

_ROWS_CPU = 16_384
"""Voxels of one pass on a CPU: small clouds share the cost of a pass, large ones gain nothing from company."""
_ROWS_CUDA = 2_000_000
_ROW_BYTES = 16_384
"""Device memory set aside for one voxel of a pass; networks were seen to take a quarter of it or less."""


@torch.inference_mode()
def vote(model: Model, scene: Scene, tick: Tick) -> torch.Tensor:
    """Return (n, C) float32: the class probabilities of the scene's points, the mean of all looks.

    Raises:
        UnusableCloud: an augmentation makes the cloud too wide for the grid.
    """
    votes = torch.zeros(len(scene.points), len(model.card.classes), device=model.device)
    most = _rows(model)
    looks = len(scene.recipe.augmentations)
    for number, look in enumerate(scene.looks()):
        for place, part in enumerate(look.parts):
            before = (number + place / len(look.parts)) / looks
            most = _run(model, look, part, votes, most, _from(tick, before, 1 / (looks * len(look.parts))))
    return votes / votes.sum(dim=1, keepdim=True)


def _from(tick: Tick, before: float, share: float) -> Tick:
    return lambda done: tick(before + done * share)


def _run(model: Model, look: Look, part: Cells, votes: torch.Tensor, most: int, tick: Tick) -> int:
    """Add the votes of a tile's fragments; return how many rows a pass can have, fewer than `most` when that failed."""
    grid_coord, rows = look.grid_coord(part), len(part.rows)
    together, start = _together(look.fragments, rows, most), 0
    batch: Batch | None = None
    while start < look.fragments:
        tick(start / look.fragments)
        # The last pass is filled up with fragments seen before, so that its cells are those of the others.
        inputs = [look.input(part, (start + i) % look.fragments) for i in range(together)]
        coord, feat = torch.cat([coord for coord, _ in inputs]), torch.cat([feat for _, feat in inputs])
        if batch is None:
            offset = torch.arange(1, together + 1, device=model.device) * rows
            batch = Batch(coord, grid_coord.repeat(together, 1), feat, offset)
        logits = None
        try:
            logits = model.forward(batch.with_features(coord, feat))
        except torch.cuda.OutOfMemoryError:
            if together == 1:
                raise
        if logits is None:
            # Out here the error is gone, and with it the frames that hold the tensors of the failed pass.
            batch, most = None, together * rows // 2
            together = _together(look.fragments - start, rows, most)
            torch.cuda.empty_cache()
            continue
        for i, probabilities in enumerate(logits.softmax(dim=1).split(rows)):
            if start + i < look.fragments:
                look.vote(votes, part, start + i, probabilities)
        start += together
    return most


def _together(fragments: int, rows: int, most: int) -> int:
    """Return how many fragments of so many rows share a pass: equally many in each, and few or none twice."""
    passes = ceil(fragments / max(1, min(fragments, most // rows)))
    return ceil(fragments / passes)


def _rows(model: Model) -> int:
    """Return how many voxels a pass can have; a single fragment may have more."""
    if model.device.type != "cuda":
        return _ROWS_CPU
    free, _ = torch.cuda.mem_get_info(model.device)
    idle = torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    return min(_ROWS_CUDA, (free + idle) // _ROW_BYTES)
