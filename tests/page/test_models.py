"""Models that give something else than labels and boxes: what the page shows and offers then."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from selenium.webdriver.support.select import Select

from tests.http.clouds import as_npz
from tests.http.conftest import Service
from tests.page.browser import Page


@pytest.fixture(scope="module")
def ball(folder: Path) -> Path:
    """A ball with colours and normals, 3,000 points."""
    normal = np.random.default_rng(0).normal(size=(3000, 3))
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    path = folder / "ball.npz"
    color = (255 * (normal + 1) / 2).astype(np.uint8)
    path.write_bytes(as_npz(normal * 2 + 7, normals=normal.astype(np.float32), colors=color))
    return path


OF_SETS = """
const fetchAsItIs = window.fetch;
window.sets = {ScanNet: ["wall", "floor"], S3DIS: ["ceiling"]};
window.fetch = async (...asked) => {
  const answer = await fetchAsItIs(...asked);
  if (asked[0] !== "/v1/models") return answer;
  const said = await answer.json();
  for (const card of said.models)
    if (card.name !== "sonata") card.about = {...card.about, conditions: window.sets};
  return new Response(JSON.stringify(said));
};"""
"""All models but the encoder are of several data sets, as their cards would say it."""


def told(page: Page, heading: str = "") -> None:
    """Wait for an answer without a picture, and one that begins so: the work before it may be too short to be seen."""
    page.wait(lambda: page["told"].text.startswith(heading))
    page.wait(lambda: page.data("state") == "told" and not page["progress"].is_displayed())


def test_models_stand_under_what_they_give(page: Page) -> None:
    groups = page.all("#model optgroup")
    assert [group.get_dom_attribute("label") for group in groups] == [
        "Labels for points",
        "One class for a cloud",
        "Features of points",
    ]
    assert [option.text for option in Select(page["model"]).options] == ["parcels", "shapes", "sonata"]
    assert "boxes in it are measured" in page["promise"].text
    offered = {}
    for name in ("parcels", "shapes", "sonata"):
        Select(page["model"]).select_by_value(name)
        offered[name] = [id for id in ("scores", "tta", "units") if page[id].is_displayed()]
        note = page["model-note"].text
        assert max(note.count(words) for words in ("PT-v3", "SpUNet-v1m1", "classes")) == 1, note
    assert offered == {"parcels": ["scores", "tta", "units"], "shapes": [], "sonata": []}
    assert page["promise"].text == "Each of its points is given features, for you to take home."


def test_the_data_sets_of_a_model(page: Page) -> None:
    def offered() -> list[str]:
        found: list[str] = page.js("return [...arguments[0].options].map((one) => one.value)", page["condition"])
        return found

    def ask_anew(*sets: str) -> str:
        """Return what is chosen after the page has asked for the models once more."""
        said = json.dumps({name: [] for name in sets})  # as a text: the driver would sort the names
        page.js("window.sets = JSON.parse(arguments[0]); document.getElementById('key-forget').click()", said)
        page.wait(lambda: offered() == ["", *sets])
        return str(page["condition"].get_property("value"))

    with page.beginning(OF_SETS):
        assert page["condition"].is_displayed()
        assert offered() == ["", "ScanNet", "S3DIS"]
        Select(page["condition"]).select_by_value("S3DIS")
        assert "condition=S3DIS" in page.all("#command-list code")[0].text
        Select(page["model"]).select_by_value("shapes")
        assert page["condition"].get_property("value") == "S3DIS"
        assert ask_anew("Structured3D", "S3DIS") == "S3DIS"
        assert ask_anew("ScanNet") == ""
        Select(page["model"]).select_by_value("sonata")
        assert not page["condition"].is_displayed() and offered() == [""]


def test_a_classifier(page: Page, services: tuple[Service, Service], ball: Path, tmp_path: Path) -> None:
    Select(page["model"]).select_by_value("shapes")
    page["file"].send_keys(str(ball))
    told(page)
    answer = services[0].post("/v1/classify?model=shapes&filename=ball.npz", ball.read_bytes()).json()
    assert page["told"].text == f"{answer['name']}\n{100 * answer['score']:.1f} % sure"
    ranked = sorted(answer["classes"], key=lambda one: -one["score"])
    assert [row.text.split("\n")[0] for row in page.all("#ranking li")] == [one["name"] for one in ranked]
    assert not page["canvas"].is_displayed() and not page["legend"].is_displayed()
    assert f"it is {answer['name']}" in page["said"].get_property("textContent")
    assert page.offences() == []
    kept = json.loads(page.download("json").read_bytes())
    assert kept["classes"] == answer["classes"]
    script = f"cp {ball} .; {page.all('#command-list code')[0].text}"
    done = subprocess.run(["bash", "-ec", script], cwd=tmp_path, capture_output=True, timeout=60)
    assert json.loads(done.stdout)["classes"] == answer["classes"]


def test_an_encoder(page: Page, ball: Path) -> None:
    Select(page["model"]).select_by_value("sonata")
    page["file"].send_keys(str(ball))
    told(page)
    assert page["told"].text.startswith("Features of 3,000 points\nThis model gives no labels.")
    assert [button.text for button in page.all("#files button")] == ["NPZ"]
    file = page.download("npz")
    assert file.name == "ball_features.npz"
    with np.load(file) as arrays:
        assert arrays["feature"].shape == (3000, 12 + 24 + 36)
    assert "/v1/embed" in page.all("#command-list code")[0].text


def test_from_one_kind_of_model_to_another(page: Page, ball: Path) -> None:
    page.send(ball)
    assert page["legend"].is_displayed()
    Select(page["model"]).select_by_value("shapes")
    assert page["again"].text == "Classify it again"
    assert "main" in page["again"].get_dom_attribute("class")
    page["again"].click()
    told(page)
    assert not page["toolbar"].is_displayed() and not page["legend"].is_displayed()
    assert not any(tag.is_displayed() for tag in page.all("#tags .tag"))
    assert page["again"].text == "Classify it again"
    assert "plain" in page["again"].get_dom_attribute("class")
    Select(page["model"]).select_by_value("parcels")
    page["again"].click()
    page.wait(lambda: page.data("state") == "shown")
    page.settle()
    assert page["legend"].is_displayed() and not page["told"].is_displayed() and not page["class"].is_displayed()


def test_each_warning_is_a_sentence_of_its_own(page: Page, services: tuple[Service, Service], ball: Path) -> None:
    """Of an answer that is a file too, whose warnings stand in its headers."""
    with np.load(ball) as arrays:
        coord, color, normal = (arrays[name] for name in ("coord", "colors", "normals"))
    coord[:10] = np.nan
    path = ball.with_name("columns.txt")
    np.savetxt(path, np.c_[coord, color, normal])
    answer = services[0].post("/v1/classify?model=shapes&filename=columns.txt", path.read_bytes()).json()
    said = answer["warnings"]
    assert len(said) > 1 and any(", " in sentence for sentence in said)
    for model, heading in (("shapes", answer["name"]), ("sonata", "Features of ")):
        Select(page["model"]).select_by_value(model)
        page["file"].send_keys(str(path))
        told(page, heading)
        assert [row.text for row in page.all("#warnings li")] == said
