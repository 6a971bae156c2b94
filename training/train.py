"""Train the bundled model on generated scenes: python -m training.train --out runs/parcels"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from service.models.batch import Batch
from service.models.catalogue import FAMILIES
from service.models.layers.engine import engine as choose_engine
from service.models.site import Site
from training import clouds, losses
from training.batches import Lesson, Lessons
from training.recipe import NETWORK, RECIPE

_CLIP = 5.0
_TOLD = 50
"""Steps whose mean loss is told and logged together."""
_KEPT = 800
"""Lessons kept to come up again, some 15 MB each on the device."""


def build(device: torch.device, engine: str = "auto") -> nn.Module:
    """Return the untrained network on the device."""
    layers = choose_engine(engine, device)  # type: ignore[arg-type]
    return Site(layers, FAMILIES).build(NETWORK).to(device)


def begin_with(network: nn.Module, path: Path) -> None:
    """Give the network the weights of a file, weights.pt or published ones.

    Weights from before there were instances are taken over too: the last convolution, whose memory is an (in, out)
    matrix, is now the linear layer of the classes, and the layers of the instances stay as they are.

    Raises:
        ValueError: weights of another network.
    """
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = {name: value.float() if value.is_floating_point() else value for name, value in load_file(path).items()}
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    if "backbone.final.weight" in state:
        last = state.pop("backbone.final.weight")
        state["seg_head.weight"] = last.reshape(last.shape[-1], last.shape[0]).T.contiguous()
        state["seg_head.bias"] = state.pop("backbone.final.bias")
    missing, unknown = network.load_state_dict(state, strict=False)
    if unknown or any(not name.startswith("instance_head.") for name in missing):
        raise ValueError(f"{path.name} holds other weights: {unknown} are unknown, {missing} are missing.")


class Average:
    """A slowly moving average of a network's weights and statistics, which is what gets published."""

    def __init__(self, network: nn.Module, keep: float) -> None:
        self.state = {name: value.detach().clone() for name, value in network.state_dict().items()}
        self.keep = keep

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move towards the network's weights, faster in the first steps."""
        keep = min(self.keep, (1 + step) / (10 + step))
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1 - keep)
            else:
                self.state[name].copy_(value)


def rate(progress: float, top: float) -> float:
    """Return the learning rate at a share 0..1 of the training: a short ramp up, then a cosine down to a hundredth."""
    ramp = min(1.0, progress / 0.03)
    return top * ramp * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def mirror(lesson: Lesson, random: torch.Generator) -> Lesson:
    """Return the lesson turned by a quarter or mirrored, one of eight ways: such a scene is as good a scene."""
    swap, across, along = (torch.rand(3, generator=random) < 0.5).tolist()
    batch, center = lesson.batch, lesson.center.clone()
    coord, grid_coord, feat = batch.coord.clone(), batch.grid_coord.clone(), batch.feat.clone()
    # The last three features are `residual`, where in its cell the voxel's mean lies.
    first = feat.shape[1] - 3
    for axis, wanted in enumerate((across, along)):
        if wanted:
            grid_coord[:, axis] = grid_coord[:, axis].max() - grid_coord[:, axis]
            for values in (coord[:, axis], feat[:, first + axis], center[:, axis]):
                values *= -1
    if swap:
        coord, grid_coord, center = (values[:, (1, 0, 2)].contiguous() for values in (coord, grid_coord, center))
        feat[:, (first, first + 1)] = feat[:, (first + 1, first)]
    return replace(lesson, batch=Batch(coord, grid_coord, feat, batch.offset), center=center)


class Replay:
    """Lessons that come up again: making one takes longer than learning from it."""

    def __init__(self, lessons: Lessons, device: torch.device, times: int, random: torch.Generator) -> None:
        self._fresh, self._device, self._times, self._random = iter(lessons), device, times, random
        self._kept: list[Lesson] = []

    def __iter__(self) -> Iterator[Lesson]:
        while True:
            new = next(self._fresh).to(self._device)
            yield new
            if self._times > 1:
                if len(self._kept) < _KEPT:
                    self._kept.append(new)
                else:
                    self._kept[self._draw()] = new
            for _ in range(self._times - 1):
                yield self._kept[self._draw()]

    def _draw(self) -> int:
        return int(torch.randint(len(self._kept), (), generator=self._random))


