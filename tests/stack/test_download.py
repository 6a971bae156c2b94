"""Fetching checkpoints from a mirror that misbehaves."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from service.checkpoints import CATALOGUE, FetchError, fetch

ROOT = Path(__file__).resolve().parents[2]
CONTENT = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
REPOSITORY = "owner/name"


class Hub(ThreadingHTTPServer):
    """A hub with one content for every path; `faults` are spent one for each GET.

    A fault is a status, or ("cut", n): the connection ends after n bytes of the body.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.faults: list[int | tuple[str, int]] = []
        self.requests: list[tuple[str, str | None]] = []
        self.digest: str | None = SHA256
        self.ranges = True
        self.token: str | None = None
        self.elsewhere: str | None = None
        self.seen_authorization: list[str | None] = []


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_arguments: object) -> None:
        pass

    def _answer(self, body: bool) -> None:
        hub = self.server
        asked = self.headers.get("Range")
        hub.requests.append((self.path, asked))
        hub.seen_authorization.append(self.headers.get("Authorization"))
        fault = hub.faults.pop(0) if hub.faults and body else None
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            fault = 401
        if isinstance(fault, int):
            self.send_error(fault)
            return
        if hub.elsewhere:
            self.send_response(302)
            self.send_header("X-Linked-Etag", f'"{hub.digest}"')
            self.send_header("Location", hub.elsewhere + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and hub.ranges else 0
        if start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        rest = CONTENT[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        if hub.digest:
            self.send_header("X-Linked-Etag", f'"{hub.digest}"')
        self.end_headers()
        if body:
            self.wfile.write(rest[: fault[1]] if isinstance(fault, tuple) else rest)
        self.close_connection = True


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "models" / "one" / "model.pth"


def get(hub: Hub, target: Path, **options: object) -> str:
    return fetch(REPOSITORY, "sub/model.pth", target, endpoint=hub.url, pause_s=0.0, **options)  # type: ignore[arg-type]


def test_fetches_and_reports_progress(hub: Hub, target: Path) -> None:
    seen: list[tuple[int, int]] = []
    assert get(hub, target, sha256=SHA256, progress=lambda done, total: seen.append((done, total))) == SHA256
    assert target.read_bytes() == CONTENT
    assert not list(target.parent.glob("*.part"))
    assert hub.requests == [("/owner/name/resolve/main/sub/model.pth", None)]
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_a_cut_connection_is_gone_on_with(hub: Hub, target: Path) -> None:
    hub.faults = [("cut", 100_000), 503, ("cut", 50_000)]
    assert get(hub, target) == SHA256
    assert target.read_bytes() == CONTENT
    assert [asked for _path, asked in hub.requests] == [None, "bytes=100000-", "bytes=100000-", "bytes=150000-"]


def test_a_later_call_goes_on_too(hub: Hub, target: Path) -> None:
    hub.faults = [("cut", 100_000), ("cut", 1)]
    with pytest.raises(FetchError, match=r"connection ended after .* kept in .*model\.pth\.part"):
        get(hub, target, attempts=2)
    assert not target.exists()
    assert get(hub, target) == SHA256
    assert hub.requests[-1][1] == "bytes=100001-"


def test_a_server_that_cannot_go_on_starts_again(hub: Hub, target: Path) -> None:
    hub.ranges = False
    hub.faults = [("cut", 100_000)]
    assert get(hub, target) == SHA256
    assert target.read_bytes() == CONTENT


def test_a_part_that_is_whole_is_taken(hub: Hub, target: Path) -> None:
    target.parent.mkdir(parents=True)
    target.with_name("model.pth.part").write_bytes(CONTENT)
    assert get(hub, target, sha256=SHA256) == SHA256


def test_a_part_of_another_file_is_dropped(hub: Hub, target: Path) -> None:
    target.parent.mkdir(parents=True)
    target.with_name("model.pth.part").write_bytes(CONTENT + b"more")
    assert get(hub, target, sha256=SHA256) == SHA256


@pytest.mark.parametrize("known", [True, False])
def test_wrong_checksum(hub: Hub, target: Path, known: bool) -> None:
    wrong = "0" * 64
    hub.digest = wrong
    with pytest.raises(FetchError, match=f"sha256 is {SHA256}, {wrong} is expected"):
        get(hub, target, sha256=wrong if known else None)
    assert not target.exists()
    assert not list(target.parent.glob("*.part"))


def test_the_known_digest_counts_more_than_the_declared_one(hub: Hub, target: Path) -> None:
    hub.digest = "0" * 64
    assert get(hub, target, sha256=SHA256) == SHA256


def test_a_file_that_is_there_is_left_alone(hub: Hub, target: Path) -> None:
    get(hub, target)
    before = target.stat().st_mtime_ns
    assert get(hub, target) == SHA256
    assert get(hub, target, sha256=SHA256) == SHA256
    assert target.stat().st_mtime_ns == before
    target.write_bytes(b"spoilt")
    assert get(hub, target) == SHA256
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("status", "sentence"),
    [(404, "no such file"), (401, "set HF_TOKEN"), (403, "not allowed"), (418, "answered 418")],
)
def test_refusals(hub: Hub, target: Path, status: int, sentence: str) -> None:
    hub.faults = [status]
    with pytest.raises(FetchError, match=sentence):
        get(hub, target)
    assert len(hub.requests) == 1


def test_token_goes_to_the_hub_and_nowhere_else(hub: Hub, target: Path) -> None:
    store = Hub()
    threading.Thread(target=store.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    hub.token, hub.elsewhere, store.digest = "secret", store.url, None
    with pytest.raises(FetchError, match="HF_TOKEN"):
        get(hub, target)
    with pytest.raises(FetchError, match="this token may not read it"):
        get(hub, target, token="wrong")
    assert get(hub, target, token="secret") == SHA256
    assert store.seen_authorization == [None]
    store.shutdown()
    store.server_close()


def test_the_digest_of_the_first_answer_holds_after_a_redirect(hub: Hub, target: Path) -> None:
    store = Hub()
    threading.Thread(target=store.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    hub.elsewhere, hub.digest = store.url, "1" * 64
    with pytest.raises(FetchError, match="1111 is expected"):
        get(hub, target)
    store.shutdown()
    store.server_close()


def test_no_server(target: Path) -> None:
    with pytest.raises(FetchError, match="connection failed"):
        fetch(REPOSITORY, "model.pth", target, endpoint="http://127.0.0.1:9", attempts=2, pause_s=0.0)


def test_no_room(hub: Hub, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.checkpoints.transfer.SPARE_BYTES", 1 << 62)
    with pytest.raises(FetchError, match="GB free"):
        get(hub, target)


def run(hub: Hub, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "download.py"), *arguments]
    return subprocess.run(
        command, env={**os.environ, "HF_ENDPOINT": hub.url}, capture_output=True, text=True, timeout=60
    )


def test_command(hub: Hub, tmp_path: Path) -> None:
    done = run(hub, "--models", str(tmp_path), "ptv3-scannet")
    assert done.returncode == 0, done.stderr
    assert "PyTorch" in done.stdout
    assert "licence" in done.stdout
    assert (tmp_path / "ptv3-scannet" / "config.py").read_bytes() == CONTENT
    assert (tmp_path / "ptv3-scannet" / "model" / "model_best.pth").read_bytes() == CONTENT
    assert hub.requests[0][0] == "/Pointcept/PointTransformerV3/resolve/main/scannet-semseg-pt-v3m1-0-base/config.py"


def test_command_lists_and_refuses(hub: Hub, tmp_path: Path) -> None:
    wrong = run(hub, "no-such-model")
    assert wrong.returncode == 2
    assert all(name in wrong.stderr for name in CATALOGUE)
    failed = run(hub, "--models", str(tmp_path), "ptv3-nuscenes")
    assert failed.returncode == 1
    assert "is expected" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_catalogue() -> None:
    for each in CATALOGUE.values():
        assert each.repository.count("/") == 1
        assert each.sha256.keys() <= set(each.files)
        assert all(len(digest) == 64 for digest in each.sha256.values())
