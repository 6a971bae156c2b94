"""`pointserve measure`: the boxes of files as a table, through a running service or with an engine of one's own."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import rich.box
from rich.console import Console
from rich.table import Table

from service import formats
from service.cli.remote import Remote
from service.engine.client import EngineClient
from service.engine.local import running
from service.errors import MalformedRequest, ServiceError
from service.settings import Settings
from service.wire import measurement_v1

HEAD_BYTES = 4096
METRES = {"m": 1.0, "cm": 0.01, "mm": 0.001}
DRAWINGS = {".ply": "ply", ".png": "png"}


@dataclass(frozen=True)
class Job:
    """What to do with each file; the names are those of the command's options."""

    form: str = "table"
    output: Path | None = None
    format: str | None = None
    model: str | None = None
    units: str | None = None
    up: tuple[float, ...] | None = None
    viewpoint: tuple[float, ...] | Literal["none"] | None = None


Measure = Callable[[Path, BinaryIO | None, str], dict[str, Any]]
"""Takes a file, where a drawing goes if one is wanted, and its form; returns the JSON answer of /v1/measure."""


def direction(text: str | None) -> tuple[float, ...] | None:
    """Return the numbers of "x,y,z".

    Raises:
        MalformedRequest: it is no direction.
    """
    if text is None:
        return None
    values = _three(text)
    if not any(values):
        raise MalformedRequest(f"--up is {text!r}; it must be three numbers with commas between them, as 0,0,1")
    return values


def place(text: str | None) -> tuple[float, ...] | Literal["none"] | None:
    """Return the numbers of "x,y,z", or none where there is no such place.

    Raises:
        MalformedRequest: it is neither.
    """
    if text is None:
        return None
    if text == "none":
        return "none"
    values = _three(text)
    if not values:
        raise MalformedRequest(
            f"--viewpoint is {text!r}; it must be none or three numbers with commas between them, as 0,0,0"
        )
    return values


