"""Reads the one source of versions: versions.toml, and pins.txt for what comes from PyPI."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def sections() -> dict[str, dict[str, str]]:
    """Return versions.toml as section to name to value. (Python 3.10 has no tomllib, and the file is plain.)"""
    found: dict[str, dict[str, str]] = {}
    for line in (ROOT / "stack" / "versions.toml").read_text(encoding="utf-8").splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            found[header[1]] = {}
        elif entry := re.fullmatch(r'([\w-]+) = "(.*)"', line):
            found[list(found)[-1]][entry[1]] = entry[2]
        elif line and not line.startswith("#"):
            raise ValueError(f'versions.toml: {line!r} is neither a [section] nor name = "value"')
    return found


def pins() -> dict[str, str]:
    """Return name to version of pins.txt; of a name with several, the first."""
    text = (ROOT / "pins.txt").read_text(encoding="utf-8")
    found: dict[str, str] = {}
    for name, version in re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;]+)", text, re.MULTILINE):
        found.setdefault(name.lower().replace("_", "-"), version)
    return found


def requirements(file: str) -> dict[str, str]:
    """Return name to version of a requirement file; of a git requirement, its commit."""
    found: dict[str, str] = {}
    for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
        if pinned := re.fullmatch(r"([\w.-]+)==(\S+)", line):
            found[pinned[1]] = pinned[2]
        elif git := re.fullmatch(r"([\w.-]+) @ git\+\S+@([0-9a-f]{40})", line):
            found[git[1]] = git[2]
        elif line and not line.startswith(("#", "-")):
            raise ValueError(f"{file}: {line!r} is not pinned")
    return found
