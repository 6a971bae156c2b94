"""How good the bundled model is: python -m training.evaluate [--real DIR] [--http URL] [--rotate N]"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from service.formats.format import Options
from training import clouds, objects, scenes, sensors
from training.labeller import Labeller, in_process, over_http, post
from training.metrics import NOT_COUNTED, Found, Score, compare, score
from training.recipe import NAME

HELD_OUT = 990_000
"""First number of the seeds of evaluation; training uses its own seed there, a small number."""


def generated(label: Labeller, views: int, device: torch.device) -> dict[str, tuple[Score, Found]]:
    """Return the scores on held-out generated scenes, by kind of place, by kind of sensor, and together.

    Args:
        label: what labels a cloud.
        views: clouds for each pair of place and sensor.
        device: where to cast the rays; chance differs between kinds of device.
    """
    totals: dict[str, tuple[Score, Found]] = {}
    pairs = [(place, family) for place in scenes.PLACES for family in sensors.FAMILIES]
    for index, (place, family) in enumerate(track(pairs, "generated scenes")):
        for number in range(views):
            shape = sensors.SHAPES[family][number % len(sensors.SHAPES[family])]
            seed = (HELD_OUT, index, number)
            cloud = clouds.generate(seed, 1, device, place=place, family=family, shape=shape, fuse=1)[0]
            if len(cloud) < 500:
                continue
            coord = clouds.frame(cloud, np.random.default_rng(seed)).double().cpu().numpy()
            boxes, owner = cloud.label.cpu().numpy(), cloud.number.cpu().numpy()
            answer = label(coord)
            got = score(answer.label, boxes)
            found = compare(answer.instance, answer.sure, np.where(boxes == 1, owner, -1))
            for key in ("all", place.__name__, family):
                before = totals.get(key, (Score(0, 0, 0), Found((), (), 0, ())))
                totals[key] = before[0] + got, before[1] + found
    return totals


def read_real(path: Path) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return a real scan's coordinates (n, 3), the truth (n,): 1 box, 0 background, -1 not counted; and the box (n,).

    The file's field `label` is 20 and above on boxes, 1 on the background, 0 where nothing was labelled; tens are
    boxes, ones their parts. The box is -1 on the background and NOT_COUNTED where nothing was labelled.
    """
    from service.formats import pcd

    cloud = pcd.FORMAT.read(memoryview(path.read_bytes()), Options())
    marks = np.asarray(cloud.attributes["label"]).astype(np.int64)
    truth = np.where(marks >= 20, 1, np.where(marks == 1, 0, -1))
    truth[~np.isfinite(cloud.coord).all(axis=1)] = -1
    return cloud.coord, truth, np.select([truth == 1, truth == 0], [marks // 10, -1], default=NOT_COUNTED)


def real(
    paths: Iterable[Path], label: Labeller, rotate: int, url: str | None
) -> tuple[list[dict[str, Any]], dict[str, Found]]:
    """Return a row for each real scan: its score as it is, in millimetres, and turned at random `rotate` times.

    And how the objects of all scans were found in each of the three cases.

    Args:
        paths: PCD files.
        label: what labels a cloud.
        rotate: random rotations and shifts of each scan.
        url: post the file itself to the service there, instead of its coordinates, for the score as it is.
    """
    rows: list[dict[str, Any]] = []
    totals = {case: Found((), (), 0, ()) for case in ("as it is", "millimetres", "turned")}
    for path in track(list(paths), "real scans"):
        coord, truth, box = read_real(path)
        plain = post(url, NAME, path.read_bytes(), "pcd") if url else label(coord)
        rng = np.random.default_rng([HELD_OUT, len(rows)])
        turned = []
        for _ in range(rotate):
            moved = coord @ objects.tumble(rng).T + rng.normal(0, 1, 3)
            answer = label(moved)
            turned.append(score(answer.label, truth).iou)
            totals["turned"] += compare(answer.instance, answer.sure, box)
        got, whole = score(plain.label, truth), compare(plain.instance, plain.sure, box)
        totals["as it is"] += whole
        row: dict[str, Any] = {"scan": path.stem, "points": int((truth >= 0).sum()), "iou": got.iou}
        row |= {"precision": got.precision, "recall": got.recall}
        row |= {"boxes": f"{len(whole.hit)} of {whole.truth}", "least_box_iou": min(whole.best), "ap50": _ap(whole)}
        answer = label(coord * 1000)
        row["millimetres"] = score(answer.label, truth).iou
        totals["millimetres"] += compare(answer.instance, answer.sure, box)
        if turned:
            row |= {"turned_least": min(turned), "turned_most": max(turned)}
        rows.append(row)
    return rows, {case: total for case, total in totals.items() if total.truth}


def _ap(found: Found) -> float:
    return found.average_precision()


def summary(found: Found) -> dict[str, Any]:
    """Return what to print of how objects were found."""
    return {
        "ap50": _ap(found),
        "ap75": found.average_precision(0.75),
        "found_right": found.precision(),
        "found": found.recall(),
        "boxes": found.truth,
    }


def show(rows: Sequence[dict[str, Any]], title: str) -> None:
    """Print rows as a table, and the mean of their numbers."""
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name, justify="right")
    mean = {
        name: float(np.mean([row[name] for row in rows])) if isinstance(rows[0][name], float) else ""
        for name in rows[0]
    }
    mean[next(iter(mean))] = "mean"
    for row in [*rows, mean]:
        table.add_row(*(f"{value:.4f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=120).print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the evaluation as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("--views", type=int, default=4, help="generated clouds for each place and sensor; 0: none")
    parser.add_argument("--real", type=Path, default=None, help="folder of labelled PCD scans")
    parser.add_argument("--rotate", type=int, default=0, help="random rotations of each real scan")
    parser.add_argument("--http", default=None, help="URL of a running service to measure, in place of this process")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, for the scenes and the model")
    parser.add_argument("--json", type=Path, default=None, help="write the figures there, too")
    chosen = parser.parse_args(arguments)
    label = over_http(chosen.http, NAME) if chosen.http else in_process(NAME, torch.device(chosen.device))
    figures: dict[str, Any] = {}
    if chosen.views:
        totals = generated(label, chosen.views, torch.device(chosen.device))
        rows = [
            {"generated": key, "iou": got.iou, "precision": got.precision, "recall": got.recall} | summary(found)
            for key, (got, found) in totals.items()
        ]
        show(rows, "Box on held-out generated scenes, all points of a kind together")
        figures["generated"] = rows
    if chosen.real:
        paths = sorted(chosen.real.glob("*.pcd"), key=lambda path: (len(path.stem), path.stem))
        if not paths:
            parser.error(f"{chosen.real} holds no PCD file.")
        figures["real"], found = real(paths, label, chosen.rotate, chosen.http)
        show(figures["real"], "Box on real scans")
        figures["real_instances"] = [{"scans": case} | summary(total) for case, total in found.items()]
        show(figures["real_instances"], "Instances on real scans, all boxes together")
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
