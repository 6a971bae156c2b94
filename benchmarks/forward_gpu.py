"""Forward passes on a GPU: this service's networks against Pointcept's own code, on one scene with the same weights.

    python -m benchmarks.forward_gpu --pointcept CHECKOUT [--voxels 200000] [--families SpUNet-v1m1 PT-v3m1] [--profile]

Wall-clock medians from the batch on the device to logits on the device, both ends synchronised, everything made anew
in each pass (kernel maps, orders); the GPU's own time in a pass; peak device memory above what the network's weights
take; and how far the logits are from Pointcept's in float32, in standard deviations of these. Without --pointcept
ours alone. spconv runs the convolutions of both, and torch's scaled_dot_product_attention the attention; in a float32
network Pointcept's still is in bfloat16, ours is not.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import pointcept
from benchmarks.machine import machine
from benchmarks.rooms import room
from service.models.batch import Batch
from service.models.catalogue import FAMILIES
from service.models.layers.engine import engine
from service.models.site import Site

CLASSES = 20
_CURVES: dict[str, Any] = {
    "in_channels": 6,
    "order": ("z", "z-trans", "hilbert", "hilbert-trans"),
    "enc_patch_size": (1024,) * 5,
    "dec_patch_size": (1024,) * 4,
    "enable_flash": True,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "SpUNet-v1m1": {"type": "SpUNet-v1m1", "in_channels": 6, "num_classes": CLASSES},
    "SpUNet-v1m2": {"type": "SpUNet-v1m2", "in_channels": 6, "num_classes": CLASSES},
    "PT-v3m1": {"type": "PT-v3m1", **_CURVES},
    "PT-v3m2": {"type": "PT-v3m2", **_CURVES},
    "PT-v3m3": {
        "type": "PT-v3m3",
        **_CURVES,
        "enc_channels": (48, 96, 192, 384, 576),
        "enc_num_head": (2, 4, 8, 16, 24),
        "dec_channels": (48, 96, 192, 384),
        "dec_num_head": (2, 4, 8, 16),
        "rope_base": 10,
    },
}
FEATURES = {"PT-v3m1": 64, "PT-v3m2": 64, "PT-v3m3": 48}
"""Families whose network ends in features, and how many; a linear head stands behind them."""


class Headed(nn.Module):
    """Pointcept's backbone with the head of its segmentor."""

    def __init__(self, backbone: nn.Module, features: int | None) -> None:
        super().__init__()
        self.seg_head = nn.Identity() if features is None else nn.Linear(features, CLASSES)
        self.backbone = backbone

    def forward(self, batch: Batch) -> torch.Tensor:
        found = self.backbone(
            {"coord": batch.coord, "grid_coord": batch.grid_coord, "feat": batch.feat, "offset": batch.offset}
        )
        logits: torch.Tensor = self.seg_head(found if isinstance(found, torch.Tensor) else found.feat)
        return logits


@dataclass(frozen=True)
class Figures:
    """Of one network: wall-clock median and spread, the GPU's own time, kernels, memory."""

    wall_ms: float
    best_ms: float
    worst_ms: float
    gpu_ms: float
    launches: int
    memory_mb: float


def ours(family: str) -> nn.Module:
    """Return our network, as the service builds it from a configuration."""
    device = torch.device("cuda")
    config: dict[str, Any] = {"type": "DefaultSegmentor", "backbone": CONFIGS[family]}
    if family in FEATURES:
        head = {"num_classes": CLASSES, "backbone_out_channels": FEATURES[family]}
        config = {**config, **head, "type": "DefaultSegmentorV2"}
    torch.manual_seed(0)
    network = Site(engine("spconv", device), FAMILIES).build(config).eval()
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.8, 1.2)
        elif name.endswith("running_mean"):
            tensor.normal_(0, 0.1)
    return network.to(device)


def theirs(checkout: Path, family: str) -> nn.Module:
    """Return Pointcept's own network, with the orders of curves left as they are configured."""
    network: nn.Module = pointcept.load(checkout)["MODELS"].build(dict(CONFIGS[family]))
    for module in network.modules():
        if hasattr(module, "shuffle_orders"):
            # Its pooling draws a random order whatever the configuration says; without it two runs can be compared.
            module.shuffle_orders = False  # type: ignore[assignment]
    return network


def measure(network: nn.Module, make: Callable[[], Batch], repeat: int, profiled: bool) -> tuple[Figures, torch.Tensor]:
    """Return the figures of a network, and its logits."""
    for _ in range(5):
        logits = network(make())
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(repeat):
        batch = make()
        torch.cuda.synchronize()
        start = time.perf_counter()
        logits = network(batch)
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1e3)
    memory = (torch.cuda.max_memory_allocated() - before) / 2**20
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    batch = make()
    with torch.profiler.profile(activities=activities) as profile:
        network(batch)
        torch.cuda.synchronize()
    kernels = [event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    if profiled:
        for key in ("self_cuda_time_total", "self_cpu_time_total"):
            print(profile.key_averages().table(sort_by=key, row_limit=25, max_name_column_width=70))
    gpu_ms = sum(event.time_range.elapsed_us() for event in kernels) / 1e3
    figures = Figures(statistics.median(times), min(times), max(times), gpu_ms, len(kernels), memory)
    return figures, logits


def compare(family: str, arguments: argparse.Namespace) -> None:
    """Measure one family, print its lines."""
    device = torch.device("cuda")
    grid_coord = torch.from_numpy(room(arguments.voxels)).to(device)
    feat = torch.randn(len(grid_coord), 6, generator=torch.Generator().manual_seed(0)).to(device)
    offset = torch.tensor([len(grid_coord)], device=device)
    network = ours(family)
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    parameters = sum(parameter.numel() for parameter in network.parameters())
    print(f"{family}: {parameters / 1e6:.1f} M parameters, {len(grid_coord)} voxels of 0.02 m")
    networks = {"ours": network}
    if arguments.pointcept is not None:
        peer = Headed(theirs(arguments.pointcept, family), FEATURES.get(family))
        peer.load_state_dict(weights, strict=True)
        networks = {"pointcept": peer.eval().to(device), **networks}
    network.fold()  # type: ignore[operator]
    reference: torch.Tensor | None = None
    for dtype in (torch.float32, torch.float16):
        for name, one in networks.items():
            one.to(dtype)

            def make(dtype: torch.dtype = dtype) -> Batch:
                return Batch(grid_coord * 0.02, grid_coord, feat.to(dtype), offset)

            figures, logits = measure(one, make, arguments.repeat, arguments.profile and dtype == torch.float16)
            reference = logits.float() if reference is None else reference
            difference = float((logits.float() - reference).abs().max() / reference.std())
            agreement = float((logits.argmax(1) == reference.argmax(1)).float().mean())
            print(
                f"  {name:10}{str(dtype)[6:]:9}{figures.wall_ms:9.2f} ms ({figures.best_ms:.2f} to "
                f"{figures.worst_ms:.2f}), GPU {figures.gpu_ms:.2f} ms in {figures.launches} kernels, "
                f"{figures.memory_mb:.0f} MB; max difference {difference:.1e}, same class {agreement:.5f}",
                flush=True,
            )


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pointcept", type=Path)
    parser.add_argument("--voxels", type=int, default=200_000)
    parser.add_argument("--families", nargs="+", choices=list(CONFIGS), default=["SpUNet-v1m1", "PT-v3m1"])
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    print(f"{machine()}, {torch.cuda.get_device_name()}; median of {arguments.repeat} passes")
    for family in arguments.families:
        compare(family, arguments)


if __name__ == "__main__":
    main()
