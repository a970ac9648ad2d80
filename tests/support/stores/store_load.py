"""A load to try a store with: the realistic shapes made small, of many tasks that begin, end, are reset and deleted.

A lane is one sender after the other: an endless row of steps, each a request, that follows from a seed alone. So the
same steps can be sent to a second store, and what each task must hold afterwards is known without asking anybody.
"""

from __future__ import annotations

import hashlib
import itertools
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import numpy.typing as npt

from telemetry.events import (
    Batch,
    ConsoleLine,
    FrameEvent,
    Media,
    ModelSaved,
    Plot,
    RecordChange,
    ScalarColumns,
    SeriesKey,
    SingleValue,
)
from telemetry.record import Section, TaskKey, TaskStatus
from telemetry.wire import Frame, encode

__all__ = ["LANES", "Columns", "Fate", "Held", "Step", "steps_of_lane"]

START_NS = 1_700_000_000_000_000_000
MS = 1_000_000
# What floats may be beside numbers, by their bits: two NaN, the infinities, -0.0, the least and the greatest.
_ODD_BITS = np.array(
    [0x7FF8 << 48, 0x7FF8 << 48 | 0xABC, 0x7FF0 << 48, 0xFFF0 << 48, 0x8000 << 48, 1, 0x7FEF_FFFF_FFFF_FFFF], np.uint64
)
_ODD_SHARE = 0.01

Rng = np.random.Generator


class Fate(Enum):
    """What becomes of a step in the store."""

    KEPT = "kept"
    """It is added to its task."""
    ANEW = "anew"
    """Its task is begun anew, or is there again: what it held before goes, this is added."""
    VOID = "void"
    """It is taken, and nothing of it is kept: older than the task's reset, or the task is deleted."""
    DELETED = "deleted"
    """No frames: the task is deleted."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Points of some series in the order in which they are reported; row i belongs to `keys[index[i]]`."""

    keys: Sequence[SeriesKey]
    index: npt.NDArray[np.uint32]
    iterations: npt.NDArray[np.int64]
    times_unix_ns: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True, slots=True)
class Step:
    """One request of a lane, and what it means for its task.

    Attributes:
        columns: the points of all its frames, in order.
        lines: console lines in it.
        ends: nothing follows for this task.
    """

    task_id: str
    rank: int | None = None
    frames: tuple[Frame, ...] = ()
    columns: tuple[Columns, ...] = ()
    lines: int = 0
    fate: Fate = Fate.KEPT
    ends: bool = False

    @property
    def points(self) -> int:
        return sum(map(len, self.columns))


@dataclass
class Held:
    """What a lane has put into one task: what the store must have of it, to the bit and in this order.

    Attributes:
        rank: of the lane; others report into the task as well, where it has one.
        deleted: the task is not there.
    """

    rank: int | None
    columns: list[Columns] = field(default_factory=list)
    lines: int = 0
    deleted: bool = False
    ended: bool = False

    def apply(self, step: Step) -> None:
        """Take in a step that the store has taken."""
        self.ended |= step.ends
        if step.fate in (Fate.ANEW, Fate.DELETED):
            self.columns, self.lines, self.deleted = [], 0, step.fate is Fate.DELETED
        if step.fate in (Fate.KEPT, Fate.ANEW):
            self.columns += step.columns
            self.lines += step.lines

    @property
    def points(self) -> int:
        return sum(map(len, self.columns))

    def series(self) -> dict[tuple[str, str, str], tuple[bytes, bytes, bytes]]:
        """Return iterations, times and values, as bytes of 8 each, by kind, title and name."""
        numbers: dict[SeriesKey, int] = {}
        indexes = []
        for some in self.columns:
            own = np.array([numbers.setdefault(key, len(numbers)) for key in some.keys], np.int64)
            indexes.append(own[some.index])
        if not numbers:
            return {}
        index = np.concatenate(indexes)
        order = np.argsort(index, kind="stable")
        ends = np.cumsum(np.bincount(index, minlength=len(numbers)))
        whole = [
            np.concatenate(parts)[order]
            for parts in (
                [some.iterations for some in self.columns],
                [some.times_unix_ns for some in self.columns],
                [some.values for some in self.columns],
            )
        ]
        found = {}
        for key, start, end in zip(numbers, [0, *ends], ends, strict=False):
            iterations, times_unix_ns, values = (column[start:end].tobytes() for column in whole)
            if iterations:
                found[key.kind, key.title, key.series] = (iterations, times_unix_ns, values)
        return found


