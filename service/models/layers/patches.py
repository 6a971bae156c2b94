"""Patches: runs of cells along a space-filling curve, within which a transformer attends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Patches:
    """Where the rows of a stage stand in the patches along one curve.

    Attributes:
        gather: (M',) int64, the row in each place. A cloud's last patch is filled up from the patch before it, so
            that M' >= M and a row may be in two places.
        back: (M,) int64, the place whose result is the row's.
        runs: (number of patches, places of each), in the order of the places; without gaps. A cloud smaller than a
            patch is one patch of its own size.
    """

    gather: torch.Tensor
    back: torch.Tensor
    runs: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Layout:
    """Where positions along any curve stand in patches of one size.

    Attributes:
        source: (M',) int64, the position in each place.
        place: (M,) int64, the place whose result is the position's.
        runs: as in `Patches`.
    """

    source: torch.Tensor
    place: torch.Tensor
    runs: tuple[tuple[int, int], ...]

    def along(self, order: torch.Tensor | None) -> Patches:
        """Return the patches along a curve: (M,) int64 the row at each position; None: rows stand in this order."""
        if order is None:
            return Patches(self.source, self.place, self.runs)
        back = torch.empty_like(self.place).scatter_(0, order, self.place)
        return Patches(order.index_select(0, self.source), back, self.runs)


def layout(sizes: Sequence[int], patch_size: int, device: torch.device) -> Layout:
    """Cut each cloud's positions into patches.

    Args:
        sizes: rows of each cloud, at least 1.
        patch_size: places of a patch.
        device: where the result shall be.
    """
    runs: list[tuple[int, int]] = []
    padded = []
    for size in sizes:
        length = min(size, patch_size)
        count = -(-size // length)
        padded.append(count * length)
        if runs and runs[-1][1] == length:
            runs[-1] = (runs[-1][0] + count, length)
        else:
            runs.append((count, length))
    rows, places = sum(sizes), sum(padded)
    if rows == places:
        identity = torch.arange(rows, device=device)
        return Layout(identity, identity, tuple(runs))
    # Of each cloud: its places, how far they lie behind its positions, the first place that is filled up, its rows.
    table = []
    first_row = first_place = 0
    for size, length in zip(sizes, padded, strict=True):
        table.append((length, first_place - first_row, first_place + size, size))
        first_row, first_place = first_row + size, first_place + length
    lengths, shifts, ends, counts = torch.tensor(table, device=device).unbind(dim=1)
    clouds = torch.arange(len(sizes), device=device)
    cloud = torch.repeat_interleave(clouds, lengths, output_size=places)
    place = torch.arange(places, device=device)
    source = place - shifts.index_select(0, cloud) - patch_size * (place >= ends.index_select(0, cloud))
    own = torch.repeat_interleave(shifts, counts, output_size=rows) + torch.arange(rows, device=device)
    return Layout(source, own, tuple(runs))
