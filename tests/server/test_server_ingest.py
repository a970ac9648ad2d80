"""Frames over HTTP: acknowledged means committed, once; what is no frame is refused and leaves nothing."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgpack
import pytest
from server_support import LOSS, OTHER_WRITER, START_NS, TASK, WRITER, Http, frame_of, rows_of, started

from telemetry.events import Batch, ConsoleLine, RecordChange
from telemetry.payload import SeriesTables
from telemetry.server import ingest as ingest_module
from telemetry.server.config import Limits
from telemetry.server.ingest import Crowd, Ingest
from telemetry.server.store import FrameContent, Store, StoreUnavailable, Written
from telemetry.wire import CONTENT_TYPE, HEADER_BYTES, MAGIC, Frame


@pytest.fixture
def http(tmp_path: Path) -> Iterator[Http]:
    with started(tmp_path / "store") as server:
        yield Http(server.url)


def counts(http: Http) -> int:
    answer = http.api(f"/tasks/{TASK}")
    return 0 if answer.status == 404 else int(answer.json["counts"]["points"])


def with_payload(payload: bytes, *, sequence: int = 0, unpacked: int | None = None, flags: int = 0) -> bytes:
    """Return a frame whose header and checksum are right, around any payload."""
    size = len(payload) if unpacked is None else unpacked
    head = struct.pack("<8sBBHIIIQ16s", MAGIC, 1, flags, 0, len(payload), size, 1, sequence, WRITER)
    return head + zlib.crc32(payload, zlib.crc32(head)).to_bytes(4, "little") + payload


def packed(**changes: Any) -> bytes:
    """Return a payload that is sound but for `changes`; our own encoder would not write these."""
    payload: bytes = msgpack.packb({"task": TASK, "series": [], "columns": [b""] * 4, "events": [], **changes})
    return payload


DEEP: list[Any] = []
for _ in range(80):
    DEEP = [DEEP]


def test_a_frame_is_stored_once_however_often_it_is_sent(http: Http) -> None:
    # given
    frame = frame_of({LOSS: rows_of([1.0, 2.0, 3.0])})
    # when
    first, again = http.post(frame), http.post(frame)
    # then
    assert first.status == again.status == 200
    assert first.json["frames"] == [{"writer": WRITER.hex(), "sequence": 0, "result": "stored"}]
    assert again.results == ["duplicate"]
    assert counts(http) == 3


def test_one_body_may_hold_many_frames_and_one_of_them_twice(http: Http) -> None:
    frames = [frame_of({LOSS: rows_of([1.0], first=n)}, sequence=n) for n in (0, 1, 1, 2)]
    assert http.post(*frames).results == ["stored", "stored", "duplicate", "stored"]
    assert counts(http) == 3


def test_the_same_sequence_of_another_writer_is_another_frame(http: Http) -> None:
    http.send(frame_of({LOSS: rows_of([1.0])}))
    http.send(frame_of({LOSS: rows_of([1.0])}, writer=OTHER_WRITER))
    assert http.get(f"/tasks/{TASK}")["writers"] == 2


@pytest.mark.parametrize(
    "payload",
    [
        b"\xc1",
        b"\x80",
        packed(task="x"),
        packed(columns=[b"abc"] * 4),
        packed(events=[["poke", 1]]),
        packed(events=[["value", 2**64 - 1, "a", 1.0]]),
        packed(series=[["scalar", "t" * 1001, "s", ""]]),
        b"\x91" * 100_000,
        packed(series=[["plot", "a", "b", ""]]),
        packed(events=[["console", 0, "stdout", "x", 2**63]]),
        packed(events=[["record", 0, "s", "k", DEEP]]),
        packed(events=[["record", 0, "s", "k", msgpack.Timestamp(1, 2)]]),
        packed(events=[["record", 0, "s" * 1001, "k", 1]]),
        packed(columns=[bytes(4), bytes(8), bytes(8), bytes(8)]),
    ],
)
def test_a_malformed_frame_is_rejected_alone(http: Http, payload: bytes) -> None:
    # given a bad frame between two good ones
    good = [frame_of({LOSS: rows_of([1.0])}, sequence=n) for n in (1, 2)]
    # when
    answer = http.post(good[0], with_payload(payload), good[1])
    # then it is named with its reason, and the others are kept
    assert answer.results == ["stored", "rejected", "stored"]
    assert answer.json["frames"][1]["reason"]
    assert counts(http) == 2
    # and it is not remembered: a sound frame may still come under its number
    assert http.post(frame_of({LOSS: rows_of([1.0])})).results == ["stored"]


def test_a_bomb_is_rejected_without_being_unpacked(http: Http) -> None:
    bomb = zlib.compress(bytes(20_000_000))
    assert http.post(with_payload(bomb, unpacked=100, flags=1)).results == ["rejected"]


def test_frames_that_unpack_to_too_much_are_refused(tmp_path: Path) -> None:
    with started(tmp_path, limits=Limits(max_unpacked_bytes=100_000)) as server:
        http = Http(server.url)
        answer = http.post(with_payload(zlib.compress(bytes(200_000)), unpacked=200_000, flags=1))
        assert answer.status == 413
        assert "unpack to" in answer.json["error"]


@pytest.mark.parametrize("where", [0, 3, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 5, -1])
def test_a_cut_body_stores_nothing_of_it(http: Http, where: int) -> None:
    # given a sound frame and a cut one in the same body
    sound, cut = frame_of({LOSS: rows_of([1.0])}), frame_of({LOSS: rows_of([2.0])}, sequence=1)
    # when
    answer = http.post(sound, cut.data[:where]) if where else http.post(b"")
    # then
    assert answer.status == 400
    assert "nothing was kept" in answer.json["error"]
    assert counts(http) == 0


def test_a_flipped_bit_anywhere_stores_nothing(http: Http) -> None:
    data = frame_of({LOSS: rows_of([1.0])}).data
    for position in range(0, len(data), 7):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        assert http.post(bytes(flipped)).status == 400
    assert counts(http) == 0


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "multipart/form-data", ""])
def test_another_content_type_is_refused(http: Http, kind: str) -> None:
    answer = http.post(frame_of({LOSS: rows_of([1.0])}), headers={"Content-Type": kind})
    assert answer.status == 415
    assert counts(http) == 0


def test_a_content_encoding_is_refused(http: Http) -> None:
    data = zlib.compress(frame_of({LOSS: rows_of([1.0])}).data)
    assert http.post(data, headers={"Content-Encoding": "deflate"}).status == 415


def test_a_body_that_is_too_large_is_refused_by_its_length_and_as_it_grows(tmp_path: Path) -> None:
    with started(tmp_path, limits=Limits(max_body_bytes=1000)) as server:
        http = Http(server.url)
        frame = frame_of({LOSS: rows_of([1.0])}, [ConsoleLine(START_NS, "stdout", os.urandom(2000).hex())])
        assert http.post(frame).status == 413
        # and without a Content-Length
        chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(frame.data), frame.data)
        assert http.post(chunked, headers={"Transfer-Encoding": "chunked"}).status == 413
        assert counts(http) == 0


def test_a_full_store_answers_503_and_goes_on_answering(tmp_path: Path) -> None:
    # given a store that may hold half a megabyte
    with started(tmp_path, limits=Limits(max_store_bytes=500_000)) as server:
        http = Http(server.url)
        http.send(frame_of({LOSS: rows_of([1.0])}))
        # when a frame does not fit
        large = frame_of({}, [ConsoleLine(START_NS, "stdout", os.urandom(500_000).hex())], sequence=1)
        answer = http.post(large)
        # then
        assert answer.status == 503
        assert int(answer.headers["retry-after"]) > 0
        assert counts(http) == 1
        assert http.post(frame_of({LOSS: rows_of([2.0])}, sequence=2)).results == ["stored"]


def test_too_much_waiting_is_answered_503(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a writer that is held up
    entered, release = threading.Event(), threading.Event()
    write = Store.write

    def held(self: Store, contents: Sequence[FrameContent]) -> Written:
        entered.set()
        release.wait()
        return write(self, contents)

    monkeypatch.setattr(Store, "write", held)
    with started(tmp_path, limits=Limits(max_waiting_requests=1)) as server:
        http = Http(server.url)
        answers: list[int] = []
        frame = frame_of({LOSS: rows_of([1.0])})
        waiting = threading.Thread(target=lambda: answers.append(http.post(frame).status))
        waiting.start()
        entered.wait()
        # when another request comes
        refused = http.post(frame_of({LOSS: rows_of([1.0])}, sequence=1))
        # then
        assert refused.status == 503
        assert refused.headers["retry-after"] == "1"
        release.set()
        waiting.join()
        assert answers == [200]


def test_requests_that_wait_together_are_committed_together(tmp_path: Path) -> None:
    # given a writer that is held up at its first frame
    sizes: list[int] = []
    entered, release = threading.Event(), threading.Event()

    class HeldStore(Store):
        def write(self, contents: Sequence[FrameContent]) -> Written:
            sizes.append(len(contents))
            entered.set()
            release.wait()
            return super().write(contents)

    async def scenario() -> list[list[dict[str, Any]]]:
        store = HeldStore(tmp_path)
        ingest = Ingest(store, Limits(), lambda changes: None)
        bodies = [frame_of({LOSS: rows_of([1.0])}, sequence=n).data for n in range(8)]
        waiting = [asyncio.create_task(ingest.take(bodies[0]))]
        await asyncio.to_thread(entered.wait)
        waiting += [asyncio.create_task(ingest.take(body)) for body in bodies[1:]]
        # A spin, since nothing announces that a request has joined the queue.
        while ingest.waiting_jobs < 7:  # noqa: ASYNC110
            await asyncio.sleep(0)
        # when it goes on
        release.set()
        answers = await asyncio.gather(*waiting)
        await ingest.close()
        store.close()
        return answers

    # then
    answers = asyncio.run(scenario())
    assert sizes == [1, 7]
    assert [answer[0]["result"] for answer in answers] == ["stored"] * 8


class GatedStore(Store):
    """A store whose first transaction waits until it may go on; `sizes`: frames in each."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.sizes: list[int] = []
        self.entered, self.may_go_on = threading.Event(), threading.Event()

    def write(self, contents: Sequence[FrameContent]) -> Written:
        self.sizes.append(len(contents))
        self.entered.set()
        self.may_go_on.wait()
        return super().write(contents)


