"""What goes wrong is told in the service's own words, and the page can be used afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.http.clouds import as_ply, parcel_scene
from tests.http.conftest import Service
from tests.page.browser import Page, changed
from tests.page.conftest import KEY

BAD = {
    "cut.ply": (as_ply(parcel_scene(2000))[:9000], "/v1/segment"),
    "words.xyz": (b"this is no cloud\n", "/v1/segment"),
    "mesh.stl": (b"solid x\nendsolid x\n", "/v1/segment"),
    "large.ply": (as_ply(parcel_scene(400_000)), "/v1/segment"),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_of_the_service(page: Page, services: tuple[Service, Service], folder: Path, name: str) -> None:
    body, path = BAD[name]
    said = services[0].post(f"{path}?output=ply&filename={name}", body).json()
    (folder / name).write_bytes(body)
    page["file"].send_keys(str(folder / name))
    page.wait(lambda: page["problem"].is_displayed())
    assert page["problem-title"].text == said["title"]
    assert page["problem-detail"].text == said["detail"]
    assert page["problem-id"].text.startswith("Request ")
    assert page["problem"].get_dom_attribute("role") == "alert"
    assert not page["retry"].is_displayed()
    assert not page["progress"].is_displayed()
    assert page.data("state") == "empty"


def test_after_a_problem_the_next_file_is_taken(page: Page, folder: Path, scan: Path) -> None:
    (folder / "bad.ply").write_bytes(b"ply\nnothing\n")
    page["file"].send_keys(str(folder / "bad.ply"))
    page.wait(lambda: page["problem"].is_displayed())
    page.send(scan)
    assert not page["problem"].is_displayed()


def test_a_problem_leaves_what_is_shown_and_names_its_file(page: Page, folder: Path, scan: Path) -> None:
    page.send(scan)
    before = page.picture()
    (folder / "bad.ply").write_bytes(b"ply\nnothing\n")
    page["file"].send_keys(str(folder / "bad.ply"))
    page.wait(lambda: page["problem"].is_displayed() and page.data("state") == "shown")
    assert page["problem-file"].text == "bad.ply"
    assert page["scan-name"].text == scan.name
    assert page["again"].text == "Try bad.ply again"
    page.settle()
    assert changed(page.picture(), before) < 0.002
    (folder / "bad.ply").write_bytes(as_ply(parcel_scene(2000)))
    page["file"].send_keys(str(folder / "bad.ply"))
    page.wait(lambda: page["scan-name"].text == "bad.ply")
    page.shown()
    assert page["again"].text == "Label it again"


def test_a_service_that_is_not_there(page: Page, scan: Path) -> None:
    network = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    page.cdp("Network.enable")
    page.cdp("Network.emulateNetworkConditions", offline=True, **network)
    try:
        page["file"].send_keys(str(scan))
        page.wait(lambda: page["problem"].is_displayed())
        assert page["problem-detail"].text == "The service does not answer. Is it still running?"
        assert page["retry"].is_displayed()
    finally:
        page.cdp("Network.emulateNetworkConditions", offline=False, **network)
    page["retry"].click()
    page.shown()
    assert page["scan-name"].text == scan.name


def test_a_key(locked_page: Page, services: tuple[Service, Service], scan: Path) -> None:
    page = locked_page
    assert page["key-section"].is_displayed()
    assert page.js("return document.activeElement.id") == "key"
    assert page["problem-detail"].text == services[1].get("/v1/models").json()["detail"]

    page["key"].send_keys("a stranger's\n")
    page.wait(lambda: "not one that this service knows" in page["problem-detail"].text)
    page["key"].send_keys(KEY + "\n")
    page.wait(lambda: page["model"].is_enabled())
    assert not page["key-section"].is_displayed()
    assert not page["problem"].is_displayed()
    assert page.js("return [Object.values(sessionStorage), localStorage.length, document.cookie]") == [[KEY], 0, ""]

    page.send(scan)
    assert KEY not in page.js("return document.documentElement.outerHTML")
    assert '-H "X-API-Key: $API_KEY"' in page.all("#command-list code")[0].text

    page.load()
    page.wait(lambda: page["model"].is_enabled())
    page["key-forget"].click()
    page.wait(lambda: page["key-section"].is_displayed())
    assert page.js("return sessionStorage.length") == 0


def test_a_file_that_is_dropped_before_the_key_is_known(locked_page: Page, scan: Path) -> None:
    locked_page["file"].send_keys(str(scan))
    locked_page["key"].send_keys(KEY + "\n")
    locked_page.shown()
    assert locked_page["scan-name"].text == scan.name
