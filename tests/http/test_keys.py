"""API keys, rate limits and what else stands between the service and strangers."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from service import keys
from service.errors import MalformedRequest
from service.settings import Settings
from tests.http import clouds
from tests.http.conftest import ROOT, Service, start, wait_ready, wait_until
from tests.http.test_refusals import check_problem
from tests.ports import free_port

PLY = clouds.as_ply(clouds.parcel_scene(2000))
SURVEY, LAB, WRONG = "survey-key-0123456789", 'lab"\\key:with,odd', "a-stranger's-own-secret"
StartService = Callable[..., Service]


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with keys from both sources, two web processes, and a limit."""
    folder = tmp_path_factory.mktemp("locked")
    (folder / "keys").write_text(f"# clients\n\nlab:{LAB}\n")
    running = start(
        folder,
        API_KEYS=f"survey:{SURVEY}",
        API_KEYS_FILE=str(folder / "keys"),
        WEB_WORKERS="2",
        RATE_LIMIT="40/hour",
        HOSTS="127.0.0.1,labels.example",
    )
    wait_ready(running)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that tells its metrics to all and its health to those with a key; its model may still load."""
    running = start(tmp_path_factory.mktemp("closed"), API_KEYS=SURVEY, METRICS_OPEN="true", HEALTH_OPEN="false")
    wait_until(lambda: answers(running))
    yield running
    running.stop()


def key(value: str) -> dict[str, str]:
    return {"X-API-Key": value}


@pytest.mark.parametrize("headers", [key(SURVEY), key(LAB), {"Authorization": f"Bearer {SURVEY}"}])
def test_a_key_opens(locked: Service, headers: dict[str, str]) -> None:
    assert locked.post("/v1/segment", PLY, headers=headers).status_code == 200
    assert locked.get("/v2/models/parcels", headers=headers).status_code == 200
    assert locked.get("/metrics", headers=headers).status_code == 200
    assert locked.get("/health?verbose", headers=headers).json()["processes"]


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing-key"),
        ({"Authorization": "Basic dTpw"}, "missing-key"),
        ({"Authorization": "Bearer "}, "missing-key"),
        (key(WRONG), "invalid-key"),
        (key("survey"), "invalid-key"),
        (key(SURVEY[:-1]), "invalid-key"),
        (key("\xe9"), "invalid-key"),
        ({"Authorization": f"Bearer {WRONG}"}, "invalid-key"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/segment", "/v2/models/parcels/infer", "/nowhere"])
def test_nothing_else_does(locked: Service, headers: dict[str, str], code: str, path: str) -> None:
    headers = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = locked.post(path, PLY, headers=headers)
    if answer.status_code == 429:
        pytest.skip("the limit of this address is used up")
    assert answer.status_code == 401
    assert answer.json()["type"].endswith(code)
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_what_stays_open(locked: Service) -> None:
    for path in ("/health", "/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json", "/static/docs.js", "/"):
        assert locked.get(path).status_code == 200, path
    for path in ("/metrics", "/health?verbose", "/v1/models", "/v2"):
        assert locked.get(path).status_code in (401, 429), path


def test_a_large_body_without_a_key_is_heard_of(closed: Service) -> None:
    for body in (bytes(100 << 20), (bytes(1 << 20) for _ in range(100))):
        check_problem(closed.post("/v1/segment", body), 401)


def test_names_are_logged_and_keys_are_not(locked: Service) -> None:
    path = f"/v1/models?key={SURVEY}"
    for value in (SURVEY, LAB, WRONG):
        locked.get(path, headers={**key(value), "X-Request-ID": f"by-{value[:3]}"[:20].replace('"', "")})
    locked.get(f"/v1/models/{SURVEY}", headers=key(SURVEY))
    bad = f"GET / HTTP/1.1\r\nHost: x\r\nX-API-Key : {SURVEY}\r\n\r\n".encode()
    send_raw(locked, bad)
    text = locked.log.read_text()
    assert "[hidden]" in text
    for value in (SURVEY, LAB, json.dumps(LAB)[1:-1], WRONG):
        assert value not in text, value
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert {"survey", "lab"} <= {line.get("client") for line in lines}


def send_raw(service: Service, data: bytes) -> bytes:
    import socket

    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(data)
        return connection.recv(1000)


@pytest.mark.parametrize(
    ("arguments", "environment", "status", "words"),
    [
        (["--api-key", LAB], {}, 0, "parcels"),
        ([], {"API_KEY": LAB}, 0, "parcels"),
        ([], {}, 1, "asks for an API key"),
        (["--api-key", "wrong-key"], {}, 1, "not one that this service knows"),
        (["--api-key", "broken\nkey"], {}, 1, "line break"),
    ],
)
def test_the_commands_send_a_key(
    locked: Service, arguments: list[str], environment: dict[str, str], status: int, words: str
) -> None:
    command = [sys.executable, "-m", "service.cli", "models", "--url", locked.url, *arguments]
    own = {**os.environ, "COLUMNS": "200", **environment}
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, timeout=300)
    assert done.returncode == status, done.stderr
    assert words in done.stdout + done.stderr


def test_other_names_of_the_host_are_refused(locked: Service) -> None:
    assert locked.get("/health", headers={"Host": "labels.example:5001"}).status_code == 200
    answer = locked.get("/health", headers={"Host": "evil.example"})
    assert answer.status_code == 400


def test_the_limit_is_each_key_s_own_and_of_all_web_processes(locked: Service) -> None:
    def until_refused(headers: dict[str, str]) -> requests.Response:
        for _ in range(60):
            answer = locked.get("/v1/models", headers=headers)
            if answer.status_code == 429:
                return answer
        raise AssertionError("there is no limit")

    refused = until_refused(key(SURVEY))
    check_problem(refused, 429)
    assert "40 per 1 hour" in refused.json()["detail"]
    assert 1 <= int(refused.headers["Retry-After"]) <= 3600
    assert locked.get("/v1/models", headers=key(LAB)).status_code == 200
    until_refused(key(WRONG))
    assert locked.get("/v1/models", headers=key(LAB)).status_code == 200
    assert locked.get("/health").status_code == 200


def test_a_limit_ends(start_service: StartService) -> None:
    service = start_service(RATE_LIMIT="3/5 seconds")
    wait_until(lambda: answers(service))
    statuses = [service.get("/v2").status_code for _ in range(8)]
    assert statuses[:3] == [200, 200, 200]
    assert 429 in statuses
    wait_until(lambda: service.get("/v2").status_code == 200)


def test_no_keys_on_the_loopback_address(service: Service) -> None:
    assert service.post("/v1/segment", PLY).status_code == 200
    assert service.get("/metrics").status_code == 200
    assert not (service.state_dir / "api_key").exists()


def made_key(service: Service) -> str:
    found = re.search(r"curl -H 'X-API-Key: ([^']+)'", service.log.read_text())
    assert found
    return found[1]


def test_a_key_is_made_where_others_can_reach_the_service(start_service: StartService) -> None:
    service = start_service(ADDRESS="0.0.0.0")
    wait_ready(service)
    made = made_key(service)
    path = service.state_dir / "api_key"
    assert path.read_text().strip() == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert service.post("/v1/segment", PLY).status_code == 401
    assert service.post("/v1/segment", PLY, headers=key(made)).status_code == 200
    assert not [line for line in service.log.read_text().splitlines() if line.startswith("{") and made in line]
    # Those who decode files of strangers do not know it.
    (reader, *_) = service.get("/health?verbose", headers=key(made)).json()["processes"]["readers"]["pids"]
    assert made.encode() not in Path(f"/proc/{reader}/environ").read_bytes()
    service.stop()

    again = start_service(ADDRESS="0.0.0.0", STATE_DIR=str(service.state_dir))
    wait_ready(again)
    assert again.post("/v1/segment", PLY, headers=key(made)).status_code == 200
    assert made not in again.log.read_text()
    assert str(path) in again.log.read_text()


@pytest.mark.parametrize(
    "environment", [{"API_KEYS": "none"}, {"PUBLISHED": "127.0.0.1", "API_KEYS_FILE": "/dev/null", "API_KEYS": ""}]
)
def test_open_by_decision(start_service: StartService, environment: dict[str, str]) -> None:
    service = start_service(ADDRESS="0.0.0.0", **environment)
    wait_until(lambda: answers(service))
    assert service.get("/metrics").status_code == 200
    assert service.post("/v1/segment", PLY).status_code in (200, 503)  # the model may still load


def test_metrics_open_and_health_closed(closed: Service) -> None:
    assert closed.get("/metrics").status_code == 200
    for path in ("/health", "/v2/health/live", "/v2/health/ready"):
        assert closed.get(path).status_code == 401
        assert closed.get(path, headers=key(SURVEY)).status_code in (200, 503)


def answers(service: Service) -> bool:
    try:
        service.get("/health")
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"API_KEYS": "good-key,b\u00e4d"}, ["API_KEYS, entry 2"]),
        ({"API_KEYS": "two words:key"}, ["API_KEYS, entry 1"]),
        ({"API_KEYS_FILE": "/nowhere/keys"}, ["API_KEYS_FILE", "/nowhere/keys"]),
        ({"RATE_LIMIT": "many"}, ["RATE_LIMIT", "60/minute"]),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, environment: dict[str, str], words: list[str]) -> None:
    command = [sys.executable, "-m", "service.cli", "serve"]
    own = {**os.environ, "STATE_DIR": str(tmp_path), "PORT": str(free_port()), **environment}
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert "b\u00e4d" not in done.stderr


def test_without_the_parent_nothing_is_open_by_accident(tmp_path: Path) -> None:
    own = {**os.environ, "STATE_DIR": str(tmp_path), "ADDRESS": "0.0.0.0"}
    command = [sys.executable, "-c", "import service.wsgi"]
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "API_KEYS" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("address", "published", "exposed"),
    [
        ("127.0.0.1", "", False),
        ("127.1.2.3", "", False),
        ("::1", "", False),
        ("localhost", "", False),
        ("0.0.0.0", "", True),
        ("::", "", True),
        ("192.168.1.5", "", True),
        ("host.example", "", True),
        ("0.0.0.0", "127.0.0.1", False),
        ("0.0.0.0", "[::1]", False),
        ("127.0.0.1", "0.0.0.0", True),
    ],
)
def test_who_can_reach_it(address: str, published: str, exposed: bool) -> None:
    assert keys.exposed(Settings(address=address, published=published)) is exposed


def test_a_folder_that_takes_no_file(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    settings, made = keys.ensure(Settings(address="0.0.0.0", state_dir=blocked / "state"))
    assert made is not None
    assert "for this run only" in made.announcement(settings)
    assert keys.load(settings).owner(made.key) == "made"


@pytest.mark.parametrize("mode", [0o644, 0o660])
def test_a_key_that_others_can_read_is_not_taken(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "api_key"
    path.write_text("known-to-everybody-here\n")
    path.chmod(mode)
    settings, made = keys.ensure(Settings(address="0.0.0.0", state_dir=tmp_path))
    assert made is not None
    assert made.key != "known-to-everybody-here"
    assert "this user alone" in made.announcement(settings)


def test_entries_of_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("old:first-key\nold:second-key\n# no:key\nbare-key-in-file\n")
    found = keys.load(Settings(api_keys="a:one-key , bare-key,,", api_keys_file=str(file)))
    names = {value: found.owner(value) for value in ("one-key", "bare-key", "first-key", "second-key")}
    assert names == {"one-key": "a", "bare-key": "key-2", "first-key": "old", "second-key": "old"}
    assert found.owner("bare-key-in-file") == "key-4"
    assert found.owner("no:key") is found.owner("") is None
    assert "one-key" not in repr(found)
    assert "one-key" not in repr(Settings(api_keys="a:one-key"))
    file.write_text("a b:c\n")
    with pytest.raises(MalformedRequest, match="line 1"):
        keys.load(Settings(api_keys_file=str(file)))


def test_headers_of_answers(service: Service) -> None:
    for path in ("/docs", "/health", "/v1/models", "/nothing", "/static/docs.js"):
        headers = service.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["Server"] == "pointserve"
        assert "Access-Control-Allow-Origin" not in headers
    policy = service.get("/docs").headers["Content-Security-Policy"]
    assert "script-src 'self';" in policy
    assert "http" not in policy
    page = service.get("/docs").text
    assert not re.search(r"<script(?![^>]*src=)", page)


@pytest.mark.parametrize("field", ["url", "uri", "href"])
def test_nothing_is_fetched_from_elsewhere(service: Service, field: str) -> None:
    body = json.dumps({field: "http://169.254.169.254/latest/meta-data"})
    answer = service.post("/v1/segment", body, headers={"Content-Type": "application/json"})
    check_problem(answer, 400)
    assert "fetches nothing" in answer.json()["detail"]