class _Program:
    """One life of one process of a task: a writer with its frames in their order, and its clock."""

    def __init__(self, name: str, task_id: str, *, rank: int | None = None, now_unix_ns: int = START_NS) -> None:
        self.task_id = task_id
        self.rank = rank
        self.writer_id = hashlib.sha256(name.encode()).digest()[:16]
        self.now_unix_ns = now_unix_ns
        self._sequence = 0

    def step(
        self,
        *bodies: Columns,
        events: Sequence[FrameEvent] = (),
        fate: Fate = Fate.KEPT,
        ends: bool = False,
    ) -> Step:
        """Return a request with a frame for each of `bodies`, at least one; the events are in the first."""
        frames: list[Frame] = []
        for columns in bodies or (_columns([], 0),):
            scalars = ScalarColumns(
                list(columns.keys),
                array("I", columns.index.tobytes()),
                array("q", columns.iterations.tobytes()),
                array("q", columns.times_unix_ns.tobytes()),
                array("d", columns.values.tobytes()),
            )
            first = events if not frames else ()
            batch = Batch(self.task_id, scalars, list(first), len(columns) + len(first), self.rank)
            frames.append(encode(batch, writer_id=self.writer_id, sequence=self._sequence))
            self._sequence += 1
        lines = sum(isinstance(event, ConsoleLine) for event in events)
        return Step(self.task_id, self.rank, tuple(frames), bodies, lines, fate, ends)

    def begin(self, name: str) -> Step:
        """Return the first step: the task's name, project and status."""
        fields = {TaskKey.NAME: name, TaskKey.PROJECT: f"store/{name}", TaskKey.STATUS: TaskStatus.IN_PROGRESS.value}
        changes: list[FrameEvent] = [
            RecordChange(self.tick(), Section.TASK, key, value) for key, value in fields.items()
        ]
        return self.step(events=changes)

    def end(self, value: float) -> Step:
        """Return the last step: a number, and that it is completed."""
        now = self.tick()
        events: list[FrameEvent] = [
            SingleValue(now, "best", value),
            RecordChange(now, Section.TASK, TaskKey.STATUS, TaskStatus.COMPLETED.value),
            RecordChange(now, Section.TASK, TaskKey.ENDED, now),
        ]
        return self.step(events=events, ends=True)

    def tick(self) -> int:
        self.now_unix_ns += MS
        return self.now_unix_ns

    def points(self, rng: Rng, keys: Sequence[SeriesKey], each: int, first: int) -> Columns:
        """Return `each` points of each series from iteration `first` on, step by step as a loop reports them."""
        columns = _columns(keys, each, first=first, start_ns=self.now_unix_ns, values=rng.random(len(keys) * each))
        self.now_unix_ns += MS * each
        return columns


def _columns(
    keys: Sequence[SeriesKey],
    each: int,
    *,
    first: int = 0,
    start_ns: int = START_NS,
    values: npt.NDArray[np.float64] | None = None,
) -> Columns:
    count = len(keys)
    steps = np.repeat(np.arange(each, dtype=np.int64), count)
    return Columns(
        keys,
        np.tile(np.arange(count, dtype=np.uint32), each),
        first + steps,
        start_ns + steps * MS + np.tile(np.arange(count, dtype=np.int64), each),
        np.zeros(count * each) if values is None else values,
    )


