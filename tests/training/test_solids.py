"""Rays against solids: compared with marching along each ray in float64, which knows no formula for a crossing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training import solids
from training.objects import cuboid, cylinder, ellipsoid, move, rod, tumble
from training.solids import CUBOID, CYLINDER, Part

CPU = torch.device("cpu")


def inside(part: Part, point: np.ndarray) -> np.ndarray:
    """Return whether points (n, 3) lie in the part, by the definition of its kind."""
    own = (point - part.center) @ part.axes.T / part.half
    if part.kind == CUBOID:
        return np.abs(own).max(1) < 1
    if part.kind == CYLINDER:
        return (np.hypot(own[:, 0], own[:, 1]) < 1) & (np.abs(own[:, 2]) < 1)
    return (own**2).sum(1) < 1


def marched(part: Part, origin: np.ndarray, direction: np.ndarray, far: float = 6.0) -> float:
    """Return the first t at which the ray is inside the part, found by small steps and bisection; inf if never."""
    steps = np.linspace(0, far, 40_001)
    hits = inside(part, origin + steps[:, None] * direction)
    if not hits.any():
        return np.inf
    first = int(hits.argmax())
    low, high = steps[max(first - 1, 0)], steps[first]
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if inside(part, (origin + middle * direction)[None])[0] else (middle, high)
    return high


def make(kind: str, rng: np.random.Generator) -> Part:
    size = rng.uniform(0.1, 0.6, 3)
    part = {
        "cuboid": lambda: cuboid(2 * size),
        "ellipsoid": lambda: ellipsoid(size),
        "cylinder": lambda: cylinder(size[0], 2 * size[1]),
    }[kind]()
    return move([part], tumble(rng), rng.uniform(-0.3, 0.3, 3))[0]


@pytest.mark.parametrize("kind", ["cuboid", "ellipsoid", "cylinder"])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_ray_enters_a_solid_where_marching_along_it_does(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    part = make(kind, rng)
    origin = 2.5 * tumble(rng)[0]
    direction = (rng.normal(0, 0.25, (6, 3)) - origin) / 2.5
    built = solids.stack([[part]], CPU)
    t, column = solids.cast(
        built, torch.tensor(origin[None], dtype=torch.float32), torch.tensor(direction.T[None], dtype=torch.float32)
    )
    for index in range(len(direction)):
        expected = marched(part, origin, direction[index])
        got = float(t[0, index])
        if np.isinf(expected) or np.isinf(got):
            # A ray that only grazes the solid may be on either side of the edge in float32.
            chord = inside(part, origin + np.linspace(0, 6, 40_001)[:, None] * direction[index]).sum()
            assert (np.isinf(expected) and np.isinf(got)) or chord < 40
        else:
            assert got == pytest.approx(expected, abs=2e-3)
            assert column[0, index] == 0


def test_the_nearest_of_several_solids_is_met() -> None:
    parts = [cuboid((1, 1, 0.1), (0, 0, -1)), cuboid((1, 1, 0.1), (0, 0, 0)), ellipsoid((0.1, 0.1, 0.1), (0.3, 0, 0.5))]
    built = solids.stack([parts], CPU)
    direction = torch.tensor([[[0.0, 0.3, 0.9], [0.0, 0.0, 0.0], [-1.0, -1.0, -1.0]]])
    t, part = solids.cast(built, torch.tensor([[0.0, 0.0, 2.0]]), direction)
    assert part[0].tolist()[0] == 1 and t[0, 0].item() == pytest.approx(1.9)
    assert built.kinds[int(part[0, 1])] in (solids.CUBOID, solids.ELLIPSOID)
    assert part[0, 2] == -1 and torch.isinf(t[0, 2])


def test_a_solid_around_the_eye_is_not_seen() -> None:
    built = solids.stack([[cuboid((2, 2, 2), (0, 0, -1))]], CPU)
    t, part = solids.cast(built, torch.zeros(1, 3), torch.tensor([[[0.0], [0.0], [1.0]]]))
    assert torch.isinf(t).all() and (part == -1).all()


def test_scenes_of_different_sizes_share_a_batch() -> None:
    rng = np.random.default_rng(3)
    many = [cuboid((0.1, 0.1, 0.1), rng.uniform(-1, 1, 3)) for _ in range(5)] + rod(np.zeros(3), np.ones(3), 0.05)
    few = [cuboid((0.5, 0.5, 0.5))]
    origin = torch.tensor([[3.0, 0.0, 0.3]]).expand(2, 3)
    direction = torch.tensor(rng.normal((-3, 0, 0), 0.3, (200, 3)).T[None], dtype=torch.float32).expand(2, 3, 200)
    together = solids.cast(solids.stack([many, few], CPU), origin, direction)[0]
    for row, scene in enumerate((many, few)):
        alone = solids.cast(solids.stack([scene], CPU), origin[:1], direction[:1])[0]
        assert torch.equal(together[row], alone[0])


@pytest.mark.parametrize("kind", ["cuboid", "ellipsoid", "cylinder"])
def test_normals_point_out_of_the_solid(kind: str) -> None:
    rng = np.random.default_rng(11)
    part = make(kind, rng)
    built = solids.stack([[part]], CPU)
    direction = rng.normal(0, 0.15, (400, 3)) - (0, 0, 2.0)
    origin = torch.tensor([[0.0, 0.0, 2.0]])
    t, column = solids.cast(built, origin, torch.tensor(direction.T[None], dtype=torch.float32))
    met = column[0] >= 0
    assert met.sum() > 50
    point = origin + t[0, met, None] * torch.tensor(direction, dtype=torch.float32)[met]
    normal, _ = solids.normals(built, column[:, met], point[None])
    assert torch.allclose(normal.norm(dim=2), torch.ones(1, int(met.sum())), atol=1e-5)
    outward, inward = (point + sign * 0.002 * normal[0] for sign in (1, -1))
    assert inside(part, inward.double().numpy()).mean() > 0.97
    assert inside(part, outward.double().numpy()).mean() < 0.03
