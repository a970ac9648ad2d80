"""The four counts. At any instant, for each sink: logged = delivered + on_disk + in_memory + dropped(reason).

An event is counted once when it is logged and then moves between the counts, under one lock; a snapshot
takes the same lock, so it adds up from any thread.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

__all__ = ["Account", "Book", "DropReason", "Ledger"]


class DropReason(StrEnum):
    """Why an event was not kept. Each is a key of `Ledger.dropped`."""

    QUEUE_FULL = "queue_full"  # the queue's bound was reached and its policy said drop
    CLOSED = "closed"  # reported after close()
    INVALID = "invalid"  # a value, name or iteration of a wrong type
    TOO_LARGE = "too_large"  # one event over the frame's limit
    SINK_STALLED = "sink_stalled"  # a sink without a journal stopped taking frames
    REJECTED = "rejected"  # the far side refused the frame; it lies in quarantine
    JOURNAL_LOST = "journal_lost"  # it was on disk, and somebody took the file or folder away
    SERVER_LOST = "server_lost"  # it was delivered, and the server has it no more; nor have we
    NOT_DELIVERED = "not_delivered"  # close ran out of time and there was no journal to leave them in


@dataclass(frozen=True, slots=True)
class Ledger:
    """A snapshot of one sink's counts, in events."""

    logged: int
    delivered: int
    on_disk: int
    in_memory: int
    dropped: Mapping[str, int] = field(default_factory=dict)

    @property
    def dropped_total(self) -> int:
        return sum(self.dropped.values())

    @property
    def balanced(self) -> bool:
        """True if the counts add up; anything else is a defect of ours."""
        return self.logged == self.delivered + self.on_disk + self.in_memory + self.dropped_total

    def as_dict(self) -> dict[str, object]:
        return {
            "logged": self.logged,
            "delivered": self.delivered,
            "on_disk": self.on_disk,
            "in_memory": self.in_memory,
            "dropped": dict(self.dropped),
        }

    def __str__(self) -> str:
        parts = [f"{self.logged:,} events logged: {self.delivered:,} delivered"]
        if self.on_disk:
            parts.append(f"{self.on_disk:,} on disk")
        if self.in_memory:
            parts.append(f"{self.in_memory:,} in memory")
        if self.dropped_total:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.dropped.items()))
            parts.append(f"{self.dropped_total:,} dropped ({reasons})")
        return ", ".join(parts)


@dataclass(slots=True)
class Account:
    """What became, for one sink, of the events that left the queue."""

    name: str
    delivered: int = 0
    on_disk: int = 0
    in_memory: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


class Book:
    """The accounts of a pipeline: one for each sink, and what never left the queue.

    Thread-safe: every change is a move under one lock.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()  # re-entrant: a signal handler may report while its thread holds it
        self.changed = threading.Condition(self.lock)  # told when the pipeline is ready and when it has finished
        self._accounts: dict[str, Account] = {}
        self._refused: Counter[str] = Counter()
        self._waiting: Callable[[], int] = lambda: 0
        self._taken = 0

    def watch(self, waiting: Callable[[], int]) -> None:
        """Set the function that says how many events wait in the queue; it is called under the lock."""
        self._waiting = waiting

    def tell(self) -> None:
        with self.lock:
            self.changed.notify_all()

    def open(self, sink_name: str) -> Account:
        with self.lock:
            return self._accounts.setdefault(sink_name, Account(sink_name))

    def refuse(self, reason: DropReason, count: int = 1) -> None:
        """Count events as logged and dropped before any sink saw them."""
        with self.lock:
            self._refused[reason.value] += count

    def take(self, count: int) -> None:
        """Events leave the queue: they are now in memory for each sink. Call with the queue's cut, under `lock`."""
        with self.lock:
            self._taken += count
            for account in self._accounts.values():
                account.in_memory += count

    def spoil(self, reason: DropReason, count: int) -> None:
        """Events that left the queue turn out unusable, for every sink."""
        with self.lock:
            for account in self._accounts.values():
                account.in_memory -= count
                account.dropped[reason.value] += count

    def store(self, account: Account, count: int) -> None:
        """Memory to disk."""
        with self.lock:
            account.in_memory -= count
            account.on_disk += count

    def deliver(self, account: Account, count: int, *, from_disk: bool) -> None:
        with self.lock:
            if from_disk:
                account.on_disk -= count
            else:
                account.in_memory -= count
            account.delivered += count

    def drop(self, account: Account, count: int, reason: DropReason, *, from_disk: bool) -> None:
        with self.lock:
            if from_disk:
                account.on_disk -= count
            else:
                account.in_memory -= count
            account.dropped[reason.value] += count

    def lose(self, account: Account, count: int, reason: DropReason) -> None:
        """What was delivered is gone: the far side has it no more, and nobody can send it again."""
        with self.lock:
            account.delivered -= count
            account.dropped[reason.value] += count

    def owe_again(self, account: Account, count: int) -> None:
        """What was delivered is gone, and lies in the journal still: delivered to disk."""
        with self.lock:
            account.delivered -= count
            account.on_disk += count

    def write_off(self) -> None:
        """At the very end: what only memory holds will not be delivered."""
        with self.lock:
            for account in self._accounts.values():
                if account.in_memory:
                    account.dropped[DropReason.NOT_DELIVERED.value] += account.in_memory
                    account.in_memory = 0

    def snapshot(self, sink_name: str | None = None) -> Ledger:
        """Return one sink's ledger; without a name, that of the sink that is furthest behind."""
        with self.lock:
            waiting = self._waiting()
            logged = waiting + self._taken + sum(self._refused.values())
            if not self._accounts:
                return Ledger(logged, 0, 0, waiting + self._taken, dict(self._refused))
            if sink_name is None:
                account = min(self._accounts.values(), key=lambda item: item.delivered)
            else:
                account = self._accounts[sink_name]
            return Ledger(
                logged,
                account.delivered,
                account.on_disk,
                account.in_memory + waiting,
                dict(self._refused + account.dropped),
            )

    def reset_after_fork(self) -> None:
        """In a forked child: a new lock and empty counts, for the parent's events are the parent's."""
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self._refused.clear()
        self._taken = 0
        self._accounts.clear()