def _three(text: str) -> tuple[float, ...]:
    """Return three finite numbers; none where the text has others."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        return ()
    return values if len(values) == 3 and all(map(math.isfinite, values)) else ()


def _joined(values: tuple[float, ...] | Literal["none"] | None) -> str | None:
    return ",".join(map(repr, values)) if isinstance(values, tuple) else values


def measure_remotely(files: Sequence[Path], job: Job, url: str, api_key: str = "") -> int:
    """Measure files through the service at `url`; return how many failed."""
    remote = Remote(url, api_key=api_key)
    options = {"format": job.format, "model": job.model, "units": job.units}
    options |= {"up": _joined(job.up), "viewpoint": _joined(job.viewpoint)}
    query = {name: value for name, value in options.items() if value is not None}

    def ask(path: Path, drawing: BinaryIO | None, form: str) -> dict[str, Any]:
        body = io.BytesIO()
        remote.measure(path, body, {**query, "output": "json"})
        if drawing is not None:
            remote.measure(path, drawing, {**query, "output": form})
        answer: dict[str, Any] = json.loads(body.getvalue())
        return answer

    return _each(files, job, ask)


def measure_here(files: Sequence[Path], job: Job, settings: Settings) -> int:
    """Measure files with an engine that runs as long as this takes; return how many failed."""
    console = Console(stderr=True)
    with console.status("Loading the model ...") as status, running(settings) as engine:
        status.stop()
        model = engine.status()["models"][0]["name"]
        return _each(files, job, lambda path, out, form: _measure_here(path, out, form, job, model, engine, settings))


def _measure_here(
    path: Path, drawing: BinaryIO | None, form: str, job: Job, model: str, engine: EngineClient, settings: Settings
) -> dict[str, Any]:
    options = formats.Options(max_points=settings.max_points)
    deadline = time.monotonic() + settings.deadline_s
    unit = METRES[job.units] if job.units else None
    body = os.open(path, os.O_RDONLY)
    try:
        head = os.pread(body, HEAD_BYTES, 0)
        source = formats.recognise(head, declared=job.format, media_type=None, filename=path.name)
        with engine.read(body, source, options, deadline, metres_per_unit=unit or 1.0) as cloud:
            segmentation = engine.segment(cloud, model, deadline)
            if segmentation.instance is None:
                raise MalformedRequest(f"the model {model} tells no objects apart, so that there is nothing to measure")
            taken = segmentation.metres_per_unit if unit is None else 1.0
            eye = None if job.viewpoint == "none" else job.viewpoint
            frame = {"metres_per_unit": unit or taken, "up": job.up, "viewpoint": eye}
            frame["one_sensor"] = job.viewpoint != "none"
            measured, drawn = engine.measure(cloud, segmentation, frame, deadline, to_metres=taken, drawing=form)
    finally:
        os.close(body)
    with os.fdopen(drawn, "rb") as file:
        if drawing is not None:
            file.seek(0)
            shutil.copyfileobj(file, drawing, 1 << 20)
    answer: dict[str, Any] = json.loads(measurement_v1.encode(segmentation, measured, segmentation.timing_ms, ""))
    return answer


def _each(files: Sequence[Path], job: Job, measure: Measure) -> int:
    """Measure file after file and print what was found; a file that fails is reported and the next one follows."""
    errors = Console(stderr=True)
    form = _drawing(job.output, len(files))
    failed, answers = 0, []
    for path in files:
        target = None if job.output is None else _target(job.output, path, form, len(files))
        try:
            if target is None:
                answer = measure(path, None, "none")
            else:
                drawing = io.BytesIO()
                answer = measure(path, drawing, form)
                target.write_bytes(drawing.getvalue())
        except (ServiceError, OSError) as error:
            failed += 1
            sentence = error.detail if isinstance(error, ServiceError) else str(error)
            errors.print(f"{path}: {sentence}", style="red", soft_wrap=True, markup=False, highlight=False)
            continue
        answers.append((path, answer))
        if job.form == "table":
            _show(path, answer, target)
        for warning in answer["warnings"]:
            errors.print(f"{path}: {warning}", style="yellow", soft_wrap=True, markup=False, highlight=False)
    if job.form == "json":
        print(json.dumps([{"file": str(path), **answer} for path, answer in answers], indent=1))
    elif job.form == "csv":
        _tabulate(answers)
    return failed


def _drawing(output: Path | None, files: int) -> str:
    """Return the form of the drawings that go to a file, or one for each cloud into a folder.

    Raises:
        MalformedRequest: the name says neither PLY nor PNG, or several clouds would go into one file.
    """
    if output is None:
        return "none"
    form = DRAWINGS.get(output.suffix.lower())
    if form is None:
        raise MalformedRequest(f"--output {output}: a drawing's name ends in .ply or .png")
    if files > 1 and "{}" not in output.name:
        raise MalformedRequest(f"--output {output}: for several files its name must hold {{}}, as in '{{}}_boxes.png'")
    return form


def _target(output: Path, path: Path, form: str, files: int) -> Path:
    target = output.with_name(output.name.replace("{}", path.stem))
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _show(path: Path, answer: dict[str, Any], target: Path | None) -> None:
    """Print the boxes of a file as a table, and below it why some were not measured."""
    measured = [box for box in answer["boxes"] if box["measured"]]
    shown = [box for box in answer["boxes"] if box["measured"] or box["at_least"]["volume_m3"] is not None]
    console = Console(width=max(Console().width, 100))
    drawn = f", drawn in {target}" if target else ""
    console.print(
        f"{path}: {_boxes(len(measured), len(shown) - len(measured))}{drawn}",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )
    table = Table(box=rich.box.SIMPLE, pad_edge=False)
    for name in ("box", "length mm", "width mm", "height mm", "volume l"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("pose", "faces seen"):
        table.add_column(name, no_wrap=True)
    for box in shown:
        edges = [_number(box, f"{name}_m", 1) for name in ("length", "width", "height")]
        volume = _number(box, "volume_m3", 2)
        table.add_row(str(box["id"]), *edges, volume, box["pose"], " ".join(box["faces_seen"]))
    if shown:
        console.print(table)
    for box in answer["boxes"]:
        if not box["measured"]:
            extent = "in part" if box in shown else "not"
            line = f"  box {box['id']} ({box['points']} points) was {extent} measured: {box['reason']}"
            console.print(line, soft_wrap=True, markup=False, highlight=False)


def _boxes(count: int, parts: int) -> str:
    said = f"{count} box measured" if count == 1 else f"{count} boxes measured"
    return f"{said}, {parts} in part" if parts else said


def _number(box: dict[str, Any], name: str, digits: int) -> str:
    """Return a number in millimetres or litres with half the width of its interval, or what it is at least."""
    if box[name] is None:
        return f"\u2265 {1000 * box['at_least'][name]:.{digits}f}"
    return f"{1000 * box[name]:.{digits}f} \u00b1 {1000 * box['uncertainty'][name]:.{digits}f}"


def _tabulate(answers: Sequence[tuple[Path, dict[str, Any]]]) -> None:
    """Print the boxes of all files as comma-separated values, the file first."""
    table = csv.writer(sys.stdout)
    table.writerow(("file", *measurement_v1.COLUMNS))
    for path, answer in answers:
        for box in answer["boxes"]:
            table.writerow((str(path), *measurement_v1.row(box)))
