"""Lessons, the loss, the loop, publishing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from service.models.batch import Batch
from service.models.catalogue import FAMILIES
from service.models.layers.engine import engine as choose_engine
from service.models.site import Site
from service.transforms import Recipe, instances, prepare
from service.values import PointCloud
from training import batches, losses, publish, train
from training.batches import Lesson
from training.objects import tumble
from training.recipe import CLASSES, NETWORK, RECIPE

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def lesson() -> Lesson:
    return batches.lesson((12, 1), 1, RECIPE, CPU)


def test_a_lesson_is_the_same_for_the_same_seed(lesson: Lesson) -> None:
    again = batches.lesson((12, 1), 1, RECIPE, CPU)
    assert torch.equal(lesson.batch.grid_coord, again.batch.grid_coord)
    assert torch.equal(lesson.batch.feat, again.batch.feat)
    assert torch.equal(lesson.share, again.share)


def test_a_lesson_is_what_the_network_reads(lesson: Lesson) -> None:
    rows = len(lesson.batch.grid_coord)
    assert lesson.batch.feat.shape == (rows, NETWORK["backbone"]["in_channels"]) == (rows, RECIPE.width)
    assert lesson.share.shape == lesson.weight.shape == (rows,)
    assert lesson.share.min() >= 0 and lesson.share.max() <= 1 and lesson.weight.min() > 0


def test_targets_are_the_share_of_box_points_of_each_voxel() -> None:
    coord = np.array([[0.0, 0, 0], [0.1, 0, 0], [0.2, 0, 0], [5.0, 0, 0]])
    made = prepare(PointCloud(coord), Recipe(grid_size=1.0, features=("ones",)), CPU)
    share, count = batches.targets(made, torch.tensor([1, 0, 0, 1]))
    assert share.tolist() == pytest.approx([1 / 3, 1.0]) and count.tolist() == [3.0, 1.0]


def test_the_loss_is_least_for_the_right_answer(lesson: Lesson) -> None:
    truth = (lesson.share > 0.5).float()
    sharp = dataclasses.replace(lesson, share=truth)
    right = torch.stack([1 - truth, truth], 1) * 20
    assert losses.classes(right, sharp) < 0.01
    assert losses.classes(torch.zeros_like(right), sharp) > 0.5
    assert losses.classes(-right, sharp) > 5


def perfect(lesson: Lesson) -> torch.Tensor:
    """Return the output (M, 7) of a network that knows every box's centre."""
    output = torch.zeros(len(lesson.share), 2 + instances.CHANNELS)
    output[:, 1] = (lesson.share > 0.5).float() * 40 - 20
    there = lesson.instance >= 0
    output[there, 2:5] = (lesson.center - lesson.batch.coord)[there] / 0.1
    output[:, 5:7] = -2
    return output


def test_the_whole_loss_is_least_for_who_knows_every_centre(lesson: Lesson) -> None:
    sharp = dataclasses.replace(lesson, share=(lesson.share > 0.5).float())
    right = perfect(sharp)
    assert losses.total(right, sharp) < 0.05
    for columns, worse in ((slice(2, 5), 0.3), (slice(5, 7), -1.0)):
        wrong = right.clone()
        wrong[:, columns] += torch.linspace(-worse, worse, len(wrong))[:, None]
        assert losses.total(wrong, sharp) > losses.total(right, sharp) + 0.02


def test_a_lesson_knows_where_each_boxs_centre_is(lesson: Lesson) -> None:
    """Every voxel of a box is nearer to its box's centre than half the box's diagonal, but for the sensor's noise."""
    there = lesson.instance >= 0
    assert there.sum() > 100 and (lesson.center[~there] == 0).all()
    away = (lesson.center - lesson.batch.coord)[there].norm(dim=1) / lesson.size[there]
    assert 0.2 < away.median() < 3 and away.max() < 8
    for number in lesson.instance[there].unique():
        own = lesson.instance == number
        assert len(lesson.center[own].unique(dim=0)) == 1 and len(lesson.size[own].unique()) == 1


def test_a_rigid_motion_is_found_again() -> None:
    random = np.random.default_rng(4)
    for flat in (1.0, 0.0):
        before = random.normal(0, 1, (50, 3)) * (1, 1, flat)
        turned, shift = tumble(random), random.normal(0, 5, 3)
        rotation, moved = batches.rigid(torch.from_numpy(before), torch.from_numpy(before @ turned.T + shift))
        assert np.allclose(rotation, turned, atol=1e-6) and np.allclose(moved, shift, atol=1e-6)


