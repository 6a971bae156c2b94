"""A model's answer goes back to the points that were asked about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from service.errors import TooLarge
from service.transforms import instances
from service.transforms.prepare import Prepared
from service.transforms.threads import one_thread
from service.values import IGNORED, Instance, ModelCard, Segmentation

MOST_BYTES = 4 << 30
"""Of what an answer says of the points of a cloud, by kind: features, or the probabilities of all classes."""


class Groups(Protocol):
    """How what a model of Pointcept's says of voxels becomes objects: `grouping.Grouping`, `masks.Masks`."""

    @property
    def channels(self) -> int:
        """What the network says of a voxel beside its logits."""

    @property
    def whole(self) -> bool:
        """Whether objects are told of a cloud as a whole, and of no tile of it."""

    @property
    def decides(self) -> bool:
        """Whether a voxel of an object has the object's label, whatever its logits are."""

    def objects(
        self, coord: torch.Tensor, raw: torch.Tensor, probability: torch.Tensor, points: torch.Tensor
    ) -> tuple[torch.Tensor, list[instances.Object]]:
        """Return the object of each voxel (M,), NONE where there is none, and the objects, that of most points first.

        Args:
            coord: (M, 3) metres. raw: (M, channels). probability: (M, C). points: (M,) of each voxel.
        """


@one_thread()
def restore(
    prepared: Prepared,
    logits: Sequence[torch.Tensor],
    card: ModelCard,
    *,
    scores: bool,
    confidence: bool = False,
    groups: Groups | None = None,
) -> Segmentation:
    """Give every point the label of its voxel, and its object; where tiles overlap, their weighted votes decide.

    Args:
        prepared: what `prepare` returned.
        logits: for each of its tiles (m, C), C the card's classes in their order; or (m, C + instances.CHANNELS) of a
            network that tells boxes apart; or with `groups` (m, C + its channels).
        card: the model's.
        scores: whether the answer holds class probabilities, and confidence with them.
        confidence: whether it holds the probability of the chosen class.
        groups: how objects are made for a model of Pointcept's; None: it has none.

    Raises:
        ValueError: logits that do not belong to these tiles or to this card.
    """
    sizes = [len(tile.coord) for tile in prepared.tiles]
    classes = len(card.classes)
    beside = instances.CHANNELS if groups is None else groups.channels
    separates = bool(logits) and logits[0].shape[1] == classes + beside
    width = classes + beside if separates else classes
    if [tuple(part.shape) for part in logits] != [(size, width) for size in sizes]:
        raise ValueError(
            f"Logits of the shapes {[tuple(part.shape) for part in logits]} do not belong to tiles of {sizes} voxels "
            f"and {classes} classes."
        )
    votes = _vote(prepared, [part[:, :classes] for part in logits], probabilities=scores or confidence or separates)
    if not separates:
        return from_votes(prepared, votes, card, scores=scores, confidence=confidence)
    own, objects = _separate(prepared, votes, [part[:, classes:] for part in logits], groups)
    best = votes.argmax(dim=1)
    if groups is not None and groups.decides and objects:
        kind = torch.tensor([one.class_index for one in objects], device=best.device)
        best = torch.where(own >= 0, kind[own.clamp(min=0)], best)
    found = from_votes(prepared, votes, card, scores=scores, confidence=confidence, best=best)
    made = tuple(
        Instance(number, found.classes[one.class_index].id, one.score, one.points) for number, one in enumerate(objects)
    )
    return replace(found, instance=spread(own.int(), prepared, instances.NONE), instances=made)


@one_thread()
def from_votes(
    prepared: Prepared,
    votes: torch.Tensor,
    card: ModelCard,
    *,
    scores: bool,
    confidence: bool = False,
    best: torch.Tensor | None = None,
) -> Segmentation:
    """Give every point the label that its voxel got the most votes for.

    Args:
        prepared: where each point's voxel stands among the votes.
        votes: (M, C), class probabilities where scores or confidence are asked for.
        card, scores, confidence: as in `restore`.
        best: (M,) int64 the classes, where something else than the votes decides.
    """
    ids = torch.tensor([info.id for info in card.classes], dtype=torch.int32, device=votes.device)
    best = votes.argmax(dim=1) if best is None else best
    label = spread(ids[best], prepared, IGNORED)
    sure = spread(votes.gather(1, best.unsqueeze(1))[:, 0], prepared, 0) if scores or confidence else None
    probability = spread(votes, prepared, 0) if scores else None
    return Segmentation(
        label,
        card.classes,
        card.name,
        sure,
        probability,
        prepared.warnings,
        metres_per_unit=prepared.metres_per_unit,
    )


def _vote(prepared: Prepared, logits: Sequence[torch.Tensor], probabilities: bool) -> torch.Tensor:
    """Return (M, C) float32 per voxel: class probabilities, or any numbers of the same order when none are wanted."""
    if len(logits) == 1:
        alone = logits[0].float()
        return alone.softmax(dim=1) if probabilities else alone
    return blend(prepared, [part.float().softmax(dim=1) for part in logits])


def _separate(
    prepared: Prepared, probability: torch.Tensor, raw: Sequence[torch.Tensor], groups: Groups | None
) -> tuple[torch.Tensor, list[instances.Object]]:
    """Return the object of each voxel, and the objects.

    Args:
        probability: (M, C) of the voxels. raw: for each tile (m, instances.CHANNELS), or (m, groups.channels).
    """
    assert prepared.coord is not None
    whole = raw[0].float() if len(raw) == 1 else blend(prepared, raw)
    points = torch.bincount(prepared.inverse, minlength=prepared.voxels)
    find = instances.objects if groups is None else groups.objects
    return find(prepared.coord, whole, probability, points)


def blend(prepared: Prepared, parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return (M, K) float32 per voxel: the weighted mean of what the tiles (m, K) say."""
    sums = torch.zeros(prepared.voxels, parts[0].shape[1], device=parts[0].device)
    weights = torch.zeros(prepared.voxels, 1, device=sums.device)
    for tile, part in zip(prepared.tiles, parts, strict=True):
        weight = tile.cells.weight.unsqueeze(1)
        # The rows of one tile are distinct, so the order of these sums is fixed on every device.
        sums.index_add_(0, tile.cells.rows, part.float() * weight)
        weights.index_add_(0, tile.cells.rows, weight)
    return sums / weights


def spread(values: torch.Tensor, prepared: Prepared, ignored: float) -> NDArray[Any]:
    """Return the voxels' values at the points; `ignored` at invalid points.

    Raises:
        TooLarge: they take more than MOST_BYTES.
    """
    row_bytes = values[:1].numel() * values.element_size()
    if prepared.points * row_bytes > MOST_BYTES:
        raise TooLarge(
            f"{prepared.points} points with {row_bytes} bytes of scores or features each are more than the "
            f"{MOST_BYTES >> 30} GB that an answer holds: send at most {MOST_BYTES // row_bytes} points at a time."
        )
    found: NDArray[Any] = values.index_select(0, prepared.inverse).cpu().numpy()
    if prepared.valid is None:
        return found
    all_points = np.full((prepared.points, *found.shape[1:]), ignored, dtype=found.dtype)
    all_points[prepared.valid] = found
    return all_points
