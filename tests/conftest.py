"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of golden numbers and real files beside the project; most users have none, and then the test skips."""
    folder = ROOT.parent / "shared"
    if not (folder / "parity").is_dir():
        pytest.skip("needs the folder ../shared with parity fixtures and real files")
    return folder


@pytest.fixture(scope="session")
def pointcept() -> Path:
    """A checkout of Pointcept: the folder beside the project, or the one that POINTCEPT names."""
    folder = Path(os.environ.get("POINTCEPT", ROOT.parent / "Pointcept"))
    if not (folder / "pointcept" / "models" / "sgiformer").is_dir():
        pytest.skip("needs a checkout of Pointcept beside the project, or its path in POINTCEPT")
    return folder
