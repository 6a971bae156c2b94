"""A model of random weights, in the files that a trained one has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from service.models.catalogue import FAMILIES
from service.models.layers.engine import engine
from service.models.site import Site
from service.transforms import Recipe

NETWORK: dict[str, Any] = {
    "type": "DefaultSegmentor",
    "backbone": {
        "type": "SpUNet-v1m1",
        "in_channels": 4,
        "num_classes": 2,
        "base_channels": 8,
        "channels": [8, 16, 24, 16, 16, 8],
        "layers": [1, 1, 1, 1, 1, 1],
    },
}
RECIPE = Recipe(0.01, ("ones", "residual"), centre="middle", max_extent_m=50.0)


def write(folder: Path) -> dict[str, Any]:
    """Write parcels.json and parcels.safetensors; return what the JSON holds."""
    torch.manual_seed(0)
    network = Site(engine("native", torch.device("cpu")), FAMILIES).build(NETWORK)
    weights = {key: value.half() if value.is_floating_point() else value for key, value in network.state_dict().items()}
    save_file(weights, folder / "parcels.safetensors")
    description = {
        "name": "parcels",
        "title": "Untrained",
        "family": "SpUNet-v1m1",
        "classes": [
            {"id": 0, "name": "background", "color": [128, 128, 128]},
            {"id": 1, "name": "box", "color": [230, 120, 20]},
        ],
        "inputs": list(RECIPE.features),
        "grid_size": RECIPE.grid_size,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "source": "random numbers",
        "about": {"accuracy": "none"},
        "recipe": RECIPE.to_dict(),
        "network": NETWORK,
    }
    save(folder, description)
    return description


def save(folder: Path, description: dict[str, Any]) -> None:
    """Write a model's JSON."""
    (folder / "parcels.json").write_text(json.dumps(description), encoding="utf-8")
