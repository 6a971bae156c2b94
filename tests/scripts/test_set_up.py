"""run_local.sh and build_and_test.sh before the service starts: what they find, install, and say when they cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("awk", "basename", "bash", "cat", "df", "dirname", "env", "grep", "mkdir", "rm", "sed", "tail", "uname")
RECORDING_PIP = """
import os, sys
from pathlib import Path
with open("pip.calls", "a") as calls:
    print(*sys.argv[1:], file=calls)
said = Path("pip.says")
if said.exists():
    sys.exit(said.read_text())
"""

HEADERS = Path(sysconfig.get_path("include")) / "Python.h"
needs_headers = pytest.mark.skipif(not HEADERS.is_file(), reason="needs Python's headers (python3-dev)")


class Clone:
    """A fresh clone as far as the set-up goes, on a machine with few programs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder / "a clone", folder / "bin"
        self.folder.mkdir()
        self.bin.mkdir()
        for name in ("run_local.sh", "build_and_test.sh", "pyproject.toml", "pins.txt"):
            shutil.copy(ROOT / name, self.folder)
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool) or pytest.fail(f"no {tool}"))

    def program(self, name: str, text: str) -> None:
        """Put a program on the PATH in place of what is there."""
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{text}\n")
        path.chmod(0o755)

    def python(self, name: str = "python3") -> None:
        self.program(name, f'exec "{sys.executable}" "$@"')

    def environment_made(self) -> None:
        """Make .venv with a pip that only writes down how it is called."""
        venv.create(self.folder / ".venv", with_pip=False)
        site = next((self.folder / ".venv" / "lib").glob("python*/site-packages")) / "pip"
        site.mkdir()
        (site / "__init__.py").write_text("")
        (site / "__main__.py").write_text(RECORDING_PIP)

    def pip_calls(self) -> list[str]:
        calls = self.folder / "pip.calls"
        return calls.read_text().splitlines() if calls.exists() else []

    def run(
        self, *arguments: str, script: str = "run_local.sh", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        own = {"PATH": str(self.bin), "HOME": str(self.folder), **environment}
        command = [self.folder / script, *arguments]
        return subprocess.run(command, env=own, capture_output=True, text=True, timeout=120)


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def only_sentence(result: subprocess.CompletedProcess[str], status: int = 1) -> str:
    """Return what a failed run says: one line, and no traceback or shell noise around it."""
    assert result.returncode == status, result.stdout + result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_help_names_every_option(clone: Clone) -> None:
    result = clone.run("--help")
    assert result.returncode == 0
    for option in ("--port", "--model", "--once", "--setup", "--tests", "--packages", "--help"):
        assert option in result.stdout


@pytest.mark.parametrize("arguments", [["--prot", "80"], ["--port"], ["extra"], ["--tests"], ["--packages"]])
def test_misuse(clone: Clone, arguments: list[str]) -> None:
    assert "--help" in only_sentence(clone.run(*arguments), status=2)


def test_no_working_python(clone: Clone) -> None:
    for name in ("python3", "python3.10", "python3.11"):
        clone.program(name, "exit 127")
    sentence = only_sentence(clone.run("--once"))
    assert "no working Python 3.10, 3.11 or 3.12" in sentence
    assert "PYTHON=" in sentence


def test_python_of_a_wrong_version_is_passed_over(clone: Clone) -> None:
    clone.program("python3", 'case "$1" in -V) echo Python 3.9.1 ;; *) exit 1 ;; esac')
    assert "python3 is Python 3.9.1" in only_sentence(clone.run("--once"))


def test_named_python_does_not_work(clone: Clone) -> None:
    clone.python()
    assert "PYTHON=/nowhere/python" in only_sentence(clone.run("--once", PYTHON="/nowhere/python"))


def test_broken_shim_is_passed_over_and_no_disk(clone: Clone) -> None:
    clone.program("python3.11", "exit 127")
    clone.python("python3")
    clone.program("df", "echo header; echo disk 9999999 8888888 1100000 99% /")
    sentence = only_sentence(clone.run("--once"))
    assert "has 1 GB" in sentence
    assert not (clone.folder / ".venv").exists()


def test_no_venv_module(clone: Clone) -> None:
    clone.program("python3", f'case "$2" in "import venv"*) exit 1 ;; esac; exec "{sys.executable}" "$@"')
    assert f"apt install python3.{sys.version_info.minor}-venv" in only_sentence(clone.run("--setup"))


def test_no_network(clone: Clone) -> None:
    """With the real pip and an index that nobody serves."""
    clone.python()
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": os.devnull}
    assert "cannot be reached" in only_sentence(clone.run("--setup", **nowhere))
    assert not list((clone.folder / ".venv").glob(".installed"))


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "the disk is full"),
        ("ERROR: No matching distribution found for torch==2.5.0", "no wheel for"),
        ("ERROR: something new", "ERROR: something new"),
    ],
)
def test_pip_fails(clone: Clone, said: str, sentence: str) -> None:
    clone.environment_made()
    (clone.folder / "pip.says").write_text(said)
    assert sentence in only_sentence(clone.run("--setup"))


