"""`pointserve segment`: label files, through a running service or with an engine of one's own."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from service import formats
from service.cli.remote import Remote
from service.engine.client import EngineClient
from service.engine.local import running
from service.errors import ServiceError
from service.settings import Settings
from service.wire import json_v1, outputs

HEAD_BYTES = 4096
WATCH_S = 0.5
PATIENCE_S = 24 * 3600.0
"""For the test-time procedure, which may take minutes on a CPU; who waits for it sees how far it is, and has Ctrl-C."""
LABELLED = "_labelled"


@dataclass(frozen=True)
class Job:
    """What to do with each file; the names are those of the command's options."""

    out: Path
    output: str
    format: str | None = None
    model: str | None = None
    scores: bool = False
    tta: str = "none"
    condition: str | None = None


@dataclass(frozen=True)
class Done:
    """What became of a file: its suffix as labelled, its points (None: not known), sentences for the user."""

    suffix: str
    points: int | None
    warnings: tuple[str, ...]


Report = Callable[[float], None]
"""Takes the share of a file's work that is done, 0 to 1."""
Label = Callable[[Path, BinaryIO, Report], Done]


def segment_remotely(files: Sequence[Path], job: Job, url: str, api_key: str = "") -> int:
    """Label files through the service at `url`; return how many failed."""
    remote = Remote(url, api_key=api_key)
    options = {"output": job.output, "format": job.format, "model": job.model, "scores": "true" if job.scores else None}
    options |= {"tta": job.tta if job.tta != "none" else None, "condition": job.condition}
    query = {name: value for name, value in options.items() if value is not None}

    def label(path: Path, out: BinaryIO, _report: Report) -> Done:
        answer = remote.segment(path, out, query)
        return Done(".json" if job.output == "json" else Path(answer.filename).suffix, answer.points, answer.warnings)

    return _each(files, job, label)


def segment_here(files: Sequence[Path], job: Job, settings: Settings) -> int:
    """Label files with an engine that runs as long as this takes; return how many failed."""
    console = Console(stderr=True)
    with console.status("Loading the model ...") as status, running(settings) as engine:
        status.stop()
        # Without a service --model says what is loaded, perhaps by its path; the engine knows it by its name.
        model = engine.status()["models"][0]["name"]

        def label(path: Path, out: BinaryIO, report: Report) -> Done:
            return _label_here(path, out, job, model, engine, settings, report)

        return _each(files, job, label)


def _label_here(
    path: Path, out: BinaryIO, job: Job, model: str, engine: EngineClient, settings: Settings, report: Report
) -> Done:
    options = formats.Options(max_points=settings.max_points)
    deadline = time.monotonic() + (settings.deadline_s if job.tta == "none" else PATIENCE_S)
    body = os.open(path, os.O_RDONLY)
    try:
        head = os.pread(body, HEAD_BYTES, 0)
        source = formats.recognise(head, declared=job.format, media_type=None, filename=path.name)
        target = outputs.choose(job.output, [], source)
        with engine.read(body, source, options, deadline) as cloud:
            name = uuid.uuid4().hex
            with _watched(engine, name, report):
                segmentation = engine.segment(
                    cloud,
                    model,
                    deadline,
                    scores=job.scores,
                    tta=job.tta,
                    condition=job.condition,
                    request_id=name,
                )
            done = Done(target.suffixes[0] if target else ".json", len(segmentation.label), segmentation.warnings)
            if target is None:
                out.write(json_v1.encode(segmentation, segmentation.timing_ms, ""))
                return done
            written = engine.write(source, target, options, deadline)
    finally:
        os.close(body)
    with os.fdopen(written, "rb") as file:
        file.seek(0)
        shutil.copyfileobj(file, out, 1 << 20)
    return done


@contextmanager
def _watched(engine: EngineClient, request_id: str, report: Report) -> Iterator[None]:
    """Ask the engine now and then how far it is with a request, and report it."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(WATCH_S):
            with contextlib.suppress(ServiceError):
                done = engine.status()["progress"].get(request_id)
                if done is not None:
                    report(done)
        engine.close()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _each(files: Sequence[Path], job: Job, label: Label) -> int:
    """Label file after file with a progress bar; a file that fails is reported and the next one follows."""
    job.out.mkdir(parents=True, exist_ok=True)
    console, failed, points, began = Console(stderr=True), 0, 0, time.monotonic()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[rate]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("labelling", total=len(files), rate="")
        for path in files:
            progress.update(task, description=path.name)
            started = time.monotonic()

            def report(share: float, name: str = path.name) -> None:
                progress.update(task, description=f"{name} {share:.0%}")

            try:
                target, done = _to_file(path, job, label, report)
            except (ServiceError, OSError) as error:
                failed += 1
                sentence = error.detail if isinstance(error, ServiceError) else str(error)
                console.print(f"{path}: {sentence}", style="red", soft_wrap=True, markup=False, highlight=False)
            else:
                points += done.points or 0
                count = "" if done.points is None else f"{done.points:,} points, "
                line = f"{path} -> {target} ({count}{time.monotonic() - started:.2f} s)"
                console.print(line, soft_wrap=True, markup=False, highlight=False)
                for warning in done.warnings:
                    console.print(f"  {warning}", style="yellow", soft_wrap=True, markup=False, highlight=False)
            rate = f"{points / max(time.monotonic() - began, 1e-3):,.0f} points/s" if points else ""
            progress.update(task, advance=1, rate=rate, description="labelled")
    return failed


def _to_file(path: Path, job: Job, label: Label, report: Report) -> tuple[Path, Done]:
    """Label a file into the output folder; a file there is whole or absent, never half written."""
    descriptor, name = tempfile.mkstemp(dir=job.out, prefix=".", suffix=".part")
    part = Path(name)
    try:
        with os.fdopen(descriptor, "w+b") as out:
            done = label(path, out, report)
        part.chmod(0o644)
        target = job.out / f"{path.stem}{LABELLED}{done.suffix}"
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return target, done
