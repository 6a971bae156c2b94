"""knn_query, ball_query, random_ball_query against Pointcept's numbers, scipy and the reference."""

from __future__ import annotations

import numpy as np
import pointops
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pointops import reference
from pointops.ops import visiting_order
from torch import Tensor

from .clouds import batches, centres, room

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def on(device: str, *tensors: Tensor) -> list[Tensor]:
    return [t.to(device) for t in tensors]


def check_equal(ours: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    for got, want in zip(ours, expected, strict=True):
        assert torch.equal(got.cpu(), want)


def squares(xyz: Tensor, centre: Tensor) -> Tensor:
    return ((xyz - centre) ** 2).sum(-1)


def test_knn_gives_pointcepts_neighbours(golden, device):
    for call, inputs, outputs in golden("ops_knn_query"):
        idx, dist = pointops.knn_query(call["scalars"]["nsample"], **{k: v.to(device) for k, v in inputs.items()})
        torch.testing.assert_close(dist.cpu(), outputs["dist"], rtol=1e-6, atol=1e-6)
        if "ties" not in call["note"]:
            assert torch.equal(idx.cpu(), outputs["idx"]), call["note"]


def test_ball_query_gives_pointcepts_sets(golden, device):
    for call, inputs, outputs in golden("ops_ball_query"):
        scalars = call["scalars"]
        idx, dist = (t.cpu() for t in pointops.ball_query(**scalars, **{k: v.to(device) for k, v in inputs.items()}))
        assert idx.shape == outputs["idx"].shape
        xyz, queries = inputs["xyz"], inputs.get("new_xyz", inputs["xyz"])
        for row in range(len(idx)):
            ours, theirs = set(idx[row].tolist()), set(outputs["idx"][row].tolist())
            if -1 in theirs:  # all candidates fitted: the set is defined
                assert ours == theirs
            d = torch.sqrt(squares(xyz[idx[row][idx[row] >= 0].long()], queries[row]))
            torch.testing.assert_close(dist[row, : len(d)], d, rtol=1e-5, atol=1e-6)
            assert (torch.diff(dist[row]) >= 0).all()


def test_random_ball_query_visits_in_the_given_order(golden, device):
    for call, inputs, outputs in golden("ops_random_ball_query"):
        s, at = call["scalars"], {k: v.to(device) for k, v in inputs.items()}
        idx, dist = torch.ops.pointops.random_ball_query(
            s["nsample"], s["max_radius"], s["min_radius"], at["order"].int(), at["xyz"], at["offset"], at["xyz"],
            at["offset"],
        )  # fmt: skip
        assert torch.equal(idx.cpu(), outputs["idx"])
        torch.testing.assert_close(dist.cpu(), outputs["dist"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("points", [1000, 30000])
def test_knn_finds_what_scipy_finds(device, points):
    xyz = room(points)
    offset = torch.tensor([points])
    _, dist = pointops.knn_query(16, *on(device, xyz, offset))
    spatial = pytest.importorskip("scipy.spatial")
    expected, _ = spatial.cKDTree(xyz.numpy().astype(np.float64)).query(xyz.numpy(), k=16)
    np.testing.assert_allclose(dist.cpu().numpy(), expected, rtol=1e-5, atol=1e-6)


@quick
@given(batches(), st.sampled_from([1, 3, 8, 16, 17, 40, 80]), st.booleans())
def test_knn_equals_reference(device, batch, nsample, other):
    xyz, offset, rng = batch
    new_xyz, new_offset = centres(xyz, offset, rng) if other else (xyz, offset)
    ours = pointops.knn_query(nsample, *on(device, xyz, offset, new_xyz, new_offset))
    check_equal(ours, reference.knn_query(nsample, xyz, offset, new_xyz, new_offset))


@quick
@given(
    batches(largest=40),
    st.sampled_from([1, 5, 24]),
    st.sampled_from([(0.4, 0.0), (1.0, 0.4), (2.5, 1.0)]),
    st.booleans(),
)
def test_ball_queries_equal_reference(device, batch, nsample, radii, other):
    xyz, offset, rng = batch
    new_xyz, new_offset = centres(xyz, offset, rng) if other else (xyz, offset)
    at = on(device, xyz, offset, new_xyz, new_offset)
    expected = reference.ball_query(nsample, *radii, xyz, offset, new_xyz, new_offset)
    check_equal(pointops.ball_query(nsample, *radii, *at), expected)
    order = visiting_order(offset, seed=nsample)
    expected = reference.random_ball_query(nsample, *radii, order, xyz, offset, new_xyz, new_offset)
    check_equal(pointops.random_ball_query(nsample, *radii, *at, seed=nsample), expected)


def test_random_ball_query_repeats_with_its_seed(device):
    xyz, offset = on(device, room(2000), torch.tensor([2000]))
    first, again, other = (pointops.random_ball_query(8, 0.5, 0.0, xyz, offset, seed=s)[0] for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_many_equal_points_are_quick(device):
    """A tree that cannot tell equal points apart would compare all with all: here, 4e10 pairs."""
    xyz, offset = on(device, torch.full((200_000, 3), 0.25), torch.tensor([200_000]))
    idx, dist = pointops.knn_query(4, xyz, offset)
    assert torch.equal(idx.cpu(), torch.arange(4, dtype=torch.int32).expand(200_000, 4))
    assert dist.abs().max() == 0


def test_one_far_point_does_not_spoil_the_search(device):
    xyz = torch.cat((room(20_000), torch.tensor([[1e9, -1e9, 1e9]])))
    idx, _ = pointops.knn_query(2, *on(device, xyz, torch.tensor([20_001])))
    assert (idx[:-1, 0].cpu() == torch.arange(20_000)).float().mean() > 0.999
    assert idx[-1, 0] == 20_000
