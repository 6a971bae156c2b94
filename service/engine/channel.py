"""Messages between processes: JSON with file descriptors beside it, over a Unix stream socket. Never a pickle."""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import time
from typing import Any

MAX_MESSAGE_BYTES = 16 << 20
MAX_DESCRIPTORS = 4
_HEADER = struct.Struct("!II")  # length of the JSON text, number of descriptors

Message = dict[str, Any]


class ChannelClosed(ConnectionError):
    """The process at the other end is gone, or sent what is no message."""


class Channel:
    """One end of a connection. One thread uses it at a time.

    Args:
        sock: a connected Unix stream socket; the channel owns it from now on.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def send(self, message: Message, descriptors: tuple[int, ...] = ()) -> None:
        """Send one message; the caller keeps its descriptors.

        Raises:
            ChannelClosed: nobody reads at the other end.
        """
        payload = json.dumps(message).encode()
        header = _HEADER.pack(len(payload), len(descriptors))
        try:
            self._socket.settimeout(None)
            socket.send_fds(self._socket, [header], descriptors) if descriptors else self._socket.sendall(header)
            self._socket.sendall(payload)
        except OSError as error:
            raise ChannelClosed(f"the other end is gone: {error}") from error

    def receive(self, deadline: float | None = None) -> tuple[Message, list[int]]:
        """Return the next message and its descriptors, which the caller must close.

        Args:
            deadline: `time.monotonic()` after which to give up; None waits for ever.

        Raises:
            TimeoutError: nothing came by the deadline.
            ChannelClosed: the other end is gone.
        """
        descriptors: list[int] = []
        try:
            header = self._receive_header(descriptors, deadline)
            length, count = _HEADER.unpack(header)
            if length > MAX_MESSAGE_BYTES or count != len(descriptors):
                raise ChannelClosed("what came is no message")
            message = json.loads(self._receive_exactly(length, deadline))
            if not isinstance(message, dict):
                raise ChannelClosed("what came is no message")
            return message, descriptors
        except (TimeoutError, ChannelClosed):
            close_all(descriptors)
            raise
        except (OSError, ValueError) as error:
            close_all(descriptors)
            raise ChannelClosed(f"the other end is gone: {error}") from error

    def _receive_header(self, descriptors: list[int], deadline: float | None) -> bytes:
        self._set_timeout(deadline)
        data, received, _flags, _address = socket.recv_fds(self._socket, _HEADER.size, MAX_DESCRIPTORS)
        descriptors.extend(received)
        if not data:
            raise ChannelClosed("the other end is gone")
        return data + self._receive_exactly(_HEADER.size - len(data), deadline)

    def _receive_exactly(self, length: int, deadline: float | None) -> bytes:
        buffer = bytearray(length)
        rest = memoryview(buffer)
        while rest:
            self._set_timeout(deadline)
            count = self._socket.recv_into(rest)
            if not count:
                raise ChannelClosed("the other end is gone")
            rest = rest[count:]
        return bytes(buffer)

    def _set_timeout(self, deadline: float | None) -> None:
        if deadline is None:
            self._socket.settimeout(None)
            return
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)

    def is_closed(self) -> bool:
        """Return whether the other end is gone, without waiting and without taking what it may have sent."""
        return has_hung_up(self._socket)

    def wait(self, timeout_s: float) -> bool:
        """Return whether something can be received, or the other end is gone, within so many seconds."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(max(0.0, timeout_s) * 1e3))

    def close(self) -> None:
        """Close the connection; the other end sees ChannelClosed."""
        self._socket.close()


def has_hung_up(sock: socket.socket) -> bool:
    """Return whether the other end of a connection closed it; bytes that wait to be read stay where they are."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    if not poll.poll(0):
        return False
    try:
        return not sock.recv(1, socket.MSG_PEEK)
    except (BlockingIOError, InterruptedError, TimeoutError):
        return False
    except OSError:
        return True


def close_all(descriptors: list[int] | tuple[int, ...]) -> None:
    """Close every descriptor."""
    for descriptor in descriptors:
        os.close(descriptor)