def _odd(rng: Rng, columns: Columns) -> Columns:
    """Return the same points with iterations that repeat, go back or are extreme, and values that are no numbers."""
    iterations, values = columns.iterations.copy(), columns.values.copy()
    strange = rng.random(len(columns))
    back = strange < 0.2
    iterations[back] -= rng.integers(0, 50, int(back.sum()))
    ends = strange > 1 - _ODD_SHARE / 10
    iterations[ends] = rng.choice(np.array([-(2**63), 2**63 - 1, -1, 0], np.int64), int(ends.sum()))
    odd = rng.random(len(columns)) < _ODD_SHARE * 5
    values[odd] = rng.choice(_ODD_BITS, int(odd.sum())).view(np.float64)
    return Columns(columns.keys, columns.index, iterations, columns.times_unix_ns, values)


def _task_id(name: str) -> str:
    return hashlib.sha256(f"task {name}".encode()).hexdigest()[:32]


def _keys(count: int, kind: str = "scalar") -> list[SeriesKey]:
    return [SeriesKey(kind, f"title {number % 7}", f"series {number}") for number in range(count)]


@dataclass(frozen=True, slots=True)
class _Shape:
    """How tasks report: pairs are the least and the most, a random number between them each time.

    Attributes:
        points: of each series in a frame.
        frames: of a task.
        body: frames in a request.
        together: tasks that run at a time.
        odd: iterations and values as no good program reports them.
    """

    series: int
    points: tuple[int, int]
    frames: tuple[int, int]
    body: int = 1
    together: int = 1
    odd: bool = False


def _between(rng: Rng, least_and_most: tuple[int, int]) -> int:
    return int(rng.integers(least_and_most[0], least_and_most[1] + 1))


def _tasks_of(shape: _Shape, rng: Rng, name: str) -> Iterator[Step]:
    numbers = itertools.count()
    running = [_one_task(shape, rng, f"{name} {next(numbers)}") for _ in range(shape.together)]
    while True:
        chosen = int(rng.integers(len(running)))
        step = next(running[chosen], None)
        if step is None:
            running[chosen] = _one_task(shape, rng, f"{name} {next(numbers)}")
        else:
            yield step


def _one_task(shape: _Shape, rng: Rng, name: str, rank: int | None = None) -> Iterator[Step]:
    program = _Program(f"{name} rank {rank}", _task_id(name), rank=rank)
    if not rank:
        yield program.begin(name)
    keys, iteration = _keys(shape.series), 0
    if shape.series > 1:
        keys[-1] = SeriesKey("resource", "cpu", "use", "%")
    left = _between(rng, shape.frames)
    while left > 0:
        bodies = []
        for _ in range(min(left, _between(rng, (1, shape.body)))):
            each = _between(rng, shape.points)
            columns = program.points(rng, keys, each, iteration)
            bodies.append(_odd(rng, columns) if shape.odd else columns)
            iteration += each
            left -= 1
        yield program.step(*bodies)
    yield program.end(float(iteration))


def _rank(rank: int) -> Callable[[Rng, str], Iterator[Step]]:
    """Return the steps of one of the ranks that share tasks; each lane has its own series of them."""

    def steps(rng: Rng, name: str) -> Iterator[Step]:
        shared = name.rpartition(" ")[0]
        for number in itertools.count():
            yield from _one_task(_Shape(5, (1, 20), (5, 20)), rng, f"{shared} {number}", rank)

    return steps


def _words(rng: Rng, name: str) -> Iterator[Step]:
    """Yield tasks of which little is numbers: console lines, the record, models, plots, media."""
    for number in itertools.count():
        program = _Program(f"{name} {number}", _task_id(f"{name} {number}"))
        yield program.begin(f"{name} {number}")
        for turn in range(_between(rng, (5, 40))):
            now = program.tick()
            title, series, step = f"plot {turn % 3}", "shown", int(rng.integers(5))
            events: list[FrameEvent] = [
                *(ConsoleLine(now, "stdout", f"line {line} of turn {turn}") for line in range(_between(rng, (0, 20)))),
                RecordChange(now, Section.PARAMETERS, f"General/{turn % 5}", {"value": str(turn), "type": "int"}),
                RecordChange(now, Section.TASK, TaskKey.PROGRESS, float(turn)),
                SingleValue(now, f"value {turn % 4}", float(rng.random())),
                ModelSaved(now, "model", f"/models/{turn}", "torch", turn, 1000 + turn),
                Plot(now, title, series, step, f'{{"data":[{{"y":[{turn},{number}]}}],"layout":{{}}}}'),
                Media(now, title, series, step, f"https://example.org/{turn}.png", f"{turn}.png", "image/png", turn),
            ]
            chosen = rng.random(len(events)) < 0.6
            some = [event for event, wanted in zip(events, chosen, strict=True) if wanted]
            columns = [program.points(rng, _keys(2), 1, turn)] if rng.random() < 0.5 else []
            yield program.step(*columns, events=some)
        yield program.end(0.0)


