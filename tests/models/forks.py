"""Checkpoints read by forks of one process that has torch already, for tests that are of other things.

The service starts a fresh process for each checkpoint, which imports torch for two seconds. A fork runs the same
function under the same limits; what the fresh process does is for test_checkpoint.py, and for those over HTTP.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import Any


class Forks:
    """The process that forks, as a stand-in for the module `subprocess` where checkpoints are read."""

    TimeoutExpired = subprocess.TimeoutExpired
    DEVNULL = subprocess.DEVNULL

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.models.forks"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, command: list[str], **_options: Any) -> subprocess.CompletedProcess[bytes]:
        """Do what subprocess.run does with `python -m service.models.checkpoint_process PATH DESCRIPTOR SECONDS`."""
        assert self._process.stdin is not None and self._process.stdout is not None
        assert command[1:3] == ["-m", "service.models.checkpoint_process"]
        path, descriptor, seconds = command[3:]
        with tempfile.NamedTemporaryFile() as said:
            task = (path, f"/proc/{os.getpid()}/fd/{descriptor}", int(seconds), said.name)
            print(json.dumps(task), file=self._process.stdin, flush=True)
            status = int(self._process.stdout.readline())
            return subprocess.CompletedProcess(command, status, said.read(), b"")

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def _fork(path: str, result: str, seconds: int, said: str) -> int:
    """Read one checkpoint in a fork and return its exit status, as subprocess has it."""
    from service.models import checkpoint_process

    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.dup2(os.open(said, os.O_WRONLY), 1)
            status = checkpoint_process.main(path, os.open(result, os.O_WRONLY), seconds)
            sys.stdout.flush()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _serve() -> None:
    import service.models.checkpoint_process  # noqa: F401  (before the first fork)

    for line in sys.stdin:
        print(_fork(*json.loads(line)), flush=True)


if __name__ == "__main__":
    _serve()
