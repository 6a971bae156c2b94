"""The page with a large cloud in Chromium: how long until it is seen, and how many frames a second while it turns.

    python -m benchmarks.page --points 5000000              # labels by a stand-in: the page alone is measured
    python -m benchmarks.page --picture docs/images/page.png   # the sample with the bundled model

Needs Chromium and chromedriver, as the tests of the page do. WebGL runs in software unless --gpu says otherwise.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from benchmarks.running import serving, show
from tests.page import browser

TURN = """
const [seconds, done] = arguments;
const canvas = document.getElementById("canvas");
const times = [];
const step = (now) => {
  times.push(now);
  if (now - times[0] > 1000 * seconds) return done(times);
  canvas.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft"}));
  requestAnimationFrame(step);
};
requestAnimationFrame(step);
"""
HEAP = "return performance.memory ? performance.memory.usedJSHeapSize : 0"
RENDERER = """
const gl = document.createElement("canvas").getContext("webgl2");
return gl.getParameter(gl.getExtension("WEBGL_debug_renderer_info").UNMASKED_RENDERER_WEBGL);
"""


def cloud(points: int) -> bytes:
    """Return a PLY file of a hilly ground with boxes on it, with colours and intensities."""
    random = np.random.default_rng(0)
    xy = random.uniform(-20, 20, (points, 2)).astype(np.float32)
    z = np.sin(xy[:, 0] / 3) + np.cos(xy[:, 1] / 4) + (np.sin(3 * xy[:, 0]) * np.sin(3 * xy[:, 1]) > 0.7)
    row = np.dtype([("xyz", "<f4", 3), ("color", "u1", 3), ("intensity", "<f4")])
    rows = np.empty(points, row)
    rows["xyz"] = np.column_stack([xy, z])
    rows["color"] = random.integers(0, 255, (points, 3))
    rows["intensity"] = z
    names = ["float x", "float y", "float z", "uchar red", "uchar green", "uchar blue", "float intensity"]
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {points}", *(f"property {n}" for n in names)]
    return ("\n".join([*lines, "end_header"]) + "\n").encode() + rows.tobytes()


def open_page(url: str, folder: Path, gpu: bool) -> browser.Page:
    """Return the page in a browser of its own.

    Raises:
        SystemExit: there is no Chromium.
    """
    found = browser.programs()
    if found is None:
        raise SystemExit("there is no Chromium with chromedriver (Debian: apt install chromium chromium-driver)")
    page = browser.Page(browser.start(*found, folder, software=not gpu), url, folder)
    page.cdp("Emulation.setDeviceMetricsOverride", width=1440, height=900, deviceScaleFactor=1, mobile=False)
    page.theme("light")
    page.open()
    return page


def processor_s(page: browser.Page) -> float:
    """Return how long the browser's processes have used a processor, in seconds."""
    driver = psutil.Process(page.chrome.service.process.pid)
    times = [one.cpu_times() for one in driver.children(recursive=True)]
    return float(sum(time.user + time.system for time in times))


def turning(points: int, seconds: float, gpu: bool) -> None:
    """Print how a cloud of so many points is handled."""
    with tempfile.TemporaryDirectory() as name, serving(stub_ms=1.0, DEADLINE_S="300") as service:
        folder = Path(name)
        path = folder / "cloud.ply"
        path.write_bytes(cloud(points))
        page = open_page(service.url, folder, gpu)
        try:
            sent = time.perf_counter()
            page["file"].send_keys(str(path))
            page.wait(lambda: page.data("state") == "shown", 300)
            shown = time.perf_counter() - sent
            page.wait(lambda: page.data("picture") == "resting", 300)
            complete = time.perf_counter() - sent
            page.chrome.set_script_timeout(seconds + 60)
            before = processor_s(page)
            times: list[float] = page.chrome.execute_async_script(TURN, seconds)
            used = processor_s(page) - before
            stopped = time.perf_counter()
            budget = int(page.data("budget"))
            page.wait(lambda: page.data("picture") == "resting", 300)
            refined = time.perf_counter() - stopped
            took = np.diff(times)
            # The first second is spent on finding out how much the machine can draw.
            settled = took[np.cumsum(took) > 1000]
            heap = page.js(HEAP) / 1e6
            renderer = page.js(RENDERER)
        finally:
            page.chrome.quit()
    rows: list[list[str]] = [
        ["file chosen until the picture is there", f"{shown:.1f} s"],
        ["... until it has every point", f"{complete:.1f} s"],
        ["frames a second while it turns, median", f"{1000 / np.median(settled):.0f}"],
        ["... the slowest twentieth", f"{1000 / np.percentile(settled, 95):.0f}"],
        ["points drawn in each of those frames", f"{budget:,}"],
        ["processor time of the browser for a frame", f"{1000 * used / len(times):.0f} ms"],
        ["every point drawn, after it stopped", f"{refined:.1f} s"],
        ["memory of the page's JavaScript", f"{heap:.0f} MB"],
    ]
    show(f"The page with {points:,} points, 1032 x 842 pixels\n{renderer}", ["", ""], rows)


def picture(path: Path, gpu: bool) -> None:
    """Write a picture of the page with the sample's result."""
    with tempfile.TemporaryDirectory() as name, serving() as service:
        page = open_page(service.url, Path(name), gpu)
        try:
            for _warm in range(2):
                page["sample"].click() if page["sample"].is_displayed() else page["again"].click()
                page.wait(lambda: page.data("state") == "working")
                page.shown()
            page.js("document.getElementById('panel').scrollTop = 0; document.activeElement.blur()")
            pixels: Any = page.screenshot()
        finally:
            page.chrome.quit()
    Image.fromarray(pixels).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=5_000_000)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--gpu", action="store_true", help="let the browser use the machine's own WebGL")
    parser.add_argument("--picture", type=Path, help="write a picture of the page with the sample instead")
    options = parser.parse_args()
    if options.picture:
        picture(options.picture, options.gpu)
    else:
        turning(options.points, options.seconds, options.gpu)


if __name__ == "__main__":
    main()
