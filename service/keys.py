"""API keys: where they come from, and whose a key is. A key itself never reaches a log."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from service.errors import MalformedRequest
from service.settings import Settings

NONE = "none"
MADE = "made"
KEY_FILE = "api_key"
MAX_FILE_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KEY = re.compile(r"[!-~]{1,512}")


@dataclass(frozen=True)
class Keys:
    """The keys that the service accepts; without any, it accepts everybody.

    Attributes:
        entries: name and key of each; several keys may have one name.
    """

    entries: tuple[tuple[str, str], ...]

    def __repr__(self) -> str:
        return f"Keys({', '.join(name for name, _ in self.entries)})"

    def owner(self, given: str) -> str | None:
        """Return the name of a key, or None; it takes the same time whichever key is given, right or wrong."""
        digest = hashlib.sha256(given.encode()).digest()
        found = None
        for name, key in self.entries:
            if hmac.compare_digest(digest, hashlib.sha256(key.encode()).digest()):
                found = name
        return found


@dataclass(frozen=True)
class Made:
    """A key that the service made for itself.

    Attributes:
        key: the key.
        path: the file that is to keep it.
        anew: whether this start made it.
        problem: why the file does not keep it, or nothing.
    """

    key: str
    path: Path
    anew: bool = True
    problem: str = ""

    def announcement(self, settings: Settings) -> str:
        """Return what the service's parent prints at its start."""
        where = f"{settings.address}:{settings.port}"
        if not self.anew:
            return f"pointserve: {where} asks for an API key: the one in {self.path}"
        kept = f"It is kept in {self.path}."
        if self.problem:
            kept = f"It holds for this run only, because it cannot be kept: {self.problem}."
        return (
            f"pointserve: {where} can be reached from other machines and API_KEYS is empty, so here is an API key:\n\n"
            f"    {self.key}\n\n"
            f"{kept} API_KEYS=none serves without keys. To label a cloud:\n\n"
            f"    curl -H 'X-API-Key: {self.key}' --data-binary @scan.ply "
            f"http://localhost:{settings.port}/v1/segment\n"
        )


def load(settings: Settings) -> Keys:
    """Return the keys of API_KEYS and of API_KEYS_FILE.

    Raises:
        MalformedRequest: the file cannot be read, or an entry is no key; the sentence says which.
    """
    if settings.api_keys.strip() == NONE:
        return Keys(())
    entries = [_parse(text, f"API_KEYS, entry {n}", n) for n, text in enumerate(settings.api_keys.split(","), 1)]
    if settings.api_keys_file:
        entries += [
            _parse(line, f"{settings.api_keys_file}, line {n}", n)
            for n, line in enumerate(_lines(settings), 1)
            if not line.lstrip().startswith("#")
        ]
    return Keys(tuple(entry for entry in entries if entry is not None))


def _lines(settings: Settings) -> list[str]:
    try:
        with open(settings.api_keys_file, "rb") as file:
            return file.read(MAX_FILE_BYTES).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MalformedRequest(f"API_KEYS_FILE: {settings.api_keys_file} cannot be read: {error}") from None


def _parse(text: str, where: str, number: int) -> tuple[str, str] | None:
    text = text.strip()
    if not text:
        return None
    name, colon, key = text.partition(":")
    if not colon:
        name, key = f"key-{number}", text
    if not _NAME.fullmatch(name) or not _KEY.fullmatch(key):
        # The sentence must not show what may be a key.
        raise MalformedRequest(
            f"{where} is no API key: write name:key or a key alone, the name of letters, digits, '.', '_' and '-', "
            "the key of visible ASCII characters"
        )
    return name, key


def exposed(settings: Settings) -> bool:
    """Return whether other machines may reach the service: at its address, or at the one it is published on."""
    address = (settings.published or settings.address).strip("[]")
    if address == "localhost":
        return False
    try:
        return not ipaddress.ip_address(address).is_loopback
    except ValueError:
        return True


def ensure(settings: Settings) -> tuple[Settings, Made | None]:
    """Return the settings with a key of the service's own, where others can reach it and no keys are configured.

    The key is kept in a file of mode 0600 in the state folder, so that it is the same after a restart; where that
    folder takes no file, it is a new one each time.

    Raises:
        MalformedRequest: the configured keys cannot be read; see `load`.
    """
    if load(settings).entries or settings.api_keys.strip() == NONE or not exposed(settings):
        return settings, None
    path = settings.state_dir / KEY_FILE
    try:
        made = Made(*_keep(path))
    except OSError as error:
        made = Made(secrets.token_urlsafe(24), path, problem=str(error))
    return settings.model_copy(update={"api_keys": f"{MADE}:{made.key}"}), made


def _keep(path: Path) -> tuple[str, Path, bool]:
    """Return the key that the file keeps, the file, and whether the key was made just now.

    Raises:
        OSError: there is no such file, and none can be written; or what is there is not this user's own.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.parent.stat().st_uid != os.getuid():
        raise PermissionError(f"{path.parent} belongs to another user")
    key = secrets.token_urlsafe(24)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        return _kept(path), path, False
    with os.fdopen(descriptor, "w") as file:
        file.write(key + "\n")
    return key, path, True


def _kept(path: Path) -> str:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o077:
            raise PermissionError(f"{path} is not a file that this user alone may read")
        key = file.read(1024).decode("ascii", "replace").strip()
    if len(key) < 16 or not _KEY.fullmatch(key):
        raise PermissionError(f"{path} holds no key")
    return key
