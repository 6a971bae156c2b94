"""Builds pointops: CPU kernels always; CUDA with FORCE_CUDA=1, or where an nvcc fits the installed torch."""

import os
import re
import subprocess
import sys
from pathlib import Path

import torch
from setuptools import setup
from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension

NAME = "pointops"
HERE = Path(__file__).resolve().parent
os.chdir(HERE)


def fitting_nvcc() -> bool:
    """Whether nvcc's CUDA is of torch's major version; FORCE_CUDA=1 turns a no into an error that says why."""
    nvcc = Path(CUDA_HOME or "/usr/local/cuda") / "bin" / "nvcc"
    force = os.environ.get("FORCE_CUDA", "0") == "1"
    if torch.version.cuda is None:
        reason = "this torch was built without CUDA"
    elif not nvcc.is_file():
        reason = f"there is no nvcc at {nvcc}: set CUDA_HOME"
    else:
        text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
        found = re.search(r"release (\d+)", text)
        if found and found[1] == torch.version.cuda.split(".")[0]:
            return True
        reason = f"{nvcc} is CUDA {found[1] if found else '?'}, torch wants CUDA {torch.version.cuda}"
    if force:
        raise SystemExit(f"{NAME}: FORCE_CUDA=1, but {reason}")
    return False


cuda = os.environ.get("FORCE_CUDA", "") != "0" and fitting_nvcc()
# No fused multiply-add: distances are equal to the last bit on every device. Without debug symbols a third less to do.
exact = ["-O3", "-g0", "-ffp-contract=off", "-fvisibility=hidden", "-DPy_LIMITED_API=0x030A0000"]
sources = ["csrc/schema.cpp", *sorted(str(p) for p in Path("csrc/cpu").glob("*.cpp"))]
# OpenMP is compiled in but not linked: its symbols are those of the runtime that torch has loaded, one pool for both.
options = {"cxx": [*exact, "-fopenmp"] if sys.platform == "linux" else exact}
if cuda:
    # Set to nothing is not set: torch would then ask the GPUs of this machine, which may have none.
    os.environ["TORCH_CUDA_ARCH_LIST"] = os.environ.get("TORCH_CUDA_ARCH_LIST") or "7.5;8.0;8.6;8.9;9.0"
    sources += sorted(str(p) for p in Path("csrc/cuda").glob("*.cu"))
    options["nvcc"] = ["-O3", "-fmad=false", "--extended-lambda", "-Xcompiler", "-ffp-contract=off"]
extension = (CUDAExtension if cuda else CppExtension)(
    f"{NAME}._C",
    sources,
    include_dirs=[str(HERE.parent / "boxtree")],
    extra_compile_args=options,
    py_limited_api=True,
)
extension.libraries = [lib for lib in extension.libraries if lib != "torch_python"]
setup(
    name=NAME,
    version="0.1.0",
    description="Neighbour queries, sampling and grouping of point clouds: Pointcept's operators, for CPU and CUDA.",
    packages=[NAME],
    ext_modules=[extension],
    cmdclass={"build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
    install_requires=["torch>=2.5"],
)
