"""What is made of a batch's cells serves every batch of the same cells, and changes no number."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from service.models.batch import Batch
from service.models.catalogue import FAMILIES
from service.models.layers.engine import Engine, engine
from service.models.site import Site
from tests.models.untrained import NETWORK


def _clouds(device: torch.device) -> Batch:
    random = torch.Generator().manual_seed(0)
    cells = [torch.unique(torch.randint(0, 24, (count, 3), generator=random), dim=0) for count in (900, 40)]
    grid_coord = torch.cat(cells).int().to(device)
    offset = torch.tensor([len(cells[0]), len(grid_coord)], device=device)
    return Batch(grid_coord * 0.02, grid_coord, torch.randn(len(grid_coord), 4, generator=random).to(device), offset)


def _check(made_by: Engine, device: torch.device, tolerance: float) -> dict[Any, Any]:
    torch.manual_seed(0)
    network = Site(made_by, FAMILIES).build(NETWORK).eval().to(device)
    first = _clouds(device)
    with torch.inference_mode():
        network(first)
        maps = next(found for found in first.made.values() if isinstance(found, dict))
        before = dict(maps)
        second = first.with_features(first.coord, first.feat.flip(0))
        shared = network(second)
        alone = network(Batch(second.coord, second.grid_coord, second.feat, second.offset))
    assert torch.allclose(shared, alone, atol=tolerance, rtol=tolerance)
    assert before
    assert maps.keys() == before.keys()
    assert all(maps[key] is before[key] for key in before)
    return maps


def test_kernel_maps_are_made_once(native: Engine) -> None:
    _check(native, torch.device("cpu"), 0)


def test_once_makes_once() -> None:
    batch = _clouds(torch.device("cpu"))
    made: list[int] = []
    again = batch.with_features(batch.coord + 1, batch.feat)

    def make() -> int:
        made.append(1)
        return 7

    assert [one.once("key", make) for one in (batch, again, batch)] == [7, 7, 7]
    assert made == [1]
    assert torch.equal(again.coord, batch.coord + 1)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["spconv", "native"])
def test_kernel_maps_are_made_once_on_a_gpu(cuda: torch.device, name: Any) -> None:
    if name == "spconv":
        pytest.importorskip("spconv", reason="spconv is not installed")
    _check(engine(name, cuda), cuda, 1e-3)
