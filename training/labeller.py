"""Two ways to have a cloud labelled: by the model in this process, and by a service over HTTP."""

from __future__ import annotations

import io
import json
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from service.models import catalogue
from service.models.batch import collate
from service.transforms import prepare, restore
from service.values import PointCloud


@dataclass(frozen=True)
class Answer:
    """What is said of a cloud.

    Attributes:
        label: (n,) int64, -1 for invalid points.
        instance: (n,) int64, which object a point belongs to; -1: none.
        sure: how sure the model is of each object.
    """

    label: NDArray[np.int64]
    instance: NDArray[np.int64]
    sure: Mapping[int, float]


Labeller = Callable[[NDArray[np.float64]], Answer]
"""Coordinates (n, 3) in, what is said of them out."""


def in_process(name: str, device: torch.device) -> Labeller:
    """Return a labeller that runs the model of this name here, as the service's worker does."""
    model = catalogue.load(name, device)

    def label(coord: NDArray[np.float64]) -> Answer:
        made = prepare(PointCloud(coord), model.recipe, device)
        logits = [model.forward(collate([tile])) for tile in made.tiles]
        found = restore(made, logits, model.card, scores=False)
        assert found.instance is not None
        sure = {one.id: one.score for one in found.instances}
        return Answer(found.label.astype(np.int64), found.instance.astype(np.int64), sure)

    return label


def over_http(url: str, name: str) -> Labeller:
    """Return a labeller that posts clouds as NPY files to the service at the URL."""

    def label(coord: NDArray[np.float64]) -> Answer:
        body = io.BytesIO()
        np.save(body, coord)
        return post(url, name, body.getvalue(), "npy")

    return label


def post(url: str, name: str, body: bytes, form: str) -> Answer:
    """Return what the service at the URL says of a file of the format.

    Raises:
        urllib.error.HTTPError: the service refused it.
    """
    address = f"{url.rstrip('/')}/v1/segment?model={name}&format={form}&output=json"
    request = urllib.request.Request(address, data=body, headers={"Content-Type": "application/octet-stream"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        found = json.load(answer)
    label, instance = (np.array(found[key], dtype=np.int64) for key in ("labels", "instance"))
    return Answer(label, instance, {one["id"]: one["score"] for one in found["instances"]})
