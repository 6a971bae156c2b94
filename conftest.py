"""What holds for every test, here and in libs/."""

from __future__ import annotations

import os
from typing import Any

import pytest

# Threads that wait for one another sleep: where several processes share the cores, those that spin take the time of
# those that are waited for. Services and commands that tests start have it from here. Before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

TOGETHER = ("tests/attacks", "tests/page", "tests/cli")
"""Folders whose tests share what takes long to start; the one that takes longest is the first."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadfile`: give the tests of each of those folders, as those of any other file, to one process."""
    from xdist.scheduler import LoadFileScheduling

    class Together(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid)

    return Together(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In xdist's processes: put those folders first, so that none of them runs on when all else is done."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        first = {folder: place for place, folder in enumerate(TOGETHER)}
        items.sort(key=lambda item: first.get(_group(item.nodeid), len(first)))


def _group(nodeid: str) -> str:
    return next((folder for folder in TOGETHER if nodeid.startswith(f"{folder}/")), nodeid.split("::", 1)[0])
