"""Which of Pointcept's configurations are served: each is read, its network filled at random, and a cloud labelled.

    python -m benchmarks.configs CHECKOUT [--only PART ...] [--seconds 120] [--memory-gb 8] [--device cpu] [--table F]

CHECKOUT is a folder with Pointcept's `configs/`. Each configuration has a process of its own with a limit of time and
one of memory; the memory that is shown is the most that the process held, libraries included.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine

CELLS = 40
"""Voxels along the edge of the made-up room."""
STAGES = ("read", "supported", "built", "ran")


@dataclass
class Row:
    """How far one configuration came.

    Attributes:
        config: its path in the checkout.
        network: its families, the outermost first.
        stage: the last of STAGES that it reached.
        why: what stopped it; empty where nothing did.
        seconds: of labelling the cloud.
        voxels, parameters, memory_mb: of the cloud, of the network, of the process.
    """

    config: str
    network: list[str] = field(default_factory=list)
    stage: str = "found"
    why: str = ""
    seconds: float = 0.0
    voxels: int = 0
    parameters: int = 0
    memory_mb: int = 0


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--only", action="append", help="part of the paths that are wanted; may be repeated")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--memory-gb", type=float, default=8.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--table", type=Path, help="also write the rows there, as JSON")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        _one(arguments.checkout, arguments.device, arguments.threads, arguments.memory_gb)
        return
    found = sorted(path for path in (arguments.checkout / "configs").rglob("*.py") if "_base_" not in path.parts)
    parts = arguments.only or [""]
    wanted = [path for path in found if any(part in str(path.relative_to(arguments.checkout)) for part in parts)]
    if not wanted:
        sys.exit(f"There is no file of {arguments.checkout / 'configs'} with {' or '.join(parts)!r} in its path.")
    print(f"{machine()}, {arguments.threads} threads, {arguments.device}")
    rows = []
    for path in wanted:
        rows.append(_in_process(path, arguments))
        _print(rows[-1])
    _summarise(rows)
    if arguments.table is not None:
        arguments.table.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")


def _in_process(path: Path, arguments: argparse.Namespace) -> Row:
    """Return the row of a configuration, from a process that says how far it is, line by line."""
    row = Row(str(path.relative_to(arguments.checkout)))
    command = [sys.executable, "-m", "benchmarks.configs", "--one", str(path), "--device", arguments.device]
    command += ["--threads", str(arguments.threads), "--memory-gb", str(arguments.memory_gb)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=arguments.seconds, check=False)
        said, failed = done.stdout, done.returncode
    except subprocess.TimeoutExpired as late:
        said, failed = (late.stdout or b"").decode() if isinstance(late.stdout, bytes) else str(late.stdout or ""), 0
        row.why = f"not done within {arguments.seconds:.0f} s"
    for line in said.splitlines():
        for name, value in json.loads(line).items():
            setattr(row, name, value)
    if failed:
        row.why = row.why or f"its process ended with status {failed}"
    return row


def _one(path: Path, device: str, threads: int, memory_gb: float) -> None:
    """Go through one configuration and print what is found, a JSON object a line."""
    limit = int(memory_gb * (1 << 30))
    if device == "cpu":
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        for news in _stages(path, device, threads):
            print(json.dumps(news), flush=True)
    except MemoryError:
        print(json.dumps({"why": f"more than {memory_gb:g} GB"}))
    except Exception as error:
        shortage = "can't allocate memory" in str(error)
        print(json.dumps({"why": f"more than {memory_gb:g} GB" if shortage else str(error) or repr(error)}))
    print(json.dumps({"memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10}))


def _stages(path: Path, device: str, threads: int) -> Iterator[dict[str, Any]]:
    """Yield what is known of a configuration, stage by stage.

    Raises:
        ServiceError, ValueError: why it comes no further.
    """
    import torch

    from service.engine import labelling
    from service.errors import ServiceError
    from service.models import config
    from service.models.catalogue import FAMILIES
    from service.models.experiment import Experiment

    torch.set_num_threads(threads)
    values, notes = config.read(path)
    families = list(_families(values.get("model")))
    yield {"stage": "read", "network": families}
    unknown = [family for family in families if family not in FAMILIES]
    if unknown or not families:
        raise ValueError(f"no such family: {', '.join(unknown)}" if families else "it has no model")
    yield {"stage": "supported"}
    experiment = Experiment(path.stem, path, FAMILIES)
    plan = experiment.plan(values, notes)
    model = experiment.assemble(plan, _weights(plan.empty), torch.device(device), "auto")
    yield {"stage": "built", "parameters": plan.card.parameters}
    cloud = _room(plan.recipe.grid_size)
    wishes = labelling.Wishes(scores=True, task=plan.card.tasks[0])
    ready = labelling.prepare(model, cloud, wishes)
    if isinstance(ready, ServiceError):
        raise ready
    yield {"voxels": ready.voxels}
    started = time.perf_counter()
    (answer,) = labelling.label(model, [cloud], [wishes], ready=[ready])
    if isinstance(answer, ServiceError):
        raise answer
    found = [value for value in vars(answer).values() if isinstance(value, np.ndarray)]
    if not found or not all(np.isfinite(value).all() for value in found):
        raise ValueError("its answer is not numbers")
    yield {"stage": "ran", "seconds": round(time.perf_counter() - started, 2)}


def _families(network: Any) -> Iterator[str]:
    """Yield the types of a network and of the backbones inside it."""
    if isinstance(network, Mapping) and "type" in network:
        yield str(network["type"])
        yield from _families(network.get("backbone"))


def _weights(empty: Any) -> dict[str, Any]:
    """Return random weights for all of a network's names, of a size that keeps numbers in bounds."""
    import torch

    from service.models import texts

    random, made = torch.Generator().manual_seed(0), {}
    block = torch.randn(1 << 20, generator=random)
    for key, value in empty.state_dict().items():
        last = key.rsplit(".", 1)[-1]
        if not value.is_floating_point():
            made[key] = torch.zeros(value.shape, dtype=value.dtype)
            continue
        # The same numbers again and again in large ones: drawing each by itself takes longer than all else.
        start = int(torch.randint(len(block), (), generator=random))
        drawn = torch.roll(block, start).repeat(-(-value.numel() // len(block)))[: value.numel()].view(value.shape)
        if last == "inv_freq":
            drawn = 1.0 / 10000 ** (torch.arange(value.numel()) / value.numel())
        elif last == "running_var":
            drawn = 1 + 0.1 * drawn.abs()
        elif last == "logit_scale":
            drawn = torch.full(value.shape, 2.0)
        elif drawn.ndim <= 1:
            drawn = 1 + 0.1 * drawn if last in ("weight", "gamma") else 0.1 * drawn
        else:
            drawn = drawn / (value.numel() / value.shape[0]) ** 0.5
        made[key] = drawn
    if hasattr(empty, texts.KEY):
        drawn = torch.randn(getattr(empty, texts.KEY).shape, generator=random)
        made[texts.KEY] = drawn / drawn.norm(dim=1, keepdim=True)
    return made


def _room(grid_size: float) -> Any:
    """Return a floor and two walls, with all attributes that any data set has."""
    from service.values import PointCloud

    random = np.random.default_rng(0)
    edge = CELLS * grid_size
    floor, wall, side = (random.uniform(0, edge, (2 * CELLS**2, 3)) for _ in range(3))
    floor[:, 2], wall[:, 1], side[:, 0] = 0, 0, 0
    normal = np.repeat(np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]], np.float32), len(floor), axis=0)
    coord = np.concatenate([floor, wall, side])
    color = random.integers(0, 256, coord.shape).astype(np.uint8)
    return PointCloud(coord, color, normal, random.random(len(coord)).astype(np.float32))


