"""A process that the engine starts, talks to over a channel, and may kill at any time."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys

from service.engine.channel import Channel, Message
from service.errors import NotReady
from service.settings import Settings, environment

SEND_S = 3.0
"""A child that takes nothing for so long, its socket full, is stuck: a lock may be held while it is sent something."""


class Child:
    """A Python module that runs in a process of its own, with a channel to it as its descriptor `sys.argv[1]`.

    It is executed anew, not forked, so it shares no lock, thread or CUDA context with the engine.

    Args:
        module: name of the module to run.
        settings: what the process will find in its environment.

    Raises:
        NotReady: the system has no process, memory or descriptor left for it now.
    """

    def __init__(self, module: str, settings: Settings) -> None:
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as error:
            raise _not_started(module, error) from error
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", module, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    env=environment(settings),
                )
            except OSError as error:
                ours.close()
                raise _not_started(module, error) from error
        self.channel = Channel(ours)
        self.channel.limit_sends(SEND_S)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def alive(self) -> bool:
        """Return whether the process still runs."""
        return self._process.poll() is None

    def ask(self, message: Message, descriptors: tuple[int, ...], deadline: float) -> tuple[Message, list[int]]:
        """Send a message and return the reply with its descriptors, which the caller must close.

        Raises:
            TimeoutError: no reply by the deadline (`time.monotonic()`); the child is still at it and must be killed.
            ChannelClosed: the child died.
        """
        self.channel.send(message, descriptors)
        return self.channel.receive(deadline)

    def shoot(self) -> None:
        """Send the process SIGKILL and leave the rest to whoever waits for its words; safe from any thread."""
        self._process.kill()

    def kill(self) -> str:
        """End the process at once and return in words how it ended ("killed by SIGABRT")."""
        self.channel.close()
        try:
            # A child that died by itself closes its socket a moment before it can be reaped.
            self._process.wait(0.2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        return describe_exit(self._process.returncode)


def _not_started(module: str, error: OSError) -> NotReady:
    return NotReady(f"the process {module} cannot be started: {error}", retry_after_s=5)


def describe_exit(code: int) -> str:
    """Return in words what a process's exit status means."""
    if code >= 0:
        return f"exited with status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def inherited_channel() -> Channel:
    """Return, in a child, the channel to its parent."""
    return Channel(socket.socket(fileno=int(sys.argv[1])))
