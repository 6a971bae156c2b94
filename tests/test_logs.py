"""The log that the service's processes write to one stream together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

WRITER = """
import structlog
from service import logs
logs.configure("writer", "info")
log = structlog.get_logger()
for number in range(3000):
    log.info("written", number=number)
"""


def test_lines_of_processes_that_share_a_stream_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as stream:
        writers = [
            # Unbuffered, as the service runs its processes.
            subprocess.Popen([sys.executable, "-c", WRITER], stderr=stream, env={**os.environ, "PYTHONUNBUFFERED": "1"})
            for _ in range(3)
        ]
        assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted(entry["number"] for entry in entries) == sorted(list(range(3000)) * 3)
