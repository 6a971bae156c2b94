"""What holds for every test, here and in libs/."""

from __future__ import annotations

import os

# Threads that wait for one another sleep: where several processes share the cores, those that spin take the time of
# those that are waited for. Services and commands that tests start have it from here. Before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
