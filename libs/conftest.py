"""Fixtures of the libraries' tests."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

HERE = Path(__file__).resolve().parent
# Without a compiler the service goes on without these libraries, and so do the tests.
LIBRARIES = ("pointops", "pointgroup_ops", "sparseconv")
collect_ignore = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]

Case = tuple[dict[str, Any], dict[str, torch.Tensor], dict[str, torch.Tensor]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests of the libraries' CUDA kernels where there is no GPU."""
    if torch.cuda.is_available():
        return
    for item in items:
        if HERE in item.path.parents and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Every device that a test runs on."""
    return request.param


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Iterator[Case]]:
    """The calls of a parity case: (call, inputs, outputs), from the folder of golden numbers beside the project."""
    folder = HERE.parents[1] / "shared" / "parity"
    if not folder.is_dir():
        pytest.skip("needs the folder ../shared/parity")

    def calls(case: str) -> Iterator[Case]:
        arrays = np.load(folder / f"{case}.npz")
        for call in json.loads((folder / f"{case}.json").read_text())["calls"]:
            inputs = {name: torch.from_numpy(arrays[key]) for name, key in call["inputs"].items()}
            outputs = {name: torch.from_numpy(arrays[key]) for name, key in call["outputs"].items()}
            yield call, inputs, outputs

    return calls
