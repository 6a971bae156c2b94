"""Channels carry messages with descriptors, and tell a closed peer from a slow one."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
import tracemalloc

import pytest

from service.engine.channel import AHEAD_BYTES, MAX_MESSAGE_BYTES, Channel, ChannelClosed, ChannelStuck
from service.engine.conversation import Conversation
from service.errors import InternalError, MalformedRequest, from_message, to_message


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


def test_messages_that_come_together_keep_their_own_descriptors(ends: tuple[Channel, Channel]) -> None:
    left, right = ends
    sent = []
    for number in range(6):
        reader, writer = os.pipe()
        left.send({"n": number}, (reader,) if number % 2 else ())
        os.write(writer, str(number).encode())
        sent.append((reader, writer))
    for number in range(6):
        message, received = right.receive(time.monotonic() + 5)
        assert message == {"n": number} and len(received) == number % 2
        for descriptor in received:
            assert os.read(descriptor, 10) == str(number).encode()
            os.close(descriptor)
    for pair in sent:
        for descriptor in pair:
            os.close(descriptor)


def test_a_message_takes_memory_of_its_own_size_only(ends: tuple[Channel, Channel]) -> None:
    # What takes more for a moment, and keeps a little of it, breaks the memory of a process with many channels up.
    left, right = ends
    tracemalloc.start()
    try:
        for number in range(100):
            left.send({"number": number})
            tracemalloc.reset_peak()
            before, _peak = tracemalloc.get_traced_memory()
            assert right.receive() == ({"number": number}, [])
            assert tracemalloc.get_traced_memory()[1] - before < AHEAD_BYTES // 2  # the decoder takes a quarter
    finally:
        tracemalloc.stop()


def test_a_text_that_is_no_unicode_arrives(ends: tuple[Channel, Channel]) -> None:
    left, right = ends
    left.send({"field": "a\udc80", "limit": float("inf")})
    assert right.receive()[0] == {"field": "a\udc80", "limit": float("inf")}


def test_a_wait_that_is_limited_ends_and_may_be_taken_up_again(ends: tuple[Channel, Channel]) -> None:
    left, right = ends
    right.limit_waits(0.05)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        right.receive()
    assert 0.04 < time.monotonic() - started < 5
    whole = json.dumps({"n": 1}).encode()
    packed = struct.pack("!II", len(whole), 0) + whole
    os.write(left.fileno(), packed[:9])
    with pytest.raises(TimeoutError):
        right.receive()
    os.write(left.fileno(), packed[9:])
    left.send({"n": 2})
    assert [right.receive()[0]["n"] for _ in range(2)] == [1, 2]
    left.close()
    with pytest.raises(ChannelClosed):
        right.receive()


def test_a_closed_channel_leaves_no_descriptor_behind() -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    before = len(os.listdir("/proc/self/fd"))
    reader, writer = os.pipe()
    channel = Channel(right)
    socket.send_fds(left, [struct.pack("!II", 100, 1) + b"{"], [reader])  # and no more
    with pytest.raises(TimeoutError):
        channel.receive(time.monotonic() + 0.1)
    for descriptor in (reader, writer):
        os.close(descriptor)
    channel.close()
    left.close()
    assert len(os.listdir("/proc/self/fd")) == before - 2


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


def test_what_is_too_long_is_refused_before_a_byte_of_it_is_sent(ends: tuple[Channel, Channel]) -> None:
    left, right = ends
    left.limit_sends(5)  # a test that fails does not hang
    longest = {"text": "x" * (MAX_MESSAGE_BYTES - len('{"text":""}'))}
    with pytest.raises(InternalError, match=f"{MAX_MESSAGE_BYTES + 1} bytes"):
        left.send({"text": longest["text"] + "x"})
    thread = threading.Thread(target=left.send, args=(longest,))
    thread.start()
    assert right.receive(time.monotonic() + 30)[0] == longest
    thread.join()


def test_a_reply_that_is_too_long_is_an_error_of_its_own(ends: tuple[Channel, Channel]) -> None:
    left, right = ends
    left.limit_sends(5)
    talk = Conversation(left)
    reader, writer = os.pipe()
    talk.answer({"text": "x" * MAX_MESSAGE_BYTES}, [writer])
    message, received = right.receive(time.monotonic() + 5)
    assert isinstance(from_message(message["error"]), InternalError)
    assert received == [] and os.read(reader, 1) == b""  # nobody has the other end any more
    os.close(reader)
    talk.answer({"n": 1}, [])
    assert right.receive(time.monotonic() + 5)[0] == {"n": 1}


def test_a_long_sentence_is_cut_on_its_way() -> None:
    assert to_message(MalformedRequest("ab" * 5_000_000))["detail"] == "ab" * 500


def test_who_takes_nothing_is_stuck(ends: tuple[Channel, Channel]) -> None:
    left, right = ends
    left.limit_sends(0.1)
    started = time.monotonic()
    with pytest.raises(ChannelStuck):
        left.send({"x": "y" * 4_000_000})
    assert 0.05 < time.monotonic() - started < 5
    right.close()
    with pytest.raises(ChannelClosed) as gone:
        left.send({})
    assert gone.type is ChannelClosed
