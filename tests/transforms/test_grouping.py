"""Votes become objects: against scipy's neighbours and connected components, and libs/pointgroup_ops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from service.errors import UnusableCloud
from service.transforms import grouping
from service.transforms.grouping import Grouping, connect, objects


def _same(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Return whether two numberings of components part the points alike."""
    pairs = np.unique(np.stack([ours, theirs]), axis=1)
    return pairs.shape[1] == len(np.unique(ours)) == len(np.unique(theirs))


def _oracle(place: np.ndarray, label: np.ndarray) -> np.ndarray:
    pairs = cKDTree(place.astype(np.float64)).query_pairs(1.0, output_type="ndarray")
    pairs = pairs[label[pairs[:, 0]] == label[pairs[:, 1]]]
    ones = np.ones(len(pairs))
    return connected_components(coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(len(place),) * 2))[1]


@given(
    st.integers(1, 400),
    st.sampled_from([0.5, 3.0, 12.0, 1e4]),
    st.integers(1, 3),
    st.integers(0, 2**31),
)
@settings(max_examples=40, deadline=None)
def test_components_are_scipys(count: int, extent: float, classes: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    place = (random.uniform(0, extent, (count, 3)) - extent / 3).astype(np.float32)
    place[: count // 2] = place[0] + random.uniform(0, 1.5, (count // 2, 3)).astype(np.float32)
    label = random.integers(0, classes, count) * 7
    found = connect(torch.from_numpy(place), torch.from_numpy(label)).numpy()
    assert _same(found, _oracle(place, label))
    # Numbered in the order of their lowest points.
    _, first = np.unique(found, return_index=True)
    assert found[0] == 0
    assert (np.diff(first) > 0).all()


def test_components_are_those_of_the_operators() -> None:
    operators = pytest.importorskip("pointgroup_ops", reason="libs/pointgroup_ops is not built")
    random = torch.Generator().manual_seed(1)
    place = torch.rand(4000, 3, generator=random) * 14
    label = torch.randint(0, 3, (4000,), generator=random)
    cloud, ends = torch.zeros(4000, dtype=torch.int32), torch.tensor([0, 4000], dtype=torch.int32)
    neighbours, starts = operators.ballquery_batch_p(place, cloud, ends, 1.0, 300)
    members, _ = operators.bfs_cluster(label.int(), neighbours, starts, 1)
    theirs = torch.empty(4000, dtype=torch.int64)
    theirs[members[:, 1].long()] = members[:, 0].long()
    assert torch.equal(connect(place, label), theirs)


def test_an_object_whose_votes_all_fall_into_one_place_is_found_whole() -> None:
    # Pairs of neighbours would be 10^10.
    place = torch.rand(100_000, 3, generator=torch.Generator().manual_seed(0)) * 0.3
    place[50_000:, 0] += 40
    found = connect(place, torch.zeros(len(place), dtype=torch.int64))
    assert torch.equal(found, (torch.arange(len(place)) >= 50_000).long())


def test_two_heaps_that_do_not_quite_touch_stay_apart() -> None:
    random = torch.Generator().manual_seed(0)
    left, right = torch.rand(700, 3, generator=random) * 0.4, torch.rand(700, 3, generator=random) * 0.4
    right[:, 0] += 1.41
    label = torch.zeros(1400, dtype=torch.int64)
    assert int(connect(torch.cat([left, right]), label).max()) == 1
    right[0, 0] = left[:, 0].max() + 0.2
    right[0, 1:] = left[left[:, 0].argmax(), 1:]
    bridged = torch.cat([left, right])
    assert int(connect(bridged, label).max()) == len(np.unique(_oracle(bridged.numpy(), label.numpy()))) - 1


def _scene() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return coordinates, ways and probabilities of a floor (class 0), two chairs (1) and one table (2)."""
    random = torch.Generator().manual_seed(3)
    sizes, middles = (200, 60, 40, 80), ((0, 0, 0), (1, 1, 0), (2, 1, 0), (1, 3, 0))
    coord, way, label = [], [], []
    for size, middle, index in zip(sizes, middles, (0, 1, 1, 2), strict=True):
        own = torch.tensor(middle) + torch.rand(size, 3, generator=random) * 0.5
        coord.append(own)
        way.append(torch.tensor(middle) + 0.25 - own)
        label.append(torch.full((size,), index))
    chosen = torch.nn.functional.one_hot(torch.cat(label), 3).float()
    return torch.cat(coord).double(), torch.cat(way), 0.7 * chosen + 0.1


def test_objects_have_class_score_and_points_and_the_largest_is_first() -> None:
    coord, way, probability = _scene()
    points = torch.full((380,), 2)
    points[200:260] = 5
    own, found = objects(coord, way, probability, points, Grouping(0.03, (-1, 0), 41))
    assert [(one.class_index, round(one.score, 4), one.points) for one in found] == [(1, 0.8, 300), (2, 0.8, 160)]
    expected = torch.full((380,), -1)
    expected[200:260], expected[300:380] = 0, 1
    assert torch.equal(own, expected)


def test_where_all_is_ignored_or_too_small_there_are_no_objects() -> None:
    coord, way, probability = _scene()
    points = torch.ones(380, dtype=torch.int64)
    for grouping_of in (Grouping(0.03, (0, 1, 2), 1), Grouping(0.03, (0,), 100)):
        own, found = objects(coord, way, probability, points, grouping_of)
        assert found == []
        assert bool((own == -1).all())


def test_a_vote_that_is_no_number_belongs_to_nothing() -> None:
    coord, way, probability = _scene()
    way[205] = float("nan")
    own, found = objects(coord, way, probability, torch.ones(380, dtype=torch.int64), Grouping(0.03, (0,), 1))
    assert own[205] == -1
    assert sum(one.points for one in found) == 179


def test_votes_too_far_apart_to_be_numbered_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouping, "_MOST_CELLS", 1000)
    with pytest.raises(UnusableCloud, match="votes lie too far from one another"):
        connect(torch.arange(300).float().unsqueeze(1).expand(300, 3) * 10, torch.zeros(300, dtype=torch.int64))


@pytest.mark.parametrize("radius", [0.0, -1.0, float("inf"), float("nan")])
def test_a_radius_must_be_positive(radius: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Grouping(radius, (), 1)
