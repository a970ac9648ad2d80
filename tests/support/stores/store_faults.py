"""Senders that know what a store must hold, and a server under them that is killed or whose disk is full."""

from __future__ import annotations

import errno
import http.client
import os
import random
import re
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgpack
import numpy as np
import orjson
from fault_support import PATIENCE_S, until
from hasty_server import POINT_TABLES, Death, HastyServer
from reimport_support import export_digests
from store_load import LANES, Fate, Held, Step, steps_of_lane

from telemetry.client import Client
from telemetry.export import find_tasks
from telemetry.server.store.database import DATABASE_NAME
from telemetry.wire import CONTENT_TYPE

__all__ = [
    "Filler",
    "Load",
    "Refusal",
    "differences",
    "fill_again_and_again",
    "integrity",
    "kill_again_and_again",
    "send_again",
]

# Of which each has a share: a store that takes more is not given more, so that the end can be compared in minutes.
POINTS_PER_S = 20_000
# A lane sends at most this often: a short step is not to be a step without a pause.
_LEAST_PAUSE_S = 0.005
_RETRY_S = 0.02
_ANSWER_TIMEOUT_S = 60.0
# In steps that the server acknowledges before it is killed: about two thirds of a second, on a machine that is idle.
LONGEST_LIFE = 80
_REFUSALS = (503, 507)
# Of requests that were answered: of these some are sent once more.
_REMEMBERED = 20
_SENT_AGAIN = 0.1


class _Wrong(AssertionError):
    """The store is not what it must be."""


class _Ended(Exception):
    """The load is over."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that says: not now."""

    status: int
    text: str
    retry_after: str


@dataclass
class Load:
    """All lanes at once, each on a thread of its own, on one server; `with Load(...)` ends them.

    Attributes:
        wrong: what the store did that it must not; the first one ends the load.
        refusals: the answers so far that put a sender off.
        totals: requests, points, duplicates, checks of whole tasks and the like.
    """

    server: HastyServer
    seed: int
    wrong: list[str] = field(default_factory=list)
    refusals: Counter[Refusal] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.ending, self.aborted = threading.Event(), threading.Event()
        self.lock = threading.Lock()
        self.lanes = [_Lane(self, name) for name in LANES]

    def __enter__(self) -> Load:
        for lane in self.lanes:
            lane.thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.aborted.set()
        for lane in self.lanes:
            lane.thread.join()

    def finish(self) -> dict[str, int]:
        """Have each lane deliver the step it is at, and check its tasks; return the steps by lane."""
        self.ending.set()
        for lane in self.lanes:
            lane.thread.join()
        return {lane.name: lane.steps for lane in self.lanes}

    @property
    def accepted(self) -> int:
        """Requests with something new in them that were acknowledged."""
        return self.totals["steps"]

    def count(self, what: str, number: int = 1) -> None:
        with self.lock:
            self.totals[what] += number

    def check(self) -> int:
        """Read back, now, all that the lanes know to be there; return of how many lanes. For a server that lives."""
        return sum(lane.check() for lane in self.lanes)


