"""Gunicorn's settings. Its processes hold no model and touch no device: the engine does that."""

import os
import shutil
import signal
import threading
import time

import gunicorn.http.wsgi
from prometheus_client import multiprocess

from service.settings import settings

_chosen = settings()
gunicorn.http.wsgi.SERVER = "pointserve"  # what stands in the header Server of every answer

bind = f"{_chosen.address}:{_chosen.port}"
workers = _chosen.web_workers
worker_class = "gthread"
threads = _chosen.web_threads
timeout = 60  # a heartbeat of the worker process, no limit on requests: these have their deadline
graceful_timeout = max(1, int(_chosen.shutdown_grace_s))
keepalive = 5
backlog = 512
control_socket_disable = True  # it would be made in the home folder, which a container may have read-only
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None
accesslog = None  # the application logs each request as JSON
loglevel = "warning"
proc_name = "pointserve-web"


def on_starting(server) -> None:  # type: ignore[no-untyped-def]
    """Begin to count anew: the web's processes share their counts in this folder."""
    shutil.rmtree(_chosen.metrics_dir, ignore_errors=True)
    _chosen.metrics_dir.mkdir(mode=0o700, parents=True, exist_ok=True)


def post_worker_init(worker) -> None:  # type: ignore[no-untyped-def]
    """Set up a web process once its application is loaded."""
    from service.web import sending
    from service.web.threads import bound_headers, time_waits

    sending.install()
    bound_headers(worker)
    time_waits(worker)


def child_exit(server, worker) -> None:  # type: ignore[no-untyped-def]
    """Forget what a web process that ended was doing; what it has done still counts."""
    multiprocess.mark_process_dead(worker.pid)


def when_ready(server) -> None:  # type: ignore[no-untyped-def]
    """End gunicorn when the parent that started it is gone, however that ended."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
