"""Channels carry messages with descriptors, and tell a closed peer from a slow one."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time

import pytest

from service.engine.channel import MAX_MESSAGE_BYTES, Channel, ChannelClosed


@pytest.fixture
def ends():  # type: ignore[no-untyped-def]
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    pair = Channel(left), Channel(right)
    yield pair
    for channel in pair:
        channel.close()


def test_messages_arrive_whole_and_in_order(ends: tuple[Channel, Channel]) -> None:
    left, right = ends
    sent = [{"n": n, "text": "x" * (n * 100_000)} for n in range(5)]
    thread = threading.Thread(target=lambda: [left.send(message) for message in sent])
    thread.start()
    assert [right.receive()[0] for _ in sent] == sent
    thread.join()


def test_descriptors_travel(ends: tuple[Channel, Channel]) -> None:
    left, right = ends
    reader, writer = os.pipe()
    left.send({"op": "take"}, (writer,))
    os.close(writer)
    _message, (received,) = right.receive()
    os.write(received, b"hello")
    os.close(received)
    assert os.read(reader, 10) == b"hello"
    os.close(reader)


def test_a_closed_peer_is_noticed(ends: tuple[Channel, Channel]) -> None:
    left, right = ends
    left.close()
    with pytest.raises(ChannelClosed):
        right.receive()

    def fill() -> None:
        for _ in range(100):
            right.send({"x": "y" * 10_000})

    with pytest.raises(ChannelClosed):
        fill()


def test_a_silent_peer_is_a_timeout(ends: tuple[Channel, Channel]) -> None:
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        ends[1].receive(started + 0.1)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("!II", MAX_MESSAGE_BYTES + 1, 0),
        struct.pack("!II", 4, 1) + b"null",
        struct.pack("!II", 4, 0) + b"null",
        struct.pack("!II", 3, 0) + b"{]}",
    ],
    ids=["too long", "descriptors missing", "no object", "no JSON"],
)
def test_what_is_no_message_closes_the_channel(data: bytes) -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with left, right:
        left.sendall(data)
        with pytest.raises(ChannelClosed):
            Channel(right).receive(time.monotonic() + 5)
