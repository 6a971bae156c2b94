"""HTTP: routes, and the only place that knows of Flask and of statuses."""

from service.web.app import create_app

__all__ = ["create_app"]
