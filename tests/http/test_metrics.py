"""What an operator sees: metrics, the dashboard that shows them, logs that follow a request through the processes."""

from __future__ import annotations

import concurrent.futures
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.http import clouds
from tests.http.conftest import Service, start, wait_ready, wait_until

DOCS = Path(__file__).resolve().parents[2] / "docs"
SCENE = clouds.parcel_scene(5000)
NPZ = clouds.as_npz(SCENE)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with three web processes."""
    running = start(tmp_path_factory.mktemp("several"), WEB_WORKERS="3", READER_CPU_S="0.5", READERS="1")
    wait_ready(running)
    yield running
    running.stop()


Samples = dict[str, dict[tuple[tuple[str, str], ...], float]]


def scrape(service: Service) -> Samples:
    """Return name and labels to value."""
    answer = service.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    found: Samples = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get(name, {}).get(tuple(sorted(labels.items())), 0.0)


def test_requests_are_counted_over_all_web_processes(several: Service) -> None:
    before = scrape(several)
    with concurrent.futures.ThreadPoolExecutor(6) as clients:
        answers = list(clients.map(lambda _: several.post("/v1/segment", NPZ), range(18)))
    assert {answer.status_code for answer in answers} == {200}
    after = scrape(several)

    def more(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert more("pointserve_requests_total", method="POST", route="/v1/segment", status="200") == 18
    assert more("pointserve_request_seconds_count", route="/v1/segment") == 18
    assert more("pointserve_model_points_total", model="parcels") == 18 * 5000
    assert more("pointserve_request_points_bucket", le="10000.0") == 18
    assert more("pointserve_received_bytes_total") == 18 * len(NPZ)
    for stage in ("receive", "read", "queue", "prepare", "forward", "restore"):
        assert more("pointserve_stage_seconds_count", stage=stage) == 18
    batches = [(dict(labels)["le"], count) for labels, count in after["pointserve_batch_clouds_bucket"].items()]
    counts = [count for _, count in sorted(batches, key=lambda entry: float(entry[0]))]
    assert counts == sorted(counts)
    assert value(after, "pointserve_batch_clouds_sum") >= 18
    assert 1 <= counts[-1] <= value(after, "pointserve_batch_clouds_sum")
    assert value(after, "pointserve_ready") == 1
    assert value(after, "pointserve_requests_in_progress") >= 1  # the scrape itself


def test_decode_failures_by_format_and_reason(several: Service) -> None:
    before = scrape(several)
    assert several.post("/v1/segment", clouds.as_ply(SCENE)[:-100]).status_code == 400
    text = b"\n".join(b"%d 0 0" % n for n in range(3_000_000))
    assert several.post("/v1/segment?format=text", text).status_code == 422
    after = scrape(several)
    name = "pointserve_decode_failures_total"
    for format, reason in (("ply", "malformed-file"), ("text", "reader-failed")):
        labels = {"format": format, "reason": reason}
        assert value(after, name, **labels) == value(before, name, **labels) + 1
    assert value(after, "pointserve_readers_replaced_total") > value(before, "pointserve_readers_replaced_total")


def test_what_clients_send_makes_no_new_series(several: Service) -> None:
    for path in ("/a", "/b/c", "/v1/models/x", "/v1/models/y"):
        several.get(path)
    routes = {dict(labels)["route"] for labels in scrape(several)["pointserve_requests_total"]}
    assert not routes & {"/a", "/b/c", "/v1/models/x"}
    assert {"none", "/v1/models/<name>"} <= routes


def test_openmetrics_on_request(several: Service) -> None:
    answer = several.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_a_web_process_that_ends_takes_no_counts_along(several: Service) -> None:
    several.post("/v1/segment", NPZ)
    before = scrape(several)
    victim = several.processes()["web_pid"]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: several.processes()["web_pid"] != victim)
    after = scrape(several)
    name = "pointserve_model_points_total"
    assert value(after, name, model="parcels") == value(before, name, model="parcels")


def test_lost_workers_are_counted(several: Service) -> None:
    def starts() -> float:
        return value(scrape(several), "pointserve_worker_starts_total", device="cpu")

    assert value(scrape(several), "pointserve_engine_events_total", event="lost") == 0
    assert starts() == 1
    os.kill(several.processes()["worker_pid"], signal.SIGKILL)
    wait_until(lambda: starts() == 2)
    assert value(scrape(several), "pointserve_engine_events_total", event="lost") == 1
    wait_ready(several)
    assert value(scrape(several), "pointserve_worker_resident_bytes", device="cpu") > 50e6


def test_without_an_engine(start_service: Callable[..., Service]) -> None:
    service = start_service(MODELS="no-such-model")
    wait_until(lambda: (service.state_dir / f"engine-{service.url.rsplit(':')[-1]}.sock").exists())
    wait_until(lambda: _answers(service))
    assert value(scrape(service), "pointserve_ready") == 0


def _answers(service: Service) -> bool:
    try:
        return bool(service.get("/v2/health/live").ok)
    except OSError:
        return False


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\bpointserve_\w+", expression))


def exported(service: Service) -> set[str]:
    """Return every name that /metrics tells of, with or without samples yet."""
    names = set()
    for family in text_string_to_metric_families(service.get("/metrics").text):
        names |= {family.name, *(sample.name for sample in family.samples)}
        names |= {family.name + end for end in ("_total", "_bucket", "_sum", "_count") if family.type != "gauge"}
    return names


def test_the_dashboard_shows_what_is_exported(several: Service) -> None:
    board = json.loads((DOCS / "grafana-dashboard.json").read_text())
    several.post("/v1/segment", NPZ)
    known = exported(several)
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len(panels) >= 10
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    used = set()
    for panel in panels:
        assert panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            used |= names_in(target["expr"])
            assert target["expr"].count("(") == target["expr"].count(")")
    assert used <= known, used - known
    variable = next(entry for entry in board["templating"]["list"] if entry["name"] == "datasource")
    assert variable["type"] == "datasource"
    for family in (
        "requests_total",
        "stage_seconds_bucket",
        "queue_points",
        "worker_starts_total",
        "device_memory_bytes",
        "decode_failures_total",
        "batch_clouds_sum",
    ):
        assert f"pointserve_{family}" in used


def test_the_documented_metrics_are_exported(several: Service) -> None:
    text = (DOCS / "monitoring.md").read_text()
    several.post("/v1/segment", NPZ)
    assert names_in(text) <= exported(several)
    for name in {name for name in exported(several) if not name.endswith(("_bucket", "_sum", "_count", "_created"))}:
        base = name.removesuffix("_total")
        assert base in text, name


def test_logs_follow_a_request_through_the_processes(service: Service) -> None:
    service.post("/v1/segment", NPZ, headers={"X-Request-ID": "follow-me"})
    wait_until(lambda: len(lines_of(service, "follow-me")) >= 2)
    lines = {line["process"]: line for line in lines_of(service, "follow-me")}
    assert lines["web"]["event"] == "request"
    assert lines["web"]["points"] == 5000
    assert lines["worker"]["event"] == "labelled"
    assert lines["worker"]["points"] == 5000


def lines_of(service: Service, request_id: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if request_id in str(line.get("request_id"))]


def test_health_verbose_is_complete(service: Service) -> None:
    body = service.get("/health?verbose").json()
    (worker,) = body["workers"]
    assert (worker["device"], worker["state"]) == ("cpu", "ready")
    assert worker["rss_bytes"] > 0
    assert body["batches"]["sizes"]
    assert isinstance(body["counts"], dict)
    assert body["processes"]["web_pid"]
