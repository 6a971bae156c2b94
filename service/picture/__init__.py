"""Pictures of point clouds, drawn with numpy and Pillow: no display, no GPU."""

from service.picture.draw import Entry, draw
from service.picture.lines import Line, Note
from service.picture.palette import ASPRS, class_color, height_colors, label_colors, textured

__all__ = ["ASPRS", "Entry", "Line", "Note", "class_color", "draw", "height_colors", "label_colors", "textured"]
