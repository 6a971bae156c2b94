"""What is done with a result: hiding, colouring, downloading, copying; by keyboard and for screen readers."""

from __future__ import annotations

import csv
import itertools
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import laspy
import numpy as np
import plyfile
from PIL import Image
from pypcd4 import PointCloud
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from tests.page.browser import Page, changed, colored, dark

Asked = Callable[[], dict[str, object]]


FOCUSED = "const e = document.activeElement; return e.id || e.dataset.output || e.className || e.tagName"
STATES = {
    "result": "",
    "chosen": "document.querySelector('.box-name')?.click()",
    "problem": "document.getElementById('problem').hidden = false;"
    "document.getElementById('problem-title').textContent = 'A problem'",
    "key": "document.getElementById('key-section').hidden = false",
}
"""What each state of the page adds to the one before."""


def switch_boxes(page: Page) -> None:
    """Press the switch of the boxes, which is there where one was measured."""
    if page["boxes-shown"].is_displayed():
        page["boxes-shown"].click()


def test_what_the_legend_and_the_table_say_is_what_the_service_says(shown: Page, of_service: Asked) -> None:
    answer = of_service()
    rows = {row.find_element(By.CLASS_NAME, "name").text: row for row in shown.all("#classes li")}
    for known in answer["classes"]:  # type: ignore[attr-defined]
        assert rows[known["name"]].find_element(By.CLASS_NAME, "count").text == f"{known['count']:,}"
    assert len(shown.all("#boxes-table tbody tr")) == len(answer["instances"])  # type: ignore[arg-type]


def test_classes_and_boxes_are_hidden_and_shown(shown: Page) -> None:
    all_shown = shown.picture()
    assert dark(all_shown) > 0.1
    table, box = shown.all("#classes input")
    table.click()
    shown.settle()
    without_table = shown.picture()
    assert dark(without_table) < 0.6 * dark(all_shown)
    box.click()
    switch_boxes(shown)
    shown.settle()
    assert dark(shown.picture()) + colored(shown.picture()) < 0.02
    assert not any(tag.is_displayed() for tag in shown.all("#tags .tag"))
    table.click()
    box.click()
    switch_boxes(shown)
    shown.settle()
    assert changed(shown.picture(), all_shown) < 0.002


def test_colours(shown: Page) -> None:
    choice = Select(shown["mode"])
    offered = [option.get_dom_attribute("value") for option in choice.options]
    assert offered == ["class", "object", "height", "intensity", "color", "confidence"]
    pictures = {}
    switch_boxes(shown)
    for mode in offered:
        choice.select_by_value(mode)
        shown.settle()
        pictures[mode] = shown.picture()
        assert shown["ramp"].is_displayed() is (mode in ("height", "intensity", "confidence"))
    # The class and its first object are both orange: there only the others differ.
    for one, other in itertools.combinations(offered, 2):
        assert changed(pictures[one], pictures[other]) > 0.005, (one, other)
    # Every point of the file is (40, 90, 200), which shading makes darker at most; the rest is the page's own.
    painted = pictures["color"][np.ptp(pictures["color"].astype(int), axis=2) > 60].astype(float)
    assert len(painted) > 10_000
    off = np.abs(painted / np.maximum(painted[:, 2:], 1) - np.array([0.2, 0.45, 1])).max(axis=1)
    assert (off < 0.05).mean() > 0.9
    choice.select_by_value("object")
    switch_boxes(shown)


