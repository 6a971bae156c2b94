"""entrypoint.sh and run_pytorch.sh with every fault made on purpose: each says in one sentence what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def conda(tmp_path: Path) -> Path:
    """A conda whose only environment is the one that runs the tests, with a service that tells how it was started."""
    folder = tmp_path / "conda"
    programs = folder / "programs"
    programs.mkdir(parents=True)
    (folder / "etc" / "profile.d").mkdir(parents=True)
    (programs / "pointserve").write_text('#!/bin/sh\necho "service: $* pid $$ cuda $EXPECTED_CUDA"\n')
    (programs / "pointserve").chmod(0o755)
    (programs / "python").symlink_to(sys.executable)
    (programs / "python").unlink()
    (programs / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (programs / "python").chmod(0o755)
    (folder / "etc" / "profile.d" / "conda.sh").write_text(
        f'conda() {{ [ "$2" = "{Path(sys.prefix).name}" ] || return 1; export PATH="{programs}:$PATH"; }}\n'
    )
    return folder


@pytest.fixture
def run(conda: Path) -> Run:
    def start(*command: str, prefix: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess[str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_")}
        own |= {"CONDA_DIR": str(conda), "CONDA_DEFAULT_ENV": Path(sys.prefix).name, **environment}
        script = str(ROOT / "entrypoint.sh")
        return subprocess.run([*prefix, script, *command], env=own, capture_output=True, text=True, timeout=120)

    return start


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a start that was refused says; no traceback, no service."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert "service:" not in done.stdout
    assert "Traceback" not in done.stderr
    assert "not started" in done.stderr
    return done.stderr


def no_driver_here() -> bool:
    from service import gpu

    return gpu.query().fault is gpu.Fault.NO_DRIVER


def test_no_driver_and_the_three_ways_to_take_it(run: Run) -> None:
    if not no_driver_here():
        pytest.skip("there is a driver here")
    assert "no NVIDIA driver" in refused(run())
    warned = run(CUDA_CHECK="warn")
    assert warned.returncode == 0, warned.stderr
    assert "no NVIDIA driver" in warned.stderr
    assert "warning" in warned.stderr
    assert "service: serve" in warned.stdout


def test_unchecked(run: Run) -> None:
    done = run(CUDA_CHECK="off")
    assert done.returncode == 0
    assert done.stderr == ""
    assert "cuda 12.4" in done.stdout


def test_the_command_given_replaces_the_service_and_the_shell(run: Run) -> None:
    done = run("sh", "-c", "exec echo one two", CUDA_CHECK="off")
    assert done.stdout == "one two\n"
    own = subprocess.Popen(
        [ROOT / "entrypoint.sh", "sh", "-c", "echo $$"],
        env={**os.environ, "CONDA_DIR": "/nowhere"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "CONDA_DIR" in own.communicate()[1]


def test_exec(run: Run, conda: Path) -> None:
    process = subprocess.Popen(
        [ROOT / "entrypoint.sh"],
        env={**os.environ, "CONDA_DIR": str(conda), "CONDA_DEFAULT_ENV": Path(sys.prefix).name, "CUDA_CHECK": "off"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert f"pid {process.pid} " in process.communicate()[0]


def test_misuse(run: Run) -> None:
    done = run(CUDA_CHECK="perhaps")
    assert done.returncode == 1
    assert "strict, warn or off" in done.stderr
    done = run(CONDA_DEFAULT_ENV="another")
    assert done.returncode == 1
    assert "another cannot be activated" in done.stderr


def test_driver_too_old(run: Run, fake_driver: Path) -> None:
    said = refused(run(LD_LIBRARY_PATH=str(fake_driver), FAKE_CUDA_VERSION="11040"))
    assert "made for CUDA 11.4. Install driver 525.60.13 or newer" in said


def test_container_without_gpus(run: Run, tmp_path: Path) -> None:
    """With the marks of a host that has a driver, mounted over those of this machine."""
    script = (
        "mount -t tmpfs tmpfs /proc/driver && mkdir /proc/driver/nvidia && touch /proc/driver/nvidia/version && "
        'mount -t tmpfs tmpfs /run && touch /run/.containerenv && exec "$@"'
    )
    prefix = ("unshare", "-m", "sh", "-c", script, "sh")
    if (
        not no_driver_here()
        or shutil.which("unshare") is None
        or subprocess.run([*prefix, "true"], capture_output=True).returncode
    ):
        pytest.skip("needs the right to mount, and a machine without a driver")
    said = refused(run(prefix=prefix))
    assert "started without its GPU: add --gpus all" in said


def test_wrong_torch_build(run: Run) -> None:
    said = refused(run(EXPECTED_CUDA="12.6"))
    assert "is built for CUDA 12.4, expected is 12.6" in said


def test_torch_without_cuda(run: Run, tmp_path: Path) -> None:
    package = tmp_path / "site" / "torch"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("class version:\n    cuda = None\n__version__ = '2.5.0+cpu'\n")
    said = refused(run(PYTHONPATH=str(tmp_path / "site")))
    assert "torch 2.5.0+cpu is built without CUDA: install the build for CUDA 12.4" in said


def test_extension_that_does_not_load(run: Run, tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    package = tmp_path / "site" / "pointops"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    source = tmp_path / "c.c"
    source.write_text("extern int of_another_torch(void); void *PyInit__C(void) { of_another_torch(); return 0; }")
    subprocess.run([compiler, "-shared", "-fPIC", "-Wl,-z,now", "-o", package / "_C.so", source], check=True)
    said = refused(run(PYTHONPATH=str(tmp_path / "site")))
    assert "pointops._C does not load" in said
    assert "undefined symbol: of_another_torch" in said
    assert "pip install --no-build-isolation" in said


@pytest.mark.parametrize(("capability", "who"), [("35", "torch has sm_50"), ("61", "pointops has")])
def test_no_kernel_for_this_gpu(run: Run, fake_driver: Path, capability: str, who: str) -> None:
    if who.startswith("pointops"):
        pytest.importorskip("pointops._C", reason="the libraries are not built here", exc_type=ImportError)
    said = refused(run(LD_LIBRARY_PATH=str(fake_driver), FAKE_CUDA_CAPABILITY=capability))
    assert f"No kernel for this GPU: Fake GPU is sm_{capability}, {who}" in said


def test_run_pytorch(conda: Path) -> None:
    own = {**os.environ, "PATH": f"{conda / 'programs'}:{os.environ['PATH']}", "CUDA_CHECK": "off"}
    done = subprocess.run([ROOT / "run_pytorch.sh"], env=own, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "CUDA of PyTorch" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("service: serve")
    bad = subprocess.run(
        [ROOT / "run_pytorch.sh"], env={**own, "CUDA_CHECK": "x"}, capture_output=True, text=True, timeout=60
    )
    assert bad.returncode == 1
    assert "strict, warn or off" in bad.stderr
