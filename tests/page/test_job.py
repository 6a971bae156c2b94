"""From a file to its picture and its table: files that are chosen, dropped, stopped, replaced."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from selenium.webdriver.support.select import Select

from tests.http.clouds import as_ply, parcel_scene
from tests.http.conftest import ROOT, Service
from tests.page.browser import Page, changed, colored

SAMPLE, SAMPLE_POINTS = ROOT / "samples" / "parcels.ply", 192_634

LISTEN = """
window.said = [];
const node = document.getElementById("progress");
const note = () => said.push(document.getElementById("progress-text").textContent);
new MutationObserver(note).observe(node, {subtree: true, childList: true, characterData: true});
"""

UNKNOWN = """
const fetchAsItIs = window.fetch;
window.times = 0;
window.fetch = async (...asked) => {
  const answer = await fetchAsItIs(...asked);
  if (asked[0] !== "/v1/models") return answer;
  if (++window.times > 1 && REFUSED) {
    return new Response('{"title": "Too many requests", "detail": "Wait a little."}', {status: 429});
  }
  const said = await answer.json();
  for (const card of said.models) Object.assign(card, {objects: false, state: "waiting"});
  return new Response(JSON.stringify(said));
};"""
"""Nobody knows of the models whether they tell objects apart."""


def test_the_sample(page: Page, services: tuple[Service, Service]) -> None:
    page.js(LISTEN)
    before = page.picture()
    page["sample"].click()
    page.shown()
    assert page["scan-name"].text == "parcels.ply"
    assert f"{SAMPLE_POINTS:,} points" in page["scan-facts"].text
    heard = " / ".join(page.js("return said"))
    assert "Sending parcels.ply" in heard
    assert "Labelling parcels.ply and measuring its boxes" in heard
    assert [url for url in page.requests() if "/v1/segment" in url] == []
    assert not page["progress"].is_displayed()
    picture = page.picture()
    assert changed(picture, before) > 0.15
    assert colored(picture) > 0.05

    answer = services[0].post("/v1/measure", SAMPLE.read_bytes()).json()
    measured = [box for box in answer["boxes"] if box["measured"]]
    rows = page.all("#boxes-table tbody tr")
    assert len(rows) == len(answer["boxes"])
    assert len(measured) >= 4
    sides = ("length_m", "width_m", "height_m")
    for unit, factor in (("cm", 100), ("mm", 1000)):
        Select(page["size-unit"]).select_by_value(unit)
        for box in measured:
            cells = page.all(f"#boxes-table tr[data-box='{box['id']}'] td")
            shown = [float(cell.text.split("\n")[0]) for cell in cells[:3]]
            assert shown == pytest.approx([factor * box[side] for side in sides], abs=0.51 if unit == "mm" else 0.051)
            doubts = [float(cell.text.split("± ")[1]) for cell in cells[:3]]
            wanted = [factor * box["uncertainty"][side] for side in sides]
            assert doubts == pytest.approx(wanted, abs=0.51 if unit == "mm" else 0.051)
    tags = [tag.get_property("textContent") for tag in page.all("#tags .tag:not(.side)")]
    assert len(tags) == len(measured)
    assert all(tag.endswith("mm") for tag in tags)
    # Boxes have the numbers that they have in files and drawings.
    numbers = [button.text.split()[-1] for button in page.all("#boxes-table .box-name")]
    assert numbers == [str(box["id"]) for box in answer["boxes"]]

    page.all(f"#boxes-table tr[data-box='{measured[1]['id']}'] button")[0].click()
    page.settle()
    assert changed(page.picture(), picture) > 0.2
    lengths = [tag.text for tag in page.all("#tags .side") if tag.is_displayed()]
    assert lengths == [f"{1000 * measured[1][side]:.0f} mm" for side in sides]


def test_a_box_that_is_not_measured_says_why(page: Page) -> None:
    box = {"id": 0, "class": 1, "score": 0.5, "points": 12, "measured": False, "reason": "only one face is seen"}
    page.js(
        "return import('/static/page/table.js').then(({Table}) => new Table(() => {}).set([arguments[0]], 'cm'))"
        ".catch(String)",
        box,
    )
    assert page.all("#boxes-table tbody tr")[0].get_property("textContent") == "Box 0only one face is seen"
    assert page["boxes-note"].text.startswith("1 of them could not be measured")


def test_a_file_that_is_dropped(page: Page, scan: Path) -> None:
    """With what the browser itself does for a drop from outside, not with events that a script makes."""
    data = {"items": [], "files": [str(scan)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver"):
        page.cdp("Input.dispatchDragEvent", type=kind, x=400, y=400, data=data)
    page.wait(lambda: page["drop-hint"].is_displayed())
    page.cdp("Input.dispatchDragEvent", type="drop", x=400, y=400, data=data)
    page.shown()
    assert not page["drop-hint"].is_displayed()
    assert page["scan-name"].text == scan.name
    assert page["canvas"].get_dom_attribute("aria-label").startswith("table.las: 20,000 points")


def drop(page: Page, *paths: Path) -> None:
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        page.cdp("Input.dispatchDragEvent", type=kind, x=400, y=400, data=data)


def test_of_several_files_the_first_is_taken(page: Page, scan: Path, folder: Path) -> None:
    (folder / "second.ply").write_bytes(as_ply(parcel_scene(2000)))
    drop(page, scan, folder / "second.ply")
    page.shown()
    assert page["scan-name"].text == scan.name
    assert page["warnings"].text == "2 files came; the page takes one at a time, and this is the first."


def test_a_folder_is_refused(page: Page, folder: Path) -> None:
    (folder / "scans").mkdir()
    drop(page, folder / "scans")
    page.wait(lambda: page["problem"].is_displayed())
    assert page["problem-title"].text == "That is a folder"
    assert page.data("state") == "empty"


@pytest.mark.parametrize("refused", [False, True])
def test_a_model_of_which_it_is_not_known_yet_whether_it_tells_objects_apart(
    page: Page, scan: Path, refused: bool
) -> None:
    """As one that is loaded on its first use: the boxes are measured when the labels show that there are objects.

    `refused`: the page may not ask for the models once more, as a key's limit may have it.
    """
    with page.beginning(UNKNOWN.replace("REFUSED", str(refused).lower())):
        assert page["units-field"].is_displayed()
        page.requests()
        page.send(scan)
        assert page.js("return window.times") == 2
    assert [url.split("/v1/")[1].split("?")[0] for url in page.requests() if "?filename" in url] == [
        "segment",
        "measure",
    ]
    rows = len(page.all("#boxes-table tbody tr"))
    assert rows >= 1
    assert not page["problem"].is_displayed()
    file = page.download("boxes.csv")
    assert file.name == "table_boxes.csv"
    with file.open(encoding="utf-8", newline="") as table:
        assert [row["id"] for row in csv.DictReader(table)] == [str(number) for number in range(rows)]
    file.unlink()  # the browser overwrites what is there, which the next test would not see as a new file


def test_a_browser_without_webgl(page: Page, scan: Path) -> None:
    script = "HTMLCanvasElement.prototype.getContext = (get => function (kind, ...more) {"
    script += (
        "return kind === 'webgl2' ? null : get.call(this, kind, ...more)})(HTMLCanvasElement.prototype.getContext)"
    )
    with page.beginning(script):
        assert page["empty"].is_displayed() and not page["no-picture"].is_displayed()
        page["file"].send_keys(str(scan))
        page.wait(lambda: page.data("state") == "shown")
    assert page["no-picture"].text.startswith("No picture: this browser has no WebGL 2.")
    assert not page["toolbar"].is_displayed()
    assert len(page.all("#boxes-table tbody tr")) >= 1
    assert page.offences() == []
    file = page.download("ply")
    assert file.name == "table_labelled.ply"
    file.unlink()  # the browser overwrites what is there, which the next test would not see as a new file


def test_names_of_files_are_quoted_for_the_shell(page: Page, folder: Path) -> None:
    path = folder / 'it\'s a "scan" $(x).ply'
    path.write_bytes(as_ply(parcel_scene(2000)))
    page.send(path)
    command = page.all("#command-list code")[0].text
    assert "'file=@it'\\''s a \"scan\" $(x).ply'" in command


def test_a_second_file_takes_the_place_of_the_first(page: Page, scan: Path, folder: Path) -> None:
    page.send(scan)
    path = folder / "bare.ply"
    coord = parcel_scene(3000)
    coord[:10] = np.nan
    path.write_bytes(as_ply(coord[:3000]))
    page["file"].send_keys(str(path))
    page.wait(lambda: page["scan-name"].text == "bare.ply")
    page.shown()
    assert "10 of 3000 points have a NaN" in page["warnings"].text
    assert [option.text for option in Select(page["mode"]).options][-1] == "height"
    assert any("without a label" in row.text for row in page.all("#classes li"))


def test_work_is_stopped(page: Page) -> None:
    page["sample"].click()
    page.wait(lambda: page["progress"].is_displayed())
    page["cancel"].click()
    page.wait(lambda: not page["progress"].is_displayed())
    assert page.data("state") == "empty"
    assert page["empty"].is_displayed()
    assert not page["problem"].is_displayed()
