"""A point cloud as a picture: z-buffered splats, edges darkened by depth, a legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from service.picture.lines import Line, Note, trace
from service.picture.view import View, choose_view

MOST_POINTS = 4_000_000
SUPERSAMPLING = 2
MARGIN = 48
LEGEND_HEIGHT = 60
LEGEND_ROWS = 2
# Steps in depth darken up to this part of the scene's depth; beyond, an edge is an edge.
DEEPEST_STEP = 0.04
TEXT = (40, 44, 52)
FAINT = (120, 126, 136)


@dataclass(frozen=True)
class Entry:
    """A line of the legend; `count` in points, or None."""

    name: str
    color: tuple[int, int, int]
    count: int | None = None


def draw(
    coord: NDArray[np.float64],
    color: NDArray[np.uint8],
    legend: Sequence[Entry] = (),
    title: str = "",
    size: tuple[int, int] = (1200, 800),
    lines: Sequence[Line] = (),
    notes: Sequence[Note] = (),
) -> Image.Image:
    """Return a picture of a cloud on white.

    Args:
        coord: (N, 3) float64; rows with NaN or infinity are left out.
        color: (N, 3) uint8.
        legend: what the colours mean; no legend when empty.
        title: a line above the cloud.
        size: width and height in pixels.
        lines, notes: what to draw over the cloud, in its frame.

    Raises:
        ValueError: no row of `coord` is finite.
    """
    valid = np.isfinite(coord).all(axis=1)
    if not valid.any():
        raise ValueError("the cloud has no valid points to draw")
    coord, color = coord[valid], color[valid]
    step = -(-len(coord) // MOST_POINTS)
    coord, color = coord[::step], color[::step]

    width, height = size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING
    margin = MARGIN * SUPERSAMPLING
    total = sum(entry.count or 0 for entry in legend)
    placed = _lay_out(ImageDraw.Draw(Image.new("RGB", (1, 1))), legend, total, size[0])
    legend_top = size[1] - LEGEND_HEIGHT * (placed[-1][1] + 1 if placed else 0) - 12
    bottom = height - (legend_top - 16) * SUPERSAMPLING
    view = choose_view(coord, (margin, margin * 1.4, width - margin, height - bottom))
    index, depth = _splat(coord, view, width, height)
    shade = _edge_shade(depth)

    pixels = np.full((height, width, 3), 255, dtype=np.uint8)
    drawn = index >= 0
    pixels[drawn] = (color[index[drawn]] * shade[drawn, None]).astype(np.uint8)
    picture = Image.fromarray(pixels).resize(size, Image.Resampling.BOX)
    trace(picture, view, SUPERSAMPLING, lines, notes)
    _annotate(ImageDraw.Draw(picture), placed, total, legend_top, title)
    return picture


def _splat(
    coord: NDArray[np.float64], view: View, width: int, height: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return for each pixel (height, width) the nearest point's row (int32, -1: none) and its depth (inf: none)."""
    pixel, depth = view.project(coord)
    # Far points first: where several points share a pixel the last one written, the nearest, stays.
    order = np.argsort(-depth, kind="stable").astype(np.int32)
    order = order[depth[order] > 0]
    x, y = np.floor(np.clip(pixel[order], -1e6, 1e6)).astype(np.int32).T
    sorted_depth = depth[order]
    reach = _splat_edge(x, y, width, height)

    # A border as wide as a splat, so that no splat has to be clipped.
    pad = reach // 2 + 1
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    stride = width + 2 * pad
    place = (y[inside] + pad) * stride + x[inside] + pad
    rows, depths = order[inside], sorted_depth[inside]
    nearest = np.full((height + 2 * pad) * stride, np.inf, dtype=np.float32)
    index = np.full(nearest.shape, -1, dtype=np.int32)
    for dy, dx in _disc(reach):
        target = place + (dy * stride + dx)
        nearer = depths < nearest[target]
        # Only candidates are written; among those for one pixel the last, nearest, wins.
        nearest[target[nearer]] = depths[nearer]
        index[target[nearer]] = rows[nearer]
    shape = (height + 2 * pad, stride)
    crop = (slice(pad, pad + height), slice(pad, pad + width))
    return index.reshape(shape)[crop], nearest.reshape(shape)[crop]