def test_installs_once_and_again_when_the_pins_change(clone: Clone) -> None:
    clone.environment_made()
    first = clone.run("--setup")
    assert first.returncode == 0, first.stderr
    assert "spconv has no wheel" in first.stdout
    assert any("-c pins.txt" in call and "-e .[cu124,e57,build]" in call for call in clone.pip_calls())

    called = len(clone.pip_calls())
    assert clone.run("--setup").returncode == 0
    assert len(clone.pip_calls()) == called

    with (clone.folder / "pins.txt").open("a") as pins:
        pins.write("# changed\n")
    assert clone.run("--setup").returncode == 0
    assert len(clone.pip_calls()) > called


@pytest.mark.parametrize(("kept", "compiled"), [("", False), ("1", True)])
def test_pip_compiles_only_where_python_would_do_it_again_and_again(clone: Clone, kept: str, compiled: bool) -> None:
    clone.environment_made()
    assert clone.run("--setup", PYTHONDONTWRITEBYTECODE=kept).returncode == 0
    assert all(("--no-compile" not in call) == compiled for call in clone.pip_calls())


def test_what_the_tests_need_holds_for_running_too(clone: Clone) -> None:
    clone.environment_made()
    assert clone.run("--setup").returncode == 0
    called = len(clone.pip_calls())
    assert clone.run("--setup", "--tests").returncode == 0
    assert "test]" in clone.pip_calls()[-1]
    assert len(clone.pip_calls()) > called
    called = len(clone.pip_calls())
    assert clone.run("--setup").returncode == 0
    assert len(clone.pip_calls()) == called


@needs_headers
def test_builds_libs_when_they_are_there(clone: Clone) -> None:
    clone.environment_made()
    lib = clone.folder / "libs" / "shiny"
    lib.mkdir(parents=True)
    (lib / "setup.py").write_text("")
    without = clone.run("--setup", CXX="no-such-compiler")
    assert without.returncode == 0, without.stderr
    assert "want of a C++ compiler" in without.stdout
    assert not any("libs/shiny" in call for call in clone.pip_calls())

    clone.program("c++", "exit 0")
    assert clone.run("--setup", "--packages").returncode == 0
    assert not any("libs/shiny" in call for call in clone.pip_calls())
    assert clone.run("--setup").returncode == 0
    assert [call for call in clone.pip_calls() if "libs/shiny" in call and "--no-build-isolation" in call]
    called = len(clone.pip_calls())
    assert clone.run("--setup").returncode == 0
    assert len(clone.pip_calls()) == called
    for changed in (lib / "setup.py", clone.folder / "libs" / "headers" / "shared.h"):
        changed.parent.mkdir(exist_ok=True)
        changed.write_text("// changed")
        assert clone.run("--setup").returncode == 0
        called += 1
        assert len(clone.pip_calls()) == called


@needs_headers
def test_a_lib_that_does_not_build_stops_the_tests_only(clone: Clone) -> None:
    clone.environment_made()
    assert clone.run("--setup", "--tests").returncode == 0
    lib = clone.folder / "libs" / "shiny"
    lib.mkdir(parents=True)
    (lib / "setup.py").write_text("")
    clone.program("c++", "exit 0")
    (clone.folder / "pip.says").write_text("error: metadata-generation-failed")
    running = clone.run("--setup")
    assert running.returncode == 0
    assert "libs/shiny is not built" in running.stdout
    assert "metadata-generation-failed" in only_sentence(clone.run("--setup", "--tests"))


@pytest.mark.parametrize("arguments", [["--loca"], ["--local", "more"], ["--file"], ["--no-gpu", "--local"]])
def test_build_and_test_misuse(clone: Clone, arguments: list[str]) -> None:
    result = clone.run(*arguments, script="build_and_test.sh")
    assert result.returncode == 2
    assert "Usage:" in result.stderr


def test_build_and_test_help(clone: Clone) -> None:
    result = clone.run("--help", script="build_and_test.sh")
    assert result.returncode == 0
    assert "--local" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [([], "docker is not installed"), (["--file", "Dockerfile.none"], "--file takes Dockerfile.gpu or")],
)
def test_build_and_test_without_what_it_needs(clone: Clone, arguments: list[str], sentence: str) -> None:
    (clone.folder / "Dockerfile.gpu").write_text("FROM nothing\n")
    assert sentence in only_sentence(clone.run(*arguments, script="build_and_test.sh"))


def test_build_and_test_without_an_engine(clone: Clone) -> None:
    (clone.folder / "Dockerfile.gpu").write_text("FROM nothing\n")
    clone.program("docker", "exit 1")
    assert "no Docker Engine answers" in only_sentence(clone.run(script="build_and_test.sh"))
