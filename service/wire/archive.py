"""Several answers in one: a ZIP file whose members are not compressed, so that they can be read where they lie."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Sequence
from typing import IO

COPY_BYTES = 1 << 20
_READABLE = 0o644 << 16


def write(members: Sequence[tuple[str, bytes | int]], file: IO[bytes]) -> None:
    """Write a ZIP file.

    Args:
        members: names, and their bytes or a descriptor of them, which stays the caller's.
        file: open for writing, at its beginning.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members:
            about = zipfile.ZipInfo(name)
            about.external_attr = _READABLE
            if isinstance(content, bytes):
                archive.writestr(about, content)
                continue
            about.file_size = os.fstat(content).st_size
            with os.fdopen(os.dup(content), "rb") as source, archive.open(about, "w") as member:
                source.seek(0)
                shutil.copyfileobj(source, member, COPY_BYTES)