def test_mirroring_keeps_the_scene(lesson: Lesson) -> None:
    """Cell plus residual is where a voxel's mean lies: mirrored, all distances between means stay."""

    def means(batch: Batch) -> torch.Tensor:
        return batch.grid_coord + 0.5 + batch.feat[:, -3:]

    before = torch.pdist(means(lesson.batch)[:200])
    for seed in range(8):
        turned = train.mirror(lesson, torch.Generator().manual_seed(seed))
        moved = turned.batch
        assert torch.allclose(before, torch.pdist(means(moved)[:200]), atol=1e-3)
        assert torch.allclose(torch.pdist(lesson.batch.coord[:200]), torch.pdist(moved.coord[:200]), atol=1e-5)
        assert moved.grid_coord.min() >= 0
        assert torch.equal(moved.feat[:, :3], lesson.batch.feat[:, :3])
        there = lesson.instance >= 0
        away, now = (x.center[there] - x.batch.coord[there] for x in (lesson, turned))
        assert torch.allclose(away.norm(dim=1), now.norm(dim=1), atol=1e-5)
        # What moved the cells moved the centres too: from cell to centre is the same way in both frames.
        step, stepped = lesson.batch.coord[1] - lesson.batch.coord[0], moved.coord[1] - moved.coord[0]
        assert torch.allclose(away @ step, now @ stepped, atol=1e-4)


def test_the_rate_rises_and_falls() -> None:
    rates = [train.rate(step / 100, 1.0) for step in range(101)]
    assert rates[0] == 0 and max(rates) > 0.95 and rates[-1] == pytest.approx(0.01)
    assert rates.index(max(rates)) < 10


def test_a_run_saves_and_another_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("spconv", reason="training needs spconv")
    backbone = {**NETWORK["backbone"], "base_channels": 8, "channels": [8] * 7 + [32], "layers": [1] * 8}
    small = {**NETWORK, "backbone": backbone}
    monkeypatch.setattr(train, "NETWORK", small)
    build = train.build
    monkeypatch.setattr(train, "build", lambda device: build(device, "spconv"))
    monkeypatch.setattr(batches, "lesson", lambda seed, views, recipe, device: _block())
    first = train.train(tmp_path, steps=3, workers=0, times=1, device=CPU)
    assert first["steps"] == 3 and len(first["losses"]) == 1
    before = torch.load(tmp_path / "weights.pt", weights_only=True)
    more = train.train(tmp_path, steps=5, workers=0, times=2, device=CPU)
    assert more["steps"] == 5 and more["seconds"] >= first["seconds"]
    assert json.loads((tmp_path / "log.json").read_text())["steps"] == 5
    after = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert set(before) == set(after)
    assert all(torch.isfinite(value.float()).all() for value in after.values())
    assert not torch.equal(before["seg_head.weight"], after["seg_head.weight"])
    network = build(CPU, "spconv")
    train.begin_with(network, tmp_path / "weights.pt")
    assert torch.equal(network.state_dict()["instance_head.0.weight"], after["instance_head.0.weight"])


def test_weights_from_before_there_were_instances_give_the_same_logits(tmp_path: Path) -> None:
    old_config = {"type": "DefaultSegmentor", "backbone": {**NETWORK["backbone"], "num_classes": 2}}
    old = Site(choose_engine("native", CPU), FAMILIES).build(old_config).eval()
    torch.save(old.state_dict(), tmp_path / "old.pt")
    network = train.build(CPU, "native").eval()
    train.begin_with(network, tmp_path / "old.pt")
    batch = _block().batch
    with torch.no_grad():
        assert torch.allclose(network(batch)[:, :2], old(batch), atol=1e-5)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save({"backbone.x.weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="holds other weights"):
        train.begin_with(train.build(CPU, "native"), tmp_path / "other.pt")


def _block() -> Lesson:
    """A plate with a cube on it, as a lesson."""
    line = torch.arange(20)
    plate = torch.cartesian_prod(line, line, torch.tensor([0]))
    cube = torch.cartesian_prod(line[4:9], line[4:9], torch.arange(1, 6))
    grid_coord = torch.cat([plate, cube]).int()
    share = torch.cat([torch.zeros(len(plate)), torch.ones(len(cube))])
    feat = torch.zeros(len(grid_coord), RECIPE.width)
    feat[:, 0], feat[:, 1] = 1, grid_coord[:, 2] * RECIPE.grid_size
    offset = torch.tensor([len(grid_coord)])
    coord = grid_coord * RECIPE.grid_size
    center = share[:, None] * torch.tensor([6.0, 6.0, 3.0]) * RECIPE.grid_size
    one = torch.ones(len(share))
    return Lesson(Batch(coord, grid_coord, feat, offset), share, one, share.long() - 1, center, one * 0.02)


def test_publishing_halves_weights_and_describes_them(tmp_path: Path) -> None:
    from service.models.cards import card

    state = {
        "backbone.x.weight": torch.randn(4, 3), "backbone.x.running_mean": torch.zeros(4),
        "backbone.x.num_batches_tracked": torch.tensor(7),
    }  # fmt: skip
    torch.save(state, tmp_path / "weights.pt")
    publish.publish(tmp_path / "weights.pt", {"licence": "MIT"}, tmp_path)
    shown = card("parcels", tmp_path)
    assert shown.parameters == 12 and shown.classes == CLASSES and shown.about == {"licence": "MIT"}
    assert publish.halve(state)["backbone.x.weight"].dtype == torch.float16


def test_a_weight_that_half_precision_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"backbone\.y has values that half precision cannot hold"):
        publish.halve({"backbone.y": torch.tensor([1e6])})
