"""What the gateway answers over HTTP, and to whom: nobody has asked yet, and perhaps nobody ever will."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

_TEXT: Final = "text/plain; charset=utf-8"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What one request gets."""

    body: bytes
    content_type: str = _TEXT
    status: int = 200
    allow: str = ""  # methods, with a 405


Answers = Mapping[str, Callable[[], Answer]]
"""Path -> what makes the answer, called in the request's own thread; may raise: a 500 and a line in the log."""


def serve(listener: socket.socket, answers: Answers) -> None:
    """Answer whoever connects, until the process ends.

    The server is loaded when the first connection is there, which waits in the kernel for that moment: with all that it
    brings along it would make a gateway that nobody asks larger by a third.
    """
    poller = select.poll()  # not select(2), which knows descriptors below 1024 only
    poller.register(listener, select.POLLIN)
    poller.poll()
    from shiftboss.actors.webserver import WebServer

    WebServer(listener, answers).serve()
