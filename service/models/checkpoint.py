"""Checkpoints of unknown origin become plain tensors: the file is looked over, then read by a process with limits.

A checkpoint is a pickle, and a pickle may run what it likes. torch's `weights_only` alone does not help on torch 2.5:
it runs an archive of TorchScript all the same (CVE-2025-32434). So the file's own index is read first, by Python's
zipfile, and whatever is not the plain kind is refused; the pickle is then read by `checkpoint_process`, which knows a
list of harmless names and has no more memory, time and disk than it needs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.errors import UnusableModel

if TYPE_CHECKING:
    import torch

MAX_BYTES = 16 << 30
MAX_RECORDS = 200_000
_SECONDS = 60
_BYTES_A_SECOND = 20 << 20
_PLAIN = re.compile(r"[^/]+/(data\.pkl|byteorder|version|\.format_version|\.storage_alignment|data/\d+|\.data/\w+)")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        weights: name to tensor on the CPU, of any floating type; without the prefix `module.`.
        config: the configuration in the file (a dict, or the text of a config.py), or None.
        about: other numbers in it: `epoch`, `best_metric_value`.
    """

    weights: dict[str, torch.Tensor]
    config: dict[str, Any] | str | None
    about: dict[str, Any]


def load(path: Path) -> Checkpoint:
    """Return the contents of a checkpoint.

    Args:
        path: a file as `torch.save` writes it since torch 1.6, of a dict with `state_dict` (and perhaps `config`).

    Raises:
        UnusableModel: it is absent, of another kind, damaged, too large, or holds more than plain values and tensors.
    """
    inspect(path)
    from safetensors import SafetensorError, safe_open

    size = path.stat().st_size
    result = os.memfd_create("checkpoint", os.MFD_CLOEXEC)
    try:
        _read_in_process(path, size, result)
        weights: dict[str, torch.Tensor] = {}
        with safe_open(f"/proc/self/fd/{result}", framework="pt") as stored:
            told = json.loads(stored.metadata()["told"])
            weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UnusableModel(f"The checkpoint {path} could not be read: {error}.") from error
    finally:
        os.close(result)
    return Checkpoint(weights, told["config"], told["about"])


def inspect(path: Path) -> None:
    """Refuse a file that is not a plain, whole checkpoint; nothing in it is decoded.

    Raises:
        UnusableModel: what it is instead, or where it is damaged.
    """
    try:
        if not path.is_file():
            raise UnusableModel(f"There is no checkpoint {path}.")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UnusableModel(f"The checkpoint {path} has {size} bytes; {MAX_BYTES} is the most.")
        with path.open("rb") as file:
            head = file.read(512)
        if not head.startswith(b"PK\x03\x04"):
            raise UnusableModel(f"The checkpoint {path} {_kind(head)}; it must be what torch.save writes.")
        with zipfile.ZipFile(path) as archive:
            _check_records(path, archive.infolist(), size)
            damaged = archive.testzip()
        if damaged is not None:
            raise UnusableModel(f"The checkpoint {path} is damaged: the checksum of its record {damaged} is wrong.")
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise UnusableModel(f"The checkpoint {path} is truncated or damaged: {error}.") from error
    except OSError as error:
        raise UnusableModel(f"The checkpoint {path} cannot be read: {error}.") from error


def digest(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:
    found = hashlib.sha256()
    while block := file.read(1 << 20):
        found.update(block)
    return found.hexdigest()


def _kind(head: bytes) -> str:
    """Return in words what a file that is no zip archive begins like."""
    if not head:
        return "is empty"
    if head[257:262] == b"ustar":
        return "is a tar archive"
    if head.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file itself (run `git lfs pull`)"
    if head[:1] == b"\x80":
        return "is a bare pickle, as torch wrote before 1.6 (where you trust it, load and save it with a newer torch)"
    return "is no checkpoint"


def _check_records(path: Path, records: list[zipfile.ZipInfo], size: int) -> None:
    names = [record.filename for record in records]
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise UnusableModel(f"The checkpoint {path} is a TorchScript archive, which is code; only weights are loaded.")
    if len(names) > MAX_RECORDS or len(set(names)) != len(names):
        raise UnusableModel(f"The checkpoint {path} has a record twice, or more than {MAX_RECORDS}.")
    strange = next((name for name in names if not _PLAIN.fullmatch(name)), None)
    roots = {name.split("/", 1)[0] for name in names}
    if strange is not None or len(roots) != 1 or f"{names[0].split('/', 1)[0]}/data.pkl" not in names:
        what = f"has a record {strange!r:.80}" if strange is not None else "lacks the record data.pkl"
        raise UnusableModel(f"The checkpoint {path} {what}; it must be what torch.save writes.")
    # torch stores without compression: what expands is not its work, and might expand without end.
    if any(record.compress_type != zipfile.ZIP_STORED or record.file_size > size for record in records):
        raise UnusableModel(f"The checkpoint {path} has compressed records, which torch.save does not write.")
    if sum(record.file_size for record in records) > size:
        raise UnusableModel(f"The checkpoint {path} has records that overlap.")


def _read_in_process(path: Path, size: int, result: int) -> None:
    """Have the file's tensors written to a descriptor as safetensors."""
    seconds = _SECONDS + size // _BYTES_A_SECOND
    command = [sys.executable, "-m", "service.models.checkpoint_process", str(path), str(result), str(seconds)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, pass_fds=(result,), timeout=2 * seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise UnusableModel(f"The checkpoint {path} was not read within {2 * seconds} s.") from None
    if done.returncode == 0:
        return
    said = done.stdout.decode(errors="replace").strip()
    if done.returncode < 0:
        said = f"the process that read it ended by {signal.Signals(-done.returncode).name}"
    elif not said:
        last = done.stderr.decode(errors="replace").strip().splitlines()
        said = last[-1] if last else f"the process that read it ended with status {done.returncode}"
    raise UnusableModel(f"The checkpoint {path} cannot be loaded: {said[:600].rstrip('.')}.")
