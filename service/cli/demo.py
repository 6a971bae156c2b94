"""`pointserve demo`: the service, and its first client, which labels a sample and shows what came out."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from service import keys
from service import serve as parent
from service.cli.remote import Remote
from service.cli.render import Names, draw_cloud, labels_of, names_of, read
from service.errors import NotReady, ServiceError, UnusableCloud
from service.picture.palette import NO_CLASS
from service.settings import Settings
from service.values import ClassInfo

SAMPLE = Path(__file__).resolve().parents[2] / "samples" / "parcels.ply"
READY_S = 300.0


def demo(settings: Settings, sample: Path, out: Path, once: bool) -> int:
    """Serve, and label a sample through the service.

    Args:
        settings: of the service.
        sample: the cloud to send.
        out: folder for the labelled cloud and its picture.
        once: end after the job instead of serving on.

    Returns:
        Exit status: 0 when the sample was labelled and the service was ended by a signal or by `once`.
    """
    reason = parent.check_address(settings)
    if reason is None and not sample.is_file():
        reason = f"there is no sample {sample}; name another cloud with --sample"
    if reason is not None:
        print(f"pointserve: {reason}", file=sys.stderr)
        return 1
    settings, made = keys.ensure(settings)
    if made is not None:
        print(made.announcement(settings), file=sys.stderr)
    client = _Client(settings, sample, out, once)
    # The service owns the main thread, which gets the signals.
    threading.Thread(target=client.run, daemon=True).start()
    status = parent.serve(settings)
    return 1 if client.failed else status


class _Client:
    """The client, in a thread of the service's parent process."""

    def __init__(self, settings: Settings, sample: Path, out: Path, once: bool) -> None:
        host = "127.0.0.1" if settings.address in ("0.0.0.0", "::") else settings.address
        self._url = f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"
        self._key = next((key for _name, key in keys.load(settings).entries), "")
        self._remote = Remote(self._url, api_key=self._key)
        self._sample, self._out, self._once = sample, out, once
        self._console = Console(soft_wrap=True, highlight=False)
        self.failed = False
        """Whether the job was not done, once `run` has ended."""

    def run(self) -> None:
        """Do the job; end the service when it failed, or when there is nothing more to do."""
        self.failed = True
        try:
            self._job()
            self.failed = False
        except (ServiceError, OSError) as error:
            print(f"pointserve: {error.detail if isinstance(error, ServiceError) else error}", file=sys.stderr)
        finally:
            if self.failed or self._once:
                os.kill(os.getpid(), signal.SIGTERM)

    def _job(self) -> None:
        began = time.monotonic()
        with self._console.status("Starting the service ..."):
            self._wait(began + READY_S)
        self._console.print(f"Ready on {self._url} after {time.monotonic() - began:.1f} s.")
        model = self._remote.models()[0]
        classes = [ClassInfo(c["id"], c["name"], _rgb(c["color"])) for c in model["classes"]]
        names = names_of(classes)

        self._out.mkdir(parents=True, exist_ok=True)
        labelled = self._out / f"{self._sample.stem}_labelled.ply"
        picture = labelled.with_suffix(".png")
        sent = time.monotonic()
        with labelled.open("wb") as file:
            answer = self._remote.segment(self._sample, file, {"output": "ply"})
        took = time.monotonic() - sent

        cloud, _format = read(labelled)
        label = labels_of(cloud)
        if label is None:
            raise UnusableCloud(f"the answer {labelled} carries no labels")
        self._show(
            f"{self._sample.name}, {len(label):,} points, labelled by {model['name']} in {took:.2f} s", label, names
        )
        for warning in answer.warnings:
            self._console.print(warning, style="yellow", markup=False)
        draw_cloud(cloud, picture, f"{self._sample.name}, labelled by {model['name']}", "label", names)
        self._console.print(f"Labelled cloud: {labelled}\nPicture:        {picture}", markup=False)
        if not self._once:
            target = f"{self._url}/v1/segment?output=ply"
            key = f"-H 'X-API-Key: {self._key}' " if self._key else ""
            command = f"curl {key}--data-binary {shlex.quote(f'@{_near(self._sample)}')} '{target}' -o labelled.ply"
            page = f"open {self._url} in a browser and drop a file of your own"
            self._console.print(f"\nThe service runs until Ctrl-C. Try next:\n  {page}\n  {command}", markup=False)

    def _wait(self, until: float) -> None:
        """Return once the service is ready; raises NotReady with the reason when it fails or takes too long."""
        state, reason = "", "the service does not start"
        while time.monotonic() < until:
            time.sleep(0.1)
            try:
                state, reason = self._remote.health()
            except ServiceError:
                continue
            if state == "ready":
                return
            if state == "failed":
                break
        raise NotReady(reason)

    def _show(self, title: str, label: NDArray[np.int32], names: Names) -> None:
        table = Table(title=title, title_justify="left", title_style="", box=None, pad_edge=False)
        table.add_column("class")
        table.add_column("points", justify="right")
        table.add_column("share", justify="right")
        for id, count in zip(*np.unique(label, return_counts=True), strict=True):
            name, color = names.get(int(id), ("ignored", NO_CLASS))
            share = f"{count / max(len(label), 1):.1%}"
            table.add_row(f"[rgb({color[0]},{color[1]},{color[2]})]■[/] {name}", f"{count:,}", share)
        self._console.print(table)


def _rgb(text: str) -> tuple[int, int, int]:
    """Return "#rrggbb" as numbers."""
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def _near(path: Path) -> Path:
    """Return the path relative to the current folder where it lies inside."""
    here = Path.cwd()
    return path.resolve().relative_to(here) if path.resolve().is_relative_to(here) else path
