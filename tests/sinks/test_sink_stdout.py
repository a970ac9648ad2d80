"""The stdout sink: what a reader sees, what a program can parse, and a reader that has gone or stalled."""

from __future__ import annotations

import asyncio
import io
import json
import math
import os
import sys
import threading
from array import array
from collections.abc import Sequence
from typing import Any

import pytest
from telemetry.sinks.stdout import StdoutSink, open_sink

from telemetry.errors import ConfigurationError, SinkRejected, SinkUnavailable
from telemetry.events import (
    Batch,
    ConsoleLine,
    ModelSaved,
    RecordChange,
    ScalarColumns,
    SeriesKey,
    SingleValue,
    TaskHeader,
)
from telemetry.protocols import Sink
from telemetry.wire import Frame, encode

TASK = "0123456789abcdef" * 2
WRITER = bytes(range(16))
HEADER = TaskHeader(TASK, WRITER, "project", "task")
# 2026-11-23T12:00:00Z
NOON_NS = 1_795_435_200_000_000_000
MS = 1_000_000


def frame(*events: Any, sequence: int = 0, points: Sequence[tuple[SeriesKey, int, int, float]] = ()) -> Frame:
    """Events, and points as (series, iteration, ns after noon, value)."""
    keys = list(dict.fromkeys(key for key, *_ in points))
    columns = ScalarColumns(
        keys,
        array("I", [keys.index(key) for key, *_ in points]),
        array("q", [iteration for _, iteration, _, _ in points]),
        array("q", [NOON_NS + after for _, _, after, _ in points]),
        array("d", [value for *_, value in points]),
    )
    batch = Batch(TASK, columns, list(events), len(events) + len(points))
    return encode(batch, writer_id=WRITER, sequence=sequence)


LOSS = SeriesKey("scalar", "train", "loss")
CPU = SeriesKey("resource", "CPU", "host", "%")


def printed(mode: Any, *frames: Frame) -> list[str]:
    stream = io.StringIO()

    async def run() -> None:
        sink = StdoutSink(mode, stream)
        await sink.open(HEADER)
        await sink.write(frames)
        await sink.close()

    asyncio.run(run())
    assert not stream.closed
    return stream.getvalue().splitlines()


def test_each_kind_of_event_as_a_line_to_read() -> None:
    lines = printed(
        "lines",
        frame(
            ConsoleLine(NOON_NS + 3 * MS, "stdout", "epoch 1"),
            ConsoleLine(NOON_NS + 4 * MS, "log", "careful", 30),
            ConsoleLine(NOON_NS + 5 * MS, "log", "own level", 25),
            ModelSaved(NOON_NS + 6 * MS, "best", "out/best.pt", "pytorch", 10, 12345),
            ModelSaved(NOON_NS + 7 * MS, "x", "x", "custom"),
            SingleValue(NOON_NS + 8 * MS, "accuracy", 0.97),
            RecordChange(NOON_NS + 999 * MS, "task", "tags", ["a", "b"]),
            points=[(LOSS, 10, 123 * MS, 0.123), (CPU, 0, 2 * MS, 12.3456789)],
        ),
    )

    assert lines == [
        "2026-11-23T12:00:00.002Z  CPU/host  12.3457 %",
        "2026-11-23T12:00:00.003Z  stdout  epoch 1",
        "2026-11-23T12:00:00.004Z  log WARNING  careful",
        "2026-11-23T12:00:00.005Z  log 25  own level",
        "2026-11-23T12:00:00.006Z  model saved  best  out/best.pt  pytorch  iter 10  12,345 bytes",
        "2026-11-23T12:00:00.007Z  model saved  x  x  custom",
        "2026-11-23T12:00:00.008Z  accuracy  0.97",
        "2026-11-23T12:00:00.123Z  train/loss  iter 10  0.123",
        '2026-11-23T12:00:00.999Z  task.tags  ["a","b"]',
    ]