def _splat_edge(x: NDArray[np.int32], y: NDArray[np.int32], width: int, height: int) -> int:
    """Return how many pixels wide a splat must be to close the gaps between neighbours, 2 to 15."""
    block = 16
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    columns = width // block + 1
    counts = np.bincount((y[inside] // block) * columns + x[inside] // block, minlength=columns * (height // block + 1))
    used = counts[counts > 0]
    if len(used) == 0:
        return SUPERSAMPLING
    # Spacing in a typical occupied block; sparse fringes do not count.
    spacing = block / np.sqrt(np.percentile(used, 35))
    # A disc covers a square lattice from 1.4 times its spacing on; the rest is for what lies aslant.
    return int(np.clip(np.ceil(spacing * 1.9), SUPERSAMPLING, 15))


def _disc(edge: int) -> list[tuple[int, int]]:
    """Return the offsets (dy, dx) of a round splat."""
    half = edge // 2
    span = range(-half, edge - half)
    middle = (edge - 1) / 2 - half
    limit = (edge / 2) ** 2 + 0.3
    return [(dy, dx) for dy in span for dx in span if (dy - middle) ** 2 + (dx - middle) ** 2 <= limit]


def _edge_shade(depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the brightness of each pixel by how far it lies behind its neighbours (eye-dome lighting, Boucheny 2009).

    Args:
        depth: (height, width) float32, inf where there is nothing.
    """
    finite = np.isfinite(depth)
    if not finite.any():
        return np.ones_like(depth)
    near, far = np.percentile(depth[finite][::16] if finite.sum() > 1000 else depth[finite], [1, 99])
    # What is empty lies infinitely far behind: a large number, so that differences stay finite.
    scaled = np.where(finite, (depth - near) / max(float(far - near), 1e-6), 1e6).astype(np.float32)
    shade = np.zeros_like(depth)
    for radius, weight in ((2, 1.0), (5, 0.6)):
        padded = np.pad(scaled, radius, mode="edge")
        height, width = depth.shape
        for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)):
            top, left = radius + dy * radius, radius + dx * radius
            behind = scaled - padded[top : top + height, left : left + width]
            shade += weight * np.clip(behind, 0.0, DEEPEST_STEP)
    brightness: NDArray[np.float32] = np.exp(-5.0 * shade)
    return brightness


def _lay_out(
    pen: ImageDraw.ImageDraw, legend: Sequence[Entry], total: int, width: int
) -> list[tuple[int, int, Entry | str]]:
    """Return (x, row, entry) for the legend's entries; what does not fit into its rows becomes one sentence."""
    placed: list[tuple[int, int, Entry | str]] = []
    x, row = MARGIN, 0
    for number, entry in enumerate(legend):
        wide = (
            34 + int(max(pen.textlength(entry.name, _font(21)), pen.textlength(_detail(entry, total), _font(16)))) + 36
        )
        room = 0 if row + 1 < LEGEND_ROWS or number + 1 == len(legend) else 110
        if x + wide + room > width - 10 and x > MARGIN:
            if row + 1 == LEGEND_ROWS:
                placed.append((x, row, f"and {len(legend) - number} more"))
                return placed
            x, row = MARGIN, row + 1
        placed.append((x, row, entry))
        x += wide
    return placed


def _annotate(
    pen: ImageDraw.ImageDraw, placed: list[tuple[int, int, Entry | str]], total: int, top: int, title: str
) -> None:
    """Write the title above and the legend below the cloud."""
    if title:
        pen.text((MARGIN, 22), title, fill=FAINT, font=_font(19))
    for x, row, entry in placed:
        y = top + row * LEGEND_HEIGHT
        if isinstance(entry, str):
            pen.text((x, y + 4), entry, fill=FAINT, font=_font(16))
            continue
        pen.rounded_rectangle((x, y + 2, x + 22, y + 24), radius=5, fill=entry.color)
        pen.text((x + 34, y), entry.name, fill=TEXT, font=_font(21))
        pen.text((x + 34, y + 27), _detail(entry, total), fill=FAINT, font=_font(16))


def _detail(entry: Entry, total: int) -> str:
    return "" if entry.count is None else f"{entry.count:,} points ({entry.count / max(total, 1):.1%})"


def _font(points: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(points)