def train(
    out: Path,
    *,
    steps: int,
    minutes: float | None = None,
    pause: float | None = None,
    views: int = 8,
    seed: int = 1,
    top_rate: float = 3e-3,
    workers: int = 2,
    times: int = 3,
    device: torch.device,
    start_from: Path | None = None,
) -> dict[str, Any]:
    """Train, and write weights.pt (the average's state), state.pt (to go on from) and log.json into `out`.

    A run that finds state.pt in `out` goes on where that stopped.

    Args:
        out: folder, made if need be.
        steps: batches to train on.
        minutes: end, with the learning rate brought down as at the end, after so many minutes of training in all.
        pause: save and return after so many minutes of this call, to go on in another.
        views: sensor images a batch.
        seed: of all chance; another seed, other scenes.
        top_rate: largest learning rate.
        workers: processes that make batches; 0 makes them here.
        times: how often a batch is learnt from on average.
        device: where to train.
        start_from: weights to begin with instead of random ones; see `begin_with`.

    Returns:
        The log: steps, seconds, losses.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    _allow_tf32()
    network = build(device)
    if start_from is not None:
        begin_with(network, start_from)
    optimizer = torch.optim.AdamW(network.parameters(), lr=top_rate, weight_decay=0.02)
    average = Average(network, 0.998)
    log: dict[str, Any] = {"generator": clouds.VERSION, "seed": seed, "views": views, "seconds": 0.0, "losses": []}
    first = 0
    state = out / "state.pt"
    if state.is_file():
        kept = torch.load(state, map_location=device, weights_only=True)
        network.load_state_dict(kept["network"])
        optimizer.load_state_dict(kept["optimizer"])
        average.state, first, log = kept["average"], kept["step"], kept["log"]
    lessons = Lessons(seed, views, RECIPE, device, workers, start=-(-first // times))
    random = torch.Generator().manual_seed(seed + first)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    start, saved, shown, step = time.monotonic(), time.monotonic(), 0.0, first
    before, recent, told = float(log["seconds"]), 0.0, list[Tensor]()
    network.train()
    try:
        with Progress(*columns) as bar:
            task = bar.add_task("training", total=steps, completed=first)
            for step, lesson in enumerate(Replay(lessons, device, times, random), start=first):
                elapsed = time.monotonic() - start
                progress = step / steps
                if minutes is not None:
                    progress = max(progress, (before + elapsed) / (60 * minutes))
                if progress >= 1 or (pause is not None and elapsed >= 60 * pause):
                    break
                for group in optimizer.param_groups:
                    group["lr"] = rate(progress, top_rate)
                loss = _step(network, optimizer, lesson, random)
                average.update(network, step)
                told.append(loss)
                if step % _TOLD == 0:
                    # Read now and then only: reading waits for the device. Single losses spread too widely to tell.
                    recent = float(torch.stack(told).mean())
                    told.clear()
                    log["losses"].append([step, round(recent, 4)])
                bar.update(task, completed=step + 1, description=f"training, loss {recent:.3f}")
                log["seconds"] = before + elapsed
                if elapsed - shown > 20 and not bar.console.is_terminal:
                    shown = elapsed
                    print(f"step {step} loss {recent:.4f} {elapsed:.0f} s", flush=True)
                if time.monotonic() - saved > 120:
                    saved = time.monotonic()
                    _save(out, network, optimizer, average, step + 1, log)
    finally:
        lessons.close()
    log["steps"] = step
    _save(out, network, optimizer, average, step, log)
    return log


def _step(network: nn.Module, optimizer: torch.optim.Optimizer, lesson: Lesson, random: torch.Generator) -> Tensor:
    lesson = mirror(lesson, random)
    loss = losses.total(network(lesson.batch), lesson)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), _CLIP)
    optimizer.step()
    return loss.detach()


def _save(
    out: Path, network: nn.Module, optimizer: torch.optim.Optimizer, average: Average, step: int, log: dict[str, Any]
) -> None:
    """Write what a later call needs to go on, and the weights so far, each whole or not at all."""
    state = {
        "network": network.state_dict(), "optimizer": optimizer.state_dict(), "average": average.state, "step": step,
        "log": log,
    }  # fmt: skip
    for name, value in (("state.pt", state), ("weights.pt", average.state)):
        torch.save(value, out / f"{name}.part")
        (out / f"{name}.part").replace(out / name)
    (out / "log.json").write_text(json.dumps(log), encoding="utf-8")


def _allow_tf32() -> None:
    """Let matrix products round to TF32, in torch and in spconv where it is there."""
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        from spconv import constants
    except ImportError:
        return
    constants.SPCONV_ALLOW_TF32 = True


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the training as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/parcels"), help="folder for weights and state")
    parser.add_argument("--steps", type=int, default=8000, help="batches to train on")
    parser.add_argument("--minutes", type=float, default=None, help="end, annealed, after so many minutes in all")
    parser.add_argument("--pause", type=float, default=None, help="save and stop after so many minutes, to go on later")
    parser.add_argument("--views", type=int, default=8, help="sensor images a batch")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=3e-3, help="largest learning rate")
    parser.add_argument("--workers", type=int, default=2, help="processes that make batches; 0: none")
    parser.add_argument("--times", type=int, default=3, help="how often a batch is learnt from on average")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--from", dest="start_from", type=Path, default=None, help="weights to begin with")
    chosen = parser.parse_args(arguments)
    log = train(
        chosen.out,
        steps=chosen.steps,
        minutes=chosen.minutes,
        pause=chosen.pause,
        views=chosen.views,
        seed=chosen.seed,
        top_rate=chosen.rate,
        workers=chosen.workers,
        times=chosen.times,
        device=torch.device(chosen.device),
        start_from=chosen.start_from,
    )
    print(f"{log['steps']} steps in {log['seconds']:.0f} s; weights in {chosen.out / 'weights.pt'}")


if __name__ == "__main__":
    main()
