"""Where to look at a cloud from, when nobody says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SAMPLE = 4000
ELEVATION = np.radians(38.0)
TURN = np.radians(14.0)


@dataclass(frozen=True)
class View:
    """A pinhole camera.

    Attributes:
        eye: (3,) float64, the camera's position, in the cloud's units.
        axes: (3, 3) float64, rows: right, down and forward in the cloud's frame.
        scale: focal length, in pixels.
        centre: (2,) float64, pixel (x, y) of the optical axis.
    """

    eye: NDArray[np.float64]
    axes: NDArray[np.float64]
    scale: float
    centre: NDArray[np.float64]

    def project(self, coord: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the pixels (N, 2) and the depths (N,) of points (N, 3), both float32; depth <= 0 is behind the eye."""
        own = (coord - self.eye) @ self.axes.T
        depth = own[:, 2]
        safe = np.where(depth > 0, depth, np.inf)
        pixel = own[:, :2] / safe[:, None] * self.scale + self.centre
        return pixel.astype(np.float32), depth.astype(np.float32)


def choose_view(coord: NDArray[np.float64], box: tuple[float, float, float, float]) -> View:
    """Return a view that shows the whole cloud inside a rectangle of the picture.

    A cloud that one depth camera at the origin took is seen from near that camera, since it has no other side;
    every other cloud has z up and is seen obliquely from above, its longer side across the picture.

    Args:
        coord: (N, 3) float64, finite, N >= 1.
        box: left, top, right, bottom of the rectangle, in pixels.
    """
    sample = coord[:: max(1, len(coord) // SAMPLE)]
    # Stray points far out must not make the rest small.
    low, high = np.percentile(sample, [1, 99], axis=0)
    target = (low + high) / 2
    radius = max(float(np.linalg.norm(high - low)) / 2, 1e-6)
    inside = sample[np.all((sample >= low) & (sample <= high), axis=1)]
    if len(inside) == 0:
        inside = sample

    if _seen_from_origin(sample, target, radius):
        up, backward = _camera_frame(sample, target, radius)
        distance = max(1.15 * float(np.linalg.norm(target)), 1.5 * radius)
    else:
        up, backward = _oblique_frame(inside)
        distance = 3.5 * radius
    eye = target + backward * distance
    axes = _axes(-backward, up)

    # Fit: project once with focal length 1, then scale and shift what came out to the rectangle.
    pixel, _depth = View(eye, axes, 1.0, np.zeros(2)).project(inside)
    least, most = pixel.min(axis=0).astype(np.float64), pixel.max(axis=0).astype(np.float64)
    span = np.maximum(most - least, 1e-9)
    left, top, right, bottom = box
    scale = float(min((right - left) / span[0], (bottom - top) / span[1]))
    centre = np.array([(left + right) / 2, (top + bottom) / 2]) - (least + most) / 2 * scale
    return View(eye, axes, scale, centre)


def _seen_from_origin(sample: NDArray[np.float64], target: NDArray[np.float64], radius: float) -> bool:
    """Whether a camera at the origin may have taken the cloud: all of it in a cone, not far away, nothing close by."""
    away = float(np.linalg.norm(target))
    if not 0.3 * radius < away < 6 * radius:
        return False
    distance = np.maximum(np.linalg.norm(sample, axis=1), 1e-9)
    cosine = sample @ target / (distance * away)
    return bool(np.percentile(cosine, 1) > np.cos(np.radians(52)) and np.percentile(distance, 1) > 0.1 * radius)


def _camera_frame(
    sample: NDArray[np.float64], target: NDArray[np.float64], radius: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (up, backward) for a view from near the origin, a little above and beside it for depth's sake."""
    backward = -target / np.linalg.norm(target)
    normal = _main_plane(sample, radius)
    normal = normal if normal @ backward > 0 else -normal
    # Where the floor is seen flat on, its normal says nothing of the picture's upper side: take y as down.
    up = normal if normal @ backward < 0.94 else np.array([0.0, -1.0, 0.0])
    if abs(up @ backward) > 0.94:
        up = np.array([1.0, 0.0, 0.0])
    right, down, forward = _axes(-backward, up)
    lift = TURN if normal @ backward < np.cos(np.radians(50)) else 0.0
    backward = -forward * np.cos(TURN) + right * np.sin(TURN)
    backward = backward * np.cos(lift) - down * np.sin(lift)
    return up, backward / np.linalg.norm(backward)


def _oblique_frame(inside: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (up, backward) for a view from above with the longer horizontal side across the picture."""
    flat = inside[:, :2] - inside[:, :2].mean(axis=0)
    _values, vectors = np.linalg.eigh(flat.T @ flat)
    short = vectors[:, 0] if vectors[1, 0] <= 0 else -vectors[:, 0]
    turned = np.array(
        [
            short[0] * np.cos(TURN) - short[1] * np.sin(TURN),
            short[0] * np.sin(TURN) + short[1] * np.cos(TURN),
        ]
    )
    backward = np.array([*(turned * np.cos(ELEVATION)), np.sin(ELEVATION)])
    return np.array([0.0, 0.0, 1.0]), backward


def _axes(forward: NDArray[np.float64], up: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rows right, down, forward of a camera that looks along `forward` with `up` upwards."""
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward])


def _main_plane(sample: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    """Return the unit normal (3,) of the plane that most points lie on; fixed seed, so that pictures repeat."""
    random = np.random.default_rng(0)
    triples = sample[random.integers(0, len(sample), (200, 3))]
    normals = np.cross(triples[:, 1] - triples[:, 0], triples[:, 2] - triples[:, 0])
    length = np.linalg.norm(normals, axis=1)
    if not np.any(length > 0):
        return np.array([0.0, 0.0, 1.0])
    normals, corners = normals[length > 0] / length[length > 0, None], triples[length > 0, 0]
    offsets = np.abs(sample @ normals.T - np.sum(normals * corners, axis=1))
    best: NDArray[np.float64] = normals[np.argmax(np.sum(offsets < 0.02 * radius, axis=0))]
    return best
