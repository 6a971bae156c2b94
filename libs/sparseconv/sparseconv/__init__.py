"""Sparse convolution for point clouds: torch operators for inference, and layers that load spconv's weights."""

from sparseconv import fakes as fakes  # registers what the operators return without computing it
from sparseconv.layers import SparseConv3d, SparseInverseConv3d, SparseTensor, SubMConv3d, fold_batch_norm
from sparseconv.ops import (
    Cells,
    Down,
    KernelMap,
    conv,
    cpu_instructions,
    down_map,
    linear,
    multiplies_bfloat16,
    pack_weight,
    sort_cells,
    subm_map,
    use_cpu_instructions,
)

__all__ = [
    "Cells",
    "Down",
    "KernelMap",
    "SparseConv3d",
    "SparseInverseConv3d",
    "SparseTensor",
    "SubMConv3d",
    "conv",
    "cpu_instructions",
    "down_map",
    "fold_batch_norm",
    "linear",
    "multiplies_bfloat16",
    "pack_weight",
    "sort_cells",
    "subm_map",
    "use_cpu_instructions",
]
