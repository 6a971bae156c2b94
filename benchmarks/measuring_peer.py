"""Open3D's way to measure boxes, run by a Python that has it: measuring_peer.py FOLDER

Reads N.npy, coordinates (n, 3) in metres, and writes N.npz: `cluster` (n,), and for each cluster `size` (3,), `axes`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import open3d as o3d


def main() -> None:
    """Measure each cloud of the folder."""
    o3d.utility.random.seed(0)
    for path in sorted(Path(sys.argv[1]).glob("*.npy")):
        coord = np.load(path)
        cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(coord))
        _plane, floor = cloud.segment_plane(0.01, 3, 1000)
        rows = np.setdiff1d(np.arange(len(coord)), floor)
        rest, _, traces = cloud.select_by_index(rows).voxel_down_sample_and_trace(
            0.005, cloud.get_min_bound(), cloud.get_max_bound()
        )
        kept, inliers = rest.remove_statistical_outlier(20, 2.0)
        own = np.array(kept.cluster_dbscan(0.02, 10))
        cluster = np.full(len(coord), -1)
        for place, number in zip(inliers, own, strict=True):
            cluster[rows[np.array(traces[place])]] = number
        sizes, axes = [], []
        for number in range(own.max(initial=-1) + 1):
            points = np.asarray(kept.points)[own == number]
            try:
                box = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points)).get_oriented_bounding_box()
                sizes.append(np.array(box.extent))
                axes.append(np.array(box.R).T)
            except RuntimeError:
                sizes.append(np.zeros(3))
                axes.append(np.eye(3))
        np.savez(path.with_suffix(".npz"), cluster=cluster, size=np.array(sizes), axes=np.array(axes))


if __name__ == "__main__":
    main()
