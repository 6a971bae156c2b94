"""GET /: the page. Its scripts, its sample and all else come from /static, and none of it needs a key to be loaded."""

from __future__ import annotations

from pathlib import Path

from apiflask import APIBlueprint
from flask import Response, send_file

PAGE = Path(__file__).parent / "pages" / "page.html"
blueprint = APIBlueprint("page", __name__, enable_openapi=False)


@blueprint.get("/")
def page() -> Response:
    """Return the page."""
    return send_file(PAGE, mimetype="text/html")
