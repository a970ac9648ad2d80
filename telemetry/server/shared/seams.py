"""The seams between handlers and what several servers would share: the bus of changes, and the tokens.

Here they are kept in this process and by one file: `LocalBus` (bus.py) and `TokenRegistry` (server/tokens.py).
Those below the store are in telemetry/server/store/seams.py. tests/server/contracts holds each to what is said here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from telemetry.server.store import TaskChange
from telemetry.server.tokens import Token

__all__ = ["Bus", "Tokens"]


class Bus(Protocol):
    """Who is told what was committed, by whichever server. Lives on the event loop; nothing of it waits.

    Promises: what is published reaches every subscriber of every server, once its commit is in every snapshot that is
    opened from then on, the changes of one task in the order in which one server published them. A change is a hint
    (which task, and from which position and line on to read), and the store has the truth: changes of a task may be
    merged (`TaskChange.merged`), and one that is told twice does no harm.
    """

    def publish(self, changes: Mapping[str, TaskChange]) -> None:
        """Tell what a committed group changed, by task id. No subscriber's failure is the publisher's."""

    def subscribe(self, listen: Callable[[Mapping[str, TaskChange]], None]) -> None:
        """Have `listen` called with all that is published from now on, for as long as the bus lives.

        It is called on the event loop, must not block, and must not change what it is given.
        """


class Tokens(Protocol):
    """Who is let in. Lives on the event loop: a request asks it, so `find` and `is_valid` answer from memory.

    Promises: a token that was made is found at once, one that was revoked is refused within two seconds, on every
    server; and what cannot be read lets nobody in.
    """

    @property
    def required(self) -> bool:
        """True once a token was ever made: from then on nobody is let in without one."""

    def refresh(self) -> None:
        """Learn what has changed; called every second, so it costs next to nothing where nothing has."""

    def find(self, given: str) -> Token | None:
        """Return the valid token that `given` is, or None. Takes as long for a wrong secret as for the right one."""

    def is_valid(self, token_id: str) -> bool:
        """Say whether a token that was let in before still may."""
