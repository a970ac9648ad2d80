"""Uploads: off the caller's thread, in order, through the session folder, and never a harm to the program."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sdk_support import environment, run_program
from server_support import Http, started

from telemetry import Task
from telemetry.cli import main
from telemetry.errors import BlobError, ServerUnreachable
from telemetry.sdk.bytes import taken
from telemetry.sdk.bytes.deposit import Deposit, Upload
from telemetry.sdk.bytes.parcel import Parcel
from telemetry.sdk.bytes.uploads import Left, Uploads
from telemetry.sdk.reading.view import ServerView
from telemetry.settings import Settings
from telemetry.storage.blobs import Blob, BlobFolder


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Place:
    """A sink with a folder, as the pipeline tells of it; `spool`: its blobs are to be carried on."""

    def __init__(self, folder: Path, *, spool: bool = False) -> None:
        self.name = "place"
        self.spool = spool
        self.folder = folder

    @property
    def blobs(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "blobs").glob("*"))


class Story:
    """What the maker of a deposit was told, in order."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def callbacks(self) -> dict[str, Any]:
        return {"tell": self.told.append, "on_stored": lambda: self.told.append("it is stored")}


def deposit(source: Any, filename: str, *, removes_source: bool = False, **arguments: Any) -> Deposit:
    parcel = Parcel(filename=filename, source=source, removes_source=removes_source)
    return Deposit(parcel=parcel, **arguments)


def uploads_to(*places: Place, **arguments: Any) -> Uploads:
    settings = Settings(quiet=True)
    return Uploads(
        "a" * 32, lambda timeout_s: [(place, place.folder) for place in places], settings=settings, **arguments
    )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "session")


def test_bytes_come_into_the_session_and_the_callbacks_in_order(place: Place, tmp_path: Path) -> None:
    uploads, story = uploads_to(place), Story()
    (tmp_path / "a.bin").write_bytes(b"of a file")
    for source, data in ((b"of memory", b"of memory"), (tmp_path / "a.bin", b"of a file")):
        upload = uploads.submit(deposit(source, "a.bin", **story.callbacks()))
        assert upload.wait(30) and upload.done and upload.kept and not upload.error
        blob = Blob(sha256(data), len(data), f"blob:{sha256(data)}")
        pending = {"uri": blob.uri, "state": "pending", "sha256": blob.sha256, "size_bytes": len(data)}
        assert story.told == [pending, "it is stored"] and upload.blob == blob
        story.told.clear()
    assert place.blobs == sorted([sha256(b"of memory"), sha256(b"of a file")])
    assert uploads.idle and uploads.wait(0) and uploads.drain(0) == Left()
    assert (tmp_path / "a.bin").exists()


def test_a_source_that_makes_its_file_runs_on_our_thread(place: Place, tmp_path: Path) -> None:
    made_on: list[str] = []

    def make() -> Path:
        made_on.append(threading.current_thread().name)
        (tmp_path / "made").write_bytes(b"made")
        return tmp_path / "made"

    uploads = uploads_to(place)
    assert uploads.submit(deposit(make, "made", removes_source=True)).wait(30)
    assert made_on == ["telemetry-blobs"]
    assert uploads.drain(30) == Left() and not (tmp_path / "made").exists()


def test_what_cannot_be_read_fails_and_the_others_go_on(place: Place, tmp_path: Path) -> None:
    def explode() -> Path:
        raise ZeroDivisionError("boom")

    uploads, story = uploads_to(place), Story()
    gone = uploads.submit(deposit(tmp_path / "gone", "gone", label="artifact 'gone'", **story.callbacks()))
    broken = uploads.submit(deposit(explode, "x", label="artifact 'x'"))
    good = uploads.submit(deposit(b"good", "good"))
    assert good.wait(30) and not gone.wait(30) and not broken.wait(30)
    assert "it is not there" in gone.error and broken.error == "ZeroDivisionError: boom"
    assert story.told == [{"uri": "", "state": "failed", "error": gone.error}]
    left = uploads.drain(30)
    assert [label for label, _ in left.failed] == ["artifact 'gone'", "artifact 'x'"]
    assert "artifact 'gone' failed: " in str(left)


