"""ballquery_batch_p against Pointcept's numbers and the reference."""

from __future__ import annotations

import pointgroup_ops
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pointgroup_ops import reference

from libs.pointops.tests.clouds import batches, room


def test_lists_are_pointcepts(golden, device):
    for call, inputs, outputs in golden("ops_pointgroup_ops"):
        at = {k: inputs[k].to(device) for k in ("coords", "batch_idxs", "batch_offsets")}
        idx, start_len = pointgroup_ops.ballquery_batch_p(**at, radius=call["scalars"]["radius"], meanActive=50)
        if "1000" in call["note"]:  # there the list ends at 1000, here it does not
            assert (start_len[:, 1].cpu().clamp(max=1000) == outputs["length"]).all()
            assert start_len[:, 1].max() > 1000
        else:
            assert torch.equal(start_len[:, 1].cpu(), outputs["length"])
            assert torch.equal(idx.cpu(), outputs["idx"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches(), st.sampled_from([0.0, 0.3, 1.0, 2.0]))
def test_lists_equal_reference(device, batch, radius):
    xyz, offset, _ = batch
    counts = torch.diff(offset, prepend=offset.new_zeros(1))
    cloud = torch.repeat_interleave(torch.arange(len(counts), dtype=torch.int32), counts)
    ends = torch.cat((offset.new_zeros(1), offset))
    idx, start_len = torch.ops.pointgroup_ops.ballquery_batch_p(
        xyz.to(device), cloud.to(device), ends.to(device), radius
    )
    expected = reference.ballquery_batch_p(xyz, cloud, ends, radius)
    assert torch.equal(idx.cpu(), expected[0])
    assert torch.equal(start_len.cpu(), expected[1])


@pytest.mark.parametrize(("points", "radius"), [(3000, 0.1), (2500, 1.0), (3000, 50.0)])
def test_long_lists_are_sorted(device, points, radius):
    xyz, cloud = room(points), torch.zeros(points, dtype=torch.int32)
    ends = torch.tensor([0, points], dtype=torch.int32)
    idx, start_len = torch.ops.pointgroup_ops.ballquery_batch_p(
        xyz.to(device), cloud.to(device), ends.to(device), radius
    )
    expected = reference.ballquery_batch_p(xyz, cloud, ends, radius)
    assert torch.equal(idx.cpu(), expected[0])
    assert torch.equal(start_len.cpu(), expected[1])
