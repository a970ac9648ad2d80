"""The contract of a bus: see telemetry/server/shared/seams.py. Another one is a line more in BUSES."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping

import pytest

from telemetry.server.shared.bus import LocalBus
from telemetry.server.shared.seams import Bus
from telemetry.server.store import TaskChange

# Each makes the ends that so many servers have of one bus; those of a bus within a process are all the same.
BUSES: dict[str, Callable[[int], list[Bus]]] = {"local": lambda servers: [LocalBus()] * servers}


@pytest.fixture(params=BUSES)
def make(request: pytest.FixtureRequest) -> Callable[[int], list[Bus]]:
    return BUSES[request.param]


class Heard:
    """A subscriber, and what it was told of tasks, merged."""

    def __init__(self, last: str = "last") -> None:
        self.changes: dict[str, TaskChange] = {}
        self._last = last
        self.done = asyncio.Event()

    def __call__(self, changes: Mapping[str, TaskChange]) -> None:
        for task_id, change in changes.items():
            known = self.changes.get(task_id)
            self.changes[task_id] = change if known is None else known.merged(change)
        if self._last in changes:
            self.done.set()


def run(main: Coroutine[None, None, None]) -> None:
    asyncio.run(main)


class TestBus:
    def test_every_subscriber_of_every_server_hears_what_any_server_publishes(
        self, make: Callable[[int], list[Bus]]
    ) -> None:
        async def main() -> None:
            ends = make(3)
            heard = [Heard() for _ in range(4)]
            for end, one in zip([*ends, ends[0]], heard, strict=True):
                end.subscribe(one)
            ends[1].publish({"a": TaskChange(points_after=16), "b": TaskChange(plots=True)})
            ends[1].publish({"last": TaskChange()})
            for one in heard:
                await one.done.wait()
                assert one.changes["a"].points_after == 16
                assert one.changes["b"].plots

        run(main())

    def test_a_tasks_changes_are_heard_in_their_order_and_may_be_merged(self, make: Callable[[int], list[Bus]]) -> None:
        async def main() -> None:
            (bus,) = make(1)
            bus.subscribe(heard := Heard())
            for position in range(16, 1016):
                bus.publish({"a": TaskChange(points_after=position, console_last_id=position)})
            bus.publish({"last": TaskChange(ended=True)})
            await heard.done.wait()
            # from the first that was not read on, up to the last line
            assert (heard.changes["a"].points_after, heard.changes["a"].console_last_id) == (16, 1015)
            assert heard.changes["last"].ended

        run(main())

    def test_one_subscribers_failure_is_nobody_elses(
        self, make: Callable[[int], list[Bus]], caplog: pytest.LogCaptureFixture
    ) -> None:
        def failing(_changes: Mapping[str, TaskChange]) -> None:
            raise ZeroDivisionError

        async def main() -> None:
            (bus,) = make(1)
            bus.subscribe(failing)
            bus.subscribe(heard := Heard())
            bus.publish({"last": TaskChange()})
            await heard.done.wait()

        with caplog.at_level(logging.ERROR):
            run(main())
        assert "could not be told" in caplog.text

    def test_who_subscribes_hears_what_is_published_from_then_on(self, make: Callable[[int], list[Bus]]) -> None:
        async def main() -> None:
            (bus,) = make(1)
            bus.subscribe(early := Heard("before"))
            bus.publish({"before": TaskChange()})
            await early.done.wait()
            bus.subscribe(late := Heard())
            bus.publish({"last": TaskChange()})
            await late.done.wait()
            assert set(late.changes) == {"last"}

        run(main())
