"""What is trained: the bundled model's input, its network, its classes."""

from __future__ import annotations

from typing import Any

from service.transforms import Recipe
from service.values import ClassInfo

NAME = "parcels"
CLASSES = (ClassInfo(0, "background", (128, 128, 128)), ClassInfo(1, "box", (230, 120, 30)))

RECIPE = Recipe(
    grid_size=0.008,
    features=("ones", "elevation", "relief", "residual"),
    max_voxels=250_000,
    overlap=48,
    max_extent_m=100.0,
    level=True,
)

NETWORK: dict[str, Any] = {
    "type": "InstanceSegmentor",
    "num_classes": len(CLASSES),
    "backbone_out_channels": 32,
    "backbone": {
        "type": "SpUNet-v1m1",
        "in_channels": RECIPE.width,
        "num_classes": 0,
        "base_channels": 32,
        "channels": [48, 64, 96, 128, 96, 64, 48, 32],
        "layers": [2, 2, 1, 1, 1, 1, 1, 1],
    },
}