Taken = list[dict[str, Any]] | BaseException


def taken_together(store: GatedStore, first: bytes, *bodies: bytes) -> list[Taken]:
    """Return the answers to bodies that all wait when the writer is done with the first; the first's first."""

    async def scenario() -> list[Taken]:
        ingest = Ingest(store, Limits(), lambda changes: None)
        waiting = [asyncio.create_task(ingest.take(first))]
        await asyncio.to_thread(store.entered.wait)
        for number, body in enumerate(bodies, 1):
            waiting.append(asyncio.create_task(ingest.take(body)))
            # A spin, since nothing announces that a request has joined the queue.
            while ingest.waiting_jobs < number:  # noqa: ASYNC110
                await asyncio.sleep(0)
        store.may_go_on.set()
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        await ingest.close()
        store.close()
        return answers

    return asyncio.run(scenario())


def results(answers: Sequence[Taken]) -> list[str]:
    return [type(each).__name__ if isinstance(each, BaseException) else each[0]["result"] for each in answers]


def test_a_bug_in_decoding_one_request_is_that_requests_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a bug that one frame meets on the writer's thread
    sound = ingest_module.decode

    def buggy(frame: Frame, tables: SeriesTables) -> Batch:
        if frame.sequence == 2:
            raise ZeroDivisionError("a bug")
        return sound(frame, tables)

    monkeypatch.setattr(ingest_module, "decode", buggy)
    bodies = [frame_of({LOSS: rows_of([1.0])}, sequence=n).data for n in range(4)]
    # when it waits among others
    store = GatedStore(tmp_path)
    answers = taken_together(store, *bodies)
    # then they are stored, and that one is answered
    assert results(answers) == ["stored", "stored", "ZeroDivisionError", "stored"]
    assert store.sizes == [1, 2]


