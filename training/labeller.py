"""Two ways to have a cloud labelled: by the model in this process, and by a service over HTTP."""

from __future__ import annotations

import io
import json
import urllib.request
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from service.models import catalogue
from service.models.batch import collate
from service.transforms import prepare, restore
from service.values import PointCloud

Labeller = Callable[[NDArray[np.float64]], NDArray[np.int64]]
"""Coordinates (n, 3) in, labels (n,) out; -1 for invalid points."""


def in_process(name: str, device: torch.device) -> Labeller:
    """Return a labeller that runs the model of this name here, as the service's worker does."""
    model = catalogue.load(name, device)

    def label(coord: NDArray[np.float64]) -> NDArray[np.int64]:
        made = prepare(PointCloud(coord), model.recipe, device)
        logits = [model.forward(collate([tile])) for tile in made.tiles]
        return restore(made, logits, model.card, scores=False).label.astype(np.int64)

    return label


def over_http(url: str, name: str) -> Labeller:
    """Return a labeller that posts clouds as NPY files to the service at the URL."""

    def label(coord: NDArray[np.float64]) -> NDArray[np.int64]:
        body = io.BytesIO()
        np.save(body, coord)
        return post(url, name, body.getvalue(), "npy")

    return label


def post(url: str, name: str, body: bytes, form: str) -> NDArray[np.int64]:
    """Return the labels (n,) that the service at the URL gives a file of the format.

    Raises:
        urllib.error.HTTPError: the service refused it.
    """
    address = f"{url.rstrip('/')}/v1/segment?model={name}&format={form}&output=json"
    request = urllib.request.Request(address, data=body, headers={"Content-Type": "application/octet-stream"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return np.array(json.load(answer)["labels"], dtype=np.int64)
