"""Positions of cells along space-filling curves: z order (Morton) and Hilbert's, each on (x, y, z) and on (y, x, z).

A Hilbert code is read off the z code by a small automaton, four levels of the octree in one look-up. Its states are
those of Skilling's algorithm (AIP Conference Proceedings 707, 2004), which Pointcept's codes come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

Order = Literal["z", "z-trans", "hilbert", "hilbert-trans"]
"""A curve; -trans: x and y change places before it is laid."""
ORDERS: tuple[str, ...] = get_args(Order)

MAX_DEPTH = 16
"""Most levels of the octree: a cloud spans at most 2^16 cells along an axis, and a code has 48 bits."""
_LEVELS = 4
_DIGIT = 8**_LEVELS

_State = tuple[tuple[int, int, int], tuple[int, int, int], int]
"""Which input axis each of the algorithm's three is, whether its bits are inverted, and the parity of the Gray code."""


def codes(grid_coord: torch.Tensor, cloud: torch.Tensor, depths: Sequence[int], orders: Sequence[str]) -> torch.Tensor:
    """Return each cell's position along each curve.

    Args:
        grid_coord: (M, 3) int32 cells from 0, less than 2^depth of their cloud.
        cloud: (M,) int64 the cloud of each cell.
        depths: levels of each cloud's octree, at most `MAX_DEPTH`. A Hilbert curve depends on them, a z curve does not.
        orders: names out of `ORDERS`.

    Returns:
        (len(orders), M) int64, without the cloud. A code shifted by 3 bits is that of the cell's parent.
    """
    device = grid_coord.device
    spread = _spread(device).index_select(0, grid_coord.reshape(-1)).view(-1, 3)
    variants = sorted({order.endswith("-trans") for order in orders})
    weights = torch.tensor([[2, 4, 1] if transposed else [4, 2, 1] for transposed in variants], device=device)
    z = (spread * weights.unsqueeze(1)).sum(dim=2)
    hilbert = _hilbert(z, cloud, depths) if any(order.startswith("hilbert") for order in orders) else z
    rows = []
    for order in orders:
        curve = hilbert if order.startswith("hilbert") else z
        rows.append(curve[variants.index(order.endswith("-trans"))])
    return torch.stack(rows)


def _hilbert(z: torch.Tensor, cloud: torch.Tensor, depths: Sequence[int]) -> torch.Tensor:
    """Return the Hilbert codes of (k, M) z codes."""
    table, starts = _automaton(z.device)
    steps = -(-max(depths) // _LEVELS)
    # A level of zeros only turns the axes round: a cloud of fewer levels starts so that it meets its first one upright.
    first = starts[[(steps * _LEVELS - depth) % 3 for depth in depths]].index_select(0, cloud)
    state, code = first.expand_as(z), torch.zeros_like(z)
    for step in reversed(range(steps)):
        found = table[state + (z >> (3 * _LEVELS * step) & (_DIGIT - 1))]
        digit = found & (_DIGIT - 1)
        code = code << (3 * _LEVELS) | digit
        state = found - digit
    return code


@cache
def _spread(device: torch.device) -> torch.Tensor:
    """Return (2^16,) int64: each number's bits with two zeros between them."""
    numbers = np.arange(1 << MAX_DEPTH, dtype=np.int64)
    spread = np.zeros_like(numbers)
    for bit in range(MAX_DEPTH):
        spread |= (numbers >> bit & 1) << 3 * bit
    return torch.from_numpy(spread).to(device)


@cache
def _automaton(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the table for `_LEVELS` levels, and the states from which 0, 1, 2 levels of zeros lead upright.

    The table has state * 8^levels + (the levels' bits of the z code) for a row, and holds as much of the curve.
    """
    states, following, digits = _states()
    bits = np.arange(_DIGIT)
    state = np.repeat(np.arange(len(states))[:, None], _DIGIT, axis=1)
    out = np.zeros_like(state)
    for level in reversed(range(_LEVELS)):
        octant = bits >> 3 * level & 7
        out = out << 3 | digits[state, octant]
        state = following[state, octant]
    starts = [0]
    for _ in range(2):
        starts.append(int(np.flatnonzero(following[:, 0] == starts[-1])[0]))
    table = (state * _DIGIT + out).ravel().astype(np.int64)
    return torch.from_numpy(table).to(device), torch.tensor(starts, device=device) * _DIGIT


def _states() -> tuple[list[_State], NDArray[np.int64], NDArray[np.int64]]:
    """Return all states, and for each of them and each octant the next state and the digit of the curve."""
    states: list[_State] = [((0, 1, 2), (0, 0, 0), 0)]
    following: list[list[int]] = []
    digits: list[list[int]] = []
    for state in states:  # It grows while it is read.
        following.append([])
        digits.append([])
        for octant in range(8):
            after, digit = _step(state, octant)
            if after not in states:
                states.append(after)
            following[-1].append(states.index(after))
            digits[-1].append(digit)
    return states, np.array(following), np.array(digits)


def _step(state: _State, octant: int) -> tuple[_State, int]:
    """Go one level down: Skilling's exchanges and inversions, done to the axes in place of the bits below."""
    source, inverted, parity = list(state[0]), list(state[1]), state[2]
    bits = [(octant >> (2 - axis) & 1) ^ flip for axis, flip in zip(state[0], state[1], strict=True)]
    digit = 0
    for axis, bit in enumerate(bits):
        if bit:
            inverted[0] ^= 1
        else:
            source[0], source[axis] = source[axis], source[0]
            inverted[0], inverted[axis] = inverted[axis], inverted[0]
        # From Gray code to binary: each bit is the parity of all before it and its own.
        parity ^= bit
        digit = digit << 1 | parity
    return ((source[0], source[1], source[2]), (inverted[0], inverted[1], inverted[2]), parity), digit
