"""A service that is told to end while it starts: it ends in order, as at any other time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.http.conftest import ROOT
from tests.ports import free_port

# The signal comes right after the start of one of the children.
CODE = """
import os, signal, subprocess, sys
import service.serve
from service.settings import settings

class Child(subprocess.Popen):
    started = 0

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        print(self.pid, flush=True)
        Child.started += 1
        if Child.started == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGTERM)

service.serve.subprocess.Popen = Child
sys.exit(service.serve.serve(settings(), "tests.engine.faulty_worker"))
"""


@pytest.mark.parametrize("child", [1, 2])
def test_the_end_comes_while_the_service_starts(tmp_path: Path, child: int) -> None:
    own = {"PORT": str(free_port()), "STATE_DIR": str(tmp_path), "API_KEYS": "none", "DEVICE": "cpu"}
    ran = subprocess.run(
        [sys.executable, "-c", CODE, str(child)],
        cwd=ROOT,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "Traceback" not in ran.stderr
    pids = [int(word) for word in ran.stdout.split()]
    assert len(pids) == 2
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
