"""The module name that Pointcept's own build of these operators has; importing it loads them."""

from pointgroup_ops import _C, ballquery_batch_p, bfs_cluster

__all__ = ["_C", "ballquery_batch_p", "bfs_cluster"]