class _Lane:
    """One sender: it repeats a request until it is acknowledged, and then believes that the store has it."""

    def __init__(self, load: Load, name: str) -> None:
        self.name = name
        self.steps = 0
        self.thread = threading.Thread(target=self._run, name=f"lane {name}", daemon=True)
        self._load = load
        self._held: dict[str, Held] = {}
        # By the lane, and by who has the lanes' tasks checked.
        self._using = threading.RLock()
        # Of the step that is being sent: it was sent before; and nobody knows what became of it.
        self._tried = self._unsure = False
        self._sent: deque[bytes] = deque(maxlen=_REMEMBERED)
        self._random = random.Random(f"{load.seed} {name}")
        self._connection = http.client.HTTPConnection("127.0.0.1")
        self._checked_life = 1

    def _run(self) -> None:
        try:
            for step in steps_of_lane(self.name, self._load.seed):
                if self._load.ending.is_set():
                    break
                while not self._deliver(step):
                    self._pause()
                self._look_back()
                share = POINTS_PER_S / len(LANES)
                self._load.aborted.wait(max(_LEAST_PAUSE_S, step.points / share))
            while not self.check():
                self._pause()
        except _Ended:
            return
        except Exception as error:  # noqa: BLE001 - the top of a thread: who runs the load must hear of it
            self._load.wrong.append(f"life {self._load.server.life}, lane {self.name}, step {self.steps}: {error!r}")
            self._load.aborted.set()
        finally:
            self._connection.close()

    # -- sending

    def _deliver(self, step: Step) -> bool:
        """Send a step; False if the server has not said that it has it."""
        body = b"".join(frame.data for frame in step.frames)
        with self._using:
            if step.frames:
                answer = self._post("/frames", body)
            else:
                answer = self._post(f"/tasks/{step.task_id}/delete", b"{}", "application/json")
            if answer is None or answer.status in _REFUSALS:
                self._tried, self._unsure = True, answer is None
                return False
            if step.frames:
                self._check_answer(answer, ("stored", "duplicate") if self._tried else ("stored",))
                self._sent.append(body)
            elif answer.status != 200 and not (self._tried and answer.status == 404):
                raise _Wrong(f"the deletion of {step.task_id} is answered {answer.status} {answer.body!r:.300}")
            self._tried = self._unsure = False
            self.steps += 1
            self._held.setdefault(step.task_id, Held(step.rank)).apply(step)
        self._load.count("steps")
        self._load.count("points", step.points)
        self._load.count("frames", len(step.frames))
        self._load.count(f"steps {step.fate.value}")
        return True

    def _send_again(self, body: bytes) -> bool:
        """Send once more what was acknowledged; True if the server says that it has it."""
        answer = self._post("/frames", body)
        if answer is None or answer.status in _REFUSALS:
            return False
        self._check_answer(answer, ("duplicate",))
        self._load.count("sent again")
        return True

    def _check_answer(self, answer: _Answer, allowed: Sequence[str]) -> None:
        if answer.status != 200:
            raise _Wrong(f"frames are answered {answer.status} {answer.body!r:.300}")
        receipt = orjson.loads(answer.body)
        for item in receipt["frames"]:
            if item["result"] not in allowed:
                raise _Wrong(f"a frame that must be {' or '.join(allowed)} is answered {item}")
            held = receipt["writers"][item["writer"]]
            if len(held) != 1 or held[0][0] != 0 or held[0][1] < item["sequence"]:
                raise _Wrong(f"the store holds {held} of a writer that has sent all frames to {item}")

    # -- reading back

    def _look_back(self) -> None:
        """See that nothing has gone: after each start of the server of all that this lane writes, else now and then."""
        life = self._load.server.life
        with self._using:
            if life != self._checked_life and (not self._sent or self._send_again(self._sent[-1])) and self.check():
                self._checked_life = life
            elif self._sent and self._random.random() < _SENT_AGAIN:
                self._send_again(self._random.choice(self._sent))

    def check(self) -> bool:
        """Compare the lane's tasks with what the server has of them; False if the server went away meanwhile.

        Those that have ended are let go of.
        """
        with self._using:
            if self._unsure:
                return False
            for task_id, held in list(self._held.items()):
                found = self._read(task_id, held)
                if found is None:
                    return False
                problem = _difference(held, *found)
                if problem:
                    raise _Wrong(f"task {task_id}: {problem}")
                self._load.count("tasks read back")
                if held.ended:
                    del self._held[task_id]
        return True

    def _read(self, task_id: str, held: Held) -> tuple[dict[str, int], dict[Any, list[list[bytes]]]] | None:
        """Return a task's counts, and the points of this lane's rank by series; None if the server went away."""
        answer = self._request("GET", f"/tasks/{task_id}")
        if answer is None:
            return None
        if answer.status == 404:
            return {}, {}
        if answer.status != 200:
            raise _Wrong(f"task {task_id} is answered {answer.status} {answer.body!r:.300}")
        counts = orjson.loads(answer.body)["counts"]
        runs: dict[Any, list[list[bytes]]] = {}
        after = ""
        while True:
            page = self._request("GET", f"/tasks/{task_id}/export/points{after}")
            if page is None:
                return None
            if page.status != 200:
                raise _Wrong(f"the points of {task_id} are answered {page.status} {page.body!r:.300}")
            content = msgpack.unpackb(page.body)
            for kind, title, series, _unit, rank, *columns in content["runs"]:
                if rank == held.rank:
                    runs.setdefault((kind, title, series), []).append(columns)
            if content["next"] is None:
                return counts, runs
            after = "?after={},{}".format(*content["next"])

    # -- requests

    def _post(self, path: str, body: bytes, content_type: str = CONTENT_TYPE) -> _Answer | None:
        answer = self._request("POST", path, body, {"Content-Type": content_type})
        if answer is not None and answer.status in _REFUSALS:
            refusal = Refusal(answer.status, answer.body.decode(), answer.headers.get("retry-after", ""))
            with self._load.lock:
                self._load.refusals[refusal] += 1
        return answer

    def _request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> _Answer | None:
        """Return the answer; None where there is none: the server is away, or went away before it answered."""
        if self._load.aborted.is_set():
            raise _Ended
        url = urlsplit(self._load.server.url)
        if not url.hostname:
            return None
        try:
            if self._connection.port != url.port:
                self._connection.close()
                self._connection = http.client.HTTPConnection(url.hostname, url.port, timeout=_ANSWER_TIMEOUT_S)
            self._connection.request(method, f"/api/v1{path}", body, headers or {})
            response = self._connection.getresponse()
            lowered = {name.lower(): value for name, value in response.getheaders()}
            return _Answer(response.status, lowered, response.read())
        except (OSError, http.client.HTTPException):
            self._connection.close()
            self._load.count("requests without an answer")
            return None

    def _pause(self) -> None:
        if self._load.aborted.wait(_RETRY_S):
            raise _Ended


