"""Ports for services under test."""

from __future__ import annotations

import random
import socket
from pathlib import Path

_CLIENTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FROM = 20_000
"""Below lie ports that are somebody's own, and those that browsers refuse."""


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nothing listens.

    It is none of those that the kernel gives to clients: between this and the service's own bind, any connection that
    any process opens could get such a one. Which of the others is a matter of chance, for other tests look for one too.
    """
    ports = _ports()
    for port in random.SystemRandom().sample(ports, len(ports)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port of 127.0.0.1 is free")


def _ports() -> range:
    """Return the larger of the two ranges beside that of clients; those of clients where nothing is beside it."""
    low, high = map(int, _CLIENTS.read_text().split()) if _CLIENTS.exists() else (49_152, 65_535)
    ports = max(range(_FROM, low), range(high + 1, 65_536), key=len)
    return ports or range(low, high + 1)
