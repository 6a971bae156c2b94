"""run_local.sh --setup --tests and the browser that the tests of the page drive."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.scripts.test_set_up import Clone

CALLS = 'echo "$@" >>apt.calls'


@pytest.fixture
def ready(tmp_path: Path) -> Clone:
    """A clone whose environment is made."""
    made = Clone(tmp_path)
    made.environment_made()
    return made


def test_without_apt_it_is_said(ready: Clone) -> None:
    done = ready.run("--setup", "--tests")
    assert done.returncode == 0, done.stderr
    assert "tests of the page will skip" in done.stdout


def test_a_browser_that_is_there_is_enough(ready: Clone) -> None:
    ready.program("chromedriver", "exit 0")
    ready.program("apt-get", CALLS)
    assert "Chromium" not in ready.run("--setup", "--tests").stdout
    assert not (ready.folder / "apt.calls").exists()


def test_running_needs_no_browser(ready: Clone) -> None:
    ready.program("apt-get", CALLS)
    assert "Chromium" not in ready.run("--setup").stdout
    assert not (ready.folder / "apt.calls").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may install packages")
def test_apt_installs_it(ready: Clone) -> None:
    ready.program("apt-get", CALLS)
    assert ready.run("--setup", "--tests").returncode == 0
    update, install = (ready.folder / "apt.calls").read_text().splitlines()
    assert update == "update"
    assert install.split() == ["install", "-y", "--no-install-recommends", "chromium", "chromium-driver"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may install packages")
def test_apt_that_fails_stops_nothing(ready: Clone) -> None:
    ready.program("apt-get", "echo Unable to locate package chromium-driver >&2; exit 100")
    done = ready.run("--setup", "--tests")
    assert done.returncode == 0, done.stderr
    assert "apt could not install Chromium" in done.stdout
    assert "Unable to locate" in (ready.folder / ".venv" / "setup.log").read_text()