def test_a_callback_that_fails_harms_nobody(place: Place) -> None:
    def explode(fields: Any) -> None:
        raise ZeroDivisionError

    uploads = uploads_to(place)
    assert not uploads.submit(deposit(b"a", "a", tell=explode)).wait(30)
    assert uploads.submit(deposit(b"b", "b")).wait(30)


def test_an_upload_lets_go_of_its_source_and_of_who_was_told(place: Place, tmp_path: Path) -> None:
    """A program holds its uploads for as long as it runs: not the bytes, and not what a preview hangs on."""

    class Held:
        def __call__(self, fields: Any = None) -> Path:
            (tmp_path / "made").write_bytes(b"made")
            return tmp_path / "made"

    shelf, source, maker = Shelf(), Held(), Held()
    shelf.is_away = True
    uploads = uploads_to(place, target=shelf)
    upload = uploads.submit(deposit(source, "a", tell=maker))
    held = [weakref.ref(source), weakref.ref(maker)]
    del source, maker
    # Once the bytes are kept the source is not held any more, however long the storage is away
    assert upload.wait_kept(30) and shelf.asked.acquire(timeout=30)
    assert held[0]() is None and held[1]() is not None
    # and nobody is, once it is stored; the threads of ours then look at the next.
    shelf.is_away = False
    assert upload.wait(60) and uploads.submit(deposit(b"next", "next")).wait(30)
    assert held[1]() is None


def test_in_a_forked_child_nobody_waits_for_a_lock_of_the_parent(place: Place) -> None:
    """As at a fork while another thread is about to say that the upload has ended, which in the child it never does."""
    shelf = Shelf()
    shelf.is_away = True
    upload = uploads_to(place, target=shelf).submit(deposit(b"a", "a"))
    assert upload.wait_kept(30)
    locked = [upload._kept._cond, upload._ended._cond]  # type: ignore[attr-defined]
    for condition in locked:
        condition.acquire()
    upload.reset_after_fork()
    assert upload.wait_kept(30) and not upload.wait(0) and not upload.done and upload.blob is not None
    for condition in locked:
        condition.release()


def test_without_a_folder_it_says_so() -> None:
    upload = uploads_to().submit(deposit(b"a", "a"))
    assert not upload.wait(30) and "there is no session folder" in upload.error


def test_disabled_it_fails_quietly(caplog: pytest.LogCaptureFixture) -> None:
    upload = Uploads("a" * 32, None, settings=Settings()).submit(deposit(b"a", "a"))
    assert upload.done and not upload.wait() and caplog.text == ""


def test_a_later_upload_in_a_slot_removes_the_earlier_bytes(place: Place) -> None:
    uploads = uploads_to(place)
    for data in (b"1", b"2", b"2", b"3"):
        assert uploads.submit(deposit(data, "last.pt", section="models", key="last")).wait(30)
    # What another slot has as well stays.
    assert uploads.submit(deposit(b"3", "best.pt", section="models", key="best")).wait(30)
    assert uploads.submit(deposit(b"4", "last.pt", section="models", key="last")).wait(30)
    uploads.drain(30)
    assert place.blobs == sorted([sha256(b"3"), sha256(b"4")])


def test_every_place_gets_the_bytes(place: Place, tmp_path: Path) -> None:
    other = Place(tmp_path / "other")
    assert uploads_to(place, other).submit(deposit(b"both", "a")).wait(30)
    assert place.blobs == other.blobs == [sha256(b"both")]


class Shelf:
    """A storage that can be away."""

    uri = "shelf://a"
    is_remote = True

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.is_away = False
        self.asked = threading.Semaphore(0)

    def put(self, key: str, source: Path, on_progress: Any = None) -> str:
        self.asked.release()
        if self.is_away:
            raise BlobError("the shelf is away")
        on_progress(1)
        self.kept[key] = source.read_bytes()
        return f"{self.uri}/{key}"

    def read(self, key: str, on_piece: Any) -> None:
        on_piece(self.kept[key])

    def check(self, timeout_s: float) -> None:
        return None


