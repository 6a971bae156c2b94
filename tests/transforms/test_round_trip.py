"""prepare and restore together: every point gets the label that is its own, whatever the order and the origin."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.errors import TooLarge, UnusableCloud
from service.transforms import Recipe, prepare, restore
from service.transforms.restore import spread
from service.values import IGNORED, PointCloud
from tests.transforms.clouds import CARD, CPU, RECIPE, coords, local_network, room


def labels(coord: NDArray[np.float64], recipe: Recipe = RECIPE) -> NDArray[np.int32]:
    """Return the stub's labels."""
    prepared = prepare(PointCloud(coord), recipe, CPU)
    return restore(prepared, local_network(prepared), CARD, scores=False).label


@settings(max_examples=40, deadline=None)
@given(coord=coords(), shuffle=st.randoms(use_true_random=False))
def test_permuting_the_points_permutes_the_labels(coord: NDArray[np.float64], shuffle: Any) -> None:
    order = list(range(len(coord)))
    shuffle.shuffle(order)
    for reduce in ("mean", "nearest"):
        recipe = replace(RECIPE, reduce=reduce)
        assert np.array_equal(labels(coord[order], recipe), labels(coord, recipe)[order])


@settings(max_examples=40, deadline=None)
@given(coord=coords(), where=st.tuples(*[st.integers(-2_000_000, 7_000_000)] * 3))
def test_the_origin_does_not_matter(coord: NDArray[np.float64], where: tuple[int, int, int]) -> None:
    assert np.array_equal(labels(coord + np.array(where, dtype=np.float64)), labels(coord))


@settings(max_examples=40, deadline=None)
@given(coord=coords(smallest=2), data=st.data())
def test_invalid_points_keep_their_place_and_change_no_other(coord: NDArray[np.float64], data: st.DataObject) -> None:
    bad = data.draw(st.sets(st.integers(0, len(coord) - 1), max_size=len(coord) - 1))
    for row in bad:
        coord[row, data.draw(st.integers(0, 2))] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    kept = np.array([row not in bad for row in range(len(coord))])
    prepared = prepare(PointCloud(coord), RECIPE, CPU)
    result = restore(prepared, local_network(prepared), CARD, scores=True)
    assert result.confidence is not None
    assert result.scores is not None
    assert np.all(result.label[~kept] == IGNORED)
    assert np.all(result.confidence[~kept] == 0)
    assert np.all(result.scores[~kept] == 0)
    assert np.array_equal(result.label[kept], labels(coord[kept]))
    assert set(np.unique(result.label[kept])) <= {0, 5, 7}
    if bad:
        assert result.warnings == (f"{len(bad)} of {len(coord)} points have a NaN or an infinity and got no label.",)


def test_scores_are_probabilities_of_the_chosen_classes() -> None:
    coord = room(4000)
    prepared = prepare(PointCloud(coord, notes=("The separator was guessed.",)), RECIPE, CPU)
    logits = local_network(prepared)
    bare = restore(prepared, logits, CARD, scores=False)
    assert (bare.scores, bare.confidence) == (None, None)
    sure = restore(prepared, logits, CARD, scores=False, confidence=True)
    assert sure.scores is None
    full = restore(prepared, logits, CARD, scores=True)
    assert full.scores is not None
    assert full.confidence is not None
    assert full.scores.dtype == full.confidence.dtype == np.float32
    assert full.label.dtype == np.int32
    assert np.allclose(full.scores.sum(axis=1), 1, atol=1e-6)
    assert np.array_equal(full.confidence, full.scores.max(axis=1))
    assert np.array_equal(full.confidence, sure.confidence)
    assert np.array_equal(np.array([0, 5, 7])[full.scores.argmax(axis=1)], full.label)
    assert np.array_equal(full.label, bare.label)
    assert (full.model, full.classes, full.warnings) == ("stub", CARD.classes, ("The separator was guessed.",))


def test_tiles_say_what_the_whole_says() -> None:
    coord = room(30000)
    whole = prepare(PointCloud(coord), RECIPE, CPU)
    tiled = prepare(PointCloud(coord), replace(RECIPE, max_voxels=500, overlap=4, align=8), CPU)
    assert len(whole.tiles) == 1
    assert len(tiled.tiles) > 4
    assert max(len(tile.coord) for tile in tiled.tiles) <= 500
    one, many = (restore(each, local_network(each), CARD, scores=True) for each in (whole, tiled))
    assert one.scores is not None
    assert many.scores is not None
    assert np.array_equal(one.label, many.label)
    assert np.abs(one.scores - many.scores).max() < 1e-5


def test_wrong_logits_are_refused() -> None:
    prepared = prepare(PointCloud(room(100)), RECIPE, CPU)
    with pytest.raises(ValueError, match="do not belong to tiles of"):
        restore(prepared, [logits[:, :2] for logits in local_network(prepared)], CARD, scores=False)
    with pytest.raises(ValueError, match="do not belong to tiles of"):
        restore(prepared, [], CARD, scores=False)


def test_an_answer_that_would_fill_the_memory_is_refused_before_it_is_made() -> None:
    prepared = prepare(PointCloud(np.random.default_rng(0).uniform(0, 1, (5000, 3))), RECIPE, CPU)
    values = torch.zeros(1, 1).expand(prepared.voxels, 1_000_000)
    with pytest.raises(TooLarge, match=r"5000 points with 4000000 bytes .* at most 1073 points"):
        spread(values, prepared, 0)


def test_clouds_without_a_valid_point_are_refused() -> None:
    with pytest.raises(UnusableCloud, match="no points"):
        prepare(PointCloud(np.zeros((0, 3))), RECIPE, CPU)
    with pytest.raises(UnusableCloud, match="no valid point: each of its 3 points"):
        prepare(PointCloud(np.full((3, 3), np.nan)), RECIPE, CPU)


@pytest.mark.parametrize("far", [1e6, 1e9, 1e300])
def test_a_stray_point_beyond_the_grid_is_named(far: float) -> None:
    coord = room(100)
    coord[7] = (far, 0, 0)
    with pytest.raises(UnusableCloud, match=r"spans .* (more than any scan|1048576 is the most).*stray point"):
        prepare(PointCloud(coord), RECIPE, CPU)


def test_one_point_and_points_at_one_place() -> None:
    assert labels(np.array([[1.0, 2.0, 3.0]])).tolist() == [0]
    assert labels(np.full((9, 3), 4e6)).tolist() == [0] * 9


def test_a_read_only_cloud_is_not_written_to() -> None:
    coord = room(500)
    frozen = coord.copy()
    frozen.flags.writeable = False
    assert np.array_equal(labels(frozen), labels(coord))
    before = coord.copy()
    prepare(PointCloud(coord), replace(RECIPE, max_extent_m=0.5), CPU)
    assert np.array_equal(coord, before)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_labels() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    coord = room(30000)
    for recipe in (RECIPE, replace(RECIPE, max_voxels=500, overlap=4, reduce="nearest")):
        prepared = prepare(PointCloud(coord), recipe, torch.device("cuda"))
        result = restore(prepared, local_network(prepared), CARD, scores=True)
        assert np.array_equal(result.label, labels(coord, recipe))
