"""Voxels become objects: against boxes that are known by construction."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.transforms import Recipe, faces, instances, prepare, restore
from service.transforms.instances import CHANNELS, NONE, Votes, decode, objects, separate
from service.values import ClassInfo, ModelCard, PointCloud

CELL = 0.008
CARD = ModelCard(
    "t", "t", "t", (ClassInfo(0, "background", (0, 0, 0)), ClassInfo(1, "box", (1, 1, 1))), ("ones",), CELL, 0, "here"
)
SPREAD = (float(np.log(0.1)),) * 2


def seen(size: Sequence[float], at: Sequence[float], heading: float = 0.0, noise_m: float = 0.001) -> np.ndarray:
    """Return points (n, 3), one a cell, of a box's top and two of its sides; its bottom's middle is at the place."""
    half = np.array(size) / 2
    x, y, z = (np.arange(-h + CELL / 2, h, CELL) for h in half)
    top = np.stack(np.meshgrid(x, y, [half[2]], indexing="ij"), -1).reshape(-1, 3)
    front = np.stack(np.meshgrid([half[0]], y, z, indexing="ij"), -1).reshape(-1, 3)
    side = np.stack(np.meshgrid(x, [half[1]], z, indexing="ij"), -1).reshape(-1, 3)
    points = np.concatenate([top, front, side]) + np.random.default_rng(len(top)).normal(0, noise_m, (1, 3))
    points = points + np.random.default_rng(7).normal(0, noise_m, points.shape)
    c, s = np.cos(heading), np.sin(heading)
    return points @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) + np.array(at) + (0, 0, half[2])


def told(*boxes: np.ndarray, votes: Sequence[np.ndarray] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return every point's object, and which box it is of; the votes are the boxes' middles where none are given."""
    coord = torch.from_numpy(np.concatenate(boxes))
    owner = np.repeat(np.arange(len(boxes)), [len(box) for box in boxes])
    middle = np.stack([box.mean(axis=0) for box in boxes] if votes is None else votes)
    cast = Votes(torch.from_numpy(middle[owner]), torch.tensor(SPREAD).repeat(len(coord), 1))
    return separate(coord, cast, torch.full((len(coord),), 3))[0].numpy(), owner


def agreement(found: np.ndarray, owner: np.ndarray) -> float:
    """Return the least intersection over union of a true object with the one found that meets it most."""
    best = []
    for number in np.unique(owner):
        mine = owner == number
        overlaps = [(mine & (found == other)).sum() / (mine | (found == other)).sum() for other in np.unique(found)]
        best.append(max(overlaps))
    return float(min(best))


@settings(max_examples=15, deadline=None)
@given(st.floats(0.12, 0.4), st.floats(0.12, 0.4), st.floats(0.08, 0.4), st.floats(0, 3.1))
def test_the_faces_of_one_box_are_one_object(length: float, width: float, height: float, heading: float) -> None:
    found, owner = told(seen((length, width, height), (0, 0, 0), heading))
    assert agreement(found, owner) > 0.97


@settings(max_examples=15, deadline=None)
@given(st.floats(0, 3.1), st.floats(0.05, 0.2))
def test_a_box_on_another_is_an_object_of_its_own(heading: float, height: float) -> None:
    found, owner = told(seen((0.5, 0.4, 0.1), (0, 0, 0)), seen((0.2, 0.15, height), (0, 0, 0.1), heading))
    assert agreement(found, owner) > 0.85


def test_a_low_box_beside_a_tall_one_is_an_object_of_its_own() -> None:
    # The tall box's side that the low one hides is cut off; the rest of it meets the low one's top in a concave edge.
    low, tall = seen((0.3, 0.3, 0.12), (0, 0, 0)), seen((0.3, 0.4, 0.3), (-0.3, 0, 0))
    tall = tall[(tall[:, 0] < -0.155) | (tall[:, 2] > 0.12)]
    found, owner = told(low, tall)
    assert agreement(found, owner) > 0.9


def test_flush_boxes_are_one_or_two_as_the_votes_say() -> None:
    left, right = seen((0.3, 0.3, 0.2), (0, -0.151, 0)), seen((0.3, 0.3, 0.2), (0, 0.151, 0))
    left = left[left[:, 1] < -0.004]
    found, _ = told(left, right, votes=[np.zeros(3), np.zeros(3)])
    assert len(np.unique(found)) == 1