def test_a_storage_gets_the_bytes_and_the_session_lets_them_go(place: Place) -> None:
    shelf, story = Shelf(), Story()
    uploads = uploads_to(place, target=shelf, prefix="p/n.id")
    assert uploads.submit(deposit(b"a", "a.bin", folder="artifacts", **story.callbacks())).wait(30)
    assert shelf.kept == {"p/n.id/artifacts/a.bin": b"a"} and place.blobs == []
    bytes_of_a = {"sha256": sha256(b"a"), "size_bytes": 1}
    assert story.told == [
        {"uri": f"blob:{sha256(b'a')}", "state": "pending", **bytes_of_a},
        {"uri": "shelf://a/p/n.id/artifacts/a.bin", "state": "stored", **bytes_of_a},
        "it is stored",
    ]
    # One upload may ask for another place.
    assert uploads.submit(deposit(b"b", "b", target=True)).wait(30)
    assert place.blobs == [sha256(b"b")] and len(shelf.kept) == 1


def test_a_storage_that_is_away_leaves_the_bytes_in_the_session(place: Place) -> None:
    shelf = Shelf()
    shelf.is_away = True
    uploads = uploads_to(place, target=shelf)
    upload = uploads.submit(deposit(b"abc", "a"))
    assert upload.wait_kept(30) and shelf.asked.acquire(timeout=30)
    left = uploads.drain(0.2)
    assert (left.count, left.size_bytes, left.folder) == (1, 3, place.folder)
    assert str(left) == "1 file (3 B) still to be sent" and place.blobs == [sha256(b"abc")] and not upload.done


def test_the_shelf_is_asked_again(place: Place) -> None:
    shelf = Shelf()
    shelf.is_away = True
    uploads = uploads_to(place, target=shelf)
    upload = uploads.submit(deposit(b"abc", "a"))
    assert shelf.asked.acquire(timeout=30)
    shelf.is_away = False
    assert upload.wait(60) and shelf.kept == {"a": b"abc"}


def test_a_source_that_is_still_read_is_waited_for_patiently(place: Place) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> Path:
        begun.set()
        go_on.wait()
        path = place.folder.parent / "slow"
        path.write_bytes(b"slow")
        return path

    uploads = uploads_to(place)
    upload = uploads.submit(deposit(slow, "slow", label="artifact 'slow'"))
    assert begun.wait(30)
    # Without patience it is lost, and said to be
    assert uploads.drain(0.01).unread == ("artifact 'slow'",)
    # and with it, it is not.
    timer = threading.Thread(target=lambda: (uploads._note_move(1), go_on.set()))
    timer.start()
    left = uploads.drain(0.01, patient=True)
    timer.join()
    assert upload.wait_kept(30) and not left.unread


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "quiet", "drawn"), [(Terminal(), False, True), (Terminal(), True, False), (io.StringIO(), False, False)]
)
def test_a_bar_is_drawn_on_a_terminal_alone(
    place: Place, monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, quiet: bool, drawn: bool
) -> None:
    monkeypatch.setattr("telemetry.sdk.bytes.carrier.BAR_BYTES", 3)
    uploads = Uploads(
        "a" * 32,
        lambda timeout_s: [(place, place.folder)],
        settings=Settings(quiet=quiet),
        target=Shelf(),
        stream=stream,
    )
    assert uploads.submit(deposit(b"abc", "a", label="artifact 'a'")).wait(30)
    assert ("artifact 'a'" in stream.getvalue()) == drawn


# ---- with a server -------------------------------------------------------------------------------


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TELEMETRY_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("TELEMETRY_QUIET", "1")
    with started(tmp_path / "server") as server:
        monkeypatch.setenv("TELEMETRY_URL", server.url)
        yield server.url


