"""Put trained weights into the service: python -m training.publish WEIGHTS --log LOG --figures FIGURES"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from service.models.cards import WEIGHTS
from training.recipe import CLASSES, NAME, NETWORK, RECIPE

SOURCE = "Trained for this service on generated scenes alone; no real scan was used in training."


def halve(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights in half precision; counters stay as they are.

    Raises:
        ValueError: a weight that half precision cannot hold.
    """
    halved = {}
    for name, value in state.items():
        half = value.half() if value.is_floating_point() else value
        if not bool(torch.isfinite(half.float()).all()):
            raise ValueError(f"The weight {name} has values that half precision cannot hold.")
        halved[name] = half.contiguous()
    return halved


def describe(state: Mapping[str, Tensor], about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model's JSON: card, recipe and network."""
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    parameters = sum(value.numel() for name, value in state.items() if name.rsplit(".", 1)[-1] not in buffers)
    return {
        "name": NAME,
        "title": "Boxes and parcels in depth-camera and scanner clouds, in any frame",
        "family": NETWORK["backbone"]["type"],
        "classes": [{"id": info.id, "name": info.name, "color": list(info.color)} for info in CLASSES],
        "inputs": list(RECIPE.features),
        "grid_size": RECIPE.grid_size,
        "parameters": parameters,
        "source": SOURCE,
        "about": dict(about),
        "recipe": RECIPE.to_dict(),
        "network": NETWORK,
    }


def publish(weights: Path, about: Mapping[str, Any], folder: Path = WEIGHTS) -> None:
    """Write NAME.safetensors, in half precision, and NAME.json into the folder."""
    from safetensors.torch import save_file

    state = torch.load(weights, map_location="cpu", weights_only=True)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(halve(state), folder / f"{NAME}.safetensors")
    text = json.dumps(describe(state, about), indent=2)
    (folder / f"{NAME}.json").write_text(text + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Publish as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m training.publish", description=__doc__)
    parser.add_argument("weights", type=Path, help="weights.pt of a training")
    parser.add_argument("--log", type=Path, nargs="*", default=(), help="log.json of each run, the first one first")
    parser.add_argument("--figures", type=Path, default=None, help="what training.evaluate --json wrote")
    parser.add_argument("--machine", default="one NVIDIA H100", help="where it was trained")
    parser.add_argument("--folder", type=Path, default=WEIGHTS, help="where to")
    chosen = parser.parse_args(arguments)
    about: dict[str, Any] = {
        "training_data": "generated scenes seen by simulated sensors (training/), no real scan",
        "what_a_box_is": "flat faces at right angles, edges of 2.5 cm to 1 m, closed or with an open lid",
        "licence": "MIT",
    }
    logs = [json.loads(path.read_text(encoding="utf-8")) for path in chosen.log]
    about["training"] = [
        {
            "generator": log["generator"],
            "seed": log["seed"],
            "steps": log["steps"],
            "views_per_step": log["views"],
            "minutes": round(log["seconds"] / 60, 1),
            "machine": chosen.machine,
        }
        for log in logs
    ]
    if chosen.figures:
        about["accuracy"] = _summary(json.loads(chosen.figures.read_text(encoding="utf-8")))
    publish(chosen.weights, about, chosen.folder)
    size = (chosen.folder / f"{NAME}.safetensors").stat().st_size
    print(f"{chosen.folder / NAME}.safetensors: {size} bytes")


def _summary(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures that belong on the card."""
    shown: dict[str, Any] = {}
    if "generated" in figures:
        shown["box_iou_generated"] = {row["generated"]: round(row["iou"], 4) for row in figures["generated"]}
    if "real" in figures:
        rows = figures["real"]
        shown["box_iou_25_kinect_scans_mean" if len(rows) == 25 else "box_iou_real_scans_mean"] = round(
            sum(row["iou"] for row in rows) / len(rows), 4
        )
        shown["instance_ap50_real_scans"] = round(figures["real_instances"][0]["ap50"], 4)
        shown["box_iou_real_scans_least"] = round(min(row["iou"] for row in rows), 4)
        shown["real_scans"] = "PointCloudLibrary/data, segmentation/mOSD/learn (evaluation only)"
    return shown


if __name__ == "__main__":
    main()
