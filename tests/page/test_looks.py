"""How the page looks and is used: keyboard, screen readers, themes, a telephone's width, and its policy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.http.conftest import Service
from tests.page.browser import Page


def test_the_empty_page_for_screen_readers(page: Page) -> None:
    for system in ("dark", "light"):
        page.theme(system)
        assert page.offences() == []


def lightness(page: Page) -> float:
    return float(page.screenshot().mean())


def test_dark_and_light(page: Page) -> None:
    light = lightness(page)
    page.theme("dark")
    assert lightness(page) < 60 < 200 < light
    page["theme"].click()
    assert page["theme"].text == "Theme: light"
    assert lightness(page) == pytest.approx(light, abs=3)
    page["theme"].click()
    assert page["theme"].text == "Theme: dark"
    page.theme("light")
    assert lightness(page) < 60
    page.load()
    assert page["theme"].text == "Theme: dark"
    assert lightness(page) < 60


def test_a_telephone(page: Page, scan: Path) -> None:
    page.cdp("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
    page.load()
    assert page["choose"].is_displayed()
    page.send(scan)
    assert page.js("return document.documentElement.scrollWidth") == 390
    for control in page.all("button, select, summary"):
        if control.is_displayed():
            box = control.rect
            assert box["x"] >= 0 and box["x"] + box["width"] <= 390, control.get_dom_attribute("id")
            assert box["height"] >= 24
    assert page["canvas"].rect["width"] == 390
    grey = page.picture().max(axis=2) < 190
    columns = np.flatnonzero(grey.any(axis=0))
    # The cloud fits into the narrow picture.
    assert len(columns) > 150
    page.js("arguments[0].scrollIntoView()", page["downloads"])
    assert page["files"].is_displayed()


def test_policy(services: tuple[Service, Service]) -> None:
    policy = services[0].get("/").headers["Content-Security-Policy"]
    rules = {name: words for name, *words in (part.split() for part in policy.split(";"))}
    assert rules["default-src"] == ["'none'"]
    assert rules["script-src"] == ["'self'"]
    assert rules["connect-src"] == ["'self'"]
