"""Back-off: its clock and its jitter are arguments, so every claim can be checked without waiting."""

from __future__ import annotations

import asyncio
import random
import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry import retry
from telemetry.retry import (
    BASE_DELAY_S,
    MAX_DELAY_S,
    MAX_RETRY_AFTER_S,
    Tries,
    delay_s,
    parse_retry_after,
    said_by,
    until,
)
from telemetry.testing import ManualClock

units = st.floats(0, 1, exclude_max=True)


@given(st.integers(0, 10_000), units)
def test_the_delay_is_full_jitter_under_a_growing_cap(attempt: int, unit: float) -> None:
    cap = min(MAX_DELAY_S, BASE_DELAY_S * 2.0 ** min(attempt, 100))
    assert delay_s(attempt, random_unit=unit) == pytest.approx(unit * cap)


def test_many_senders_spread_over_the_whole_range() -> None:
    delays = [delay_s(20) for _ in range(1000)]
    assert min(delays) < MAX_DELAY_S / 10
    assert max(delays) > MAX_DELAY_S * 9 / 10
    assert max(delays) <= MAX_DELAY_S


@given(st.integers(0, 100), st.floats(0, MAX_RETRY_AFTER_S), units)
def test_retry_after_is_a_floor_and_jitter_adds_a_second_at_most(attempt: int, asked_s: float, unit: float) -> None:
    assert asked_s <= delay_s(attempt, retry_after_s=asked_s, random_unit=unit) <= asked_s + 1.0


@pytest.fixture
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every wait is as long as it may be."""
    drawn = delay_s
    monkeypatch.setattr(
        retry, "delay_s", lambda attempt, retry_after_s=None: drawn(attempt, retry_after_s=retry_after_s, random_unit=1)
    )


@pytest.mark.usefixtures("no_jitter")
def test_waits_grow_to_their_limit_and_begin_anew_after_a_success() -> None:
    tries = Tries(max_wait_s=3.0)
    assert [tries.failed() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert tries.failures == 5
    tries.failures = 0
    assert tries.next_wait_s() == 0.5


@pytest.mark.usefixtures("no_jitter")
def test_there_is_no_wait_that_the_deadline_does_not_allow() -> None:
    clock = ManualClock()
    tries = Tries(clock.monotonic() + 10.0, clock=clock.monotonic)
    assert tries.next_wait_s(retry_after_s=9.0) == 9.5
    clock.advance(9.5)
    assert tries.next_wait_s(retry_after_s=9.0) is None
    # Who learns of the end only now moves it nearer, or takes it away.
    tries.deadline_s = None
    assert tries.next_wait_s(retry_after_s=9.0) == 10.0
    tries.deadline_s = clock.monotonic()
    assert tries.next_wait_s() is None


@pytest.mark.usefixtures("no_jitter")
def test_a_pause_waits_and_says_at_once_when_there_is_no_time_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(retry.asyncio, "sleep", sleep)
    tries = until(60.0)
    assert asyncio.run(tries.pause(20.0))
    assert not asyncio.run(tries.pause(60.0))
    assert slept == [20.5]
    assert tries.failures == 2


NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        (" 120 ", 120.0),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("١٢", None),  # digits to str.isdigit, not to HTTP
        ("9" * 400, MAX_RETRY_AFTER_S),
        (format_datetime(NOW + timedelta(seconds=30), usegmt=True), 30.0),
        (format_datetime(NOW - timedelta(days=1), usegmt=True), 0.0),
        (format_datetime(NOW + timedelta(days=400), usegmt=True), MAX_RETRY_AFTER_S),
        ("Fri, 02 Jan 2026 03:04:15", 10.0),
    ],
)
def test_both_forms_of_retry_after_are_read(header: str | None, expected: float | None) -> None:
    assert parse_retry_after(header, now=NOW) == expected


@given(st.text(max_size=60) | st.from_regex(r"\w{3}, \d+ \w{3} \d+ \d+:\d+:\d+ [+-]?\w+", fullmatch=True))
def test_no_header_raises_or_makes_anybody_wait_for_ever(header: str) -> None:
    seconds = parse_retry_after(header)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER_S


async def _failure(url: str) -> BaseException:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError) as caught:
            await session.get(url)
    return caught.value


def test_a_connection_that_does_not_come_about_is_said_in_the_systems_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert said_by(asyncio.run(_failure(f"http://127.0.0.1:{port}"))) == "Connection refused"
    unknown = aiohttp.ClientConnectorDNSError(_key(), socket.gaierror(-2, "Name or service not known"))
    assert said_by(unknown) == "Name or service not known"


def test_of_other_errors_a_line_is_said() -> None:
    assert said_by(TimeoutError()) == "TimeoutError"
    assert said_by(ValueError("<html>")) == "ValueError"
    assert said_by(OSError(28, "No space left on device")) == "[Errno 28] No space left on device"


def _key() -> aiohttp.client_reqrep.ConnectionKey:
    return aiohttp.client_reqrep.ConnectionKey("host", 1, False, True, None, None, None)


def test_the_jitter_neither_follows_nor_moves_the_programs_generator() -> None:
    random.seed(1337)
    state = random.getstate()
    first = [delay_s(20) for _ in range(20)]
    assert random.getstate() == state
    random.seed(1337)
    assert [delay_s(20) for _ in range(20)] != first
