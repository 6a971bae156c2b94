"""Which of Pointcept's configurations are served: each is read, its network filled at random, and a cloud labelled.

    python -m benchmarks.configs CHECKOUT [--only PART ...] [--jobs 1] [--seconds 120] [--memory-gb 8] [--device cpu]
                                          [--table F]

CHECKOUT is a folder with Pointcept's `configs/`. Each configuration has a process of its own with a limit of time and
one of memory; the memory that is shown is the most that the process held, libraries included. With `--jobs` above 1,
seconds are those of a machine that does other work besides.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.machine import machine

CELLS = 40
"""Voxels along the edge of the made-up room."""
STAGES = ("read", "supported", "built", "ran")
_IMPORTED = ["torch", "service.engine.labelling", "service.models.catalogue"]
"""What the processes are forked with: importing it takes longer than most configurations. None of it touches CUDA."""


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
        device_mb: the most that torch held on a GPU.
    """

    config: str
    network: list[str] = field(default_factory=list)
    stage: str = "found"
    why: str = ""
    seconds: float = 0.0
    voxels: int = 0
    parameters: int = 0
    memory_mb: int = 0
    device_mb: int = 0


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--only", action="append", help="part of the paths that are wanted; may be repeated")
    parser.add_argument("--jobs", type=int, default=1, help="configurations at once")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--memory-gb", type=float, default=8.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--table", type=Path, help="also write the rows there, as JSON")
    arguments = parser.parse_args()
    found = sorted(path for path in (arguments.checkout / "configs").rglob("*.py") if "_base_" not in path.parts)
    parts = arguments.only or [""]
    wanted = [path for path in found if any(part in str(path.relative_to(arguments.checkout)) for part in parts)]
    if not wanted:
        sys.exit(f"There is no file of {arguments.checkout / 'configs'} with {' or '.join(parts)!r} in its path.")
    print(f"{machine()}, {arguments.threads} threads, {arguments.jobs} at once, {arguments.device}")
    started = time.perf_counter()
    rows = _rows(wanted, arguments)
    _summarise(rows)
    print(f"{len(rows)} configurations in {time.perf_counter() - started:.0f} s")
    if arguments.table is not None:
        arguments.table.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")


def _rows(wanted: list[Path], arguments: argparse.Namespace) -> list[Row]:
    """Return the rows of configurations in their order; each is printed as soon as it is there."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(_IMPORTED)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        Progress(*columns, console=Console(stderr=True)) as progress,
        ThreadPoolExecutor(arguments.jobs) as pool,
    ):
        bar = progress.add_task("configurations", total=len(wanted))
        waiting = [pool.submit(_in_process, path, arguments) for path in wanted]
        for done in as_completed(waiting):
            _print(done.result())
            progress.advance(bar)
    return [done.result() for done in waiting]


def _in_process(path: Path, arguments: argparse.Namespace) -> Row:
    """Return the row of a configuration, from a process that says how far it is, stage by stage."""
    row = Row(str(path.relative_to(arguments.checkout)))
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe(duplex=False)
    limits = (arguments.device, arguments.threads, arguments.memory_gb)
    process = context.Process(target=_one, args=(theirs, path, *limits), daemon=True)
    process.start()
    theirs.close()
    until = time.monotonic() + arguments.seconds
    while ours.poll(max(0.0, until - time.monotonic())):
        try:
            news = ours.recv()
        except EOFError:
            break
        for name, value in news.items():
            setattr(row, name, value)
    else:
        row.why = f"not done within {arguments.seconds:.0f} s"
        process.kill()
    process.join()
    if process.exitcode and not row.why:
        row.why = f"its process ended with status {process.exitcode}"
    return row


def _one(news: Connection, path: Path, device: str, threads: int, memory_gb: float) -> None:
    """Go through one configuration and send what is found, a dict a stage."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, sys.stdout.fileno())
    os.dup2(silence, sys.stderr.fileno())
    limit = int(memory_gb * (1 << 30))
    if device == "cpu":
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        for found in _stages(path, device, threads):
            news.send(found)
    except MemoryError:
        news.send({"why": f"more than {memory_gb:g} GB"})
    except Exception as error:
        shortage = "can't allocate memory" in str(error)
        news.send({"why": f"more than {memory_gb:g} GB" if shortage else str(error) or repr(error)})
    news.send({"memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10})


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
    if model.device.type == "cuda":
        yield {"device_mb": torch.cuda.max_memory_allocated(model.device) >> 20}


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
    numbers += f" {row.device_mb:5d} MB on the device" if row.device_mb else ""
    print(f"{row.config:78s} {' of '.join(row.network):40s} {marks} {numbers} {row.why[:200]}", flush=True)


def _summarise(rows: list[Row]) -> None:
    """Print how many configurations of each network came how far, and why the others did not."""
    print("\n| network | configurations | supported | built | ran | slowest, s | most memory, MB | on a GPU, MB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    named: dict[str, list[Row]] = {}
    for row in rows:
        named.setdefault(" of ".join(row.network) or "none", []).append(row)
    for name, group in sorted(named.items()):
        counts = [sum(row.stage in STAGES[place:] for row in group) for place in (1, 2, 3)]
        most = (max(row.memory_mb for row in group), max(row.device_mb for row in group))
        slowest = max(row.seconds for row in group)
        shown = " | ".join(map(str, (name, len(group), *counts, f"{slowest:.1f}", *most)))
        print(f"| {shown} |")
    print()
    for (name, why), count in sorted(Counter((" of ".join(row.network), row.why) for row in rows if row.why).items()):
        print(f"{count:3d}  {name}: {why}")


if __name__ == "__main__":
    main()