def _print(row: Row) -> None:
    reached = STAGES.index(row.stage) if row.stage in STAGES else -1
    marks = " ".join(f"{stage}:{'yes' if reached >= STAGES.index(stage) else 'no '}" for stage in STAGES[1:])
    numbers = f"{row.parameters / 1e6:6.1f} M {row.voxels:6d} voxels {row.seconds:6.2f} s {row.memory_mb:5d} MB"
    print(f"{row.config:78s} {' of '.join(row.network):40s} {marks} {numbers} {row.why[:200]}", flush=True)


def _summarise(rows: list[Row]) -> None:
    """Print how many configurations of each network came how far, and why the others did not."""
    print("\n| network | configurations | supported | built | ran | slowest, s | most memory, MB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    named: dict[str, list[Row]] = {}
    for row in rows:
        named.setdefault(" of ".join(row.network) or "none", []).append(row)
    for name, group in sorted(named.items()):
        counts = [sum(row.stage in STAGES[place:] for row in group) for place in (1, 2, 3)]
        slowest, memory = max(row.seconds for row in group), max(row.memory_mb for row in group)
        print(f"| {name} | {len(group)} | {' | '.join(map(str, counts))} | {slowest:.1f} | {memory} |")
    print()
    for (name, why), count in sorted(Counter((" of ".join(row.network), row.why) for row in rows if row.why).items()):
        print(f"{count:3d}  {name}: {why}")


if __name__ == "__main__":
    main()
