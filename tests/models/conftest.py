"""Engines of this machine, and a small untrained model in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from service.models.layers.engine import Engine, engine
from tests.models.untrained import write

CPU = torch.device("cpu")


@pytest.fixture(params=["native", "spconv"])
def either_engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine on the CPU; spconv's is the slow one that serves as an oracle."""
    if request.param == "spconv":
        pytest.importorskip("spconv", reason="spconv is not installed: there is no oracle to compare with")
    return engine(request.param, CPU)


@pytest.fixture
def native() -> Engine:
    """The native engine on the CPU."""
    return engine("native", CPU)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an untrained model named parcels."""
    write(tmp_path)
    return tmp_path


@pytest.fixture
def cuda() -> torch.device:
    """A CUDA device; skips where there is none."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device("cuda")
