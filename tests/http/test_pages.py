"""The routes beside /v1/segment: health, models, the API's description and its page."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path

from service.errors import DeadlineExceeded
from service.settings import Settings
from service.web.app import create_app
from tests.http.conftest import Service


def test_health(service: Service) -> None:
    body = service.get("/health").json()
    assert body["status"] == "ready"
    assert body["models"] == ["parcels"]
    assert body["device"]["torch"]
    assert body["queue"] == {"requests": 0, "points": 0}


def test_before_there_is_an_engine_the_service_is_loading_and_has_not_failed(tmp_path: Path) -> None:
    answer = create_app(Settings(state_dir=tmp_path)).test_client().get("/health")
    assert (answer.status_code, answer.json["status"]) == (503, "loading")
    assert "the engine does not run" in answer.json["reason"]


def test_an_engine_that_hangs_has_failed(tmp_path: Path) -> None:
    class Engine:
        def status(self) -> dict[str, object]:
            raise DeadlineExceeded("the engine did not answer by the request's deadline")

    app = create_app(Settings(state_dir=tmp_path), engine=Engine())  # type: ignore[arg-type]
    answer = app.test_client().get("/health")
    assert (answer.status_code, answer.json["status"]) == (503, "failed")
    assert "did not answer" in answer.json["reason"]


def test_health_verbose_knows_the_processes(service: Service) -> None:
    body = service.get("/health?verbose").json()
    assert body["processes"]["worker_pid"] != body["processes"]["engine_pid"]
    assert body["environment"]["python"]


def test_health_verbose_has_the_worker_s_environment(service: Service) -> None:
    import torch

    found = service.get("/health?verbose").json()["environment"]
    assert found["python"] == platform.python_version()
    assert found["torch"] == torch.__version__
    assert found["cuda"] == torch.version.cuda
    assert found["cuda_available"] is torch.cuda.is_available()
    assert found.keys() >= {"device", "capability", "flash_attention"}


def test_model_cards(service: Service) -> None:
    (card,) = service.get("/v1/models").json()["models"]
    assert card == service.get("/v1/models/parcels").json()
    assert card["default"] is True
    assert [c["name"] for c in card["classes"]] == ["background", "box"]
    assert card["grid_size"] > 0
    assert card["parameters"] > 0


def test_an_unknown_model_is_a_404(service: Service) -> None:
    answer = service.get("/v1/models/resnet")
    assert answer.status_code == 404
    assert "resnet" in answer.json()["detail"]


def test_openapi_describes_what_there_is(service: Service) -> None:
    spec = service.get("/openapi.json").json()
    assert spec["openapi"].startswith("3.1")
    assert {"/v1/segment", "/v1/models", "/v1/models/{name}", "/health"} <= spec["paths"].keys()
    segment = spec["paths"]["/v1/segment"]["post"]
    assert {"multipart/form-data", "application/json", "application/octet-stream"} <= segment["requestBody"][
        "content"
    ].keys()
    assert {"model", "format", "output", "scores"} <= {p["name"] for p in segment["parameters"]}
    assert {"200", "400", "404", "413", "415", "422", "503", "504"} <= segment["responses"].keys()
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(spec)))
    assert references <= spec["components"]["schemas"].keys()


def test_the_page_of_the_api_needs_no_other_host(service: Service) -> None:
    page = service.get("/docs").text
    sources = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert sources
    for source in sources:
        assert source.startswith("/"), source
        assert service.get(source).status_code == 200, source


def test_the_root_is_the_page_and_all_it_names_is_there(service: Service) -> None:
    page = service.get("/")
    assert page.headers["Content-Type"].startswith("text/html")
    sources = re.findall(r'(?:src|href)="([^"#]+)', page.text)
    assert {"/static/page/main.js", "/static/page/page.css", "/docs"} <= set(sources)
    for source in sources:
        assert source.startswith("/"), source
        assert service.get(source).status_code == 200, source
    assert service.get("/static/samples/parcels.ply").content[:3] == b"ply"


def test_progress_of_a_request_that_is_not_there(service: Service) -> None:
    answer = service.get("/v1/progress/nobody-s")
    assert answer.json() == {"request_id": "nobody-s", "done": None}


def test_the_log_is_json_and_knows_the_request(service: Service) -> None:
    service.get("/health", headers={"X-Request-ID": "find-me"})
    lines = [json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")]
    (line,) = [line for line in lines if line.get("request_id") == "find-me"]
    assert (line["path"], line["status"], line["process"]) == ("/health", 200, "web")


def test_a_hostile_request_id_is_replaced(service: Service) -> None:
    answer = service.get("/health", headers={"X-Request-ID": "a b<script>"})
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-ID"])


def test_progress_is_what_the_engine_says(tmp_path: Path) -> None:
    class Engine:
        def status(self) -> dict[str, object]:
            return {"state": "ready", "progress": {"r-1": 0.25}}

    app = create_app(Settings(state_dir=tmp_path), engine=Engine())  # type: ignore[arg-type]
    assert app.test_client().get("/v1/progress/r-1").json == {"request_id": "r-1", "done": 0.25}


def test_every_route_that_takes_a_cloud_is_refused_where_no_thread_is_spare(tmp_path: Path) -> None:
    from service.web.room import LABELLING

    app = create_app(Settings(state_dir=tmp_path))
    posts = {rule.endpoint for rule in app.url_map.iter_rules() if "POST" in (rule.methods or ())}
    assert posts - LABELLING == {"v2.load", "v2.repository"}
