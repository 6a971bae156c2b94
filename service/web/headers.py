"""What every answer tells browsers: run nothing of others, show this in no frame, guess no types."""

from __future__ import annotations

from flask import Response

_PAGES = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self'; connect-src 'self'; worker-src 'self' blob:; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_DATA = "default-src 'none'; frame-ancestors 'none'"
_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def secure(response: Response) -> Response:
    """Add the headers; what a route has set itself stays. No header allows other origins (CORS): a proxy may."""
    own = {name.lower() for name, _value in response.headers}
    wanted = {**_ALWAYS, "Content-Security-Policy": _PAGES if response.mimetype == "text/html" else _DATA}
    if response.mimetype in ("application/json", "application/problem+json"):
        wanted["Cache-Control"] = "no-store"
    for name, value in wanted.items():
        if name.lower() not in own:
            response.headers.add(name, value)
    return response