def _difference(held: Held, counts: dict[str, int], runs: dict[Any, list[list[bytes]]]) -> str | None:
    """Say how what was read of a task differs from what was put into it; None if it does not."""
    if held.deleted:
        return "it was deleted, and is there" if counts else None
    expected = held.series()
    found = {key: tuple(b"".join(parts) for parts in zip(*some, strict=True)) for key, some in runs.items()}
    for key in expected.keys() | found.keys():
        wanted, got = expected.get(key, (b"", b"", b"")), found.get(key, (b"", b"", b""))
        if wanted != got:
            same = sorted(_rows(wanted)) == sorted(_rows(got))
            what = "the same points in another order" if same else f"{len(got[0]) // 8} points"
            return f"series {key} has {what}, and {len(wanted[0]) // 8} were acknowledged"
    if held.rank is None:
        stored = counts.get("points", 0) + counts.get("resource_points", 0), counts.get("console_lines", 0)
        if stored != (held.points, held.lines):
            return f"{stored} points and lines are counted, and {(held.points, held.lines)} were acknowledged"
    return None


def _rows(columns: tuple[bytes, ...]) -> Iterator[tuple[int, ...]]:
    return zip(*(np.frombuffer(column, np.int64).tolist() for column in columns), strict=True)


# -- kills


def kill_again_and_again(
    load: Load, kills: int, *, on_kill: Callable[[int], None] = lambda number: None
) -> Counter[str]:
    """Start the server and kill it, so many times, under the load; return how often in which way.

    Some kills come while it starts, some at any moment, and some at a statement: half of these on a table of points,
    the others on any table that the store has, so that sealing, merging and tidying up are met as often as writing.
    """
    random_ = random.Random(load.seed)
    server = load.server
    ways: Counter[str] = Counter()
    tables: list[str] = []
    for number in range(kills):
        chance = random_.random()
        # Asked once: whoever opens the store before the server does may mend what the server is to mend.
        tables = tables or _tables(server.directory)
        place = _place(random_, tables) if chance > 0.4 else ""
        server.start(_death(random_, place) if place else None)
        if chance < 0.15:
            ended = server.ended_within(random_.uniform(0.0, 0.3))
            way = "at the start"
        else:
            ended = not server.until_ready()
            way = "at the start" if ended else "at any moment"
            steps = LONGEST_LIFE if place else random_.randrange(LONGEST_LIFE)
            ended = ended or _dies_within(load, steps) or server.ended_within(random_.uniform(0.0, 0.05))
        if not server.kill():
            load.wrong.append(f"life {server.life}: the server ended by itself, {server.log} says why")
        ways[f"at {place}" if place and ended else way] += 1
        on_kill(number + 1)
        if load.wrong:
            break
    return ways