def test_a_face_that_something_divides_is_brought_together_where_its_votes_agree() -> None:
    whole = seen((0.3, 0.6, 0.2), (0, 0, 0))
    left, right = whole[whole[:, 1] < -0.05], whole[whole[:, 1] > 0.05]
    together, _ = told(left, right, votes=[np.array((0, 0, 0.1)), np.array((0, 0.05, 0.1))])
    apart, owner = told(left, right, votes=[np.array((0, -0.15, 0.1)), np.array((0, 0.15, 0.1))])
    assert len(np.unique(together)) == 1 and agreement(apart, owner) > 0.97


def test_sparse_points_are_looked_at_in_larger_cells() -> None:
    box = seen((0.5, 0.4, 0.3), (0, 0, 0))
    thin = box[np.random.default_rng(0).random(len(box)) < 0.35]
    found, owner = told(thin)
    assert agreement(found, owner) > 0.9


def test_a_heap_too_small_for_a_face_is_an_object_and_a_few_points_are_none() -> None:
    random = np.random.default_rng(0)
    heap, few = random.uniform(0, 0.02, (6, 3)), random.uniform(0, 0.005, (3, 3)) + 1
    found, owner = told(heap, few)
    assert len(np.unique(found[owner == 0])) == 1 and found[0] >= 0 and (found[owner == 1] == NONE).all()


def test_points_without_any_order_end_soon() -> None:
    random = np.random.default_rng(0)
    started = time.perf_counter()
    found, _ = told(random.uniform(0, 3, (60_000, 3)))
    assert len(found) == 60_000 and time.perf_counter() - started < 60


def test_neighbours_are_those_that_all_pairs_say() -> None:
    cells = np.unique(np.random.default_rng(1).integers(-9, 9, (300, 3)), axis=0)
    found = {tuple(sorted(pair)) for pair in faces.neighbours(cells, 3).tolist()}
    apart = ((cells[:, None] - cells) ** 2).sum(axis=2)
    assert found == {(i, j) for i, j in zip(*np.nonzero(apart <= 9), strict=True) if i < j}
    assert faces.neighbours(cells[:1], 3).shape == (0, 2)


@pytest.fixture
def two_boxes() -> tuple[torch.Tensor, ...]:
    """Voxels of a floor, of a box of 40 voxels and of one of 60, and what a network that knows would say."""
    random = torch.Generator().manual_seed(1)
    coord = torch.rand(200, 3, generator=random, dtype=torch.float64) * torch.tensor([0.04, 0.04, 0.002])
    coord[100:140, 0] += 1
    coord[140:, 0] += 2
    coord += 500
    center = torch.zeros(200, 3, dtype=torch.float64)
    center[100:140], center[140:] = coord[100:140].mean(dim=0), coord[140:].mean(dim=0)
    raw = torch.zeros(200, CHANNELS)
    raw[:, :3] = ((center - coord) / 0.1).float()
    probability = torch.tensor([[0.9, 0.1]]).repeat(200, 1)
    probability[100:140] = torch.tensor([0.2, 0.8])
    probability[140:] = torch.tensor([0.3, 0.7])
    return coord, raw, probability, torch.full((200,), 3)


def test_objects_are_numbered_by_size_and_know_their_points_and_score(two_boxes: tuple[torch.Tensor, ...]) -> None:
    owner, found = objects(*two_boxes)
    assert owner[:100].unique().tolist() == [NONE]
    assert owner[140:].unique().tolist() == [0] and owner[100:140].unique().tolist() == [1]
    assert [one.points for one in found] == [180, 120]
    # Neither has cells enough for a face, so that a fifth of the confidence is left.
    sure = [0.7 * (1 - np.exp(-1)), 0.8 * (1 - np.exp(-40 / 60))]
    assert [one.score for one in found] == pytest.approx([0.2 * one for one in sure])
    assert {one.class_index for one in found} == {1}


