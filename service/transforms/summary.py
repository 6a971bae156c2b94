"""What a model says of a cloud that are not labels: one class for all of it, or features of its points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from service.errors import UnusableCloud
from service.transforms.prepare import Prepared
from service.transforms.recipe import Recipe
from service.transforms.restore import blend, spread
from service.transforms.threads import one_thread
from service.values import Classification, Embedding, ModelCard


def check_whole(prepared: Prepared, recipe: Recipe) -> None:
    """Refuse a cloud that was cut into tiles where one answer for all of it is wanted.

    Raises:
        UnusableCloud: it has too many voxels for one pass, or is too wide.
    """
    if len(prepared.tiles) > 1:
        raise UnusableCloud(
            f"The cloud has {prepared.voxels} voxels of {recipe.grid_size:g} m and was cut into "
            f"{len(prepared.tiles)} tiles, but this model's answer is about a cloud as a whole: send one of at most "
            f"{recipe.max_voxels} voxels."
        )


def classify(prepared: Prepared, logits: torch.Tensor, card: ModelCard) -> Classification:
    """Return the class of a cloud.

    Args:
        prepared: what `prepare` returned.
        logits: (1, C), C the card's classes in their order.
        card: the model's.

    Raises:
        ValueError: logits that do not belong to the card.
    """
    if tuple(logits.shape) != (1, len(card.classes)):
        raise ValueError(f"Logits of the shape {tuple(logits.shape)} do not belong to {len(card.classes)} classes.")
    scores = logits[0].float().softmax(dim=0).cpu().numpy()
    label = card.classes[int(scores.argmax())].id
    return Classification(label, scores, card.classes, card.name, prepared.points, prepared.warnings)


@one_thread()
def embed(prepared: Prepared, features: Sequence[torch.Tensor], card: ModelCard) -> Embedding:
    """Give every point the features of its voxel; where tiles overlap, their weighted mean.

    Args:
        prepared: what `prepare` returned.
        features: for each of its tiles (m, F).
        card: the model's.

    Raises:
        ValueError: features that do not belong to these tiles.
        TooLarge: the points' features are more than an answer holds.
    """
    sizes = [len(tile.coord) for tile in prepared.tiles]
    if [len(part) for part in features] != sizes:
        raise ValueError(f"Features of {[len(part) for part in features]} rows do not belong to tiles of {sizes}.")
    whole = features[0] if len(features) == 1 else blend(prepared, features)
    # Larger numbers than float16 has are its largest.
    most = float(np.finfo(np.float16).max)
    half = whole.clamp(-most, most).half()
    return Embedding(spread(half, prepared, np.nan), card.name, prepared.warnings)
