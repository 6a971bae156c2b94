"""The test-time procedure: Pointcept's tester against `tta=full`, on the same weights and the same scene.

    python -m benchmarks.tta_gpu [--pointcept CHECKOUT] [--model spunet] [--points 190000] [--train-s 20] [--self]

The tester is the loop of Pointcept's SemSegTester and the steps of its dataset in test mode: float32, one fragment a
pass. With --pointcept its transforms, its collate function and, on a GPU, its network with spconv are its own code;
without, the transforms are written again here and the network is ours, as its parameters leave it. The weights are
trained for a moment on other rooms, so that labels mean something; `--train-s 0` leaves them random.

Which points share a fragment depends on their order in a cell, for the tester too: with --self it runs once more on the
same points in another order, and the share of labels that stay is what can be asked of anybody.

Prints the machine, times, their ratio, the share of equal labels, and the peak memory of the device. On a CPU, with
few points, it shows that both still agree; its times mean nothing.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks import pointcept, rooms
from benchmarks.machine import machine
from service.engine.labelling import Wishes, label
from service.models.batch import Batch
from service.models.catalogue import FAMILIES
from service.models.layers.engine import EngineName, engine
from service.models.model import Model
from service.models.site import Site
from service.transforms import Recipe
from service.transforms.augment import Augmentation
from service.transforms.steps import CenterShift
from service.values import ClassInfo, ModelCard, PointCloud, Segmentation

GRID_SIZE = 0.02
CLASSES = len(rooms.SURFACES)
NETWORKS: Mapping[str, dict[str, Any]] = {
    "spunet": {
        "type": "DefaultSegmentor",
        "backbone": {"type": "SpUNet-v1m1", "in_channels": 9, "num_classes": CLASSES},
    },
    "small": {
        "type": "DefaultSegmentor",
        "backbone": {
            "type": "SpUNet-v1m1",
            "in_channels": 9,
            "num_classes": CLASSES,
            "base_channels": 16,
            "channels": [16, 32, 32, 16],
            "layers": [1, 1, 1, 1],
        },
    },
    "ptv3": {
        "type": "DefaultSegmentorV2",
        "num_classes": CLASSES,
        "backbone_out_channels": 64,
        "backbone": {
            "type": "PT-v3m1",
            "in_channels": 9,
            "order": ["z", "z-trans", "hilbert", "hilbert-trans"],
            "enc_patch_size": [1024] * 5,
            "dec_patch_size": [1024] * 4,
            "shuffle_orders": False,
            "enable_flash": True,
            "upcast_attention": False,
            "upcast_softmax": False,
        },
    },
}
_TURN: dict[str, Any] = {"type": "RandomRotateTargetAngle", "axis": "z", "center": [0, 0, 0], "p": 1}
AUGMENTATIONS: list[list[dict[str, Any]]] = [
    [{**_TURN, "angle": [angle]}, *([{"type": "RandomScale", "scale": [scale, scale]}] if scale != 1 else [])]
    for scale in (1, 0.95, 1.05)
    for angle in (0, 0.5, 1, 1.5)
] + [[{"type": "RandomFlip", "p": 1}]]
"""Those of Pointcept's configurations for ScanNet and S3DIS."""


Data = dict[str, Any]
Network = Callable[[Data], torch.Tensor]


