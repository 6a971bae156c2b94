"""What the engine keeps for a connection between its requests, and gives back."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from service.engine import shared
from service.engine.channel import Channel, ChannelClosed
from service.engine.conversation import Conversation
from service.errors import NotReady


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def talk() -> Iterator[Conversation]:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with theirs:
        made = Conversation(Channel(ours))
        yield made
        made.close()


def test_what_is_kept_is_there_until_it_is_forgotten(talk: Conversation) -> None:
    before = open_files()
    for number in range(3):
        descriptor = shared.create()
        os.write(descriptor, b"%d" % number)
        talk.keep("cloud", descriptor, {"points": number})
        os.close(descriptor)
    about, kept = talk.kept("cloud")
    assert about == {"points": 2} and os.pread(kept, 9, 0) == b"2"
    assert open_files() == before + 1
    talk.forget()
    assert open_files() == before
    with pytest.raises(NotReady, match="restarted in the middle"):
        talk.kept("cloud")


def test_some_is_forgotten_and_the_rest_stays(talk: Conversation) -> None:
    descriptor = shared.create()
    talk.keep("file", descriptor)
    talk.keep("cloud", descriptor)
    os.close(descriptor)
    talk.forget("cloud", "labels")
    assert talk.kept("file")[0] == {}
    with pytest.raises(NotReady):
        talk.kept("cloud")


def test_the_end_of_a_connection_gives_everything_back() -> None:
    before = open_files()
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    theirs.close()
    talk = Conversation(Channel(ours))
    descriptor = shared.create()
    talk.keep("file", descriptor)
    with pytest.raises(ChannelClosed):
        talk.answer({}, [descriptor])  # which closes it all the same
    talk.close()
    assert open_files() == before
