"""Build sparseconv: pip install --no-build-isolation --no-deps libs/sparseconv

The library has CPU kernels only so far: FORCE_CUDA and TORCH_CUDA_ARCH_LIST change nothing in it, and a CUDA device is
served by spconv or by plain torch. Instructions beyond the compiler's default are chosen when the library runs, so one
build serves every processor of its architecture.
"""

from __future__ import annotations

import os
from pathlib import Path

from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

ROOT = Path(__file__).resolve().parent
DEBUG = os.environ.get("DEBUG") == "1"

setup(
    name="sparseconv",
    version="0.1.0",
    description="Sparse convolution for point clouds as torch operators.",
    license="MIT",
    python_requires=">=3.10",
    packages=["sparseconv"],
    package_data={"sparseconv": ["py.typed", "*.pyi"]},
    ext_modules=[
        CppExtension(
            "sparseconv._C",
            sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("csrc/**/*.cpp")),
            include_dirs=[str(ROOT / "csrc" / "cpu"), str(ROOT.parent / "boxtree")],
            extra_compile_args=[
                *(["-O1", "-g", "-fno-omit-frame-pointer"] if DEBUG else ["-O3", "-g0"]),
                "-fopenmp",
                "-fvisibility=hidden",
                "-ffp-contract=fast",
                "-Wall",
                "-Wextra",
                "-Wno-unused-parameter",
            ],
            extra_link_args=["-fopenmp"],
            py_limited_api=True,
        )
    ],
    cmdclass={"build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
    zip_safe=False,
)