class Steps:
    """Pointcept's test transforms: its own code, or the same steps written again."""

    def __init__(self, theirs: Mapping[str, Any] | None) -> None:
        self._theirs = theirs

    def prepare(self, scan: rooms.Scan) -> list[Data]:
        """Return the fragments of a scan, as `prepare_test_data` of Pointcept's datasets makes them."""
        data: Data = {
            "coord": scan.coord.copy(),
            "color": scan.color.astype(np.float32),
            "normal": scan.normal.copy(),
            "segment": scan.segment.astype(np.int32),
        }
        if self._theirs is None:
            return _fragments(data)
        compose, transforms = self._theirs["Compose"], self._theirs["TRANSFORMS"]
        data = compose([{"type": "CenterShift", "apply_z": True}, {"type": "NormalizeColor"}])(data)
        data.pop("segment")
        looks = [compose(entry)(copy.deepcopy(data)) for entry in AUGMENTATIONS]
        voxelize = transforms.build(
            {
                "type": "GridSample",
                "grid_size": GRID_SIZE,
                "hash_type": "fnv",
                "mode": "test",
                "return_grid_coord": True,
            }
        )
        fragments = [part for look in looks for part in voxelize(look)]
        keys = ("coord", "color", "normal")
        collect = {"type": "Collect", "keys": ("coord", "grid_coord", "index"), "feat_keys": keys}
        after = compose([{"type": "CenterShift", "apply_z": False}, {"type": "ToTensor"}, collect])
        return [after(fragment) for fragment in fragments]

    def collate(self, fragments: list[Data]) -> Data:
        """Return the batch of one fragment."""
        found: Data = fragments[0] if self._theirs is None else self._theirs["collate_fn"](fragments)
        return found


def _fragments(data: Data) -> list[Data]:
    """Do what Pointcept's transforms do, where its code is not at hand."""
    coord: NDArray[Any] = data["coord"]
    low, high = coord.min(axis=0), coord.max(axis=0)
    coord -= np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]], np.float32)
    made = []
    for entry in AUGMENTATIONS:
        moved, turned = Augmentation.from_config(entry).apply(torch.from_numpy(coord), torch.from_numpy(data["normal"]))
        assert turned is not None
        at, normal = moved.numpy(), turned.numpy()
        cell = np.floor(at / np.array(GRID_SIZE)).astype(np.int64)
        cell -= cell.min(axis=0)
        _, inverse, count = np.unique(cell, axis=0, return_inverse=True, return_counts=True)
        order = np.argsort(inverse.reshape(-1))
        first = np.cumsum(count) - count
        for turn in range(count.max()):
            rows = order[first + turn % count]
            part = at[rows].astype(np.float64)
            part[:, :2] -= (part[:, :2].min(axis=0) + part[:, :2].max(axis=0)) / 2
            feat = np.concatenate([part, data["color"][rows] / 255, normal[rows]], axis=1)
            made.append(
                {
                    "coord": torch.from_numpy(part).float(),
                    "grid_coord": torch.from_numpy(cell[rows]),
                    "feat": torch.from_numpy(feat).float(),
                    "index": torch.from_numpy(rows),
                    "offset": torch.tensor([len(rows)]),
                }
            )
    return made


def run_tester(
    fragments: list[Data], points: int, steps: Steps, network: Network, device: torch.device
) -> NDArray[np.int64]:
    """Return the labels, after SemSegTester.test.

    Args:
        fragments: what `steps` made of the scene.
        points: of the scene.
        steps: Pointcept's transforms.
        network: of one batch's dict to logits.
        device: where the network is.
    """
    votes = torch.zeros((points, CLASSES), device=device)
    for i in range(len(fragments)):
        data = steps.collate(fragments[i : i + 1])
        for key, value in data.items():
            if isinstance(value, torch.Tensor):
                data[key] = value.to(device, non_blocking=True)
        index = data["index"]
        with torch.no_grad():
            part = torch.softmax(network(data), -1)
            begin = 0
            for end in data["offset"]:
                votes[index[begin:end], :] += part[begin:end]
                begin = end
    return votes.max(1)[1].cpu().numpy()


