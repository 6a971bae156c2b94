"""Surface normals for clouds that have none."""

from __future__ import annotations

import numpy as np
import torch

from service.errors import UnusableCloud

_NEIGHBOURS = 30


def estimate(coord: torch.Tensor, viewpoint: torch.Tensor | None = None) -> torch.Tensor:
    """Return the normal of the plane through each point's 30 nearest neighbours, on the side of a viewpoint.

    Args:
        coord: (n, 3) metres.
        viewpoint: (3,) where the cloud was seen from; None: from above.

    Returns:
        (n, 3) float32, length 1.

    Raises:
        UnusableCloud: fewer than three points, or Open3D does not work on this machine.
    """
    if len(coord) < 3:
        raise UnusableCloud("The model needs normals; the cloud has none and too few points to compute them from.")
    try:
        import open3d
    except (ImportError, OSError) as error:
        raise UnusableCloud(
            "The model needs normals and the cloud has none; to compute them this machine needs Open3D: "
            "`pip install open3d`, and the system packages libgl1, libgomp1, libx11-6, libudev1 and libusb-1.0-0. "
            f"Or send the cloud with normals. (Import failed: {error})"
        ) from error
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(coord.double().cpu().numpy()))
    cloud.estimate_normals(open3d.geometry.KDTreeSearchParamKNN(_NEIGHBOURS))
    if viewpoint is None:
        cloud.orient_normals_to_align_with_direction(np.array([0.0, 0.0, 1.0]))
    found = torch.from_numpy(np.asarray(cloud.normals, dtype=np.float32)).to(coord.device)
    return found if viewpoint is None else facing(found, coord, viewpoint)


def facing(normal: torch.Tensor, coord: torch.Tensor, viewpoint: torch.Tensor) -> torch.Tensor:
    """Return normals turned to the side from which their points are seen.

    Args:
        normal: (n, 3).
        coord: (n, 3) their points.
        viewpoint: (3,) in the same frame.
    """
    away = ((viewpoint - coord) * normal).sum(dim=1, keepdim=True) < 0
    return torch.where(away, -normal, normal)
