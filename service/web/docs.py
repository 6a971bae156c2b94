"""GET /docs: the API's page. All of it comes from this service, and no script stands in the page itself."""

from __future__ import annotations

from pathlib import Path

from apiflask import APIBlueprint
from flask import Response, send_file

PAGE = Path(__file__).parent / "pages" / "docs.html"
blueprint = APIBlueprint("docs", __name__, enable_openapi=False)


@blueprint.get("/docs")
def docs() -> Response:
    """Return the page."""
    return send_file(PAGE, mimetype="text/html")
