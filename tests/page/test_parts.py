"""The table of boxes on the page: what is said of a box not all of whose edges are known."""

from __future__ import annotations

from tests.page.conftest import Page

BOX = {
    "id": 0, "class": 1, "score": 0.9, "points": 900, "measured": False, "reason": "something hides it",
    "length_m": None, "width_m": 0.204, "height_m": 0.12, "volume_m3": None,
    "uncertainty": {"length_m": None, "width_m": 0.003, "height_m": 0.002, "volume_m3": None},
    "at_least": {"length_m": 0.3121, "width_m": None, "height_m": None, "volume_m3": 0.0074},
}  # fmt: skip


def test_a_box_that_is_known_in_part(page: Page) -> None:
    page.js(
        "return import('/static/page/table.js').then(({Table}) => new Table(() => {}).set([arguments[0]], 'mm'))"
        ".catch(String)",
        BOX,
    )
    row = page.all("#boxes-table tbody tr")[0].get_property("textContent")
    assert row.endswith("\u2265 312 \u00d7 204 \u00b1 3 \u00d7 120 \u00b1 2 mmsomething hides it")
    assert page["boxes-note"].text.startswith("1 of them could not be measured in full")