def train(name: str, device: torch.device, seconds: float, points: int) -> tuple[dict[str, Any], nn.Module]:
    """Return weights for a network that knows the surfaces of a room, and the network as it was trained."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    on_gpu = device.type == "cuda"
    # The native engine does not train.
    network = Site(engine("spconv" if on_gpu else "native", device), FAMILIES).build(NETWORKS[name]).to(device)
    lessons = [rooms.scan(points // 2, seed) for seed in range(1, 5)] if seconds > 0 and on_gpu else []
    adam = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
    until, step = time.monotonic() + seconds, 0
    loss = torch.zeros(())
    while lessons and time.monotonic() < until:
        scan = lessons[step % len(lessons)]
        turn = Augmentation.from_config([{**_TURN, "angle": [float(random.uniform(0, 2))]}])
        coord, normal = turn.apply(torch.from_numpy(scan.coord), torch.from_numpy(scan.normal))
        assert normal is not None
        coord = coord * random.uniform(0.9, 1.1)
        cell = torch.floor(coord / GRID_SIZE).long()
        cell -= cell.amin(dim=0)
        order = torch.from_numpy(random.permutation(len(cell)))
        key = (cell[order, 0] << 40) + (cell[order, 1] << 20) + cell[order, 2]
        _, first = np.unique(key.numpy(), return_index=True)
        rows = order[torch.from_numpy(first)]
        at = coord[rows] - (coord[rows].amin(dim=0) + coord[rows].amax(dim=0)) / 2 * torch.tensor([1.0, 1.0, 0.0])
        feat = torch.cat([at, torch.from_numpy(scan.color)[rows] / 255, normal[rows]], dim=1).float()
        batch = Batch(at.float().to(device), cell[rows].int().to(device), feat.to(device), _offset(len(rows), device))
        # As a schedule has it: fast at first, and to the point at the end.
        left = max(0.0, (until - time.monotonic()) / seconds)
        for group in adam.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 20) * left
        adam.zero_grad()
        loss = nn.functional.cross_entropy(network(batch), torch.from_numpy(scan.segment)[rows].to(device))
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        adam.step()
        step += 1
    if not lessons:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(1.6)  # as it is made, its answers hardly differ from point to point
    print(f"{name}: {sum(p.numel() for p in network.parameters()) / 1e6:.1f} M parameters, ", end="")
    print(f"trained for {step} steps to a loss of {loss.item():.3f}")
    return {key: value.detach().cpu() for key, value in network.state_dict().items()}, network.eval()


def _offset(rows: int, device: torch.device) -> torch.Tensor:
    return torch.tensor([rows], device=device)


def their_network(name: str, weights: Mapping[str, Any], theirs: Mapping[str, Any], device: torch.device) -> Network:
    """Return Pointcept's network with these weights."""
    config = copy.deepcopy(NETWORKS[name]["backbone"])
    backbone = theirs["MODELS"].build(config)
    parts = nn.ModuleDict({"backbone": backbone})
    if name == "ptv3":
        parts["seg_head"] = nn.Linear(64, CLASSES)
    parts.load_state_dict(weights, strict=True)
    parts.eval().to(device)

    def forward(data: Data) -> torch.Tensor:
        if name != "ptv3":
            logits: torch.Tensor = parts["backbone"](data)
            return logits
        found: torch.Tensor = parts["seg_head"](parts["backbone"](theirs["Point"](data)).feat)
        return found

    return forward


def our_network(network: nn.Module) -> Network:
    """Return our network, not folded and in float32, as a stand-in for Pointcept's."""

    def forward(data: Data) -> torch.Tensor:
        logits: torch.Tensor = network(Batch(data["coord"], data["grid_coord"].int(), data["feat"], data["offset"]))
        return logits

    return forward


def our_model(
    name: str, weights: Mapping[str, Any], engine_name: EngineName, device: torch.device, exact: bool
) -> Model:
    """Return the model as the service loads it, exact as with PRECISION=float32."""
    layers = engine(engine_name, device)
    network: Any = Site(layers, FAMILIES).build(NETWORKS[name])
    network.load_state_dict(weights, strict=True)
    network.eval()
    if layers.folds:
        network.fold()
    recipe = Recipe(
        GRID_SIZE,
        ("coord", "color", "normal"),
        reduce="nearest",
        augmentations=tuple(map(Augmentation.from_config, AUGMENTATIONS)),
        before=(CenterShift(),),
        after=(CenterShift(apply_z=False),),
    )
    classes = tuple(ClassInfo(id, surface, (0, 0, 0)) for id, surface in enumerate(rooms.SURFACES))
    card = ModelCard(name, name, name, classes, recipe.features, GRID_SIZE, 0, "this benchmark")
    return Model(network, card, recipe, layers, device, exact=exact)


