"""libs/pointops and libs/pointgroup_ops against their peers, in one process on one machine.

    python -m benchmarks.libs_pointops knn --device cpu                      against scipy's cKDTree with 2 workers
    python -m benchmarks.libs_pointops fps --device cpu                      against fpsample (pip install fpsample)
    python -m benchmarks.libs_pointops knn|fps|cluster --device cuda --pointcept DIR

DIR is where Pointcept's own operators are installed (pip install --target DIR, each of its libs). Medians; the ratio
comes last. The physical limit counts what must be read and written once, at the memory's bandwidth.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pointops
import torch
from torch import Tensor

from benchmarks import farthest_rules
from benchmarks.machine import machine

POINTS = {"knn": 1_000_000, "fps": {"cpu": 100_000, "cuda": 200_000}, "cluster": 1_000_000}
NEIGHBOURS = 16
RADIUS = 0.03
BANDWIDTH = {"cpu": 20e9, "cuda": 3.35e12}  # bytes a second: two channels as a small machine has them; H100 SXM


def scene(points: int, seed: int = 0) -> Tensor:
    """Floor, walls and tables with equal density, a scanner's noise, in random order: (points, 3) float32, metres."""
    rng = np.random.default_rng(seed)
    corners = np.array([[0, 0, 0], [0, 0, 0], [0, 0, 0], [8, 0, 0], [0, 6, 0], [2, 2, 0.8], [5, 3, 0.7]], np.float64)
    edges = np.array([[8, 6, 0], [0, 6, 3], [8, 0, 3], [0, 6, 3], [8, 0, 3], [3, 2, 0], [2, 2, 0]], np.float64)
    area = np.array([np.prod(e[e > 0]) for e in edges])
    part = rng.choice(len(area), points, p=area / area.sum())
    xyz = corners[part] + rng.random((points, 3)) * edges[part] + rng.normal(0, 0.003, (points, 3))
    return torch.from_numpy(xyz.astype(np.float32))


def load(folder: Path, pattern: str, name: str) -> ModuleType:
    """Load an extension module from a folder, under a name that does not collide with ours."""
    found = sorted(folder.glob(pattern))
    if not found:
        raise SystemExit(f"no {pattern} under {folder}")
    spec = importlib.util.spec_from_file_location(name, found[0])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def median_s(call: Callable[[], Any], repeats: int, device: str) -> tuple[float, Any]:
    """Median time of a call after one to warm up, and its result."""
    result = call()
    times = []
    for _ in range(repeats):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        result = call()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times), result


def extra_bytes(call: Callable[[], Any], device: str) -> int:
    """Most memory that a call takes at once, its results included."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # the highest resident size starts anew (Linux, man 5 proc)
    before = _resident()
    call()
    return _resident() - before


def _resident() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def size(value: Any) -> int:
    """Bytes of the tensors in a value."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return sum(size(v) for v in value) if isinstance(value, tuple | list) else 0


def knn(device: str, pointcept: Path | None) -> tuple[Any, ...]:
    """Returns our call, its inputs, the peer's name and call, and how to tell whether the results agree."""
    xyz = scene(POINTS["knn"]).to(device)
    offset = torch.tensor([len(xyz)], dtype=torch.int32, device=device)
    if device == "cpu":
        from scipy.spatial import cKDTree

        points = xyz.numpy()
        peer = lambda: cKDTree(points).query(points, k=NEIGHBOURS, workers=2)  # noqa: E731
        agree = lambda ours, theirs: np.allclose(ours[1].numpy(), theirs[0], rtol=1e-5, atol=1e-6)  # noqa: E731
        return lambda: pointops.knn_query(NEIGHBOURS, xyz, offset), [xyz], "scipy cKDTree, 2 workers", peer, agree
    extension = load(pointcept / "pointops", "_C*.so", "pointcept._C") if pointcept else None

    def theirs() -> tuple[Tensor, Tensor]:
        idx = torch.zeros(len(xyz), NEIGHBOURS, dtype=torch.int32, device=device)
        square = torch.zeros(len(xyz), NEIGHBOURS, device=device)
        extension.knn_query_cuda(len(xyz), NEIGHBOURS, xyz, xyz, offset, offset, idx, square)
        return idx, torch.sqrt(square)

    def agree_on(ours: Any, peers: Any) -> bool:
        return torch.allclose(ours[1], peers[1], rtol=1e-5, atol=1e-6)

    return (
        lambda: pointops.knn_query(NEIGHBOURS, xyz, offset),
        [xyz],
        "Pointcept knn_query",
        theirs if extension else None,
        agree_on,
    )


