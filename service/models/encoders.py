"""Encoders that were trained without labels: Sonata, Concerto, Utonia. They give features of points, and no classes.

Their published checkpoints carry the network's arguments alone; Pointcept's own experiments of such a training hold
the encoder twice, as student and teacher, with heads and views that inference has no use for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn

from service.models.site import Site

PRETRAINING = ("Sonata-v1m1", "Sonata-v1m2", "Concerto-v1m1", "Utonia-v1m1")
"""Types of network in Pointcept's configurations for such a training."""
_STUDENT = "student.backbone."
_ARGUMENTS = {"in_channels", "enc_depths", "enc_channels"}
_CHANNELS = 9
_GRID_SIZE = {"Sonata": 0.02, "Utonia": 0.01}


def build(config: Mapping[str, Any], site: Site) -> nn.Module:
    """Return the encoder of a training's configuration: the student's, which Pointcept's fine-tuning takes too.

    Its attribute `taken_from` is what the names of its weights begin with in the checkpoint.
    """
    network = site.build(config["backbone"])
    network.taken_from = _STUDENT  # type: ignore[assignment]
    return network


def weights_of(network: nn.Module, weights: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """Return those of a checkpoint's weights that are the network's, by its own names."""
    prefix = getattr(network, "taken_from", None)
    if prefix is None:
        return weights
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def complete(
    values: Mapping[str, Any], keys: Collection[str] | None = None
) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Return a configuration with all that a model needs, and what was taken for granted.

    An encoder's own arguments become the `model` PT-v3m3 where the weights have rotary embeddings, else PT-v3m2. Where
    there is no `data`, or only the views of a training without labels, and the network reads coordinates, colours and
    normals, its input is what the encoders' own transforms make.

    Args:
        values: what a checkpoint carries, or an experiment's configuration.
        keys: names of the weights of the checkpoint that carries the configuration; None: it is that of an experiment's
            folder, which says all but what a training without labels leaves open.
    """
    if keys is not None and "model" not in values and set(values) >= _ARGUMENTS:
        rotates = any(key.endswith("rope.inv_freq") for key in keys)
        values = {"model": {"type": "PT-v3m3" if rotates else "PT-v3m2", **values}}
    network = values.get("model")
    if not isinstance(network, Mapping):
        return values, ()
    inner = network.get("backbone", network)
    trained = network.get("type") in PRETRAINING
    wanted = trained or (keys is not None and "data" not in values)
    if not wanted or not isinstance(inner, Mapping) or inner.get("in_channels") != _CHANNELS:
        return values, ()
    whose = "Utonia" if inner.get("type") == "PT-v3m3" else "Sonata"
    size = (_trained_on(values) if trained else None) or _GRID_SIZE[whose]
    # sonata/transform.py of facebookresearch/sonata and utonia/transform.py of Pointcept/Utonia, default().
    transform = (
        {"type": "CenterShift", "apply_z": True},
        {"type": "GridSample", "grid_size": size},
        {"type": "NormalizeColor"},
        {"type": "Collect", "feat_keys": ("coord", "color", "normal")},
    )
    what = (
        "The training's views are not what a cloud is seen in" if trained else "The checkpoint does not say its input"
    )
    note = f"{what}: {whose}'s transforms were taken, with voxels of {size:g} m."
    return {**values, "data": {"val": {"transform": transform}}}, (note,)


def _trained_on(values: Mapping[str, Any]) -> float | None:
    """Return the grid size of a training's transforms, where they begin with one."""
    data = values.get("data")
    entries = [data.get("train") if isinstance(data, Mapping) else None]
    for entry in entries:
        if not isinstance(entry, Mapping):
            continue
        size = entry.get("grid_size")
        if entry.get("type") == "GridSample" and isinstance(size, int | float):
            return float(size)
        for name in ("datasets", "transform"):
            inner = entry.get(name)
            entries.extend(inner if isinstance(inner, list | tuple) else [])
    return None
