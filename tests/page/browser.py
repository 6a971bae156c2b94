"""Chromium, headless, with WebGL in software, as the tests of the page drive it."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from selenium.webdriver import Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE_S = 180.0
AXE = Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js"
SOFTWARE = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
"""WebGL on the processor, so that it is the same on every machine."""
FLAGS = (
    "--headless=new",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--window-size=1000,680",
    # No other host is found: what the page would ask of one shows as an error.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


def programs() -> tuple[str, str] | None:
    """Return the paths of Chromium and of its driver, or None where one of them is missing."""
    browser = next((path for name in NAMES if (path := shutil.which(name))), None)
    folder = os.environ.get("CHROMEWEBDRIVER")
    driver = shutil.which("chromedriver", path=folder) if folder else shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


def start(browser: str, driver: str, downloads: Path, software: bool = True) -> Chrome:
    """Start the browser; what it downloads goes to a folder. `software`: WebGL runs on the processor."""
    options = Options()
    options.binary_location = browser
    for flag in (*FLAGS, *(SOFTWARE if software else ())):
        options.add_argument(flag)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # which does not work for root
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = Chrome(options=options, service=Service(driver))
    chrome.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)})
    return chrome


def colored(picture: np.ndarray, spread: int = 40) -> float:
    """Return the share of a picture's pixels that are no grey."""
    return float((np.ptp(picture.astype(int), axis=2) > spread).mean())


def dark(picture: np.ndarray) -> float:
    """Return the share of a picture's pixels that are darker than the light ground."""
    return float((picture.max(axis=2) < 190).mean())


def changed(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Return the share of pixels that differ; the browser paints the ground's gradient anew with other roundings."""
    return float((np.abs(one.astype(int) - other) > 8).any(axis=2).mean())


class Page:
    """The service's page in the browser."""

    def __init__(self, chrome: Chrome, url: str, downloads: Path) -> None:
        self.chrome, self.url, self._downloads = chrome, url, downloads

    def desktop(self) -> None:
        """Show a desktop's window under a light system."""
        self.cdp("Emulation.clearDeviceMetricsOverride")
        self.theme("light")

    def theme(self, value: str) -> None:
        """Make the system dark or light."""
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])

    def open(self) -> None:
        """Load the page, as at a first visit, and wait until it knows the service's models or asks for a key."""
        self.chrome.get(
            self.url + "/static/page/dom.js"
        )  # storage belongs to an origin, and the page reads it when it starts
        self.chrome.execute_script("sessionStorage.clear(); localStorage.clear()")
        self.load()

    def load(self) -> None:
        self.chrome.get(self.url + "/")
        self.wait(lambda: self["model"].is_enabled() or self["key-section"].is_displayed())

    @contextmanager
    def beginning(self, script: str) -> Iterator[None]:
        """Load the page so that a script runs before its own."""
        own = self.cdp("Page.addScriptToEvaluateOnNewDocument", source=script)["identifier"]
        try:
            self.load()
            yield
        finally:
            self.cdp("Page.removeScriptToEvaluateOnNewDocument", identifier=own)

    def __getitem__(self, id: str) -> WebElement:
        return self.chrome.find_element(By.ID, id)

    def all(self, selector: str) -> list[WebElement]:
        return self.chrome.find_elements(By.CSS_SELECTOR, selector)

    def js(self, script: str, *arguments: Any) -> Any:
        return self.chrome.execute_script(script, *arguments)

    def cdp(self, command: str, **parameters: Any) -> Any:
        return self.chrome.execute_cdp_cmd(command, parameters)

    def wait(self, condition: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
        until = time.monotonic() + patience_s
        while not (found := condition()):
            assert time.monotonic() < until, f"it never happened; the page says: {self['panel'].text[:500]}"
            time.sleep(0.03)
        return found

    def data(self, name: str) -> str:
        return self["viewer"].get_dom_attribute(f"data-{name}") or ""

    def send(self, path: Path) -> None:
        """Choose a file, as the button does, and wait for its picture."""
        self["file"].send_keys(str(path))
        self.shown()

    def shown(self) -> None:
        """Wait until the job is done and its picture stands still."""
        self.wait(lambda: self.data("state") == "shown")
        self.settle()

    def settle(self) -> None:
        """Wait until the picture stands still: what a change asks for is drawn with the browser's next frame."""
        self._two_frames()
        self.wait(lambda: self.data("picture") == "resting")
        self._two_frames()  # until the last one is on the screen

    def _two_frames(self) -> None:
        """Wait until the browser has begun the frame after next."""
        self.chrome.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))"
        )

    def picture(self) -> NDArray[np.uint8]:
        """Return the 3-D view as it is on the screen, (height, width, 3)."""
        with Image.open(io.BytesIO(self["canvas"].screenshot_as_png)) as image:
            return np.asarray(image.convert("RGB"))

    def screenshot(self) -> NDArray[np.uint8]:
        """Return the window, (height, width, 3)."""
        png = base64.b64decode(self.cdp("Page.captureScreenshot", format="png")["data"])
        with Image.open(io.BytesIO(png)) as image:
            return np.asarray(image.convert("RGB"))

    def download(self, output: str) -> Path:
        """Press a button of the downloads and return the file that comes."""
        before = set(self._downloads.iterdir())
        button = self.all(f'button[data-output="{output}"]')[0]
        self.js("arguments[0].scrollIntoView({block: 'center'})", button)
        button.click()

        def come() -> list[Path]:
            new = set(self._downloads.iterdir()) - before
            # The browser takes the name before it has the bytes.
            whole = not any(path.suffix == ".crdownload" for path in new) and all(path.stat().st_size for path in new)
            return list(new) if whole else []

        return Path(self.wait(come)[0])

    def requests(self) -> list[str]:
        """Return the addresses that the browser has asked for since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self.chrome.get_log("performance")]
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]

    def complaints(self) -> list[str]:
        """Return what stands in the browser's console since the last call."""
        return [entry["message"] for entry in self.chrome.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def offences(self) -> list[str]:
        """Return what axe-core has against the page as it is: WCAG 2.2, levels A and AA, and good practice."""
        self.js(AXE.read_text(encoding="utf-8"))
        found: dict[str, Any] = self.chrome.execute_async_script(
            "axe.run(document, {resultTypes: ['violations']}).then(arguments[arguments.length - 1])"
        )
        return [f"{one['help']}: {[node['html'] for node in one['nodes']]}" for one in found["violations"]]