def fps(device: str, pointcept: Path | None) -> tuple[Any, ...]:
    """Returns as knn does; a quarter of the points is sampled."""
    xyz = scene(POINTS["fps"][device]).to(device)
    count = len(xyz) // 4
    offset, new_offset = (torch.tensor([n], dtype=torch.int32, device=device) for n in (len(xyz), count))
    ours = lambda: pointops.farthest_point_sampling(xyz, offset, new_offset)  # noqa: E731
    if device == "cpu":
        import fpsample

        points = xyz.numpy()
        # Exact too, but from a first point of its own choice: the sets differ.
        peer = lambda: fpsample.bucket_fps_kdline_sampling(points, count, h=7)  # noqa: E731
        return ours, [xyz], "fpsample bucket_fps_kdline_sampling, h=7", peer, lambda a, b: len(a) == len(b)
    extension = load(pointcept / "pointops", "_C*.so", "pointcept._C") if pointcept else None

    def theirs() -> Tensor:
        idx = torch.zeros(count, dtype=torch.int32, device=device)
        near = torch.ones(len(xyz), device=device) * 1e10
        extension.farthest_point_sampling_cuda(1, len(xyz), xyz, offset, new_offset, near, idx)
        return idx

    def same_indices(a: Tensor, b: Tensor) -> str:
        own = farthest_rules.sample(xyz, count, fused=False, by_tree=False)
        fused, plain = (farthest_rules.sample(xyz, count, fused=fused, by_tree=True) for fused in (True, False))
        pairs = ((a, b), (a, own), (b, fused), (b, plain))
        same = [f"{(one == two).float().mean().item():.4%}" for one, two in pairs]
        return (
            f"{same[0]} of the indices the same; step by step in torch: ours {same[1]}, "
            f"the peer with fused multiply-adds {same[2]}, without {same[3]}, with the ties of its tree in both"
        )

    return ours, [xyz], "Pointcept farthest_point_sampling", theirs if extension else None, same_indices


def cluster(device: str, pointcept: Path | None) -> tuple[Any, ...]:
    """Returns as knn does; neighbours within 3 cm, then the clusters they make."""
    import pointgroup_ops

    xyz = scene(POINTS["cluster"]).to(device)
    n = len(xyz)
    cloud = torch.zeros(n, dtype=torch.int32, device=device)
    ends = torch.tensor([0, n], dtype=torch.int32, device=device)
    label = (xyz[:, 0] * 4).int() % 5

    def ours() -> tuple[Tensor, Tensor]:
        idx, start_len = pointgroup_ops.ballquery_batch_p(xyz, cloud, ends, RADIUS, 50)
        return pointgroup_ops.bfs_cluster(label, idx, start_len, 50)

    extension = load(pointcept, "pointgroup_ops_cuda*.so", "pointgroup_ops_cuda") if pointcept else None

    def theirs() -> tuple[Tensor, Tensor]:
        idx = torch.zeros(n * 50, dtype=torch.int32, device=device)
        start_len = torch.zeros(n, 2, dtype=torch.int32, device=device)
        total = extension.ballquery_batch_p(xyz, cloud, ends, idx, start_len, n, 50, RADIUS)
        members, offsets = torch.zeros(0, dtype=torch.int32), torch.zeros(0, dtype=torch.int32)
        extension.bfs_cluster(label.cpu(), idx[:total].cpu(), start_len.cpu(), members, offsets, n, 50)
        return members, offsets

    def same_partition(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> bool:
        rows = []
        for members, _ in (a, b):
            number = torch.full((n,), -1, dtype=torch.int32)
            number[members[:, 1].cpu().long()] = members[:, 0].cpu()  # both count clusters by their lowest point
            rows.append(number)
        return torch.equal(*rows)

    name = "Pointcept ballquery_batch_p and bfs_cluster"
    return ours, [xyz, cloud, ends, label], name, theirs if extension else None, same_partition


def print_memory_of_each(device: str, xyz: Tensor, cloud: Tensor, ends: Tensor, label: Tensor) -> None:
    """The row's memory by operator: the neighbour list is the first one's result and the second one's input."""
    import pointgroup_ops

    lists = pointgroup_ops.ballquery_batch_p(xyz, cloud, ends, RADIUS, 50)
    calls: list[tuple[str, Callable[[], Any], list[Tensor]]] = [
        (
            "ballquery_batch_p",
            lambda: pointgroup_ops.ballquery_batch_p(xyz, cloud, ends, RADIUS, 50),
            [xyz, cloud, ends],
        ),
        ("bfs_cluster", lambda: pointgroup_ops.bfs_cluster(label, *lists, 50), [label, *lists]),
    ]
    for name, call, inputs in calls:
        moved = size(inputs) + size(call())
        extra = extra_bytes(call, device)
        print(
            f"  {name}: {extra / 1e6:.0f} MB, {extra / moved:.2f} times its inputs and results ({moved / 1e6:.0f} MB)"
        )


def main() -> None:
    """Runs one row and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["knn", "fps", "cluster"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--pointcept", type=Path, help="where Pointcept's operators are installed")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    device = arguments.device
    call, inputs, peer_name, peer, agree = {"knn": knn, "fps": fps, "cluster": cluster}[arguments.what](
        device, arguments.pointcept
    )
    where = f"{torch.cuda.get_device_name()}, torch {torch.__version__}" if device == "cuda" else machine()
    print(f"{arguments.what} on {where}, {len(inputs[0]):,} points")
    extra = extra_bytes(call, device)
    ours_s, result = median_s(call, arguments.repeats, device)
    moved = size(inputs) + size(result)
    print(f"memory: {extra / 1e6:.0f} MB at most, {extra / moved:.2f} times inputs and results ({moved / 1e6:.0f} MB)")
    if arguments.what == "cluster":
        print_memory_of_each(device, *inputs)
    print(f"limit:  {moved / BANDWIDTH[device] * 1e3:.3f} ms to read the inputs and write the results once")
    print(f"ours:   {ours_s * 1e3:.2f} ms")
    if peer is None:
        print("peer:   not given (--pointcept)")
        return
    peer_s, expected = median_s(peer, max(1, arguments.repeats // 2), device)
    print(f"peer:   {peer_s * 1e3:.2f} ms, {peer_name}")
    print(f"agree:  {agree(result, expected)}")
    print(f"ratio:  {peer_s / ours_s:.1f}x")


if __name__ == "__main__":
    main()
