"""What holds for both operators: torch's own checks, both kernels, and clear errors for bad arguments."""

from __future__ import annotations

import subprocess
import sys

import pointgroup_ops  # noqa: F401  loading it registers the operators
import pytest
import torch
from torch import Tensor

ops = torch.ops.pointgroup_ops
ROWS = torch.arange(12, dtype=torch.float32).reshape(4, 3)
BATCH = torch.tensor([0, 0, 1, 1], dtype=torch.int32)
ENDS = torch.tensor([0, 2, 4], dtype=torch.int32)
LABEL = torch.zeros(4, dtype=torch.int32)
LISTS = torch.tensor([0, 1, 2, 3, 3], dtype=torch.int32)
START_LEN = torch.tensor([[0, 2], [2, 0], [2, 2], [4, 1]], dtype=torch.int32)


def on(device: str, arguments: tuple) -> tuple:
    moved = []
    for a in arguments:
        keeps_gaps = isinstance(a, Tensor) and not a.is_contiguous()
        moved.append(
            torch.stack((a, a), -1).to(device)[..., 0] if keeps_gaps else a.to(device) if isinstance(a, Tensor) else a
        )
    return tuple(moved)


def test_torch_accepts_the_operators(device):
    torch.library.opcheck(ops.ballquery_batch_p.default, on(device, (ROWS, BATCH, ENDS, 6.0)))
    torch.library.opcheck(ops.bfs_cluster.default, on(device, (LABEL, LISTS, START_LEN, 1)))


@pytest.mark.parametrize("name", ["ballquery_batch_p", "bfs_cluster"])
def test_every_device_has_a_kernel(name):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"pointgroup_ops::{name}", "CPU")
    if torch.cuda.is_available():
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"pointgroup_ops::{name}", "CUDA")


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ((ROWS.double(), BATCH, ENDS, 1.0), TypeError, "coords must be float32"),
        ((ROWS[:, :2].contiguous(), BATCH, ENDS, 1.0), ValueError, "coords must have size 3"),
        ((torch.stack((ROWS, ROWS), -1)[..., 0], BATCH, ENDS, 1.0), ValueError, "coords must be contiguous"),
        ((ROWS, BATCH.long(), ENDS, 1.0), TypeError, "batch_idxs must be int32"),
        ((ROWS, BATCH[:3], ENDS, 1.0), ValueError, "batch_idxs must have size 4"),
        ((ROWS, BATCH, ENDS.float(), 1.0), TypeError, "batch_offsets must be int32 or int64"),
        ((ROWS, BATCH, ENDS[:2], 1.0), ValueError, "batch_offsets must end at the number of points, 4, it ends at 2"),
        ((ROWS, BATCH, ENDS[2:], 1.0), ValueError, "batch_offsets must hold 0 and"),
        ((ROWS, BATCH, ENDS[1:], 1.0), ValueError, "batch_offsets must begin with 0"),
        ((ROWS, BATCH, torch.tensor([0, 3, 2, 4]), 1.0), ValueError, "batch_offsets goes down at place 2"),
        ((ROWS, BATCH.flip(0), ENDS, 1.0), ValueError, r"batch_idxs\[0\] is not the cloud"),
        ((ROWS, BATCH, ENDS, -1.0), ValueError, "radius must be finite and not negative"),
        ((ROWS, BATCH, ENDS, float("nan")), ValueError, "radius must be finite and not negative"),
        ((ROWS / 0, BATCH, ENDS, 1.0), ValueError, r"coords\[0\] has a coordinate that is not finite"),
        ((ROWS.clone().requires_grad_(), BATCH, ENDS, 1.0), ValueError, "coords requires grad"),
    ],
)
def test_bad_ball_queries_are_refused(device, arguments, error, says):
    with pytest.raises(error, match=says):
        ops.ballquery_batch_p(*on(device, arguments))


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ((LABEL.long(), LISTS, START_LEN, 1), TypeError, "semantic_label must be int32"),
        ((LABEL, LISTS.long(), START_LEN, 1), TypeError, "ball_query_idxs must be int32"),
        ((LABEL, LISTS, START_LEN[:3], 1), ValueError, "start_len must have size 4 in dimension 0"),
        ((LABEL, LISTS, START_LEN[:, :1].contiguous(), 1), ValueError, "start_len must have size 2 in dimension 1"),
        ((LABEL, LISTS[:4], START_LEN, 1), ValueError, r"start_len\[3\] reaches outside ball_query_idxs"),
        ((LABEL, LISTS, START_LEN - 1, 1), ValueError, r"start_len\[0\] reaches outside ball_query_idxs"),
        ((LABEL, LISTS + 1, START_LEN, 1), ValueError, r"ball_query_idxs\[3\] is not a row of semantic_label"),
        ((LABEL, LISTS - 1, START_LEN, 1), ValueError, r"ball_query_idxs\[0\] is not a row of semantic_label"),
    ],
)
def test_bad_clusterings_are_refused(device, arguments, error, says):
    with pytest.raises(error, match=says):
        ops.bfs_cluster(*on(device, arguments))


@pytest.mark.parametrize(
    ("operator", "good"),
    [(ops.ballquery_batch_p, (ROWS, BATCH, ENDS, 1.0)), (ops.bfs_cluster, (LABEL, LISTS, START_LEN, 1))],
)
def test_every_tensor_is_checked(device, operator, good):
    """Wrong dtype, wrong shape, non-contiguous: for each tensor in its turn, by its own name."""
    good = on(device, good)
    for place, argument in enumerate(a.name for a in operator.default._schema.arguments[:3]):
        tensor = good[place]
        for bad, error, says in (
            (tensor.bool(), TypeError, "must be"),
            (tensor[None], ValueError, r"must have . dimension"),
            (torch.stack((tensor, tensor), -1)[..., 0], ValueError, "must be contiguous"),
        ):
            with pytest.raises(error, match=f"^{argument} {says}"):
                operator(*good[:place], bad, *good[place + 1 :])


def test_nothing_at_all(device):
    nothing = on(device, (ROWS[:0], BATCH[:0], ENDS[:1].repeat(2), 1.0))
    idx, start_len = ops.ballquery_batch_p(*nothing)
    assert idx.shape == (0,)
    assert start_len.shape == (0, 2)
    members, ends = ops.bfs_cluster(*on(device, (LABEL[:0], LISTS[:0], START_LEN[:0], 1)))
    assert members.shape == (0, 2)
    assert ends.tolist() == [0]


@pytest.mark.slow
def test_more_neighbours_than_int32_are_refused(device):
    n = 47_000
    coords, batch = torch.zeros(n, 3), torch.zeros(n, dtype=torch.int32)
    with pytest.raises(ValueError, match="2209000000 neighbours do not fit the int32"):
        ops.ballquery_batch_p(*on(device, (coords, batch, torch.tensor([0, n]), 1.0)))


def test_pointcepts_module_name_loads_the_operators():
    code = "import pointgroup_ops_cuda, torch; torch.ops.pointgroup_ops.bfs_cluster; pointgroup_ops_cuda.bfs_cluster"
    subprocess.run([sys.executable, "-c", code], check=True)
