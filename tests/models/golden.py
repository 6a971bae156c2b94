"""Golden numbers of Pointcept's own code: cases, their weights by the fixtures' recipe, their inputs as batches."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from service.models.batch import Batch
from service.models.site import Generation, Site


@dataclass(frozen=True)
class Case:
    """One fixture: its JSON and its arrays."""

    about: dict[str, Any]
    arrays: dict[str, NDArray[Any]]

    def build(self, site: Site) -> nn.Module:
        """Return the network of the case's configuration with the case's weights, all of them."""
        network = site.build(self.about["config"])
        network.load_state_dict(self.weights(network.state_dict()), strict=True)
        return network.eval()

    @property
    def backbone(self) -> dict[str, Any]:
        """The backbone's arguments."""
        return {key: value for key, value in self.about["config"]["backbone"].items() if key != "type"}

    def weights(self, constructed: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the state_dict that the fixture's recipe describes."""
        made = {}
        for key, shape, _ in self.about["state_dict"]:
            value = _weight(key, tuple(shape), self.about)
            made[key] = constructed[key] if value is None else torch.from_numpy(value)
        return made

    @property
    def generation(self) -> Generation:
        """Which Pointcept made the numbers."""
        return "v1.5.1" if self.about["pointcept"]["version"] == "v1.5.1" else "v1.6"

    @property
    def clouds(self) -> int:
        """Number of clouds."""
        return len(self.arrays["offset"])

    @property
    def expected(self) -> NDArray[Any]:
        """Logits that each cloud must have, whatever else is in the batch."""
        return self.arrays.get("logits_alone", self.arrays["logits"])

    def batch(self, cloud: int | None = None) -> Batch:
        """Return all clouds of the case, or one of them alone."""
        coord, grid_coord, feat, offset = (
            torch.from_numpy(self.arrays[name]) for name in ("coord", "grid_coord", "feat", "offset")
        )
        if cloud is not None:
            rows = self.rows(cloud)
            coord, grid_coord, feat = coord[rows], grid_coord[rows], feat[rows]
            offset = torch.tensor([rows.stop - rows.start])
        return Batch(coord, grid_coord, feat, offset, condition=self.about["condition"])

    def rows(self, cloud: int) -> slice:
        """Return the rows of one cloud."""
        ends = [0, *self.arrays["offset"].tolist()]
        return slice(ends[cloud], ends[cloud + 1])


def read(folder: Path, name: str) -> Case:
    """Return a fixture of the folder ../shared/parity."""
    about = json.loads((folder / "parity" / f"{name}.json").read_text())
    with np.load(folder / "parity" / f"{name}.npz") as arrays:
        return Case(about, dict(arrays))


def agreement(ours: torch.Tensor, theirs: NDArray[Any]) -> float:
    """Return the share of rows that have the same largest channel."""
    return float((ours.float().cpu().numpy().argmax(axis=1) == theirs.argmax(axis=1)).mean())


def error(ours: torch.Tensor, theirs: NDArray[Any]) -> tuple[float, float]:
    """Return the largest and the mean difference, in standard deviations of the golden numbers."""
    difference = np.abs(ours.float().cpu().numpy() - theirs) / theirs.std()
    return float(difference.max()), float(difference.mean())


def _weight(key: str, shape: tuple[int, ...], about: dict[str, Any]) -> NDArray[np.float32] | None:
    """Return an entry by the recipe of ../shared/parity/README.md; None: what the network constructed stays."""
    last = key.rsplit(".", 1)[-1]
    if last in ("num_batches_tracked", "inv_freq"):
        return None
    rng = np.random.default_rng([about["seed"], zlib.crc32(key.encode())])
    normal = np.asarray(rng.standard_normal(shape)).astype(np.float32)
    if last == "running_var":
        value = 1 + 0.1 * np.abs(normal)
    elif last == "logit_scale":
        value = np.full(normal.shape, 2.0)
    elif last == "rpe_table":
        value = 0.5 * normal
    elif "embedding_table" in key:
        value = normal
    elif normal.ndim <= 1:
        value = 1 + 0.1 * normal if last in ("weight", "gamma") else 0.1 * normal
    else:
        gain = about["gain_conv"] if normal.ndim == 5 else 0.4 if "modulation" in key else about["gain_linear"]
        value = gain * normal / np.sqrt(normal.size / normal.shape[0])
    value = np.asarray(value, dtype=np.float32) * np.float32(about["key_scale"].get(key, 1.0))
    return np.asarray(value, dtype=np.float32).reshape(shape)
