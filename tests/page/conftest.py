"""One service, one browser and one labelled scan for all tests of the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import laspy
import numpy as np
import pytest

from tests.http.clouds import as_las, parcel_scene
from tests.http.conftest import Service, start, wait_ready
from tests.models import objects
from tests.page import browser
from tests.page.browser import Page

KEY = "a-key-of-the-page's-tests"
FAR = np.array([651_000.0, 6_861_000.0, 120.0])
"""Where a survey's coordinates lie: too far from zero for single precision."""


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="package")
def services(folder: Path) -> Iterator[tuple[Service, Service]]:
    """A service that is open, with a small limit on bodies, and one that wants a key; they start side by side.

    The open one has a classifier (shapes) and an encoder (sonata) beside the bundled model.
    """
    if browser.programs() is None:
        pytest.skip("needs Chromium and chromedriver: ./run_local.sh --setup --tests installs them on Debian, as root")
    models = folder / "models"
    objects.write(models / "shapes")
    objects.write_encoder(models / "sonata.pth", objects.SONATA)
    of_open = ",".join(["parcels", *(str(models / name) for name in ("shapes", "sonata.pth"))])
    made = []
    for name, environment in (
        ("open", {"MAX_BODY_BYTES": str(4 << 20), "MODELS": of_open}),
        ("locked", {"API_KEYS": KEY}),
    ):
        (folder / name).mkdir()
        made.append(start(folder / name, **environment))
    for service in made:
        wait_ready(service)
    yield made[0], made[1]
    for service in made:
        service.stop()


@pytest.fixture(scope="package")
def downloads(folder: Path) -> Path:
    (folder / "downloads").mkdir()
    return folder / "downloads"


@pytest.fixture(scope="package")
def chrome(services: tuple[Service, Service], downloads: Path) -> Iterator[browser.Chrome]:
    running = browser.start(*(browser.programs() or ("", "")), downloads)
    yield running
    running.quit()


@pytest.fixture(scope="package")
def scan(folder: Path) -> Path:
    """A survey's LAS file of a table with one box on it, with colours and intensities; 20,000 points."""
    coord = parcel_scene() + FAR
    path = folder / "table.las"
    path.write_bytes(as_las(coord))
    las = laspy.read(path)
    las.red, las.green, las.blue = (np.full(len(coord), value << 8, np.uint16) for value in (40, 90, 200))
    las.intensity = ((coord[:, 0] - FAR[0] + 0.5) * 60_000).astype(np.uint16)
    las.write(path)
    return path


@pytest.fixture
def page(chrome: browser.Chrome, services: tuple[Service, Service], downloads: Path) -> Iterator[Page]:
    """The page, fresh, in a window of a desktop."""
    yield from _watched(Page(chrome, services[0].url, downloads))


@pytest.fixture
def locked_page(chrome: browser.Chrome, services: tuple[Service, Service], downloads: Path) -> Iterator[Page]:
    """The page of the service that wants a key."""
    yield from _watched(Page(chrome, services[1].url, downloads))


@pytest.fixture(scope="module")
def shown(chrome: browser.Chrome, services: tuple[Service, Service], downloads: Path, scan: Path) -> Iterator[Page]:
    """The page with the scan's result, scores and all, for all tests of a module that leave it as they found it."""
    for one in _watched(Page(chrome, services[0].url, downloads)):
        one["scores"].click()
        one.send(scan)
        yield one


def _watched(page: Page) -> Iterator[Page]:
    """Yield the page, opened. No test may leave words in the console or ask another host."""
    page.desktop()
    page.open()
    page.complaints()
    page.requests()
    yield page
    allowed = (page.url, f"blob:{page.url}", "data:")
    assert [url for url in page.requests() if not url.startswith(allowed)] == []
    # The browser itself writes down each answer that is an error; all else is a fault of the page.
    assert [line for line in page.complaints() if "Failed to load resource" not in line] == []


@pytest.fixture(scope="package")
def of_service(services: tuple[Service, Service], scan: Path) -> Callable[[], dict[str, object]]:
    """What the service says of the scan as JSON, asked once and not through the page."""
    answers: list[dict[str, object]] = []

    def ask() -> dict[str, object]:
        if not answers:
            answers.append(services[0].post("/v1/segment", scan.read_bytes()).json())
        return answers[0]

    return ask
