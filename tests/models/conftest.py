"""Engines of this machine, and a small untrained model in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from service.models import checkpoint
from service.models.layers.engine import Engine, engine
from service.models.layers.native import NativeEngine
from tests.models.forks import Forks
from tests.models.untrained import write

CPU = torch.device("cpu")


def made(name: str) -> Engine:
    """Return an engine on the CPU: torch and compiled are both called native."""
    if name == "torch":
        return NativeEngine(CPU)
    if name == "compiled":
        pytest.importorskip("sparseconv", reason="libs/sparseconv is not built")
    else:
        pytest.importorskip("spconv", reason="spconv is not installed: there is no oracle to compare with")
    return engine("native" if name == "compiled" else "spconv", CPU)


@pytest.fixture(params=["torch", "compiled", "spconv"])
def either_engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine on the CPU; spconv's is the slow one that serves as an oracle."""
    return made(request.param)


@pytest.fixture(params=["torch", "compiled"])
def native(request: pytest.FixtureRequest) -> Engine:
    """The native engines on the CPU."""
    return made(request.param)


@pytest.fixture(scope="session")
def _forks() -> Iterator[Forks]:
    forks = Forks()
    yield forks
    forks.close()


@pytest.fixture(scope="module")
def quick_checkpoints(_forks: Forks) -> Iterator[None]:
    """Reads checkpoints without a fresh Python for each: in forks of one that has torch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "subprocess", _forks)
        yield


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
