"""One call of every operator of pointops and pointgroup_ops on a small batch, for tools that watch memory.

compute-sanitizer --tool memcheck python -m benchmarks.every_operator [--device cuda]
"""

from __future__ import annotations

import argparse

import pointgroup_ops
import pointops
import torch


def call_all(device: torch.device) -> None:
    """Call them; nothing is checked but that they return."""
    generator = torch.Generator().manual_seed(0)
    xyz, query = (torch.rand(rows, 3, generator=generator).to(device) for rows in (1500, 200))
    offset, new_offset = (torch.tensor(ends, device=device) for ends in ([1000, 1040, 1500], [60, 100, 200]))
    feat = torch.randn(1500, 6, generator=generator).to(device)
    for k in (3, 8, 16, 40):
        pointops.knn_query(k, xyz, offset)
        pointops.knn_query(k, xyz, offset, query, new_offset)
    pointops.ball_query(8, 0.3, 0.05, xyz, offset)
    pointops.random_ball_query(20, 0.3, 0.05, xyz, offset, query, new_offset)
    pointops.farthest_point_sampling(xyz, offset, new_offset)
    idx, _ = pointops.knn_query(4, xyz, offset)
    pointops.grouping(idx, feat, xyz, with_xyz=True)
    pointops.interpolation(xyz, query, feat, offset, new_offset)
    pointops.subtraction(feat, feat, idx)
    position, weight = (torch.randn(1500, 4, channels, device=device) for channels in (6, 3))
    pointops.aggregation(feat, position, weight, idx)
    target, reference = (torch.randint(0, 1500, (3000,), generator=generator).to(device) for _ in range(2))
    value = feat.reshape(1500, 2, 3).contiguous()
    pointops.attention_relation_step(value, value, torch.randn(3, device=device), target, reference)
    pointops.attention_fusion_step(torch.randn(3000, 2, device=device), value, target, reference)
    cloud = pointops.offset2batch(offset).int()
    ends = torch.cat((offset.new_zeros(1), offset)).int()
    for radius in (0.05, 0.2, 0.8):
        neighbours, start_len = pointgroup_ops.ballquery_batch_p(xyz, cloud, ends, radius, 50)
        pointgroup_ops.bfs_cluster(cloud % 2, neighbours, start_len, 5)
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Call them once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    call_all(torch.device(parser.parse_args().device))
    print("every operator was called")


if __name__ == "__main__":
    main()
