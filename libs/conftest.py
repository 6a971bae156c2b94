"""Fixtures of the libraries' tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

Case = tuple[dict[str, Any], dict[str, torch.Tensor], dict[str, torch.Tensor]]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Every device that a test runs on."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return request.param


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Iterator[Case]]:
    """The calls of a parity case: (call, inputs, outputs), from the folder of golden numbers beside the project."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "parity"
    if not folder.is_dir():
        pytest.skip("needs the folder ../shared/parity")

    def calls(case: str) -> Iterator[Case]:
        arrays = np.load(folder / f"{case}.npz")
        for call in json.loads((folder / f"{case}.json").read_text())["calls"]:
            inputs = {name: torch.from_numpy(arrays[key]) for name, key in call["inputs"].items()}
            outputs = {name: torch.from_numpy(arrays[key]) for name, key in call["outputs"].items()}
            yield call, inputs, outputs

    return calls
