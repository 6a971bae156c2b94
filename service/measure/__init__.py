"""Objects of a labelled cloud become boxes with length, width, height and volume. Numpy alone, no model, no process."""

from service.measure.frame import Frame
from service.measure.measurement import measure

__all__ = ["Frame", "measure"]
