"""Sparse convolution on a CPU: libs/sparseconv against spconv's Native path, in one process.

    python -m benchmarks.sparseconv_cpu [network] [maps] [memory] [--voxels N] [--threads 2] [--repeat 5]

network: the full-size SpUNet-v1m1 on a room of 230,000 voxels, same weights, results compared.
maps:    every kernel map of that network, 200,000 voxels.
memory:  what each operator allocates beside its inputs, as a multiple of inputs and outputs.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sparseconv
import torch
from torch import nn

from benchmarks.machine import machine
from benchmarks.rooms import room
from service.models import spunet
from service.models.batch import Batch
from service.models.layers.compiled import CompiledEngine
from service.models.layers.spconv import SpconvEngine

CPU = torch.device("cpu")
MARGIN = 96
LEVELS = 5
CONVOLUTIONS = (sparseconv.SubMConv3d, sparseconv.SparseConv3d, sparseconv.SparseInverseConv3d)


def measure(work: Callable[[], Any], repeat: int, warm: int = 1) -> list[float]:
    """Return the seconds of several calls, sorted."""
    for _ in range(warm):
        work()
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return sorted(times)


def show(name: str, times: Sequence[float], more: str = "") -> float:
    """Print one line and return the median."""
    median = statistics.median(times)
    load = os.getloadavg()[0]
    print(
        f"{name:34} median {median * 1e3:9.1f} ms, best {times[0] * 1e3:9.1f} of {len(times)}, load {load:.1f} {more}"
    )
    return median


def gemm_peak(dtype: torch.dtype = torch.float32) -> float:
    """Return the FLOP/s of torch.mm on two matrices of 2048 x 2048."""
    a, b = torch.randn(2048, 2048).to(dtype), torch.randn(2048, 2048).to(dtype)
    times = measure(lambda: torch.mm(a, b), 9, warm=3)
    name = f"torch.mm 2048 {str(dtype)[6:]}"
    return 2 * 2048**3 / show(name, times, f"{2 * 2048**3 / statistics.median(times) / 1e9:.0f} GFLOP/s")


def cloud(voxels: int) -> tuple[torch.Tensor, list[int]]:
    """Return (M, 4) int32 cells of one room in random order, and the grid's extent."""
    cells = torch.from_numpy(room(voxels))
    indices = torch.cat([torch.zeros(len(cells), 1, dtype=torch.int32), cells], dim=1).contiguous()
    return indices, [largest + MARGIN for largest in cells.amax(dim=0).tolist()]


def count_flop(network: nn.Module, batch: Batch) -> float:
    """Return the floating point operations of all products that a forward makes."""
    total = 0

    def count(layer: Any, given: tuple[Any, ...], result: Any) -> None:
        nonlocal total
        found = given[0].maps.get(layer.indice_key) if layer.indice_key is not None else None
        if isinstance(layer, sparseconv.SparseConv3d):
            pairs = found.down.down.pairs
        elif isinstance(layer, sparseconv.SparseInverseConv3d):
            pairs = found.down.up.pairs
        else:
            pairs = len(result.features) if found is None else found.found.pairs
        total += 2 * pairs * layer.in_channels * layer.out_channels

    hooks = [layer.register_forward_hook(count) for layer in network.modules() if isinstance(layer, CONVOLUTIONS)]
    network(batch)
    for hook in hooks:
        hook.remove()
    return float(total)


