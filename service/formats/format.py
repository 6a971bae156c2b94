"""What a file format is to the service."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from service.values import PointCloud, Segmentation


@dataclass(frozen=True)
class Options:
    """What the request says about the file beside its bytes.

    Attributes:
        max_points: a cloud with more points is refused with TooLarge, before memory is taken for it.
        columns: names of a text file's columns ("x,y,z,intensity,red,green,blue"), or None to guess them.
        separator: a text file's separator, or None to guess it.
        skip_rows: lines to skip before a text file's data, or None to guess them.
    """

    max_points: int = 20_000_000
    columns: tuple[str, ...] | None = None
    separator: str | None = None
    skip_rows: int | None = None


Read = Callable[[memoryview, Options], PointCloud]
Write = Callable[[PointCloud, Segmentation, BinaryIO], None]
Annotate = Callable[[memoryview, Segmentation, BinaryIO, Options], None]


@dataclass(frozen=True)
class Format:
    """One file format: how it is recognised, read and written.

    Attributes:
        name: the word in `?format=` and `?output=` ("ply").
        title: what people call it.
        suffixes: file-name endings, lower case with the dot.
        media_types: content types that mean this format; the first one is sent with answers.
        matches: whether a file that begins with these bytes (up to 4096) is of this format; None: it has no magic.
        read: bytes to PointCloud. Raises MalformedFile, TooLarge, UnusableCloud.
        write: a cloud and its labels as a new file, or None when the service does not write this format.
        annotate: the user's own file with the labels added and all else kept, or None.
    """

    name: str
    title: str
    suffixes: tuple[str, ...]
    media_types: tuple[str, ...]
    read: Read
    matches: Callable[[bytes], bool] | None = None
    write: Write | None = None
    annotate: Annotate | None = None