def test_each_kind_of_event_as_a_json_object() -> None:
    lines = printed(
        "json",
        frame(
            ConsoleLine(NOON_NS + 3, "log", "careful", 30),
            ModelSaved(NOON_NS + 4, "best", "out/best.pt", "pytorch", 10, 12345),
            SingleValue(NOON_NS + 5, "accuracy", 0.97),
            RecordChange(NOON_NS + 6, "task", "ledger", {"logged": 3, "raw": b"\x00\xff", "worst": math.inf}),
            points=[(LOSS, 10, 1, 0.1), (CPU, 0, 2, 12.5)],
        ),
    )

    common = {"task": TASK}
    assert [json.loads(line) for line in lines] == [
        {
            **common,
            "type": "scalar",
            "time_unix_ns": NOON_NS + 1,
            "title": "train",
            "series": "loss",
            "iteration": 10,
            "value": 0.1,
        },
        {
            **common,
            "type": "resource",
            "time_unix_ns": NOON_NS + 2,
            "title": "CPU",
            "series": "host",
            "value": 12.5,
            "unit": "%",
        },
        {**common, "type": "console", "time_unix_ns": NOON_NS + 3, "stream": "log", "text": "careful", "level": 30},
        {
            **common,
            "type": "model",
            "time_unix_ns": NOON_NS + 4,
            "name": "best",
            "path": "out/best.pt",
            "framework": "pytorch",
            "iteration": 10,
            "size_bytes": 12345,
        },
        {**common, "type": "value", "time_unix_ns": NOON_NS + 5, "name": "accuracy", "value": 0.97},
        {
            **common,
            "type": "record",
            "time_unix_ns": NOON_NS + 6,
            "section": "task",
            "key": "ledger",
            "value": {"logged": 3, "raw": "00ff", "worst": "Infinity"},
        },
    ]


@pytest.mark.parametrize(("value", "word"), [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity")])
def test_what_json_has_no_number_for_is_a_word(value: float, word: str) -> None:
    point = frame(points=[(LOSS, 1, 0, value)])

    assert json.loads(printed("json", point)[0])["value"] == word
    assert printed("lines", point) == [f"2026-11-23T12:00:00.000Z  train/loss  iter 1  {word}"]


def test_control_characters_cannot_reach_the_terminal() -> None:
    nasty = SeriesKey("scalar", "a\nb", "\x1b[2J\x07")

    lines = printed("lines", frame(ConsoleLine(NOON_NS, "stdout", "tab\tbell\x07\x9b2J"), points=[(nasty, 1, 1, 2.0)]))

    assert lines == [
        "2026-11-23T12:00:00.000Z  stdout  tab\tbell\\x07\\x9b2J",
        "2026-11-23T12:00:00.000Z  a\\x0ab/\\x1b[2J\\x07  iter 1  2.0",
    ]


def test_the_colours_of_a_console_line_are_left_out_of_readable_lines() -> None:
    line = ConsoleLine(NOON_NS, "stdout", "\x1b[1;31mred\x1b[0m")

    assert printed("lines", frame(line)) == ["2026-11-23T12:00:00.000Z  stdout  red"]
    assert json.loads(printed("json", frame(line))[0])["text"] == "\x1b[1;31mred\x1b[0m"


def test_a_terminal_without_the_signs_gets_escapes() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")

    async def run() -> None:
        sink = StdoutSink("lines", stream)
        await sink.open(HEADER)
        await sink.write([frame(ConsoleLine(NOON_NS, "stdout", "µ 🚀"))])
        await sink.close()

    asyncio.run(run())
    assert raw.getvalue().endswith(b"stdout  \\xb5 \\U0001f680\n")


def test_times_and_values_out_of_the_ordinary() -> None:
    deep: Any = 1
    for _ in range(60):
        deep = [deep]

    lines = printed(
        "lines", frame(SingleValue(2**62, "late", 1.0), RecordChange(-1, "deep", "value", [deep, 2**64 - 1]))
    )
    assert lines[0].startswith("1969-12-31T23:59:59.999Z  deep.value  ")
    assert lines[1].startswith("2116-")
    assert len(printed("json", frame(RecordChange(0, "deep", "value", deep)))) == 1


def test_it_writes_past_whatever_stands_in_for_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    # given a program whose sys.stdout is somebody's tee
    original, tee = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "__stdout__", original)

    async def run() -> None:
        sink: Sink = open_sink("stdout:", None)
        assert isinstance(sink, Sink)
        assert not sink.spool
        await sink.open(HEADER)
        sys.stdout = tee
        await sink.write([frame(points=[(LOSS, 1, 0, 1.0)])])
        await sink.close()

    before = sys.stdout
    try:
        asyncio.run(run())
    finally:
        sys.stdout = before
    assert "train/loss" in original.getvalue()
    assert tee.getvalue() == ""


@pytest.mark.parametrize(("url", "mode"), [("stdout:", "lines"), ("stdout:lines", "lines"), ("stdout:json", "json")])
def test_the_url_chooses_the_form(url: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "__stdout__", stream)

    async def run() -> None:
        sink = open_sink(url, None).clone()
        await sink.open(HEADER)
        await sink.write([frame(points=[(LOSS, 1, 0, 1.0)])])
        await sink.close()

    asyncio.run(run())
    assert stream.getvalue().startswith("{") == (mode == "json")


def test_another_url_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="stdout:json"):
        open_sink("stdout:xml", None)


