# ruff: noqa: N999
"""The compiled library: loading it registers the operators under torch.ops.sparseconv."""
