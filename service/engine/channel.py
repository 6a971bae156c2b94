"""Messages between processes: JSON with file descriptors beside it, over a Unix stream socket. Never a pickle."""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import time
from typing import Any

import orjson

from service.errors import InternalError

MAX_MESSAGE_BYTES = 16 << 20
MAX_DESCRIPTORS = 4
AHEAD_BYTES = 1 << 14
_HEADER = struct.Struct("!II")  # length of the JSON text, number of descriptors
_DESCRIPTOR = struct.Struct("@i")
# More room than there are descriptors in a message: one too many is noticed, not lost.
_BESIDE_BYTES = socket.CMSG_LEN((MAX_DESCRIPTORS + 1) * _DESCRIPTOR.size)
_TIMEVAL = struct.Struct("@ll")  # seconds and microseconds, as the C library's struct timeval has them

Message = dict[str, Any]


class ChannelClosed(ConnectionError):
    """The process at the other end is gone, or sent what is no message."""


class ChannelStuck(ChannelClosed):
    """The process at the other end takes no messages. It may have got a part of the last one: nothing can follow."""


class Channel:
    """One end of a connection. One thread receives from it at a time, and one sends.

    Args:
        sock: a connected Unix stream socket; the channel owns it from now on.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        # One buffer for all that comes: with a new one for each message, of which little is kept, the memory of a
        # process with many channels ends up in pieces.
        self._room = memoryview(bytearray(AHEAD_BYTES))
        self._ahead = bytearray()  # what came with the last message and is of the next
        self._descriptors: list[int] = []
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def send(self, message: Message, descriptors: tuple[int, ...] = ()) -> None:
        """Send one message; the caller keeps its descriptors.

        Raises:
            InternalError: the message is longer than the other end would take; nothing of it was sent.
            ChannelStuck: the other end does not read, for as long as `limit_sends` says.
            ChannelClosed: nobody reads at the other end.
        """
        payload = _encode(message)
        if len(payload) > MAX_MESSAGE_BYTES:
            raise InternalError(
                f"a message between processes has {len(payload)} bytes; the most is {MAX_MESSAGE_BYTES}"
            )
        whole = _HEADER.pack(len(payload), len(descriptors)) + payload
        try:
            sent = socket.send_fds(self._socket, [whole], descriptors) if descriptors else 0
            if sent < len(whole):
                self._socket.sendall(memoryview(whole)[sent:])
        except BlockingIOError as error:
            raise ChannelStuck("the other end takes no messages") from error
        except OSError as error:
            raise ChannelClosed(f"the other end is gone: {error}") from error

    def limit_sends(self, seconds: float) -> None:
        """Have `send` raise ChannelStuck when the other end has taken nothing for so long."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(seconds))

    def limit_waits(self, seconds: float) -> None:
        """Have `receive` without a deadline raise TimeoutError when nothing came for so long; it may be called again.

        The kernel waits so long in the call that receives: with a deadline each message takes one call more.
        """
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(seconds))

    def receive(self, deadline: float | None = None) -> tuple[Message, list[int]]:
        """Return the next message and its descriptors, which the caller must close.

        Args:
            deadline: `time.monotonic()` after which to give up; None waits for ever, or as `limit_waits` says.

        Raises:
            TimeoutError: nothing came by the deadline.
            ChannelClosed: the other end is gone.
        """
        try:
            length, count = _HEADER.unpack(self._take(_HEADER.size, deadline))
            if length > MAX_MESSAGE_BYTES or count > MAX_DESCRIPTORS:
                raise ChannelClosed("what came is no message")
            try:
                message = _decode(self._take(_HEADER.size + length, deadline)[_HEADER.size :])
            except ValueError as error:
                raise ChannelClosed("what came is no message") from error
            # They come with their message's first byte, at the latest, so those of the next may be here; but no others.
            too_many = len(self._ahead) == _HEADER.size + length and len(self._descriptors) > count
            if not isinstance(message, dict) or len(self._descriptors) < count or too_many:
                raise ChannelClosed("what came is no message")
        except ChannelClosed:
            self._drop()
            raise
        del self._ahead[: _HEADER.size + length]
        descriptors = self._descriptors[:count]
        del self._descriptors[:count]
        return message, descriptors

    def _take(self, size: int, deadline: float | None) -> bytes:
        """Return the first bytes of what has come, once they are there; they stay where they are."""
        while len(self._ahead) < size:
            if deadline is not None and not self._poll.poll(_milliseconds(deadline - time.monotonic())):
                raise TimeoutError
            try:
                came, beside, _flags, _address = self._socket.recvmsg_into([self._room], _BESIDE_BYTES)
            except BlockingIOError:
                if deadline is None:
                    raise TimeoutError from None
                continue
            except OSError as error:
                raise ChannelClosed(f"the other end is gone: {error}") from error
            self._descriptors += _descriptors_in(beside)
            if not came:
                raise ChannelClosed("the other end is gone")
            self._ahead += self._room[:came]
        return bytes(self._ahead[:size])

    def _drop(self) -> None:
        descriptors, self._descriptors = self._descriptors, []
        close_all(descriptors)

    def is_closed(self) -> bool:
        """Return whether the other end is gone, without waiting and without taking what it may have sent."""
        return has_hung_up(self._socket)

    def close(self) -> None:
        """Close the connection; the other end sees ChannelClosed."""
        self._drop()
        self._socket.close()


def _descriptors_in(beside: list[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors in what came beside the bytes."""
    found: list[int] = []
    for level, kind, data in beside:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            whole = data[: len(data) - len(data) % _DESCRIPTOR.size]
            found += [descriptor for (descriptor,) in _DESCRIPTOR.iter_unpack(whole)]
    return found


def _timeval(seconds: float) -> bytes:
    whole = int(seconds)
    return _TIMEVAL.pack(whole, int((seconds - whole) * 1e6))


def _milliseconds(seconds: float) -> float:
    return max(0.0, seconds) * 1e3


def _encode(message: Message) -> bytes:
    try:
        return orjson.dumps(message)
    except TypeError:
        # A text from a file may hold half a surrogate pair, which only the standard library writes.
        return json.dumps(message).encode()


def _decode(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)


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
