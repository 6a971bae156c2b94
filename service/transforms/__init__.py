"""What turns a PointCloud into a model's input, and the model's output back into a Segmentation.

Every step is its own module and runs on any device: training uses the same functions.
"""

from service.transforms.prepare import Prepared, Tile, prepare
from service.transforms.recipe import Recipe
from service.transforms.restore import restore

__all__ = ["Prepared", "Recipe", "Tile", "prepare", "restore"]
