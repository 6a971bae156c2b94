"""Fetching one file of a Hugging Face repository: resumed, checked, and in place only when it is whole."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import IO
from urllib.parse import quote, urlsplit

CHUNK = 1 << 20
SPARE_BYTES = 256 << 20
"""What stays free on the disk."""
TIMEOUT_S = 60.0
Progress = Callable[[int, int], None]
"""Called with the bytes that are there and the bytes that there will be (0: not known)."""


class FetchError(Exception):
    """A file could not be fetched; the sentence says why and what to do."""


class _Cut(Exception):
    """The connection ended early; what arrived is kept, and the rest can be asked for."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects; keeps the digest of the first answer, and the token from any other host."""

    def __init__(self) -> None:
        self.digest: str | None = None

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        """See urllib."""
        self.digest = self.digest or declared_digest(headers)
        request = super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]
        if request is not None and urlsplit(newurl).netloc != urlsplit(req.full_url).netloc:
            request.remove_header("Authorization")
        return request


def declared_digest(headers: Message) -> str | None:
    """Return the sha256 that the hub declares of a large file (X-Linked-Etag, or an ETag of 64 hexadecimal digits)."""
    for name in ("X-Linked-Etag", "ETag"):
        value = (headers.get(name) or "").removeprefix("W/").strip('"').lower()
        if re.fullmatch(r"[0-9a-f]{64}", value):
            return value
    return None


def fetch(
    repository: str,
    file: str,
    target: Path,
    *,
    endpoint: str = "https://huggingface.co",
    token: str | None = None,
    sha256: str | None = None,
    progress: Progress = lambda _done, _total: None,
    attempts: int = 5,
    pause_s: float = 1.0,
) -> str:
    """Fetch one file and return its sha256.

    What arrives goes to `target` + ".part", which a later call goes on with; it is renamed when it is whole and right.

    Args:
        repository: "owner/name".
        file: its path in the repository.
        target: where it goes; a file that is there already with the right digest is left alone.
        endpoint: the hub, or a mirror of it.
        token: for repositories that want one; it is sent to the endpoint's host alone.
        sha256: what it must be; what the server declares when absent.
        progress: told how far it is.
        attempts: how often a connection that breaks is tried again.
        pause_s: seconds before the second attempt; twice as many before each further one.

    Raises:
        FetchError: no such file, no permission, no room, a wrong digest, or a connection that keeps breaking.
    """
    url = f"{endpoint.rstrip('/')}/{repository}/resolve/main/{quote(file)}"
    if target.is_file():
        found, wanted = digest_of(target), sha256 or _declared(url, token)
        if wanted in (None, found):
            return found
    part = target.with_name(target.name + ".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    declared = None
    for attempt in range(attempts):
        try:
            declared = _receive(url, part, token, progress)
            break
        except _Cut as reason:
            if attempt + 1 == attempts:
                raise FetchError(
                    f"{url}: {reason}, {attempts} times. What arrived is kept in {part}; run this again to go on."
                ) from reason
            time.sleep(pause_s * 2**attempt)
    found = digest_of(part)
    wanted = sha256 or declared
    if wanted is not None and found != wanted:
        part.unlink()
        raise FetchError(
            f"{url}: its sha256 is {found}, {wanted} is expected. It was deleted; run this again, and if that fails in "
            "the same way, do not use this mirror, or report that the file has changed."
        )
    os.replace(part, target)
    return found


def _declared(url: str, token: str | None) -> str | None:
    """Return the digest that the server declares of a file, None where it declares none or does not answer."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    redirects = _Redirects()
    request = urllib.request.Request(url, headers=headers, method="HEAD")
    try:
        with urllib.request.build_opener(redirects).open(request, timeout=TIMEOUT_S) as answer:
            return redirects.digest or declared_digest(answer.headers)
    except (OSError, http.client.HTTPException):
        return None


def _receive(url: str, part: Path, token: str | None, progress: Progress) -> str | None:
    """Append what is missing to the part, and return the digest that the server declares."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "pointserve", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    if token:
        headers["Authorization"] = f"Bearer {token}"
    redirects = _Redirects()
    try:
        with urllib.request.build_opener(redirects).open(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S
        ) as answer:
            if have and answer.status != 206:
                have = 0  # the server cannot go on in the middle
            total = have + int(answer.headers.get("Content-Length") or 0)
            _need_room(part, total - have)
            _copy(answer, part, have, total, progress)
            return redirects.digest or declared_digest(answer.headers)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is missing, or the part is of another file
            whole = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range") or "")
            if whole and int(whole[1]) == have:
                return redirects.digest or declared_digest(error.headers)
            part.unlink()
            raise _Cut("the part that was there is of another file") from error
        raise _refusal(url, error, token) from error
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise _Cut(f"the connection failed ({getattr(error, 'reason', None) or error})") from error


def _copy(answer: http.client.HTTPResponse, part: Path, have: int, total: int, progress: Progress) -> None:
    with part.open("ab" if have else "wb") as file:
        done = have
        progress(done, total)
        try:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                done += len(chunk)
                progress(done, total)
        except OSError as error:
            if error.errno == 28:
                raise FetchError(
                    f"The disk of {part.parent} is full; free some room and run this again to go on."
                ) from error
            raise
    if total and done < total:
        raise _Cut(f"the connection ended after {done} of {total} bytes")


def _refusal(url: str, error: urllib.error.HTTPError, token: str | None) -> Exception:
    """Return what an HTTP status means for the user."""
    if error.code in (401, 403):
        how = "this token may not read it" if token else "it wants a token: set HF_TOKEN"
        return FetchError(f"{url}: not allowed ({error.code}); {how}, and accept the licence on the repository's page.")
    if error.code == 404:
        return FetchError(
            f"{url}: there is no such file (404); it may have been renamed, look at the repository's page."
        )
    if error.code in (408, 425, 429, 500, 502, 503, 504):
        return _Cut(f"the server answered {error.code}")
    return FetchError(f"{url}: the server answered {error.code} {error.reason}.")


def _need_room(part: Path, missing: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if missing + SPARE_BYTES > free:
        raise FetchError(
            f"{part.parent} has {free / 1e9:.1f} GB free, the file needs {missing / 1e9:.1f} GB and some to spare; "
            "free some room, or choose another folder with --models."
        )


def digest_of(path: Path) -> str:
    """Return a file's sha256 in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