def test_what_has_no_right_angles_scores_low() -> None:
    box = seen((0.3, 0.2, 0.2), (0, 0, 0))
    turn = np.random.default_rng(0).normal(size=(len(box), 3))
    ball = 0.15 * turn / np.linalg.norm(turn, axis=1, keepdims=True) + (1.0, 0, 0.15)
    board = seen((0.5, 0.4, 0.02), (-1.0, 0, 0))
    board = board[board[:, 2] > 0.015]
    coord = torch.from_numpy(np.concatenate([box, ball, board]))
    owner = np.repeat([0, 1, 2], [len(box), len(ball), len(board)])
    middle = torch.from_numpy(np.stack([box.mean(axis=0), ball.mean(axis=0), board.mean(axis=0)]))
    raw = torch.zeros(len(coord), CHANNELS)
    raw[:, :3] = ((middle[owner] - coord) / 0.1).float()
    sure = torch.tensor([[0.1, 0.9]]).repeat(len(coord), 1)
    own, found = objects(coord, raw, sure, torch.full((len(coord),), 3))
    score = np.array([one.score for one in found])[own.numpy()]
    assert score[owner == 0].min() > 0.8 and score[owner == 1].max() < 0.7
    assert score[owner == 2].max() < 0.75


def test_objects_of_two_classes_are_never_one(two_boxes: tuple[torch.Tensor, ...]) -> None:
    coord, raw, _, points = two_boxes
    probability = torch.zeros(200, 3)
    probability[:100, 0], probability[100:170, 1], probability[170:, 2] = 1, 1, 1
    owner, found = objects(coord, raw, probability, points)
    assert sorted((one.class_index, one.points) for one in found) == [(1, 90), (1, 120), (2, 90)]
    for number, one in enumerate(found):
        assert (probability[owner == number].argmax(dim=1) == one.class_index).all()


def test_a_scene_without_boxes_has_no_objects(two_boxes: tuple[torch.Tensor, ...]) -> None:
    coord, raw, _, points = two_boxes
    owner, found = objects(coord, raw, torch.tensor([[1.0, 0.0]]).repeat(200, 1), points)
    assert found == [] and (owner == NONE).all()


def test_what_the_network_says_is_decoded_in_metres() -> None:
    raw = torch.tensor([[1.0, -2.0, 0.5, 0.0, 100.0]])
    votes = decode(torch.tensor([[1.0, 1.0, 1.0]]), raw)
    assert votes.center.tolist() == [pytest.approx([1.1, 0.8, 1.05])]
    assert votes.log_spread[0].exp().tolist() == pytest.approx([0.03, 0.03 * np.exp(3)], rel=1e-5)
    member = instances.membership(votes.center, votes.center + torch.tensor([0.03, 0, 0]), votes.log_spread)
    assert member.item() == pytest.approx(np.exp(-0.5), rel=1e-4)


def test_a_side_joins_its_top_whatever_the_votes_say_of_its_inside() -> None:
    box = seen((0.3, 0.05, 0.3), (0, 0, 0))
    box = box[box[:, 0] < 0.14]  # its top and one side
    found, owner = told(box, votes=[np.array((0.0, 0.06, 0.15))])  # beyond the side: its normal is taken the wrong way
    assert agreement(found, owner) > 0.97


def test_a_cloud_in_tiles_has_the_objects_of_the_whole() -> None:
    floor = np.stack(np.meshgrid(np.arange(-0.8, 0.8, 0.006), np.arange(-0.8, 0.8, 0.006), [0.0]), -1).reshape(-1, 3)
    boxes = [seen((0.3, 0.2, 0.2), (-0.3, 0, 0)), seen((0.3, 0.25, 0.15), (0.3, 0.1, 0), 0.5)]
    coord = np.concatenate([floor, *boxes])
    recipe = Recipe(CELL, ("ones", "elevation"), max_voxels=100_000, overlap=8, level=True)
    answers = []
    for most in (100_000, 15_000):
        made = prepare(PointCloud(coord), dataclasses.replace(recipe, max_voxels=most), torch.device("cpu"))
        assert (len(made.tiles) > 1) == (most < 100_000)
        outputs = []
        for tile in made.tiles:
            box = (tile.feat[:, 1] > 0.01).float() * 20 - 10
            outputs.append(torch.cat([torch.stack([-box, box], dim=1), torch.zeros(len(box), CHANNELS)], dim=1))
        answers.append(restore(made, outputs, CARD, scores=False))
    one, many = answers
    assert one.instance is not None and many.instance is not None
    assert [i.points for i in one.instances[:2]] == [i.points for i in many.instances[:2]]
    assert np.array_equal(one.instance, many.instance) and np.array_equal(one.label, many.label)
    assert (one.instance[one.label == 0] == NONE).all() and all(i.class_id == 1 for i in one.instances)
