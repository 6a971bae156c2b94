"""`tta=full` against the transforms of a Pointcept checkout, for each distinct `data.test` of its configurations.

    python -m benchmarks.tta_configs CHECKOUT [--only PART ...] [--seconds 600]

Pointcept's own code augments, voxelizes and collects a small made-up cloud, as its datasets do in test mode; a small
random network of ours, the same for both, labels each fragment; softmax is summed, as its tester does. Where many
points share a cell, the tester takes them in an order that an unstable sort leaves: here that sort is stable, so that
both take them in the order of the cloud, and all numbers can be compared.

Prints a line for each that differs by more than 1e-4 in a probability or in a label, and the largest difference of all.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import pointcept
from benchmarks.machine import machine
from service.engine.labelling import Wishes, label
from service.errors import ServiceError
from service.models import config, substitutes
from service.models.batch import Batch
from service.models.catalogue import FAMILIES
from service.models.experiment import Experiment, Plan
from service.models.layers.engine import engine
from service.models.model import Model
from service.models.site import Site
from service.transforms import fragments
from service.transforms.augment import Scaling
from service.transforms.steps import anchored
from service.values import PointCloud, Segmentation

LARGEST_ERROR = 1e-4
CPU = torch.device("cpu")


class Stable:
    """numpy, whose argsort leaves what is equal in its order."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def argsort(keys: NDArray[Any]) -> NDArray[np.int64]:
        """Return the order of keys."""
        return np.argsort(keys, kind="stable")


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--only", action="append", help="part of the paths that are wanted; may be repeated")
    parser.add_argument("--seconds", type=float, default=600.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    theirs = pointcept.load(arguments.checkout, networks=False)
    sys.modules["pointcept.datasets.transform"].np = Stable()  # type: ignore[attr-defined]
    print(machine())
    worst, left, compared = 0.0, Counter[str](), 0
    until = time.monotonic() + arguments.seconds
    for path, values in _distinct(arguments.checkout, arguments.only or [""]):
        if time.monotonic() > until:
            left["no time was left"] += 1
            continue
        try:
            error, same = _compare(path, values, theirs)
        except (ServiceError, TypeError, ValueError) as why:
            # Pointcept's own code refuses some of its older configurations by a TypeError.
            left[str(why)[:150]] += 1
            continue
        compared, worst = compared + 1, max(worst, error)
        if error > LARGEST_ERROR or same < 1:
            print(
                f"{path}: probabilities differ by {error:.1e}, {100 * same:.2f} % of the labels are equal", flush=True
            )
    print(f"{compared} test procedures compared, largest difference of a probability {worst:.1e}")
    for reason, count in left.most_common():
        print(f"{count:3d} left out: {reason}")


def _distinct(checkout: Path, parts: list[str]) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Yield a configuration for each test procedure."""
    seen = set()
    for path in sorted((checkout / "configs").rglob("*.py")):
        if "_base_" in path.parts or not any(part in str(path) for part in parts):
            continue
        values, _ = config.read(path)
        test = values.get("data", {}).get("test")
        if isinstance(test, Mapping) and (test.get("test_cfg") or {}).get("voxelize"):
            given = substitutes.of(test)
            key = json.dumps([test["transform"], test["test_cfg"], sorted(given.zero)], default=str, sort_keys=True)
            if key not in seen:
                seen.add(key)
                yield path, values


def _compare(path: Path, values: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[float, float]:
    """Return the largest difference of a probability, and the share of equal labels.

    Raises:
        ServiceError, ValueError: what is not served. TypeError: what Pointcept's own code refuses.
    """
    plan = Experiment(path.stem, path, FAMILIES).plan(values)
    if not plan.recipe.augmentations:
        raise ValueError("tta=full is not offered")
    cloud = _cloud(plan)
    network = _network(plan)
    model = Model(network, plan.card, plan.recipe, engine("native", CPU), CPU)
    wanted = _votes(cloud, values["data"]["test"], network, len(plan.card.classes), theirs)
    (found,) = label(model, [cloud], [Wishes(scores=True, tta="full")])
    assert isinstance(found, Segmentation) and found.scores is not None, found
    return float(np.abs(found.scores - wanted).max()), float((found.label == wanted.argmax(axis=1)).mean())


def _votes(
    cloud: PointCloud, test: Mapping[str, Any], network: Any, classes: int, theirs: Mapping[str, Any]
) -> NDArray[np.float32]:
    """Return the mean probabilities (N, C) of `prepare_test_data` of Pointcept's datasets and its SemSegTester."""
    compose, transforms = theirs["Compose"], theirs["TRANSFORMS"]
    assert cloud.color is not None and cloud.normal is not None and cloud.intensity is not None
    data: dict[str, Any] = {
        "coord": cloud.coord.astype(np.float32),
        "color": cloud.color.astype(np.float32),
        "normal": cloud.normal.copy(),
        "strength": cloud.intensity.reshape(-1, 1).copy(),
        "segment": np.zeros(len(cloud), np.int32),
        "instance": np.zeros(len(cloud), np.int32),
    }
    for name in substitutes.of(test).zero:
        data[name] = np.zeros_like(data[name])
    random.seed(0)
    np.random.seed(0)
    data = compose(test["transform"])(data)
    data.pop("segment")
    if (inverse := data.pop("inverse", None)) is not None:
        # Each point has a fine cell of its own: back into the order of the cloud.
        for name in ("coord", "color", "normal", "strength"):
            data[name] = data[name][inverse]
    voxelize = transforms.build({**test["test_cfg"]["voxelize"], "return_grid_coord": True})
    after = compose([_with_cells(entry) for entry in test["test_cfg"]["post_transform"]])
    votes = torch.zeros(len(cloud), classes)
    for entry in test["test_cfg"]["aug_transform"]:
        for fragment in map(after, voxelize(compose(entry)(copy.deepcopy(data)))):
            coord, cells, feat = fragment["coord"].float(), fragment["grid_coord"].int(), fragment["feat"].float()
            with torch.inference_mode():
                logits = network(Batch(coord, cells, feat, torch.tensor([len(coord)])))
            votes[fragment["index"].long()] += logits.softmax(dim=1)
    return (votes / votes.sum(dim=1, keepdim=True)).numpy()


def _with_cells(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a transform that collects cells too, which networks without a grid have no use for."""
    return {**entry, "keys": [*{*entry["keys"], "grid_coord"}]} if entry["type"] == "Collect" else entry


def _network(plan: Plan) -> Any:
    """Return a network whose answers differ from point to point."""
    torch.manual_seed(3)
    backbone = {
        "type": "SpUNet-v1m1",
        "in_channels": plan.recipe.width,
        "num_classes": len(plan.card.classes),
        "base_channels": 16,
        "channels": [16, 24, 24, 16],
        "layers": [1, 1, 1, 1],
    }
    made = Site(engine("native", CPU), FAMILIES).build({"type": "DefaultSegmentor", "backbone": backbone})
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(1.6)
    return made.eval()


def _cloud(plan: Plan) -> PointCloud:
    """Return a cloud with several points in a voxel, but one in each cell of the configuration's thinning."""
    recipe, drawn = plan.recipe, np.random.default_rng(0)
    if recipe.thin_size is None:
        coord = drawn.uniform(0, 1, (1000, 3)) * recipe.grid_size * [7, 7, 4]
    else:
        cells = np.stack(np.meshgrid(*[np.arange(10)] * 3), axis=-1).reshape(-1, 3)
        coord = (2 * cells + 1 + drawn.uniform(-0.3, 0.3, cells.shape)) * recipe.thin_size
    coord /= math.prod(step.factor for step in recipe.before or () if isinstance(step, Scaling))
    # Single precision is what Pointcept reads; a lidar's clouds lie about its zero.
    coord = (coord + ([1.3, -2.2, 0.4] if anchored(recipe.before or ()) else [-2, -1, -1.5])).astype(np.float32)
    normal = drawn.normal(size=coord.shape).astype(np.float32)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    color = drawn.integers(0, 256, coord.shape).astype(np.uint8)
    cloud = PointCloud(coord.astype(np.float64), color, normal, drawn.random(len(coord)).astype(np.float32))
    if recipe.thin_size is None:
        return cloud
    # In the order in which thinning leaves points.
    order = np.argsort(fragments.scene(cloud, recipe, CPU).prepared.inverse.numpy())
    return PointCloud(cloud.coord[order], color[order], normal[order], cloud.intensity[order])  # type: ignore[index]


if __name__ == "__main__":
    main()