def begun() -> Task:
    return Task.init("p", "n", auto_connect_streams=False, auto_resource_monitoring=False, reuse_last_task_id=False)


def submit(task: Task, data: bytes, name: str = "data") -> Upload:
    """Upload as artifacts do: the record names the blob."""
    assert task._running is not None
    return task._running.uploads.submit(
        deposit(
            data,
            "data.bin",
            section="artifacts",
            key=name,
            tell=lambda fields: task._record.change("artifacts", name, fields),
        )
    )


def served(url: str, task_id: str, data: bytes) -> bytes | None:
    answer = Http(url).request("GET", f"/api/v1/tasks/{task_id}/blobs/{sha256(data)}")
    return answer.body if answer.status == 200 else None


def test_bytes_reach_the_server_and_leave_the_spool(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a spool that keeps this much of what the server has, which may lose it
    monkeypatch.setattr(taken, "KEEP_BYTES", 250_000)
    task = begun()
    sent = [os.urandom(100_000) for _ in range(4)]
    for number, data in enumerate(sent):
        assert submit(task, data, f"data {number}").wait(60)
        assert served(url, task.id, data) == data
    kept = {path.name for path in (tmp_path / "state" / "spool").glob("*/blobs/*")}
    assert kept == {sha256(data) for data in sent[2:]}
    task.close()
    assert not list((tmp_path / "state" / "spool").iterdir())


def test_a_server_that_is_away_leaves_all_to_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TELEMETRY_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("TELEMETRY_URL", "http://127.0.0.1:9")
    task = begun()
    upload = submit(task, b"data")
    assert upload.wait_kept(30)
    task.close(timeout=0.5)
    said = capsys.readouterr().err
    folder = tmp_path / "state" / "spool" / task.id
    assert f"1 file (4 B) still to be sent. Send what is on disk with: telemetry sync {folder}" in said
    with started(tmp_path / "server") as server:
        assert main(["sync", str(folder), "--url", server.url]) == 0
        assert served(server.url, task.id, b"data") == b"data"


KILLED = """
import os, sys
from telemetry import Task
task = Task.init("p", "n", auto_connect_streams=False, auto_resource_monitoring=False, reuse_last_task_id=False)
task.upload_artifact("data", {"a": 1})
upload = task._running.depot.upload("artifacts", "data")
assert upload.wait_kept()
task.flush()
print(task.id, upload.blob.sha256, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("mode", ["server", "offline"])
def test_what_a_killed_program_had_read_is_not_lost(tmp_path: Path, mode: str) -> None:
    further = {"TELEMETRY_URL": "http://127.0.0.1:9"} if mode == "server" else {"TELEMETRY_OFFLINE_MODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KILLED],
        env=environment(tmp_path / "state", **further),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    task_id, name = done.stdout.split()
    with started(tmp_path / "server") as server:
        assert main(["sync", str(tmp_path / "state"), "--url", server.url]) == 0
        answer = Http(server.url).request("GET", f"/api/v1/tasks/{task_id}/blobs/{name}")
        assert sha256(answer.body) == name


FORKED = """
import os, sys
from telemetry import Task
from telemetry.sdk.bytes.deposit import Deposit
from telemetry.sdk.bytes.parcel import Parcel
task = Task.init("p", "n", auto_connect_streams=False, auto_resource_monitoring=False, reuse_last_task_id=False)

def upload(name, data):
    return task._running.uploads.submit(Deposit(parcel=Parcel(filename=name, source=data),
        tell=lambda fields: task._record.change("artifacts", name, fields)))

assert upload("of the parent", b"of the parent").wait(60)
child = os.fork()
if child == 0:
    upload("of the child", b"of the child")
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
assert upload("after it", b"after it").wait(60)
task.close()
print(task.id)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("mode", ["server", "offline"])
def test_a_forked_child_uploads_too(tmp_path: Path, mode: str) -> None:
    names = [b"of the parent", b"of the child", b"after it"]
    with started(tmp_path / "server") as server:
        further = {"TELEMETRY_URL": server.url} if mode == "server" else {"TELEMETRY_OFFLINE_MODE": "1"}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", textwrap.dedent(FORKED)],
            env=environment(tmp_path / "state", **further),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        task_id = done.stdout.split()[-1]
        if mode == "offline":
            assert main(["import", str(tmp_path / "state" / "sessions"), "--url", server.url]) == 0
        assert [served(server.url, task_id, data) for data in names] == names


# ---- and back ------------------------------------------------------------------------------------


class BrokenLine:
    """A client whose line breaks after each piece, and in the end for good."""

    def __init__(self, data: bytes, *, pieces: int) -> None:
        self._data = data
        self._pieces = pieces
        self.starts: list[int] = []

    def download_blob(self, task_id: str, sha256: str, on_piece: Any, *, start: int = 0) -> None:
        self.starts.append(start)
        if len(self.starts) > self._pieces:
            raise ServerUnreachable("nobody is there")
        on_piece(self._data[start : start + 10])
        if start + 10 < len(self._data):
            raise ServerUnreachable("the line broke")


def test_a_download_goes_on_where_the_line_broke() -> None:
    data, received = os.urandom(35), list[bytes]()
    line = BrokenLine(data, pieces=10)
    view = ServerView(lambda: line, "a" * 32)  # type: ignore[arg-type, return-value]
    assert view.read_blob(sha256(data), received.append) == ""
    assert b"".join(received) == data and line.starts == [0, 10, 20, 30]


def test_a_download_that_brings_nothing_more_is_given_up() -> None:
    line = BrokenLine(bytes(35), pieces=2)
    view = ServerView(lambda: line, "a" * 32)  # type: ignore[arg-type, return-value]
    assert "nobody is there" in view.read_blob(sha256(bytes(35)), lambda piece: None)
    assert line.starts == [0, 10, 20]


def test_an_upload_that_is_replaced_while_it_is_carried_is_no_failure(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """The later upload removes the bytes of the one before, which the carrier is about to open."""
    uploads = uploads_to(place)
    entered, later_is_kept = threading.Event(), threading.Event()

    class Client:
        pass

    def carry(upload: Upload) -> Blob:
        assert upload.blob is not None
        if not entered.is_set():
            entered.set()
            assert later_is_kept.wait(30)
            upload.places[0][1].open(upload.blob.sha256).close()
        return upload.blob

    uploads._carrier.carry = carry  # type: ignore[method-assign]
    first = uploads.submit(deposit(b"first", "x", section="artifacts", key="x", label="artifact 'x'"))
    assert entered.wait(30)
    last = uploads.submit(deposit(b"last", "x", section="artifacts", key="x", label="artifact 'x'"))
    assert last.wait_kept(30)
    place_blobs = BlobFolder(place.folder / "blobs")
    place_blobs.remove(sha256(b"first"))
    later_is_kept.set()
    assert last.wait(30) and first.wait(30) and not first.error
    assert uploads.drain(30) == Left() and "was not stored" not in caplog.text


OUT_OF_DESCRIPTORS = """
import os, resource, threading
from pathlib import Path
from telemetry import Task
from telemetry.sdk.bytes.deposit import Deposit
from telemetry.sdk.bytes.parcel import Parcel
task = Task.init("tests", "descriptors", auto_resource_monitoring=False)
assert task.flush()
path = "source.bin"
open(path, "wb").write(b"x" * 100)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
kept = []
try:
    while True:
        kept.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
submitted = task._core.uploads.submit(Deposit(parcel=Parcel(filename="source.bin", source=Path(path)), label="source"))
assert not submitted.wait_kept(1.0), submitted.error
assert not submitted.error
for number in kept:
    os.close(number)
assert submitted.wait_kept(30) and not submitted.error, submitted.error
"""


def test_descriptors_that_come_back_are_waited_for(tmp_path: Path) -> None:
    done = run_program(OUT_OF_DESCRIPTORS, tmp_path / "state")
    assert done.returncode == 0 and "not stored" not in done.stderr, done.stderr
