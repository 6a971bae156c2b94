"""The documents say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from service.settings import Settings
from service.web.problems import STATUS
from service.web.schemas import SegmentQuery

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_every_setting_is_documented_with_its_default() -> None:
    text = (DOCS / "settings.md").read_text()
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| ([^|]*) \|", text, re.MULTILINE))
    assert rows.keys() == {name.upper() for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        if field.default_factory is None:
            assert rows[name.upper()] == str(field.default), name


def test_every_option_and_problem_is_documented() -> None:
    text = (DOCS / "api.md").read_text()
    for option in SegmentQuery.model_fields:
        assert f"`{option}`" in text, option
    for error, status in STATUS.items():
        if error.code != "cancelled":
            assert re.search(rf"^\| {status} \|.*`{error.code}`", text, re.MULTILINE), error.code
