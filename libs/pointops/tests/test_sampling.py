"""farthest_point_sampling against Pointcept's numbers and the reference."""

from __future__ import annotations

import pointops
import torch
from hypothesis import HealthCheck, given, settings
from pointops import reference

from .clouds import batches, room


def test_samples_are_pointcepts(golden, device):
    for call, inputs, outputs in golden("ops_farthest_point_sampling"):
        idx = pointops.farthest_point_sampling(**{k: v.to(device) for k, v in inputs.items()}).cpu()
        if "ties" in call["note"]:  # which of equally far points comes first is left open there
            assert torch.equal(idx, reference.farthest_point_sampling(**inputs))
        else:
            assert torch.equal(idx, outputs["idx"]), call["note"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches())
def test_samples_equal_reference(device, batch):
    xyz, offset, rng = batch
    counts = torch.diff(offset, prepend=offset.new_zeros(1))
    wanted = [int(rng.integers(0, 2 * int(c) + 1)) for c in counts]
    new_offset = torch.cumsum(torch.tensor(wanted), 0).int()
    idx = pointops.farthest_point_sampling(xyz.to(device), offset.to(device), new_offset.to(device))
    assert torch.equal(idx.cpu(), reference.farthest_point_sampling(xyz, offset, new_offset))


def test_larger_clouds_equal_reference(device):
    xyz = torch.cat((room(6000, 1), room(3000, 2)))
    offset, new_offset = torch.tensor([6000, 9000]), torch.tensor([1500, 1800])
    idx = pointops.farthest_point_sampling(xyz.to(device), offset.to(device), new_offset.to(device))
    assert torch.equal(idx.cpu(), reference.farthest_point_sampling(xyz, offset, new_offset))
