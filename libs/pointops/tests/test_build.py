"""How the libraries with CUDA kernels are built: which compiler is called, for which GPUs, and when it is an error."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

LIBS = Path(__file__).resolve().parents[2]
DEFAULT = {"75", "80", "86", "89", "90"}

# Compilers that write down what they are asked and leave an empty file.
PROGRAM = """#!/bin/sh
case " $* " in
  *" --version "*) echo "{says}"; exit ;;
  *" -dumpversion "*) echo 12.2.0; exit ;;
esac
echo "$0 $*" >> "{log}"
while [ $# -gt 0 ]; do
  [ "$1" != -o ] || : > "$2"
  shift
done
"""


def program(path: Path, log: Path, says: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PROGRAM.format(says=says, log=log))
    path.chmod(0o755)
    return path


def build(name: str, folder: Path, cuda: str | None, **settings: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Build one library with a compiler that does nothing and an nvcc of that version (None: there is none)."""
    log = folder / "called"
    cxx = program(folder / "g++", log, "g++ (GCC) 12.2.0")
    home = folder / "cuda"
    if cuda is not None:
        program(home / "bin" / "nvcc", log, f"Cuda compilation tools, release {cuda}, V{cuda}.99")
    kept = {key: value for key, value in os.environ.items() if key not in ("FORCE_CUDA", "TORCH_CUDA_ARCH_LIST")}
    compilers = {"CC": str(cxx), "CXX": str(cxx), "LDSHARED": f"{cxx} -shared", "CUDA_HOME": str(home)}
    command = [sys.executable, "setup.py", "build_ext", f"--build-lib={folder}/lib", f"--build-temp={folder}/temp"]
    done = subprocess.run(
        command, cwd=LIBS / name, env={**kept, **compilers, **settings}, capture_output=True, text=True, timeout=300
    )
    return done, log.read_text() if log.exists() else ""


def fitting() -> str:
    if torch.version.cuda is None:
        pytest.skip("needs a torch with CUDA")
    return torch.version.cuda


@pytest.mark.parametrize(
    ("name", "cuda", "why"),
    [
        ("pointops", None, "there is no nvcc at {folder}/cuda/bin/nvcc: set CUDA_HOME"),
        ("pointgroup_ops", "99.1", "{folder}/cuda/bin/nvcc is CUDA 99, torch wants CUDA {torch}"),
    ],
)
def test_cuda_that_is_asked_for_and_cannot_be_is_an_error(
    tmp_path: Path, name: str, cuda: str | None, why: str
) -> None:
    version = fitting()
    done, called = build(name, tmp_path, cuda, FORCE_CUDA="1")
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1] == f"{name}: FORCE_CUDA=1, but {why.format(folder=tmp_path, torch=version)}"
    assert called == ""


def test_without_a_fitting_nvcc_the_cpu_alone_is_built(tmp_path: Path) -> None:
    done, called = build("pointops", tmp_path, "99.1")
    assert done.returncode == 0, done.stderr
    assert "csrc/cpu/query.cpp" in called
    assert "csrc/cuda" not in called
    assert list(tmp_path.glob("lib/pointops/_C.abi3.so"))


@pytest.mark.parametrize(("asked", "built"), [("", DEFAULT), ("8.9", {"89"})])
def test_kernels_are_for_the_gpus_that_were_asked_for(tmp_path: Path, asked: str, built: set[str]) -> None:
    done, called = build("pointgroup_ops", tmp_path, fitting(), TORCH_CUDA_ARCH_LIST=asked)
    assert done.returncode == 0, done.stderr
    kernels = [line for line in called.splitlines() if "csrc/cuda" in line and "nvcc" in line.split()[0]]
    assert len(kernels) == len(list((LIBS / "pointgroup_ops" / "csrc" / "cuda").glob("*.cu")))
    assert all(set(re.findall(r"code=sm_(\d+)", line)) == built for line in kernels)
