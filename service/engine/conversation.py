"""A connection to the engine, and what the engine keeps for it between its requests."""

from __future__ import annotations

import os
from collections.abc import Sequence

from service.engine.channel import Channel, Message, close_all
from service.errors import InternalError, NotReady, to_message


class Conversation:
    """The engine's end of one connection. One thread uses it.

    A file, the cloud that was read from it and its labels stay here, so that the web need not hold them too: a cloud
    may be several times as large as its file.

    Args:
        channel: to the web; the conversation owns it from now on.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._kept: dict[str, tuple[Message, int]] = {}

    def keep(self, name: str, descriptor: int, about: Message | None = None) -> None:
        """Keep a descriptor, which stays the caller's too, with what is to be said of it; the last one goes."""
        self.forget(name)
        self._kept[name] = about or {}, os.dup(descriptor)

    def kept(self, name: str) -> tuple[Message, int]:
        """Return what was kept; the descriptor is only lent.

        Raises:
            NotReady: nothing was: the engine that kept it is gone.
        """
        if name not in self._kept:
            raise NotReady("the engine was restarted in the middle of this request", retry_after_s=1)
        return self._kept[name]

    def forget(self, *names: str) -> None:
        """Give back what is kept under these names, or everything."""
        for name in names or tuple(self._kept):
            _about, descriptor = self._kept.pop(name, ({}, -1))
            if descriptor >= 0:
                os.close(descriptor)

    def answer(self, reply: Message, descriptors: Sequence[int]) -> None:
        """Send a reply, or that it is too long to be sent, and close its descriptors.

        Raises:
            ChannelClosed: nobody reads it.
        """
        try:
            self.channel.send(reply, tuple(descriptors))
        except InternalError as error:
            self.channel.send({"error": to_message(error)})
        finally:
            close_all(tuple(descriptors))

    def close(self) -> None:
        """End the connection."""
        self.forget()
        self.channel.close()
