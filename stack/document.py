"""Writes STACK_VERSIONS.md from the pins: `python -m stack.document`; --check only says whether it is current."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping

from stack.versions import ROOT, pins, requirements, sections

TARGET = ROOT / "STACK_VERSIONS.md"
HEAD = """# Versions of the stack

Written by `python -m stack.document` from `stack/versions.toml` and `pins.txt`; do not edit. `pins.txt` also has every
package that these need in turn.
"""


def table(rows: Iterable[tuple[str, str]]) -> str:
    """Return a Markdown table of names and versions."""
    lines = ["| what | version |", "| --- | --- |", *(f"| {name} | {version} |" for name, version in rows)]
    return "\n".join(lines) + "\n"


def rows(values: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the entries in the order of their names."""
    return sorted(values.items())


def document() -> str:
    """Return the text of STACK_VERSIONS.md."""
    source, locked = sections(), pins()
    environment, images, pytorch = source["environment"], source["images"], source["pytorch_image"]
    extra = {
        name: version
        for name, version in requirements("environment-build.txt").items()
        if name not in source["outside"]
    }
    parts = [
        HEAD,
        "## Dockerfile.gpu and environment.yml",
        table(
            [
                ("conda environment", f"`{environment['name']}`"),
                ("base image", f"`{images['gpu_base']}`"),
                ("image of the second stage", f"`{images['gpu_runtime']}`"),
                ("Miniforge", images["miniforge"]),
                ("CUDA", f"{environment['cuda']} (label cuda-{environment['cuda_label']})"),
                ("GPU architectures", environment["architectures"].replace(";", ", ")),
            ]
        ),
        "From conda channels:",
        table(rows(source["conda"])),
        "From PyPI (environment-pip.txt):",
        table(
            (name, version)
            for name, version in rows(requirements("environment-pip.txt"))
            if name in locked and name not in source["outside"]
        ),
        "From elsewhere, or built when the environment exists (environment-build.txt):",
        table(rows({**source["outside"], **extra})),
        "## Dockerfile.pytorch",
        table(
            [
                ("base image", f"`{pytorch['base']}`"),
                ("PyTorch", pytorch["torch"]),
                ("CUDA", pytorch["cuda"]),
                *((name, pytorch[name]) for name in ("flash-attn", "spconv-cu126", "cumm-cu126", "torch-scatter")),
            ]
        ),
        "## run_local.sh and the tests",
        table((name, locked[name]) for name in ("torch", "torchvision", "numpy", "spconv-cu124", "cumm-cu124")),
    ]
    return "\n".join(parts)


def main() -> int:
    """Write the document, or check it; return the exit status."""
    if "--check" in sys.argv[1:]:
        current = TARGET.is_file() and TARGET.read_text(encoding="utf-8") == document()
        print("STACK_VERSIONS.md is " + ("current" if current else "out of date: python -m stack.document"))
        return 0 if current else 1
    TARGET.write_text(document(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