def compare_networks(voxels: int, repeat: int) -> None:
    """Print SpUNet's time on both engines."""
    cells = torch.from_numpy(room(voxels))
    torch.manual_seed(0)
    feat = torch.randn(len(cells), 6)
    batch = Batch(cells * 0.02, cells, feat, torch.tensor([len(cells)]))
    theirs = spunet.SpUNet(SpconvEngine(CPU), 6, 20).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm1d):
            for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                tensor.data.uniform_(0.5, 1.5)
    ours = spunet.SpUNet(CompiledEngine(), 6, 20).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    ours.fold()
    parameters = sum(parameter.numel() for parameter in ours.parameters()) / 1e6
    flop, peak = count_flop(ours, batch), gemm_peak()
    print(f"SpUNet-v1m1, {parameters:.1f} M parameters, {len(cells)} voxels, {flop / 1e9:.0f} GFLOP, float32")
    mine = measure(lambda: ours(batch), repeat)
    rate = flop / statistics.median(mine)
    our_s = show("ours", mine, f"{rate / 1e9:.0f} GFLOP/s, {rate / peak:.0%} of torch.mm")
    print(f"physical limit: {flop / peak:.2f} s at the speed of torch.mm")
    results: list[torch.Tensor] = []
    peer_s = show("spconv Native", measure(lambda: results.append(theirs(batch)), max(1, repeat // 3), warm=0))
    exact = ours(batch)
    difference = (exact - results[-1]).abs().max() / results[-1].std()
    print(f"largest difference {difference:.1e} standard deviations of the logits; ratio {peer_s / our_s:.1f}x")
    if not sparseconv.multiplies_bfloat16():
        print("bfloat16: this processor has no instructions for it")
        return
    for module in ours.modules():
        if isinstance(module, CONVOLUTIONS):
            module.narrow = True
    for name in [name for name in sparseconv.cpu_instructions() if name.endswith("bf16")]:
        sparseconv.use_cpu_instructions(name)
        mine = measure(lambda: ours(batch), repeat)
        seconds = statistics.median(mine)
        show(f"ours, bfloat16, {name}", mine, f"{flop / seconds / 1e9:.0f} GFLOP/s, ratio {peer_s / seconds:.1f}x")
        print(f"error of the logits {(ours(batch) - exact).norm() / exact.norm():.1e} (norm, against float32)")
    peak = gemm_peak(torch.bfloat16)
    print(f"physical limit in bfloat16: {flop / peak:.2f} s at the speed of torch.mm")


def our_maps(indices: torch.Tensor, shape: list[int]) -> list[sparseconv.KernelMap]:
    """Return every kernel map of SpUNet."""
    cells = sparseconv.sort_cells(indices, shape)
    maps = [sparseconv.subm_map(cells, 5)]
    for level in range(LEVELS):
        maps.append(sparseconv.subm_map(cells, 3))
        if level < LEVELS - 1:
            down = sparseconv.down_map(cells, 2, 2)
            maps += [down.down, down.up]
            cells = down.cells
    return maps


def their_maps(indices: torch.Tensor, shape: list[int]) -> list[int]:
    """Have spconv make every kernel map of SpUNet, and return the number of pairs of each."""
    from spconv.core import ConvAlgo
    from spconv.pytorch import ops

    def make(cells: torch.Tensor, extent: list[int], size: int, stride: int, subm: bool) -> tuple[Any, ...]:
        sizes = ([size] * 3, [stride] * 3, [size // 2 if subm else 0] * 3, [1] * 3, [0] * 3)
        return ops.get_indice_pairs(cells, 1, extent, ConvAlgo.Native, *sizes, subm)

    pairs = [int(make(indices, shape, 5, 1, True)[2].sum())]
    for level in range(LEVELS):
        pairs.append(int(make(indices, shape, 3, 1, True)[2].sum()))
        if level < LEVELS - 1:
            indices, _, amount = make(indices, shape, 2, 2, False)
            pairs.append(int(amount.sum()))
            shape = [extent // 2 for extent in shape]
    return pairs


def compare_maps(voxels: int, repeat: int) -> None:
    """Print the time of all kernel maps on both sides; spconv stores only half of a submanifold map's pairs."""
    indices, shape = cloud(voxels)
    made = our_maps(indices, shape)
    size = sum(part.nbytes for part in made)
    print(f"kernel maps of all levels, {len(indices)} voxels, {sum(part.pairs for part in made) / 1e6:.1f} M pairs")
    our_s = show("ours", measure(lambda: our_maps(indices, shape), repeat), f"{size / 1e6:.0f} MB of maps")
    ordered = indices[sparseconv.sort_cells(indices, shape).order.long()].contiguous()
    show("ours, cells sorted before", measure(lambda: our_maps(ordered, shape), repeat))
    print(f"physical limit: {(size + indices.nbytes) / 1e10 * 1e3:.0f} ms to read and write them once at 10 GB/s")
    peer_s = show("spconv Native", measure(lambda: their_maps(indices, shape), repeat))
    sorted_s = show("spconv Native, cells sorted before", measure(lambda: their_maps(ordered, shape), repeat))
    print(f"ratio {peer_s / our_s:.1f}x, against sorted cells {sorted_s / our_s:.1f}x")


def status(field: str) -> int:
    """Return a memory figure of this process, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def allocated(work: Callable[[], Any]) -> tuple[int, Any]:
    """Return the most memory that a call had beside what was there before, and its result."""
    work()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    result = work()
    return status("VmHWM") - before, result


def show_memory(voxels: int) -> None:
    """Print what each operator allocates, its result included."""
    indices, shape = cloud(voxels)
    ops = torch.ops.sparseconv
    keys, order = ops.sort_cells(indices, shape)
    found = sparseconv.subm_map(sparseconv.sort_cells(indices, shape), 3)
    features, weight, residual = torch.randn(len(indices), 96), torch.randn(96, 3, 3, 3, 96), torch.randn(len(keys), 96)
    packed = sparseconv.pack_weight(weight)
    ones, twos, threes = [1] * 3, [2] * 3, [3] * 3
    map_parts = (found.rows, found.starts, found.sources, found.targets)
    calls: list[tuple[str, Any, tuple[Any, ...]]] = [
        ("sort_cells", ops.sort_cells, (indices, shape)),
        ("subm_map 3x3x3", ops.subm_map, (keys, order, shape, threes, ones)),
        ("subm_map 5x5x5", ops.subm_map, (keys, order, shape, [5] * 3, ones)),
        ("down_map 2x2x2, stride 2", ops.down_map, (keys, order, shape, twos, twos, [0] * 3, ones)),
        ("down_map 3x3x3, stride 2", ops.down_map, (keys, order, shape, threes, twos, ones, ones)),
        ("pack_weight 96 -> 96", ops.pack_weight, (weight,)),
        ("conv 96 -> 96", ops.conv, (features, packed, 96, *map_parts, None, residual, True)),
        ("linear 96 -> 96", ops.linear, (features, packed[:1].contiguous(), 96, None, residual, True)),
    ]
    print(f"memory of the operators, {len(indices)} voxels")
    for name, work, arguments in calls:
        peak, result = allocated(lambda work=work, arguments=arguments: work(*arguments))  # type: ignore[misc]
        results = result if isinstance(result, (tuple, list)) else (result,)
        tensors = [part for part in (*arguments, *results) if isinstance(part, torch.Tensor)]
        both = sum(part.nbytes for part in tensors)
        outputs = sum(part.nbytes for part in results)
        print(
            f"{name:34} allocates {peak / 1e6:7.1f} MB, of which its result is {outputs / 1e6:7.1f} MB: "
            f"{peak / both:.2f} times inputs and outputs (bound 3)"
        )


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=["network", "maps", "memory", []], default=[])
    parser.add_argument("--voxels", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    what = arguments.what or ["network", "maps", "memory"]
    print(f"{machine()}, {arguments.threads} threads, instructions {sparseconv.cpu_instructions()[-1]}")
    if "network" in what:
        compare_networks(arguments.voxels or 230_000, arguments.repeat)
    if "maps" in what:
        compare_maps(arguments.voxels or 200_000, arguments.repeat)
    if "memory" in what:
        show_memory(arguments.voxels or 200_000)


if __name__ == "__main__":
    np.seterr(over="ignore")
    main()
