"""smoke_tests.py: its table, its JSON, its exit status, and what it finds missing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from service import gpu

ROOT = Path(__file__).resolve().parents[2]


def run(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if name not in ("CONDA_DEFAULT_ENV", "EXPECTED_CUDA")}
    command = [sys.executable, str(ROOT / "smoke_tests.py"), *options]
    return subprocess.run(command, env={**own, **environment}, capture_output=True, text=True, timeout=300)


def statuses(done: subprocess.CompletedProcess[str]) -> dict[str, tuple[str, str]]:
    return {check["name"]: (check["status"], check["detail"]) for check in json.loads(done.stdout)["checks"]}


def test_table_and_the_bundled_model() -> None:
    done = run("--only", "environment,driver and GPU,torch and CUDA,bundled model")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PyTorch" in done.stdout
    assert "Compute capability" in done.stdout
    assert "192634 points of parcels.ply" in done.stdout
    skipped = 0 if gpu.query().fault is None else 1
    assert done.stdout.splitlines()[-1] == f"{4 - skipped} passed, 0 failed, {skipped} skipped"


def test_a_gpu_that_is_required() -> None:
    if gpu.query().fault is None:
        pytest.skip("there is a GPU here")
    done = run("--json", "--require-gpu", "--only", "driver and GPU,CUDA kernels")
    assert done.returncode == 1
    for status, detail in statuses(done).values():
        assert status == "fail"
        assert "driver" in detail
    assert json.loads(done.stdout)["environment"].keys() >= {"python", "torch", "cuda", "device", "flash_attention"}


def test_missing_packages_and_an_environment_that_is_not_active() -> None:
    done = run("--startup", "--complete", "--only", "environment")
    assert done.returncode == 1
    assert "flash-attn 2.7.4.post1 is not installed" in done.stderr
    done = run("--startup", "--only", "environment", CONDA_DEFAULT_ENV="pointcept-torch2.5.0-cu12.4")
    assert "conda activate pointcept-torch2.5.0-cu12.4" in done.stderr


def test_the_libraries_with_cuda_kernels_are_those_that_are_checked_for_them() -> None:
    said = re.search(
        r"^CUDA_LIBRARIES = \((.*)\)$", (ROOT / "smoke_tests.py").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert said
    libs = ROOT / "libs"
    if not libs.is_dir():
        pytest.skip("there is no libs/")
    assert sorted(re.findall(r'"(\w+)"', said[1])) == sorted({path.parts[-4] for path in libs.glob("*/csrc/cuda/*.cu")})


def test_unknown_check() -> None:
    done = run("--only", "nonsense")
    assert done.returncode == 2
    assert "there are: environment" in done.stderr


def test_the_users_own_commands() -> None:
    """Word for word: nothing else is imported before."""
    commands = ("import pointops._C", "import pointgroup_ops_cuda", "import sparseconv._C")
    for command in commands:
        pytest.importorskip(command.split()[1], reason="the libraries are not built here", exc_type=ImportError)
    started = [subprocess.Popen([sys.executable, "-c", each], stderr=subprocess.PIPE, text=True) for each in commands]
    for process in started:
        assert process.communicate(timeout=60)[1] == ""
        assert process.returncode == 0


def test_extensions_and_kernels() -> None:
    for module in ("pointops._C", "pointgroup_ops_cuda", "sparseconv._C"):
        pytest.importorskip(module, reason="the libraries are not built here", exc_type=ImportError)
    done = run("--json", "--only", "our extensions,architectures,CPU kernels")
    assert done.returncode == 0, done.stdout
    asked = run("--startup", "--only", "architectures", FORCE_CUDA="1", TORCH_CUDA_ARCH_LIST="5.0;9.0")
    assert asked.returncode == 1
    assert "which TORCH_CUDA_ARCH_LIST asks for" in asked.stderr