def test_a_malformed_request_and_a_known_one_take_nothing_from_those_they_wait_with(tmp_path: Path) -> None:
    bodies = [frame_of({LOSS: rows_of([1.0])}, sequence=n).data for n in range(2)]
    answers = taken_together(GatedStore(tmp_path), bodies[0], with_payload(b"\xc1", sequence=7), bodies[0], bodies[1])
    assert results(answers) == ["stored", "rejected", "duplicate", "stored"]


def test_a_known_frame_is_answered_though_the_disk_refuses_those_it_waits_with(tmp_path: Path) -> None:
    # given a store that has one frame and takes no other
    class FullStore(GatedStore):
        def write(self, contents: Sequence[FrameContent]) -> Written:
            if self.sizes:
                raise StoreUnavailable("the disk is full")
            return super().write(contents)

    bodies = [frame_of({LOSS: rows_of([1.0])}, sequence=n).data for n in range(2)]
    # when that one comes again beside another
    answers = taken_together(FullStore(tmp_path), bodies[0], bodies[1], bodies[0])
    # then
    assert results(answers) == ["stored", "StoreUnavailable", "duplicate"]


def test_what_is_too_much_for_one_transaction_comes_first_in_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given room for two of these frames
    frames = [frame_of({LOSS: rows_of([1.0] * 100)}, sequence=n) for n in range(6)]
    monkeypatch.setattr(ingest_module, "_GROUP_BYTES", 2 * len(frames[0]) + 2 * 28 * 100 + 100)
    store = GatedStore(tmp_path)
    # when
    answers = taken_together(store, *(frame.data for frame in frames))
    # then
    assert results(answers) == ["stored"] * 6
    assert store.sizes == [1, 2, 2, 1]


