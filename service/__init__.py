"""PointServe: label point clouds over HTTP."""

__version__ = "0.1.0"