def test_no_stdout_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "__stdout__", None)

    async def run() -> None:
        sink = StdoutSink()
        try:
            with pytest.raises(SinkUnavailable, match="no stdout"):
                await sink.open(HEADER)
            with pytest.raises(SinkUnavailable):
                await sink.write([])
        finally:
            await sink.close()

    asyncio.run(run())


def test_a_reader_that_has_gone_is_unavailable() -> None:
    # given a pipe whose other end is closed
    read_end, write_end = os.pipe()
    os.close(read_end)
    stream = io.TextIOWrapper(io.FileIO(write_end, "w"), write_through=True)

    async def run() -> None:
        sink = StdoutSink("json", stream)
        await sink.open(HEADER)
        with pytest.raises(SinkUnavailable, match="2 frames were not printed"):
            await sink.write([frame(sequence=0), frame(SingleValue(0, "v", 1.0), sequence=1), frame(sequence=2)])
        await sink.close()

    asyncio.run(run())
    stream.close()


def test_frames_that_were_printed_are_not_printed_again() -> None:
    # given a stream that fails once in the middle of a write
    class FailsOnce(io.StringIO):
        failed = False

        def write(self, text: str) -> int:
            if "second" in text and not self.failed:
                self.failed = True
                raise OSError(28, "No space left on device")
            return super().write(text)

    stream = FailsOnce()
    frames = [frame(SingleValue(NOON_NS, name, 1.0), sequence=n) for n, name in enumerate(["first", "second", "third"])]

    async def run() -> None:
        sink = StdoutSink("lines", stream)
        await sink.open(HEADER)
        with pytest.raises(SinkUnavailable, match="No space left"):
            await sink.write(frames)
        # when the engine tries again
        await sink.write(frames)
        await sink.close()

    asyncio.run(run())
    assert [line.split("  ")[1] for line in stream.getvalue().splitlines()] == ["first", "second", "third"]


def test_a_frame_that_cannot_be_decoded_is_rejected_and_the_others_are_printed() -> None:
    good = frame(SingleValue(NOON_NS, "good", 1.0), sequence=2)
    bad = Frame(WRITER, 1, 1, frame(sequence=1).data[:52] + b"\xc1")
    stream = io.StringIO()

    async def run() -> None:
        sink = StdoutSink("lines", stream)
        await sink.open(HEADER)
        with pytest.raises(SinkRejected) as caught:
            await sink.write([bad, good])
        assert list(caught.value.reasons) == [1]
        await sink.close()

    asyncio.run(run())
    assert "good" in stream.getvalue()


def test_a_stalled_reader_holds_up_neither_the_loop_nor_close() -> None:
    # given a reader that takes nothing
    class Stalled(io.StringIO):
        def __init__(self) -> None:
            super().__init__()
            self.entered, self.release = threading.Event(), threading.Event()

        def write(self, text: str) -> int:
            self.entered.set()
            self.release.wait(60)
            return super().write(text)

    stream = Stalled()

    async def run() -> None:
        sink = StdoutSink("lines", stream)
        await sink.open(HEADER)
        writing = asyncio.create_task(sink.write([frame(SingleValue(NOON_NS, "v", 1.0))]))
        # when the loop goes on meanwhile
        assert await asyncio.to_thread(stream.entered.wait, 30)
        # then the write can be given up, and close returns
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        await sink.close()

    asyncio.run(run())
    assert stream.getvalue() == ""
    stream.release.set()
