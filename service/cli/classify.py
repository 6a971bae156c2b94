"""`pointserve classify`: the class of each file as a whole, on a line of its own."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from service import formats
from service.cli.remote import Remote
from service.engine.client import EngineClient
from service.engine.local import running
from service.errors import ServiceError
from service.settings import Settings

HEAD_BYTES = 4096
Told = tuple[str, float, Sequence[str]]
"""The class's name, how likely it is, and sentences for the user."""


def classify_remotely(files: Sequence[Path], format: str | None, model: str | None, url: str, api_key: str = "") -> int:
    """Print the classes that the service at `url` tells; return how many files failed."""
    remote = Remote(url, api_key=api_key)
    options = {name: value for name, value in {"format": format, "model": model}.items() if value is not None}

    def tell(path: Path) -> Told:
        answer = remote.classify(path, options)
        return answer["name"], answer["score"], answer["warnings"]

    return _each(files, tell)


def classify_here(files: Sequence[Path], format: str | None, settings: Settings) -> int:
    """Print the classes that an engine of one's own tells; return how many files failed."""
    with running(settings) as engine:
        # The engine knows the model, which was perhaps given by its path, by its name.
        model = engine.status()["models"][0]["name"]
        return _each(files, lambda path: _tell_here(path, format, model, engine, settings))


def _tell_here(path: Path, format: str | None, model: str, engine: EngineClient, settings: Settings) -> Told:
    deadline = time.monotonic() + settings.deadline_s
    body = os.open(path, os.O_RDONLY)
    try:
        head = os.pread(body, HEAD_BYTES, 0)
        source = formats.recognise(head, declared=format, media_type=None, filename=path.name)
        read = engine.read(body, source, formats.Options(max_points=settings.max_points), deadline)
    finally:
        os.close(body)
    with read as cloud:
        found = engine.classify(cloud, model, deadline)
    index = [one.id for one in found.classes].index(found.label)
    return found.classes[index].name, float(found.scores[index]), found.warnings


def _each(files: Sequence[Path], tell: Callable[[Path], Told]) -> int:
    """Print a line for each file; one that fails is reported and the next one follows."""
    failed = 0
    for path in files:
        try:
            name, score, warnings = tell(path)
        except (ServiceError, OSError) as error:
            failed += 1
            print(f"{path}: {error.detail if isinstance(error, ServiceError) else error}", file=sys.stderr)
            continue
        print(f"{path}: {name} ({score:.3f})")
        for warning in warnings:
            print(f"  {warning}", file=sys.stderr)
    return failed
