"""Which GPUs a compiled extension has code for, read from the file: the image that runs has no cuobjdump.

nvcc puts its output into the ELF section .nv_fatbin: containers of a 16-byte header (magic, version, header size,
content size), each followed by entries. An entry's header says at offset 0 what it holds (1: PTX, 2: machine code), at
4 and 8 its own size and its content's, at 28 the architecture. The content may be compressed; the headers never are.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

_MAGIC = 0xBA55ED50
_PTX, _MACHINE = 1, 2


@dataclass(frozen=True)
class Architectures:
    """Compute capabilities, as in "89", that a file has machine code and PTX for; both empty without CUDA code."""

    machine: frozenset[int]
    ptx: frozenset[int]

    def run_on(self, capability: tuple[int, int]) -> bool:
        """Return whether a GPU of this capability has something to run.

        Machine code runs on its own major version from its minor version on; PTX is compiled by the driver for every
        architecture that is not older (CUDA C++ Programming Guide, 3.1).
        """
        major, minor = capability
        exact = any(code // 10 == major and code % 10 <= minor for code in self.machine)
        return exact or any(code <= major * 10 + minor for code in self.ptx)

    def __str__(self) -> str:
        names = [f"sm_{code}" for code in sorted(self.machine)] + [f"compute_{code}" for code in sorted(self.ptx)]
        return ", ".join(names) or "no CUDA code"


def architectures(path: Path) -> Architectures:
    """Return the architectures that an extension has code for.

    Raises:
        ValueError: the file is no 64-bit little-endian ELF file, or its .nv_fatbin section is damaged.
    """
    machine: set[int] = set()
    ptx: set[int] = set()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            for offset, size in _sections(data, b".nv_fatbin"):
                _scan(data, offset, offset + size, machine, ptx)
        except (struct.error, IndexError) as error:
            raise ValueError(f"{path} is cut off, or no ELF file: {error}") from error
    return Architectures(frozenset(machine), frozenset(ptx))


def _sections(data: mmap.mmap, name: bytes) -> list[tuple[int, int]]:
    """Return offset and size of the sections of this name (ELF-64 object file format, figures 2 to 4)."""
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("this is no 64-bit little-endian ELF file")
    (table,) = struct.unpack_from("<Q", data, 0x28)
    size, count, names_index = struct.unpack_from("<HHH", data, 0x3A)
    rows = [struct.unpack_from("<IIQQQQ", data, table + size * index) for index in range(count)]
    names = rows[names_index][4]
    found = []
    for name_at, _kind, _flags, _address, offset, length in rows:
        start = names + name_at
        if data[start : start + len(name) + 1] == name + b"\0":
            found.append((offset, length))
    return found


def _scan(data: mmap.mmap, start: int, end: int, machine: set[int], ptx: set[int]) -> None:
    """Collect the architectures of the containers between two offsets; they are aligned to 8 bytes."""
    while start + 16 <= end:
        magic, _version, header, content = struct.unpack_from("<IHHQ", data, start)
        if magic != _MAGIC:
            start += 8
            continue
        entry, stop = start + header, start + header + content
        while entry + 32 <= stop:
            kind, _unused, entry_header, entry_size = struct.unpack_from("<HHIQ", data, entry)
            (architecture,) = struct.unpack_from("<I", data, entry + 28)
            if kind == _MACHINE:
                machine.add(architecture)
            elif kind == _PTX:
                ptx.add(architecture)
            if entry_header == 0:
                raise ValueError("an entry of .nv_fatbin has no size")
            entry += entry_header + entry_size
        start = stop
