"""bfs_cluster and Clustering against Pointcept's numbers, scipy and the reference."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pointgroup_ops
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pointgroup_ops import reference
from torch import Tensor

from libs.pointops.tests.clouds import room


def partition(cluster_idxs: Tensor, cluster_offsets: Tensor) -> list[list[int]]:
    ends = cluster_offsets.tolist()
    rows = cluster_idxs.tolist()
    for number, (start, end) in enumerate(pairwise(ends)):
        assert all(row[0] == number for row in rows[start:end])
    return [sorted(row[1] for row in rows[start:end]) for start, end in pairwise(ends)]


def test_clusters_are_pointcepts(golden, device):
    for call, inputs, outputs in golden("ops_pointgroup_ops"):
        if "1000" in call["note"]:
            continue  # a list cut at 1000 makes one-way links there
        start_len = torch.stack((torch.cumsum(outputs["length"], 0) - outputs["length"], outputs["length"]), 1).int()
        ours = pointgroup_ops.bfs_cluster(
            inputs["semantic_label"].to(device).int(),
            outputs["idx"].to(device),
            start_len.to(device),
            call["scalars"]["bfs_threshold"],
        )
        theirs = partition(outputs["cluster_idxs"], outputs["cluster_offsets"])
        assert partition(*(t.cpu() for t in ours)) == theirs


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32), st.integers(0, 60), st.integers(0, 3), st.integers(-1, 6))
def test_clusters_equal_reference(device, seed, n, mean, threshold):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 2 * mean + 1, n)
    lists = torch.from_numpy(rng.integers(0, max(n, 1), int(lengths.sum())).astype(np.int32))
    start_len = torch.from_numpy(np.stack((np.cumsum(lengths) - lengths, lengths), 1).astype(np.int32))
    label = torch.from_numpy(rng.integers(0, 2, n).astype(np.int32))
    ours = pointgroup_ops.bfs_cluster(label.to(device), lists.to(device), start_len.to(device), threshold)
    for got, want in zip(ours, reference.bfs_cluster(label, lists, start_len, threshold), strict=True):
        assert torch.equal(got.cpu(), want)


def test_clusters_are_scipys_components(device):
    sparse, csgraph = pytest.importorskip("scipy.sparse"), pytest.importorskip("scipy.sparse.csgraph")
    n = 20_000
    xyz, cloud = room(n).to(device), torch.zeros(n, dtype=torch.int32, device=device)
    ends = torch.tensor([0, n], dtype=torch.int32, device=device)
    label = torch.zeros(n, dtype=torch.int32, device=device)
    idx, start_len = pointgroup_ops.ballquery_batch_p(xyz, cloud, ends, 0.06, 50)
    members, offsets = pointgroup_ops.bfs_cluster(label, idx, start_len, 1)
    pointer = np.append(start_len[:, 0].cpu().numpy(), len(idx))
    graph = sparse.csr_matrix((np.ones(len(idx), np.int8), idx.cpu().numpy(), pointer), shape=(n, n))
    count, expected = csgraph.connected_components(graph, directed=False)
    assert len(offsets) - 1 == count
    ours = np.empty(n, np.int64)
    ours[members[:, 1].cpu().numpy()] = members[:, 0].cpu().numpy()
    assert len(set(zip(ours.tolist(), expected.tolist(), strict=True))) == count  # one number there for each one here


def two_boxes(device: str) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    xyz = torch.cat(
        [torch.rand(n, 3, generator=g) * 0.1 + at for n, at in ((400, 0.0), (300, 5.0), (50, 9.0), (200, 0.0))]
    )
    scores = torch.zeros(len(xyz), 3)
    scores[:750, 1] = 0.9
    scores[750:, 0] = 0.8  # class 0 forms no instances
    return xyz.to(device), scores.to(device)


def test_instances_of_two_boxes(device):
    xyz, scores = two_boxes(device)
    clustering = pointgroup_ops.Clustering(
        [-1], torch.tensor([-1, 7, 8], device=device), thresh=0.05, propose_points=100
    )
    instances = clustering.get_instances(xyz, scores)
    assert [int(i["pred_mask"].sum()) for i in instances.values()] == [400, 300]
    assert all(int(i["label_id"]) == 7 for i in instances.values())
    assert all(abs(float(i["conf"]) - 0.9) < 1e-6 for i in instances.values())
    masks, labels = clustering.cluster(xyz, scores)
    assert masks.shape == (2, 950)
    assert masks.dtype == torch.int32
    assert labels.tolist() == [1, 1]


def test_nothing_to_cluster(device):
    xyz, scores = two_boxes(device)
    nothing = pointgroup_ops.Clustering([-1, 7, 8], torch.tensor([-1, 7, 8], device=device))
    assert nothing.get_instances(xyz, scores) == {}
