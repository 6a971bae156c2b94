"""Every operator of pointops and pointgroup_ops: called once for tools that watch memory, or with the memory it takes.

compute-sanitizer --tool memcheck python -m benchmarks.every_operator [--device cuda]
python -m benchmarks.every_operator --memory [--device cuda] [--points 200000]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pointgroup_ops
import pointops
import torch
from torch import Tensor

from benchmarks.libs_pointops import extra_bytes, size
from benchmarks.machine import machine

Call = tuple[str, Callable[[], Any], list[Tensor]]


def calls(points: int, device: torch.device) -> Iterator[Call]:
    """Yield each operator's name, a call of it, and the tensors that it is given; three clouds, one of them small.

    Args:
        points: of the batch; as many as 1,500 have about a hundred neighbours within 0.2, at any number.
        device: where the tensors are.
    """
    generator = torch.Generator().manual_seed(0)
    unit = (1500 / points) ** (1 / 3)  # the same number of neighbours within a radius, however many points there are
    few = points * 2 // 15
    xyz, query = (torch.rand(rows, 3, generator=generator).to(device) for rows in (points, few))
    offset = torch.tensor([points * 2 // 3, points * 2 // 3 + 40, points], device=device)
    new_offset = torch.tensor([few * 3 // 10, few * 3 // 10 + 40, few], device=device)
    feat = torch.randn(points, 6, generator=generator).to(device)
    ends = [xyz, offset]
    both = [xyz, offset, query, new_offset]
    for k in (3, 8, 16, 40):
        yield f"knn_query, {k}", partial(pointops.knn_query, k, xyz, offset), ends
        yield f"knn_query, {k}, of others", partial(pointops.knn_query, k, *both), both
    yield "ball_query", partial(pointops.ball_query, 8, 0.3 * unit, 0.05 * unit, xyz, offset), ends
    near = partial(pointops.random_ball_query, 20, 0.3 * unit, 0.05 * unit, *both)
    yield "random_ball_query", near, both
    sampled = partial(pointops.farthest_point_sampling, xyz, offset, new_offset)
    yield "farthest_point_sampling", sampled, [*ends, new_offset]
    idx, _ = pointops.knn_query(4, xyz, offset)
    yield "grouping", partial(pointops.grouping, idx, feat, xyz, with_xyz=True), [idx, feat, xyz]
    between = partial(pointops.interpolation, xyz, query, feat, offset, new_offset)
    yield "interpolation", between, [*both, feat]
    yield "subtraction", partial(pointops.subtraction, feat, feat, idx), [feat, idx]
    position, weight = (torch.randn(points, 4, channels, device=device) for channels in (6, 3))
    summed = [feat, position, weight, idx]
    yield "aggregation", partial(pointops.aggregation, *summed), summed
    target, reference = (torch.randint(0, points, (points * 2,), generator=generator).to(device) for _ in range(2))
    value = feat.reshape(points, 2, 3).contiguous()
    related = [value, value, torch.randn(3, device=device), target, reference]
    yield "attention_relation_step", partial(pointops.attention_relation_step, *related), related
    fused = [torch.randn(points * 2, 2, device=device), value, target, reference]
    yield "attention_fusion_step", partial(pointops.attention_fusion_step, *fused), fused
    cloud = pointops.offset2batch(offset).int()
    starts = torch.cat((offset.new_zeros(1), offset)).int()
    for radius in (0.05, 0.2, 0.8):
        balls = [xyz, cloud, starts]
        reach = radius * unit
        yield f"ballquery_batch_p, {radius}", partial(pointgroup_ops.ballquery_batch_p, *balls, reach, 50), balls
        lists = [cloud % 2, *pointgroup_ops.ballquery_batch_p(*balls, reach, 50)]
        yield f"bfs_cluster, {radius}", partial(pointgroup_ops.bfs_cluster, *lists, 5), lists


def main() -> None:
    """Call them once, or print what they take."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--points", type=int, help="1500, or with --memory 200000")
    parser.add_argument("--memory", action="store_true")
    arguments = parser.parse_args()
    points = arguments.points or (200_000 if arguments.memory else 1500)
    called = calls(points, torch.device(arguments.device))
    if not arguments.memory:
        for _, call, _ in called:
            call()
        if arguments.device == "cuda":
            torch.cuda.synchronize()
        print("every operator was called")
        return
    print(f"{torch.cuda.get_device_name() if arguments.device == 'cuda' else machine()}, {points:,} points\n")
    print("| operator | inputs and results, MB | allocated besides at most, MB | times |\n| --- | --- | --- | --- |")
    for name, call, inputs in called:
        moved, extra = size(inputs) + size(call()), extra_bytes(call, arguments.device)
        print(f"| {name} | {moved / 1e6:.1f} | {extra / 1e6:.1f} | {extra / moved:.2f} |", flush=True)


if __name__ == "__main__":
    main()