def test_small_requests_are_answered_while_a_large_one_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a large frame whose decoding waits until small ones were answered
    large = frame_of({}, [ConsoleLine(START_NS, "stdout", os.urandom(100_000).hex())], sequence=100)
    decoding, may_go_on = threading.Event(), threading.Event()
    sound = ingest_module.decode

    def slow(frame: Frame, tables: SeriesTables) -> Batch:
        if frame.sequence == large.sequence:
            decoding.set()
            may_go_on.wait()
        return sound(frame, tables)

    monkeypatch.setattr(ingest_module, "decode", slow)
    with started(tmp_path) as server:
        http = Http(server.url)
        answers: list[list[str]] = []
        waiting = threading.Thread(target=lambda: answers.append(http.post(large).results))
        waiting.start()
        decoding.wait()
        # when, then
        assert http.post(frame_of({LOSS: rows_of([1.0])})).results == ["stored"]
        may_go_on.set()
        waiting.join()
    assert answers == [["stored"]]


class Connection(asyncio.BaseTransport):
    """A connection that frames come on, until it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.is_open = True

    def is_closing(self) -> bool:
        return not self.is_open


def test_many_senders_that_stay_make_a_crowd_and_others_do_not() -> None:
    crowd = Crowd()
    few, many = [Connection() for _ in range(7)], [Connection() for _ in range(1000)]

    def pace_s(connections: Sequence[Connection], now_s: float) -> float:
        for connection in connections:
            crowd.note(connection, now_s)
        crowd.note(connections[0], now_s + 0.3)
        assert crowd.is_there == (crowd.pace_s > 0)
        return crowd.pace_s

    # few are none, however fast they send
    assert {pace_s(few, k / 10) for k in range(20)} == {0.0}
    # many are one, and are asked to send the less often the more they are
    assert pace_s(many[:50], 3.0) == 2.0
    assert 2.0 < pace_s(many * 2, 4.0) < 5.0
    # until they are silent
    assert pace_s(few, 20.0) == 0.0
    # nor are many one that hang up: an importer, a browser
    for connection in many:
        connection.is_open = False
    assert pace_s([*many, *few], 30.0) == 0.0


def test_a_crowd_is_asked_to_send_less_often_but_for_whom_somebody_looks_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_module, "_COUNT_INTERVAL_S", 0.0)

    async def scenario() -> list[float | None]:
        store = Store(tmp_path)
        ingest = Ingest(store, Limits(), lambda changes: None, lambda task_id: task_id == TASK)
        connections = [Connection() for _ in range(20)]

        async def send(number: int, sequence: int, task_id: str) -> float | None:
            writer = number.to_bytes(16, "big")
            frame = frame_of({LOSS: rows_of([1.0])}, task_id=task_id, writer=writer, sequence=sequence)
            return (await ingest.receipt(frame.data, sender=connections[number])).get("pace_s")

        # given one sender, and then many
        alone = await send(0, 0, "f" * 32)
        for connection in connections:
            ingest._crowd.note(connection, time.monotonic())
        # when nobody looks at the one's task, and somebody at the other's
        paces = await asyncio.gather(send(1, 1, "f" * 32), send(2, 1, TASK))
        await ingest.close()
        store.close()
        return [alone, *paces]

    alone, unwatched, watched = asyncio.run(scenario())
    assert (alone, watched) == (None, None)
    assert unwatched is not None and 1.5 <= unwatched <= 2.5


def test_a_crowd_of_writers_loses_nothing_and_ends_at_once(tmp_path: Path) -> None:
    # given more writers than make a crowd, each sending as it is answered
    async def scenario() -> list[str]:
        store = Store(tmp_path)
        ingest = Ingest(store, Limits(), lambda changes: None)

        async def send(writer: int) -> list[str]:
            taken = []
            for sequence in range(3):
                frame = frame_of({LOSS: rows_of([1.0])}, writer=writer.to_bytes(16, "big"), sequence=sequence)
                taken += await ingest.take(frame.data)
            return [answer["result"] for answer in taken]

        answers = await asyncio.gather(*map(send, range(100)))
        # when one more waits as it is closed
        last = asyncio.create_task(ingest.take(frame_of({LOSS: rows_of([1.0])}).data))
        await asyncio.sleep(0)
        await ingest.close()
        answers.append([answer["result"] for answer in await last])
        held = [store.held_frames(writer.to_bytes(16, "big")) for writer in range(100)]
        store.close()
        assert held == [[(0, 2)]] * 100
        return [result for each in answers for result in each]

    # then
    assert asyncio.run(scenario()) == ["stored"] * 301


def test_a_frame_that_breaks_the_writer_is_rejected_and_its_neighbours_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a bug that one frame meets
    write = Store.write

    def buggy(self: Store, contents: Sequence[FrameContent]) -> Written:
        if any(content.sequence == 1 for content in contents):
            raise ZeroDivisionError("a bug")
        return write(self, contents)

    monkeypatch.setattr(Store, "write", buggy)
    with started(tmp_path) as server:
        http = Http(server.url)
        answer = http.post(*(frame_of({LOSS: rows_of([1.0])}, sequence=n) for n in range(3)))
        assert answer.results == ["stored", "rejected", "stored"]
        assert "a bug" in answer.json["frames"][1]["reason"]
        assert counts(http) == 2


def test_a_failing_disk_is_answered_503(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Store, contents: Sequence[FrameContent]) -> Written:
        raise StoreUnavailable("disk I/O error")

    monkeypatch.setattr(Store, "write", failing)
    with started(tmp_path) as server:
        answer = Http(server.url).post(frame_of({LOSS: rows_of([1.0])}))
        assert (answer.status, answer.json["error"]) == (503, "disk I/O error")


SERVE = """
import sys
from pathlib import Path
from telemetry.server.app import run_server
from telemetry.server.config import ServerConfig

