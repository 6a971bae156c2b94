"""The WSGI application for gunicorn: `gunicorn -c service/web/gunicorn_conf.py service.wsgi:app`."""

from service.logs import configure
from service.settings import settings
from service.web import create_app

configure("web", settings().log_level)
app = create_app(settings())
