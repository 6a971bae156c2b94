"""Which format a file is: what the request says, and what the bytes say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from service.errors import MalformedRequest, UnknownFormat
from service.formats.format import Format

NO_TYPE = ("application/octet-stream", "binary/octet-stream", "application/x-www-form-urlencoded", "application/binary")
"""Content types that clients send without meaning anything by them (curl sends the form type)."""

WEAK_TYPES = ("text/plain", "application/zip", "application/x-zip-compressed")
"""Content types that count only where neither the file's name nor its bytes say more."""

WEAK_SUFFIXES = (".bin", ".txt", ".dat")
"""Endings of all kinds of files: they count only where the bytes do not say more."""

UNREAD = {
    ".ptx": "PTX files are not read; export the scan as E57, LAS or PTS.",
    ".obj": "OBJ files hold meshes and are not read; export the points as PLY.",
    ".stl": "STL files hold meshes and are not read; export the points as PLY.",
    ".gltf": "glTF files hold meshes and are not read; export the points as PLY.",
    ".glb": "glTF files hold meshes and are not read; export the points as PLY.",
    ".bag": "ROS bags are not read; export one cloud as PCD.",
    ".pcap": "Packet captures are not read; export one cloud as PCD or LAS.",
    ".rcp": "ReCap files are not read; export the scan as E57 or PTS.",
    ".rcs": "ReCap files are not read; export the scan as E57 or PTS.",
    ".zip": "Archives are not read; send the file inside it.",
    ".gz": "Compressed files are not read; send the file as it is.",
}


def recognise_among(
    formats: Sequence[Format], head: bytes, *, declared: Format | None, media_type: str | None, filename: str | None
) -> Format:
    """Return the format that the request and the bytes agree on; see `service.formats.recognise`."""
    if not head:
        raise MalformedRequest("The request's body is empty; it must be the file.")
    kind = (media_type or "").partition(";")[0].strip().lower()
    suffix = PurePath((filename or "").replace("\\", "/").lower().strip()).suffix
    by_type = None if not kind or kind in NO_TYPE or kind.startswith("multipart/") else _of_type(formats, kind)
    if suffix in UNREAD and declared is None and by_type is None:
        raise UnknownFormat(UNREAD[suffix])
    by_suffix = next((format for format in formats if suffix and suffix in format.suffixes), None)
    by_bytes = next((format for format in formats if format.matches is not None and format.matches(head)), None)

    weak_type = by_type if kind in WEAK_TYPES else None
    strong_type = by_type if kind not in WEAK_TYPES else None
    weak_suffix = by_suffix if suffix in WEAK_SUFFIXES else None
    strong_suffix = by_suffix if suffix not in WEAK_SUFFIXES else None
    sayings = [
        (f"?format={declared.name}" if declared else "", declared),
        (f"the Content-Type {kind}", strong_type),
        (f"the file name '{(filename or '')[-60:]}'", strong_suffix),
        ("the first bytes", by_bytes),
        (f"the file name '{(filename or '')[-60:]}'", weak_suffix),
        (f"the Content-Type {kind}", weak_type),
    ]
    said = [(who, format) for who, format in sayings if format is not None]
    if not said:
        raise _unknown(formats, kind, suffix, head)
    if len(said) > 1 and said[0][1] is weak_suffix and by_bytes is None and declared is None:
        return said[0][1]
    who, answer = said[0]
    for other_who, other in said[1:]:
        weak = other is not by_bytes and (other is weak_suffix or other is weak_type)
        if not weak and not _same(answer, other):
            raise MalformedRequest(f"{_capital(who)} says {answer.title}, but {other_who} say(s) {other.title}.")
    return by_bytes if by_bytes is not None and _same(answer, by_bytes) else answer


def _same(one: Format, other: Format) -> bool:
    """Whether two formats do not contradict each other: LAS and LAZ are told apart by their bytes alone."""
    return one is other or {one.name, other.name} == {"las", "laz"}


def _of_type(formats: Sequence[Format], kind: str) -> Format | None:
    """Return the format of a content type; raises UnknownFormat for one that no format has."""
    for format in formats:
        if kind in format.media_types:
            return format
    if kind in WEAK_TYPES:
        return None
    types = ", ".join(format.media_types[0] for format in formats)
    raise UnknownFormat(
        f"The Content-Type {kind[:80]} is none that is read; send application/octet-stream or: {types}."
    )


def _unknown(formats: Sequence[Format], kind: str, suffix: str, head: bytes) -> UnknownFormat:
    """Return the error for a file that nothing tells the format of."""
    names = ", ".join(format.name for format in formats)
    tried = f"neither by the ending '{suffix}' nor" if suffix else "not"
    return UnknownFormat(
        f"The format is known {tried} by the first bytes {head[:8]!r}; say it with ?format=, one of: {names}."
    )


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