def _begun_anew(rng: Rng, name: str) -> Iterator[Step]:
    """Yield tasks that are reset, deleted and gone on with, while old frames still come."""
    keys = _keys(8)
    for number in itertools.count():
        task = f"{name} {number}"
        program = _Program(f"{task} life 0", _task_id(task))
        yield program.begin(task)
        alive = True
        for life in range(1, _between(rng, (2, 8))):
            for turn in range(_between(rng, (1, 6))):
                yield program.step(program.points(rng, keys, _between(rng, (1, 12)), 10 * turn))
            chance, old = rng.random(), program
            now = old.now_unix_ns + 1000 * MS
            if chance < 0.3:
                yield Step(program.task_id, fate=Fate.DELETED)
                yield program.step(program.points(rng, keys, 3, 100), fate=Fate.VOID)
                alive = bool(rng.random() < 0.5)
                if not alive:
                    break
            program = _Program(f"{task} life {life}", _task_id(task), now_unix_ns=now)
            if chance < 0.7:
                # Begun anew under its id. What comes with it, and what is newer, counts.
                anew = [RecordChange(now, Section.TASK, TaskKey.RESET, now)]
                yield program.step(program.points(rng, keys, 2, 0), events=anew, fate=Fate.ANEW)
                late = [ConsoleLine(old.now_unix_ns, "stdout", "too late")]
                yield old.step(old.points(rng, keys, 3, 100), events=late, fate=Fate.VOID)
            else:
                yield program.step(program.points(rng, keys, 2, 5), events=_attempt(program, life + 1))
        if alive:
            yield program.end(float(number))
        else:
            yield program.step(program.points(rng, keys, 1, 0), fate=Fate.VOID, ends=True)


def _attempt(program: _Program, attempt: int) -> list[FrameEvent]:
    """Return what a later attempt of a job says of itself: charts hide what it reports anew."""
    now = program.tick()
    entry = {"attempt": attempt, "started_unix_ns": now}
    return [
        RecordChange(now, Section.TASK, TaskKey.ATTEMPT, attempt),
        RecordChange(now, Section.WRITERS, program.writer_id.hex(), entry),
    ]


def _shape(*arguments: int | tuple[int, int], **options: int) -> Callable[[Rng, str], Iterator[Step]]:
    shape = _Shape(*arguments, **options)  # type: ignore[arg-type]
    return lambda rng, name: _tasks_of(shape, rng, name)


# By name; those that differ in a number at the end alone report into the same tasks.
LANES: dict[str, Callable[[Rng, str], Iterator[Step]]] = {
    "many series": _shape(300, (1, 1), (8, 30)),
    "runs": _shape(20, (1, 6), (4, 30), together=5),
    "more runs": _shape(20, (1, 3), (4, 60), body=3, together=5),
    "bursts": _shape(600, (2, 5), (2, 3), body=3),
    "full frames": _shape(10, (100, 400), (3, 25)),
    "odd points": _shape(6, (5, 40), (4, 20), odd=True),
    "words": _words,
    "begun anew": _begun_anew,
    "ranks 0": _rank(0),
    "ranks 1": _rank(1),
}


def steps_of_lane(name: str, seed: int) -> Iterator[Step]:
    """Return the steps of one of LANES, always the same ones for a seed."""
    rng = np.random.default_rng([seed, *name.encode()])
    return LANES[name](rng, f"{seed} {name}")