def test_downloads(shown: Page, scan: Path, of_service: Asked) -> None:
    label = np.array(of_service()["labels"])
    source = laspy.read(scan)

    ply = shown.download("ply")
    assert ply.name == "table_labelled.ply"
    vertex = plyfile.PlyData.read(ply)["vertex"]
    assert np.array_equal(vertex["label"], label)
    assert np.abs(vertex["x"] - source.x).max() < 1e-6

    for output in ("las", "laz"):
        las = laspy.read(shown.download(output))
        assert np.array_equal(las.classification, label)
        assert np.abs(las.xyz - source.xyz).max() < 1e-3

    assert np.array_equal(PointCloud.from_path(shown.download("pcd")).pc_data["label"], label)
    with np.load(shown.download("npz")) as arrays:
        assert np.array_equal(arrays["label"], label)

    lines = np.genfromtxt(shown.download("csv"), delimiter=",", names=True)
    assert np.array_equal(lines["label"], label)
    assert np.abs(lines["x"] - source.x).max() < 1e-6
    assert np.array_equal(lines["intensity"], source.intensity)

    with shown.download("boxes.csv").open(encoding="utf-8", newline="") as table:
        boxes = list(csv.DictReader(table))
    assert len(boxes) == len(shown.all("#boxes-table tbody tr"))
    answer = json.loads(shown.download("boxes.json").read_bytes())
    assert [box["reason"] or "" for box in answer["boxes"]] == [box["reason"] for box in boxes]
    with Image.open(shown.download("boxes.png")) as picture:
        assert picture.size == (1200, 800)
    drawn = plyfile.PlyData.read(shown.download("boxes.ply"))["vertex"]
    assert (len(drawn) > len(label)) == any(box["measured"] for box in answer["boxes"])
    assert np.array_equal(drawn["label"][: len(label)], label)


def test_the_command_does_the_same(shown: Page, tmp_path: Path, scan: Path, of_service: Asked) -> None:
    labels, boxes = (node.text for node in shown.all("#command-list code"))
    script = f"cp {scan} .; {labels}; {boxes}"
    done = subprocess.run(["bash", "-ec", script], cwd=tmp_path, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    vertex = plyfile.PlyData.read(tmp_path / "table_labelled.ply")["vertex"]
    assert np.array_equal(vertex["label"], of_service()["labels"])
    assert (tmp_path / "table_boxes.csv").read_text().count("\n") == 1 + len(shown.all("#boxes-table tbody tr"))


def test_the_view_by_keyboard(shown: Page) -> None:
    shown.js("arguments[0].focus()", shown["canvas"])
    ActionChains(shown.chrome).send_keys("0").perform()  # from here on the focus is drawn
    shown.settle()
    pictures = [shown.picture()]
    for keys in (Keys.ARROW_LEFT, Keys.ARROW_UP, "+", Keys.SHIFT + Keys.ARROW_RIGHT):
        ActionChains(shown.chrome).send_keys(keys).perform()
        shown.settle()
        pictures.append(shown.picture())
        assert changed(pictures[-1], pictures[-2]) > 0.01, keys
    ActionChains(shown.chrome).key_up(Keys.SHIFT).send_keys("0").perform()
    shown.settle()
    assert changed(shown.picture(), pictures[0]) < 0.002


def test_everything_is_reached_with_the_tab_key(shown: Page) -> None:
    shown.js("document.querySelector('.skip').focus()")
    reached = []
    while not reached or (reached[-1] != "BODY" and len(reached) < 60):
        reached.append(
            shown.js("const e = document.activeElement; return e.id || e.dataset.output || e.className || e.tagName")
        )
        ActionChains(shown.chrome).send_keys(Keys.TAB).perform()
    wanted = "skip theme canvas mode home choose-other size-unit boxes-scroll box-name ply laz csv model again"
    positions = [reached.index(name) for name in wanted.split()]
    assert positions == sorted(positions)
    shown.js("arguments[0].focus()", shown.all("#classes input")[0])
    before = shown.picture()
    ActionChains(shown.chrome).send_keys(" ").perform()
    shown.settle()
    assert changed(shown.picture(), before) > 0.05


def test_accessibility(shown: Page) -> None:
    """The states of the page, in both themes; the page stays open, so that each is looked at once."""
    found = {}
    for name, change in STATES.items():
        shown.js(change)
        for system in ("dark", "light"):
            shown.theme(system)
            found[f"{name}, {system}"] = shown.offences()
    shown.js("document.querySelector('[aria-pressed=true]')?.click()")
    shown.js("for (const id of ['problem', 'key-section']) document.getElementById(id).hidden = true")
    assert {name: faults for name, faults in found.items() if faults} == {}
