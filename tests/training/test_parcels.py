"""The bundled model, with the weights that are in the repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from service.models.cards import WEIGHTS, description
from training import clouds, evaluate, objects, sample, scenes
from training.labeller import Labeller, in_process
from training.metrics import score

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def label() -> Labeller:
    return in_process("parcels", CPU)


def test_the_weights_are_small_and_the_card_tells_where_they_came_from() -> None:
    assert (WEIGHTS / "parcels.safetensors").stat().st_size <= 8_000_000
    about = description("parcels")["about"]
    assert about["licence"] == "MIT" and "no real scan" in about["training_data"]
    assert about["training"] and about["accuracy"]


def test_the_sample_is_what_its_program_writes(tmp_path: Path) -> None:
    stored = (ROOT / "samples" / "parcels.ply").read_bytes()
    assert len(stored) < 3_000_000 and b"property float z\nend_header\n" in stored and b"label" not in stored
    coord, _ = sample.scan()
    sample.write_ply(tmp_path / "again.ply", coord)
    again = (tmp_path / "again.ply").read_bytes()
    # Another processor may round the last bit of a distance otherwise, so that a point more or less is kept.
    assert abs(len(stored) - len(again)) < 0.001 * len(stored)


def test_the_sample_is_labelled_well(label: Labeller) -> None:
    coord, truth = sample.scan()
    assert score(label(coord.astype(np.float64)).label, truth).iou > 0.9


# The first scene is seen from 65 cm. Boxes have 715 of its 73,844 points, two that a corner of the image cuts off;
# 3,208 points of a laptop, a cup, a lamp and a monitor are called box. The other two scenes have 0.64 together.
@pytest.mark.xfail(reason="clutter seen from near is called box: IoU 0.07 in one of three scenes, 0.52 in all")
def test_held_out_boxes_on_a_table_are_found(label: Labeller) -> None:
    total = None
    for number in range(3):
        seed = (evaluate.HELD_OUT, 500, number)
        cloud = clouds.generate(seed, 1, CPU, place=scenes.tabletop, family="structured", shape=(240, 320), fuse=1)[0]
        coord = clouds.frame(cloud, np.random.default_rng(seed)).double().numpy()
        got = score(label(coord).label, cloud.label.numpy())
        total = got if total is None else total + got
    assert total is not None and total.iou > 0.55


@pytest.mark.parametrize("name", ["learn3", "learn9", "learn24"])
def test_real_scans_in_any_frame_and_unit(name: str, label: Labeller, shared: Path) -> None:
    coord, truth, _box = evaluate.read_real(shared / "data" / "boxes" / f"{name}.pcd")
    plain = label(coord).label
    assert (plain[~np.isfinite(coord).all(axis=1)] == -1).all()
    iou = score(plain, truth).iou
    assert iou > 0.93
    rng = np.random.default_rng(7)
    turned = coord @ objects.tumble(rng).T + (3.0, -2.0, 5.0)
    assert score(label(turned).label, truth).iou == pytest.approx(iou, abs=0.02)
    assert score(label(coord * 1000).label, truth).iou == pytest.approx(iou, abs=0.005)


def test_the_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    evaluate.show([{"scan": "one", "iou": 0.5}, {"scan": "two", "iou": 1.0}], "Some scans")
    shown = capsys.readouterr().out
    assert "0.7500" in shown and "mean" in shown