def _dies_within(load: Load, steps: int) -> bool:
    """Wait until the server has acknowledged so many more steps; True if it died before, of its own hand."""
    wanted, patience = load.accepted + steps, time.monotonic() + PATIENCE_S
    while load.accepted < wanted and not load.wrong and time.monotonic() < patience:
        if load.server.ended_within(0.005):
            return True
    return False


def _tables(directory: Path) -> list[str]:
    """Return the tables of a store; none while there is none."""
    try:
        with closing(sqlite3.connect(f"file:{directory / DATABASE_NAME}?mode=ro", uri=True)) as connection:
            rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
    except sqlite3.OperationalError:
        return []
    return [name for (name,) in rows if not name.startswith("sqlite_")]


def _place(random_: random.Random, tables: Sequence[str]) -> str:
    """Return a table, or COMMIT; "" while the store has none."""
    if not tables:
        return ""
    those_of_points = [name for name in tables if name in POINT_TABLES]
    return random_.choice(those_of_points if random_.random() < 0.5 else ["COMMIT", *tables])


def _death(random_: random.Random, place: str) -> Death:
    table = rf'\s*(INSERT\s+(OR\s+\w+\s+)?INTO|REPLACE\s+INTO|UPDATE|DELETE\s+FROM)\s+"?{re.escape(place)}"?\b'
    # As often among the first as among the many.
    return Death(r"\s*COMMIT" if place == "COMMIT" else table, random_.choice([0, 1, random_.randrange(100)]))


# -- full disks


