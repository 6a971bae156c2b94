"""Where golden numbers are."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of golden numbers beside the project; most users have none, and then the test skips."""
    folder = Path(__file__).resolve().parents[4] / "shared"
    if not (folder / "parity").is_dir():
        pytest.skip("needs the folder ../shared with parity fixtures")
    return folder