run_server(ServerConfig(Path(sys.argv[1]), port=0), on_ready=lambda url: print(url, flush=True))
"""


def test_what_was_acknowledged_is_there_after_a_kill(tmp_path: Path) -> None:
    sent = 0
    for _ in range(3):
        # given a server in a process of its own
        with subprocess.Popen(
            [sys.executable, "-c", SERVE, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            http = Http(process.stdout.readline().strip())
            # then everything that was acknowledged before is there, and known
            assert counts(http) == sent * 500
            if sent:
                assert http.post(frame_of({LOSS: rows_of([0.0])}, sequence=sent - 1)).results == ["duplicate"]
            # when it is killed between two posts, tails and chunks half made
            for _ in range(12):
                http.send(frame_of({LOSS: rows_of([float(sent)] * 500, first=500 * sent)}, sequence=sent))
                sent += 1
            process.send_signal(signal.SIGKILL)
            process.wait()
    store = Store(tmp_path)
    assert store.series(TASK)["series"][0]["count"] == 36 * 500
    store.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_server_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", SERVE, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        http = Http(process.stdout.readline().strip())
        http.send(frame_of({}, [RecordChange(START_NS, "task", "name", "x")]))
        process.send_signal(number)
        assert process.wait() == 0
    # then the log was folded into the database
    assert sorted(path.name for path in tmp_path.iterdir()) == ["server.lock", "telemetry.sqlite3"]


def test_concurrent_senders_lose_nothing(http: Http) -> None:
    # given 6 writers that send at the same time
    def run(writer: int) -> None:
        for sequence in range(15):
            frame: Frame = frame_of(
                {LOSS: rows_of([1.0] * 20, first=sequence * 20)}, writer=bytes([writer]) * 16, sequence=sequence
            )
            http.send(frame)

    threads = [threading.Thread(target=run, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # then
    task = http.get(f"/tasks/{TASK}")
    assert (task["points"], task["writers"], task["counts"]["frames"]) == (1800, 6, 90)


def test_a_sender_that_goes_away_is_no_fault_of_the_server(http: Http, caplog: pytest.LogCaptureFixture) -> None:
    # given a request whose connection is reset in the middle of its body
    caplog.set_level(logging.DEBUG, "telemetry.server")
    address = urlsplit(http.url)
    assert address.hostname is not None and address.port is not None
    with socket.create_connection((address.hostname, address.port)) as connection:
        head = ["POST /api/v1/frames HTTP/1.1", f"Host: {address.netloc}", f"Content-Type: {CONTENT_TYPE}"]
        head += ["Content-Length: 1000", "Expect: 100-continue", "", "half"]
        connection.sendall("\r\n".join(head).encode())
        assert b" 100 " in connection.recv(100)  # the body is being read
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # then it is noted, and nothing is said to have failed
    while "the connection was lost" not in caplog.text:
        http.api("/tasks")
    assert "failed" not in caplog.text
