"""Reads files with limits on memory, and says of each what came of it: one JSON line a file.

Run as a process of its own: python survive.py BYTES_OF_MEMORY, with the paths on standard input.
"""

from __future__ import annotations

import io
import json
import mmap
import resource
import sys
import time
from pathlib import Path

import numpy as np

from service import formats
from service.errors import ServiceError
from service.values import Segmentation


def outcome(path: Path) -> dict[str, object]:
    """Return what reading a file, writing it in every format and labelling it came to."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        view = memoryview(data)
        try:
            format = formats.recognise(bytes(view[:4096]), declared=None, media_type=None, filename=path.name)
            cloud = formats.read(view, format, formats.Options())
            label = (np.arange(len(cloud)) % 2).astype(np.int32)
            labels = Segmentation(label=label, classes=(), model="test", confidence=label.astype(np.float32))
            for other in formats.FORMATS:
                if other.write is not None and len(cloud) < 100_000:
                    formats.write(cloud, labels, other, io.BytesIO())
            if format.annotate is not None:
                formats.annotate(view, format, labels, io.BytesIO(), formats.Options())
            return {"format": format.name, "points": len(cloud)}
        except ServiceError as error:
            return {"refused": type(error).__name__, "detail": error.detail}
        finally:
            view.release()


def main() -> None:
    """Read the paths on standard input one after another."""
    limit = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for line in sys.stdin:
        start = time.perf_counter()
        path = Path(line.rstrip("\n"))
        print(json.dumps({"path": str(path), **outcome(path), "s": time.perf_counter() - start}), flush=True)


if __name__ == "__main__":
    main()