class Filler:
    """A foreign file that takes what there is of a disk, or gives it back.

    Args:
        folder: on the disk.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "filler"
        self._folder = folder

    def leave(self, free_bytes: int) -> None:
        """Grow until only so much of the disk is free."""
        with self._path.open("ab") as file:
            while (take := os.statvfs(self._folder).f_bavail * os.statvfs(self._folder).f_bsize - free_bytes) > 0:
                try:
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), take)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    # The server was quicker: there is less by now.

    def give_back(self) -> None:
        self._path.unlink(missing_ok=True)


def until_accepted(load: Load, steps: int) -> None:
    """Return when so many more steps were acknowledged."""
    wanted = load.accepted + steps
    until(lambda: load.accepted >= wanted or bool(load.wrong), f"{steps} more steps")


def fill_again_and_again(
    load: Load, filler: Filler, rounds: int, *, on_round: Callable[[int], None] = lambda number: None
) -> dict[str, Any]:
    """Fill the disk under a server that runs, so many times, and give the space back; return what was seen.

    In turn: the senders fill what little is left, a foreign file takes all there is at any moment, and the same with
    the server killed and started while nothing is free. While it is full all that was acknowledged is read back.
    """
    random_ = random.Random(load.seed)
    server = load.server
    seen: Counter[str] = Counter()
    waits_s = []
    for number in range(rounds):
        if number % 3 == 0:
            filler.leave(random_.randrange(1_000_000))
        else:
            load.aborted.wait(random_.uniform(0.0, 0.5))
            filler.leave(0)
        refused = load.refusals.total()
        until(lambda: load.refusals.total() >= refused + 10 or bool(load.wrong), "refusals")  # noqa: B023 - at once
        if number % 3 == 2:
            server.kill()
            server.start()
            seen["starts on a full disk"] += 1
            if not server.until_ready():
                seen["of these not before there was space"] += 1
                server.kill()
                filler.give_back()
                server.start()
                assert server.until_ready(), server.log
        seen["lanes read back while it was full"] += load.check()
        if (said := integrity(server.directory)) != "ok":
            load.wrong.append(f"round {number}: {said}")
        filler.give_back()
        begin = time.monotonic()
        until_accepted(load, 20)
        waits_s.append(time.monotonic() - begin)
        on_round(number + 1)
        if load.wrong:
            break
    for refusal in load.refusals:
        if not re.search("disk|space", refusal.text) or not refusal.retry_after:
            load.wrong.append(f"a refusal does not say what and when: {refusal}")
    return {**seen, "rounds": len(waits_s), "longest_wait_for_20_steps_s": round(max(waits_s), 2)}


# -- the end: the same steps once more, and every byte compared


def send_again(
    server: HastyServer, seed: int, steps: dict[str, int], *, on_step: Callable[[int], None] = lambda number: None
) -> None:
    """Send what a load has sent to a server that nobody kills: each step once, lane after lane."""
    url = urlsplit(server.url)
    with closing(http.client.HTTPConnection(str(url.hostname), url.port, timeout=_ANSWER_TIMEOUT_S)) as connection:

        def post(path: str, body: bytes, content_type: str) -> None:
            connection.request("POST", f"/api/v1{path}", body, {"Content-Type": content_type})
            response = connection.getresponse()
            answer = response.read()
            if response.status != 200 or b'"duplicate"' in answer or b'"rejected"' in answer:
                raise AssertionError(f"{path} is answered {response.status} {answer!r:.300}")

        done = 0
        for name, count in steps.items():
            waiting: list[bytes] = []
            for number, step in zip(range(1, count + 1), steps_of_lane(name, seed)):  # noqa: B905 - one is endless
                waiting += [frame.data for frame in step.frames]
                done += 1
                if waiting and (len(waiting) > 50 or number == count or step.fate is not Fate.KEPT):
                    post("/frames", b"".join(waiting), CONTENT_TYPE)
                    waiting = []
                    on_step(done)
                if step.fate is Fate.DELETED:
                    post(f"/tasks/{step.task_id}/delete", b"{}", "application/json")


def differences(one: str, other: str, folder: Path, *, most: int = 10) -> list[str]:
    """Compare all that two servers hold: exports to the byte, counts, summaries and charts of each task.

    Args:
        folder: where the exports go, as `one` and `other`.
        most: of the differences that are told.
    """
    digests = [export_digests(url, folder / name) for name, url in (("one", one), ("other", other))]
    found = [f"{name} differs" for name in digests[0] if digests[0][name] != digests[1][name]]
    with Client(one) as first, Client(other) as second:
        tasks = find_tasks(first, None)
        if tasks != find_tasks(second, None):
            found.append("there are other tasks")
        for task_id in tasks:
            if len(found) < most and (was := _shown(first, task_id)) != (now := _shown(second, task_id)):
                which = [name for name in was if was[name] != now[name]]
                found.append(f"task {task_id} differs in {', '.join(which)}")
    return found


def _shown(client: Client, task_id: str) -> dict[str, Any]:
    """Return what pages show of a task, without the row ids of a store."""
    series = sorted(
        client.series(task_id), key=lambda item: (item["kind"], item["title"], item["series"], item["rank"] or 0)
    )
    few = [item["id"] for item in series[:3]]
    charts = client.points(task_id, few, max_samples=5000)["series"] if few else []
    return {
        "counts": client.task(task_id)["counts"],
        "summaries": [{**item, "id": 0} for item in series],
        # Where a chart is an outline it may be cut differently; its extremes are in the summary.
        "charts": [{**item, "id": 0} for item in charts if item["exact"]],
    }


def integrity(directory: Path) -> str:
    """Return what SQLite says of a store, whether a server has it open or not: "ok", or what is wrong."""
    with closing(sqlite3.connect(f"file:{directory / DATABASE_NAME}?mode=ro", uri=True)) as connection:
        return "; ".join(row[0] for row in connection.execute("PRAGMA integrity_check"))
