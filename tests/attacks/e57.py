"""E57 files made by hand, as no writer would make them. Source: ASTM E2807, and the page checksums of libE57Format."""

from __future__ import annotations

import struct

PAGE, PAYLOAD = 1024, 1020
_NAMESPACE = "http://www.astm.org/COMMIT/E57/2010-e57-v1.0"
_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
_CONSTANT = "".join(f'<cartesian{axis} type="Integer" minimum="{n}" maximum="{n}">{n}</cartesian{axis}>'
                    for n, axis in enumerate("XYZ"))  # fmt: skip


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def file_of(xml: str, section: bytes = b"") -> bytes:
    """Return a file with this XML behind a binary section, which begins at byte 48; checksums are right."""
    text = xml.encode()
    start = 48 + len(section)
    start += -start % 4
    physical = start // PAYLOAD * PAGE + start % PAYLOAD
    size = start + len(text)
    pages = -(-size // PAYLOAD)
    head = b"ASTM-E57" + struct.pack("<IIQQQQ", 1, 0, pages * PAGE, physical, len(text), PAGE)
    logical = (head + section).ljust(start, b"\0") + text
    logical = logical.ljust(pages * PAYLOAD, b"\0")
    parts = [logical[at : at + PAYLOAD] for at in range(0, len(logical), PAYLOAD)]
    return b"".join(part + struct.pack(">I", _crc32c(part)) for part in parts)


def tree(points: str, prolog: str = "", guid: str = "a") -> str:
    """Return the XML of a file with one scan."""
    return (
        f'{_HEAD}{prolog}<e57Root type="Structure" xmlns="{_NAMESPACE}">'
        '<formatName type="String">ASTM E57 3D Imaging Data File</formatName>'
        f'<guid type="String">{guid}</guid><versionMajor type="Integer">1</versionMajor>'
        '<versionMinor type="Integer">0</versionMinor>'
        f'<data3D type="Vector" allowHeterogeneousChildren="1"><vectorChild type="Structure">'
        f'<guid type="String">b</guid>{points}</vectorChild></data3D></e57Root>'
    )


def points_of(count: int, prototype: str = _CONSTANT) -> str:
    """Return the element of `count` points whose data section begins at byte 48."""
    return (
        f'<points type="CompressedVector" fileOffset="48" recordCount="{count}"><prototype type="Structure">'
        f'{prototype}</prototype><codecs type="Vector" allowHeterogeneousChildren="1"></codecs></points>'
    )


def _section(streams: int) -> bytes:
    """Return a compressed vector's section of one data packet whose streams are empty."""
    packet = struct.pack("<BBHH", 1, 0, 0, streams) + bytes(2 * streams)
    packet += bytes(-len(packet) % 4)
    packet = packet[:2] + struct.pack("<H", len(packet) - 1) + packet[4:]
    return struct.pack("<B7xQQQ", 1, 32 + len(packet), 80, 0) + packet


def of_constants(count: int) -> bytes:
    """Return `count` points of three numbers whose least and largest values are the same: they take no bits."""
    return file_of(tree(points_of(count)), _section(3))


def of_floats(count: int) -> bytes:
    """Return a file that claims `count` points of three float32 and holds none."""
    floats = "".join(f'<cartesian{axis} type="Float" precision="single">0</cartesian{axis}>' for axis in "XYZ")
    return file_of(tree(points_of(count, floats)), _section(3))


def with_entities(levels: int) -> bytes:
    """Return a file whose XML's entities double ten at a time: the "billion laughs"."""
    entities = '<!ENTITY e0 "ha">' + "".join(
        f'<!ENTITY e{level} "{f"&e{level - 1};" * 10}">' for level in range(1, levels + 1)
    )
    return file_of(tree(points_of(3), f"<!DOCTYPE e57Root [{entities}]>", f"&e{levels};"), _section(3))


def with_outside_entity(url: str) -> bytes:
    """Return a file whose XML takes its text from elsewhere."""
    return file_of(tree(points_of(3), f'<!DOCTYPE e57Root [<!ENTITY out SYSTEM "{url}">]>', "&out;"), _section(3))


def deep(levels: int) -> bytes:
    """Return a file whose XML is `levels` structures deep."""
    inner = '<a type="Structure">' * levels + "</a>" * levels
    return file_of(tree(inner + points_of(3)), _section(3))