def _peak(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    found = f", peak device memory {torch.cuda.max_memory_allocated(device) / 2**30:.2f} GB"
    torch.cuda.reset_peak_memory_stats(device)
    return found


def _run(model: Model, cloud: PointCloud, tta: str, repeat: int) -> tuple[Segmentation, list[float]]:
    seconds = []
    for _ in range(repeat + 1):
        started = time.perf_counter()
        (answer,) = label(model, [cloud], [Wishes(tta=tta)])
        seconds.append(time.perf_counter() - started)
    if not isinstance(answer, Segmentation):
        raise SystemExit(f"tta={tta} failed: {answer}")
    return answer, seconds[1:] if repeat else seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pointcept", type=Path, help="a checkout of Pointcept")
    parser.add_argument("--model", choices=sorted(NETWORKS), default="spunet")
    parser.add_argument("--points", type=int, default=190_000)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--engine", choices=("auto", "spconv", "native"), default="auto")
    parser.add_argument("--train-s", type=float, default=20.0)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument(
        "--self", dest="twice", action="store_true", help="the tester against itself, points in another order"
    )
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else "no GPU"
    print(f"{machine()}, {name}")
    theirs = pointcept.load(arguments.pointcept, networks=on_gpu) if arguments.pointcept else None
    scan = rooms.scan(arguments.points)
    weights, trained = train(arguments.model, device, arguments.train_s, arguments.points)
    # On a CPU spconv runs in another mode than Pointcept asks for.
    use_theirs = theirs is not None and on_gpu
    network = their_network(arguments.model, weights, theirs or {}, device) if use_theirs else our_network(trained)
    steps = Steps(theirs)
    started = time.perf_counter()
    fragments = steps.prepare(scan)
    data_s = time.perf_counter() - started
    if on_gpu:
        run_tester(fragments[:6], len(scan.coord), steps, network, device)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats(device)
    started = time.perf_counter()
    wanted = run_tester(fragments, len(scan.coord), steps, network, device)
    tester_s = data_s + time.perf_counter() - started
    whose = "Pointcept's transforms and network" if use_theirs else "our network in float32"
    print(f"tester ({whose}): {tester_s:.2f} s, of which data {data_s:.2f} s; {len(fragments)} passes{_peak(device)}")
    if arguments.twice:
        order = np.random.default_rng(1).permutation(len(scan.coord))
        again = np.empty_like(wanted)
        again[order] = run_tester(steps.prepare(scan.take(order)), len(order), steps, network, device)
        print(
            f"the tester agrees with itself, points in another order, on {(again == wanted).mean():.4%} of the points"
        )
    del network, trained, fragments
    if on_gpu:
        torch.cuda.empty_cache()
    cloud = PointCloud(scan.coord.astype(np.float64), scan.color, scan.normal)
    _peak(device)
    runs = [("none", False), ("full", False), *([("full", True)] if on_gpu else [])]
    for tta, exact in runs:
        model = our_model(arguments.model, weights, arguments.engine, device, exact)
        answer, seconds = _run(model, cloud, tta, arguments.repeat)
        equal, right = (answer.label == wanted).mean(), (answer.label == scan.segment).mean()
        median = statistics.median(seconds)
        print(f"tta={tta} (engine {model.engine}, {model.dtype}): {median:.3f} s, ", end="")
        print(
            f"{min(seconds):.3f} to {max(seconds):.3f} s; {tester_s / median:.1f} times as fast as the tester; ", end=""
        )
        print(f"labels equal on {equal:.4%} of the points, right on {right:.2%}{_peak(device)}; {answer.timing_ms}")
    print(f"the tester's labels are right on {(wanted == scan.segment).mean():.2%}")


if __name__ == "__main__":
    main()
