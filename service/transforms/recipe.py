"""What a model wants its input to look like; stored beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from service.transforms.augment import Augmentation
from service.transforms.steps import Step, step

FEATURES: Mapping[str, int] = {
    "coord": 3,
    "color": 3,
    "color_signed": 3,
    "color_255": 3,
    "blank": 3,
    "normal": 3,
    "intensity": 1,
    "height": 1,
    "ones": 1,
    "residual": 3,
    "elevation": 1,
    "relief": 1,
}
"""Name and width of each feature that `features.build` can make; what each is stands there."""

Centre = Literal["floor", "middle"]
Reduce = Literal["mean", "nearest"]


@dataclass(frozen=True)
class Recipe:
    """How a cloud becomes the input of one model.

    Attributes:
        grid_size: edge of a voxel in metres.
        features: names out of FEATURES, in the order in which the network reads them.
        reduce: what stands for the points of a voxel: their mean, or the one nearest to their mean.
        centre: where coordinates are zero: `floor`, the middle of the bounding box in x and y and its bottom in z
            (Pointcept's CenterShift); `middle`, the middle in all three.
        max_voxels: most voxels in one pass; a larger cloud is cut into tiles.
        overlap: voxels by which a tile reaches beyond its own part on every side.
        align: tiles begin at multiples of this many voxels, so that a network that halves its grid log2(align) times
            sees the same windows in a tile as in the whole.
        max_extent_m: a cloud that extends further is taken to be in millimetres; None: never.
        augmentations: under which the test-time procedure (`tta=full`) looks at the cloud; none: the model has no such
            procedure.
        thin_size: edge in metres of the cells of which the test-time procedure takes one point each, the others getting
            that point's label; None: it takes every point.
        level: turn the cloud until the plane it stands on is level (see `support`), and make that plane the middle of
            a layer of cells: for models whose clouds come in any frame.
        before: for models of Pointcept: its transforms of coordinates before the grid, whose cells begin at multiples
            of `grid_size`; None: coordinates and cells count from the cloud's lowest corner.
        after: with `before`: its transforms of each pass's voxels, in the place of `centre`.
        condition: the data set whose norms and head are used, where a network was trained for several.
        outward: normals that are computed look away from the cloud's middle, as those of objects do.
        tanh: intensity above 1 that is not in whole numbers is what a sensor measured, of which the network was shown
            the hyperbolic tangent (Waymo).
        superpoints: whether the network reads which superpoint a voxel is of (see `superpoints`).
    """

    grid_size: float
    features: tuple[str, ...]
    reduce: Reduce = "mean"
    centre: Centre = "floor"
    max_voxels: int = 400_000
    overlap: int = 32
    align: int = 32
    max_extent_m: float | None = None
    level: bool = False
    augmentations: tuple[Augmentation, ...] = ()
    thin_size: float | None = None
    before: tuple[Step, ...] | None = None
    after: tuple[Step, ...] = ()
    condition: str | None = None
    outward: bool = False
    tanh: bool = False
    superpoints: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be carried out.

        Raises:
            ValueError: an unknown feature, or a number out of its range.
        """
        unknown = [name for name in self.features if name not in FEATURES]
        if unknown or not self.features:
            raise ValueError(f"The recipe's features {list(self.features)} must be some of {', '.join(FEATURES)}.")
        if self.reduce not in get_args(Reduce):
            raise ValueError(f"The recipe's reduce is {self.reduce!r}; it must be one of {get_args(Reduce)}.")
        if self.centre not in get_args(Centre):
            raise ValueError(f"The recipe's centre is {self.centre!r}; it must be one of {get_args(Centre)}.")
        for name in ("grid_size", "max_voxels", "align"):
            if not getattr(self, name) > 0:
                raise ValueError(f"The recipe's {name} is {getattr(self, name)}; it must be positive.")
        if not self.level and {"elevation", "relief"} & set(self.features):
            raise ValueError("The recipe's features elevation and relief need its `level` to be true.")
        if self.before is not None and (self.level or {"elevation", "relief", "height"} & set(self.features)):
            raise ValueError("The recipe's `before` goes neither with `level` nor with heights above the ground.")
        if self.overlap < 0:
            raise ValueError(f"The recipe's overlap is {self.overlap}; it must not be negative.")
        if self.max_extent_m is not None and not self.max_extent_m > 0:
            raise ValueError(f"The recipe's max_extent_m is {self.max_extent_m}; it must be positive or null.")
        if self.thin_size is not None and not self.thin_size > 0:
            raise ValueError(f"The recipe's thin_size is {self.thin_size}; it must be positive or null.")

    @property
    def width(self) -> int:
        """Number of input channels that the features make up."""
        return sum(FEATURES[name] for name in self.features)

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain JSON values."""
        plain = {
            "features": list(self.features),
            "augmentations": [augmentation.to_list() for augmentation in self.augmentations],
            "before": None if self.before is None else [each.to_dict() for each in self.before],
            "after": [each.to_dict() for each in self.after],
        }
        return {**asdict(self), **plain}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Return the recipe that `to_dict` described.

        Raises:
            ValueError: an unknown or missing key, or what `Recipe` refuses.
        """
        unknown = set(values) - {field.name for field in fields(cls)}
        missing = {"grid_size", "features"} - set(values)
        if unknown or missing:
            raise ValueError(f"The recipe has unknown keys {sorted(unknown)} or lacks {sorted(missing)}.")
        before = values.get("before")
        made = {
            "features": tuple(values["features"]),
            "augmentations": tuple(Augmentation.from_config(entry) for entry in values.get("augmentations", ())),
            "before": None if before is None else tuple(each for entry in before for each in step(entry)),
            "after": tuple(each for entry in values.get("after", ()) for each in step(entry)),
        }
        return cls(**{**values, **made})
