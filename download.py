#!/usr/bin/env python
"""Fetches published checkpoints into models/.

    python download.py                      the environment, and what there is to fetch
    python download.py ptv3-scannet sonata  fetch these
    python download.py --models DIR NAME    into another folder

HF_ENDPOINT names a mirror, HF_TOKEN a token for repositories that want one. A download that was cut is gone on with.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from service import environment
from service.checkpoints import CATALOGUE, Checkpoint, FetchError, fetch

MODELS = Path(__file__).resolve().parent / "models"


def show_catalogue(console: Console) -> None:
    """Print what there is."""
    table = Table("name", "what", "licence", "repository", box=None)
    for each in CATALOGUE.values():
        table.add_row(each.name, each.about, each.licence, each.repository)
    console.print(table)


def download(checkpoint: Checkpoint, folder: Path, endpoint: str, token: str | None, console: Console) -> None:
    """Fetch every file of a checkpoint into `folder`/name.

    Raises:
        FetchError: as `fetch` says.
    """
    console.print(f"{checkpoint.name}: {checkpoint.about}; licence of the weights: {checkpoint.licence}")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        for file in checkpoint.files:
            # An experiment's folder becomes the checkpoint's own: config.py and model/model_best.pth below its name.
            target = folder / checkpoint.name / (file.split("/", 1)[1] if "/" in file else file)
            task = bar.add_task(target.name, total=None)
            known = checkpoint.sha256.get(file)

            def show(done: int, total: int, task: TaskID = task) -> None:
                bar.update(task, completed=done, total=total or None)

            found = fetch(
                checkpoint.repository, file, target, endpoint=endpoint, token=token, sha256=known, progress=show
            )
            bar.print(f"{target}  sha256 {found}{'' if known else ' (as the server declares it, or not known before)'}")


def main() -> int:
    """Parse the options, print the environment, fetch; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="names of the list that is printed without any")
    parser.add_argument("--models", type=Path, default=MODELS, help="the folder (models/)")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in CATALOGUE]
    if unknown:
        parser.error(f"there is no checkpoint {', '.join(unknown)}; there are: {', '.join(CATALOGUE)}")
    console = Console(soft_wrap=True, highlight=False)
    console.print("\n".join(environment.lines(environment.report())), end="\n\n")
    if not options.names:
        show_catalogue(console)
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    token = os.environ.get("HF_TOKEN") or None
    try:
        for name in options.names:
            download(CATALOGUE[name], options.models, endpoint, token, console)
    except (FetchError, OSError) as error:
        print(f"download.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("download.py: stopped; run it again to go on.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
