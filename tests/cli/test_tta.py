"""`pointserve segment --tta full`, with an experiment's own augmentations and with a model that has none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from service.engine.labelling import Wishes, label
from service.models import catalogue
from service.settings import Settings
from service.values import PointCloud, Segmentation
from tests.cli.conftest import pointserve
from tests.models import experiments


def test_a_file_is_looked_at_again_and_again(tmp_path: Path) -> None:
    experiments.write(tmp_path / "small")
    random = np.random.default_rng(0)
    coord = random.uniform(0, 0.3, (300, 3))
    color = random.integers(0, 256, coord.shape, dtype=np.uint8)
    normal = random.normal(size=coord.shape).astype(np.float32)
    file = tmp_path / "cloud.npz"
    np.savez(file, coord=coord, color=color, normal=normal)
    out = tmp_path / "out"
    options = ("-o", out, "--model", tmp_path / "small", "--tta", "full", "--output", "json", "--device", "cpu")
    said = pointserve("segment", file, *options)
    assert said.returncode == 0, said.stderr
    found = json.loads((out / "cloud_labelled.json").read_text())
    model = catalogue.sources(Settings(models=str(tmp_path / "small")))["small"].load(torch.device("cpu"), "auto")
    (expected,) = label(model, [PointCloud(coord, color, normal)], [Wishes(tta="full")])
    assert isinstance(expected, Segmentation)
    assert (np.array(found["labels"]) == expected.label).mean() > 0.999


def test_a_model_without_augmentations_says_so(sample: Path, tmp_path: Path) -> None:
    said = pointserve("segment", sample, "-o", tmp_path, "--tta", "full")
    assert said.returncode == 1
    assert "the model parcels has no test-time augmentations: use tta=none" in said.stderr
