"""Embeddings of class names that a network compares points with, where its checkpoint does not hold them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from service.errors import UnusableModel

KEY = "class_embeddings"
FILE = f"{KEY}.npy"
_LENGTH = 1e-2
"""How far from 1 the length of an embedding may be."""


def complete(
    network: nn.Module, weights: Mapping[str, torch.Tensor], checkpoint: Path, configuration: Path | None
) -> dict[str, torch.Tensor]:
    """Return weights with the texts of a network that compares points with them and whose weights do not hold them.

    Args:
        network: of the weights, with or without numbers; only PPT-v1m3 has such texts.
        weights: of the checkpoint.
        checkpoint: its path; the file class_embeddings.npy is looked for beside it.
        configuration: path of its config.py, beside which the file may be too.

    Raises:
        UnusableModel: there is no such file, or it does not hold the texts of this network.
    """
    wanted: Any = getattr(network, KEY, None)
    if wanted is None or KEY in weights:
        return dict(weights)
    folders = [path.parent for path in (checkpoint, configuration) if path is not None]
    path = next((folder / FILE for folder in folders if (folder / FILE).is_file()), None)
    names, channels = wanted.shape
    if path is None:
        raise UnusableModel(
            f"The network of {checkpoint} compares points with what CLIP ({getattr(network, 'clip_model', '')}) makes "
            f"of its {names} class names, which Pointcept does not save: {FILE}, ({names}, {channels}) float32, is "
            f"wanted in {folders[-1]}; docs/models.md says how it is made."
        )
    return {**weights, KEY: _read(path, names, channels)}


def _read(path: Path, names: int, channels: int) -> torch.Tensor:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UnusableModel(f"The texts {path} cannot be read: {error}.") from error
    if not isinstance(found, np.ndarray) or found.shape != (names, channels) or found.dtype.kind != "f":
        what = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else "several arrays"
        raise UnusableModel(f"The texts {path} are {what}; they must be float32 ({names}, {channels}).")
    texts = torch.from_numpy(found.astype(np.float32))
    if not bool(((texts.norm(dim=1) - 1).abs() < _LENGTH).all()):
        raise UnusableModel(f"The texts {path} have rows of another length than 1; divide each by its length.")
    return texts
