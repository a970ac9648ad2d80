"""Blobs at the server: parts that survive it, sums that are checked, and who gets which bytes in which form."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server_support import OTHER_WRITER, START_NS, TASK, WRITER, Http, config_of, content_of, frame_of, started

from telemetry.errors import ConfigurationError
from telemetry.events import FrameEvent, Media, Plot, RecordChange
from telemetry.server.app import BackgroundServer
from telemetry.server.config import Limits, ServerConfig, read_limits, read_project_limits
from telemetry.server.store import Part, ProjectLimit, ProjectLimits, Store, WrongOffset
from telemetry.server.tokens import Scope, TokenFile

OTHER_TASK = "f" * 32


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def artifact(name: str, data: bytes, time: int = 1, **fields: Any) -> RecordChange:
    value = {"type": "custom", "uri": f"blob:{sha256(data)}", "size_bytes": len(data), "state": "pending", **fields}
    return RecordChange(time, "artifacts", name, value)


def project(name: str) -> RecordChange:
    return RecordChange(1, "task", "project", name)


class Sender:
    """Sends frames and parts, and says what came back."""

    def __init__(self, http: Http) -> None:
        self.http = http
        self.sequence = 0

    def record(self, *events: FrameEvent, task: str = TASK, writer: bytes = WRITER) -> None:
        frame = frame_of({}, list(events), task_id=task, writer=writer, sequence=self.sequence)
        self.sequence += 1
        answer = self.http.post(frame)
        assert answer.status == 200 and answer.json["frames"][0]["result"] == "stored", answer.body

    def part(self, data: bytes, offset: int, part: bytes, *, task: str = TASK, name: str = "") -> Any:
        path = f"/api/v1/tasks/{task}/blobs/{name or sha256(data)}?offset={offset}&size={len(data)}"
        return self.http.request("PATCH", path, part, {"Content-Type": "application/octet-stream"})

    def whole(self, data: bytes, *, task: str = TASK) -> Any:
        return self.part(data, 0, data, task=task)

    def head(self, data: bytes, task: str = TASK) -> Any:
        return self.http.request("HEAD", f"/api/v1/tasks/{task}/blobs/{sha256(data)}")

    def get(self, data: bytes, query: str = "", headers: dict[str, str] | None = None, task: str = TASK) -> Any:
        return self.http.request("GET", f"/api/v1/tasks/{task}/blobs/{sha256(data)}{query}", headers=headers or {})

    def state(self, name: str, task: str = TASK) -> str:
        return str(self.http.get(f"/tasks/{task}")["record"]["artifacts"][name]["state"])


@pytest.fixture
def sender(tmp_path: Path) -> Iterator[Sender]:
    with started(tmp_path / "store") as server:
        yield Sender(Http(server.url))


def stored_files(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "blobs").glob("??/*"))


def test_a_blob_in_parts_is_stored_and_given_back(sender: Sender, tmp_path: Path) -> None:
    # given a task whose record names it
    data = os.urandom(100_000)
    sender.record(artifact("data", data, filename="data.bin"))
    assert sender.head(data).status == 404 and sender.state("data") == "pending"
    assert sender.http.get(f"/tasks/{TASK}/blobs") == {
        "wanted": [{"sha256": sha256(data), "size_bytes": len(data), "label": "artifact 'data'"}]
    }
    # when it comes in two parts
    first = sender.part(data, 0, data[:60_000])
    assert (first.status, first.headers["upload-offset"], first.headers["upload-complete"]) == (204, "60000", "0")
    head = sender.head(data)
    assert (head.status, head.headers["upload-offset"], head.headers["upload-length"]) == (200, "60000", "100000")
    assert sender.get(data).status == 404
    last = sender.part(data, 60_000, data[60_000:])
    # then
    assert (last.status, last.headers["upload-complete"]) == (204, "1")
    assert sender.head(data).headers["upload-complete"] == "1"
    assert sender.state("data") == "stored"
    assert sender.http.get(f"/tasks/{TASK}/blobs") == {"wanted": []}
    answer = sender.get(data)
    assert (answer.status, answer.body) == (200, data)
    assert answer.headers["content-disposition"] == "attachment; filename=\"data.bin\"; filename*=UTF-8''data.bin"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert stored_files(tmp_path / "store") == [sha256(data)]
    assert list((tmp_path / "store" / "blobs" / "parts").iterdir()) == []


def test_parts_survive_a_restart(tmp_path: Path) -> None:
    data = os.urandom(50_000)
    with started(tmp_path) as server:
        sender = Sender(Http(server.url))
        sender.record(artifact("data", data))
        sender.part(data, 0, data[:20_000])
    with started(tmp_path) as server:
        sender = Sender(Http(server.url))
        assert sender.head(data).headers["upload-offset"] == "20000"
        assert sender.part(data, 20_000, data[20_000:]).headers["upload-complete"] == "1"
        assert sender.get(data).body == data


def test_a_wrong_offset_is_told_the_right_one(sender: Sender) -> None:
    data = b"0123456789"
    sender.record(artifact("data", data))
    sender.part(data, 0, data[:4])
    for offset in (0, 2, 8):
        answer = sender.part(data, offset, data[offset:])
        assert (answer.status, answer.headers["upload-offset"]) == (409, "4")
    assert sender.part(data, 4, data[4:]).status == 204


def test_what_is_damaged_is_thrown_away_and_can_come_again(sender: Sender) -> None:
    data = os.urandom(1000)
    sender.record(artifact("data", data))
    answer = sender.part(data, 0, bytes(1000))
    assert answer.status == 422 and "another sha256" in answer.json["error"]
    assert sender.head(data).status == 404 and sender.state("data") == "pending"
    assert sender.whole(data).status == 204 and sender.state("data") == "stored"


def test_an_empty_blob(sender: Sender) -> None:
    sender.record(artifact("nothing", b""))
    assert sender.whole(b"").headers["upload-complete"] == "1"
    assert sender.get(b"").body == b"" and sender.state("nothing") == "stored"


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("offset=0", 400),
        ("offset=0&size=-1", 400),
        ("offset=5&size=3", 400),
        ("offset=0&size=3", 400),
        ("offset=x&size=10", 400),
        ("offset=0&size=99999999999999999999", 400),
    ],
)
def test_nonsense_is_refused(sender: Sender, query: str, status: int) -> None:
    sender.record(artifact("data", b"0123"))
    path = f"/api/v1/tasks/{TASK}/blobs/{sha256(b'0123')}?{query}"
    assert sender.http.request("PATCH", path, b"0123").status == status
    assert sender.http.request("PATCH", f"/api/v1/tasks/{TASK}/blobs/..?offset=0&size=4", b"0123").status in (400, 404)
    assert sender.http.request("GET", f"/api/v1/tasks/{TASK}/blobs/{'A' * 64}").status == 400


def test_the_frames_come_first(sender: Sender) -> None:
    answer = sender.whole(b"early")
    assert answer.status == 404 and "frames come first" in answer.json["error"]


def test_ranges(sender: Sender) -> None:
    data = os.urandom(10_000)
    sender.record(artifact("data", data))
    sender.whole(data)
    answer = sender.get(data, headers={"Range": "bytes=9000-"})
    assert (answer.status, answer.body) == (206, data[9000:])
    assert answer.headers["content-range"] == "bytes 9000-9999/10000"


@pytest.mark.parametrize(
    ("content_type", "shown"),
    [
        ("image/png", "image/png"),
        ("text/csv", "text/plain; charset=utf-8"),
        ("application/json; charset=utf-8", "text/plain; charset=utf-8"),
        ("text/html", "text/plain; charset=utf-8"),
        ("image/svg+xml", None),
        ("application/xhtml+xml", None),
        ("application/pdf", None),
        ("", None),
        ("image/png\r\nX: y", None),
    ],
)
def test_a_browser_is_shown_little_and_in_a_sandbox(sender: Sender, content_type: str, shown: str | None) -> None:
    data = b"<script>alert(1)</script>"
    sender.record(artifact("page", data, content_type=content_type, filename='../a"b\r\n<é>.html'))
    sender.whole(data)
    for query in ("", "?inline=1"):
        answer = sender.get(data, query)
        assert answer.status == 200 and answer.body == data
        inline = query and shown
        assert answer.headers["content-type"] == (shown if inline else "application/octet-stream")
        assert answer.headers["content-security-policy"].startswith("sandbox;")
        assert answer.headers["x-content-type-options"] == "nosniff"
        disposition = answer.headers["content-disposition"]
        assert disposition.startswith("inline; " if inline else "attachment; ")
        assert disposition.partition("; ")[2] == (
            "filename=\"a_b___e_.html\"; filename*=UTF-8''a%22b%0D%0A%3C%C3%A9%3E.html".replace("__e_", "____")
        )


def test_bytes_that_no_record_names_are_not_given_out(sender: Sender) -> None:
    sender.record(artifact("data", b"named"))
    assert sender.whole(b"other").status == 204
    assert sender.get(b"other").status == 404
    # and of another task's neither
    sender.record(artifact("mine", b"mine"), task=OTHER_TASK, writer=OTHER_WRITER)
    sender.whole(b"named")
    assert sender.get(b"named").status == 200
    assert sender.get(b"named", task=OTHER_TASK).status == 404


def test_the_same_bytes_of_two_tasks_are_kept_once(sender: Sender, tmp_path: Path) -> None:
    data = os.urandom(5000)
    sender.record(artifact("data", data))
    sender.whole(data)
    sender.record(artifact("copy", data), task=OTHER_TASK, writer=OTHER_WRITER)
    assert sender.state("copy", OTHER_TASK) == "pending"
    # Nothing of it needs to be sent.
    answer = sender.part(data, 0, b"", task=OTHER_TASK)
    assert answer.headers["upload-complete"] == "1"
    assert sender.get(data, task=OTHER_TASK).body == data and sender.state("copy", OTHER_TASK) == "stored"
    assert stored_files(tmp_path / "store") == [sha256(data)]
    # when the first task's is replaced, the other keeps it
    sender.record(artifact("data", b"new", time=2))
    assert sender.get(data).status == 404 and sender.get(data, task=OTHER_TASK).body == data
    # and with the last one that names it, it goes
    sender.record(RecordChange(9, "artifacts", "copy", None), task=OTHER_TASK, writer=OTHER_WRITER)
    assert stored_files(tmp_path / "store") == []


def test_an_older_change_replaces_nothing(sender: Sender) -> None:
    sender.record(artifact("data", b"newer", time=5))
    sender.whole(b"newer")
    sender.record(artifact("data", b"older", time=2))
    assert sender.get(b"newer").body == b"newer"


def test_models_have_states_too(sender: Sender) -> None:
    data = b"weights"
    value = {"name": "net", "uri": f"blob:{sha256(data)}", "size_bytes": 7, "task": TASK}
    sender.record(RecordChange(1, "output_models", "a" * 32, value))
    sender.record(RecordChange(1, "input_models", "a" * 32, value), task=OTHER_TASK, writer=OTHER_WRITER)
    # The bytes of a model that came in are its maker's to send.
    assert sender.http.get(f"/tasks/{OTHER_TASK}/blobs") == {"wanted": []}
    assert sender.http.get(f"/tasks/{TASK}/blobs")["wanted"][0]["label"] == "model 'net'"
    sender.whole(data)
    for task, section in ((TASK, "output_models"), (OTHER_TASK, "input_models")):
        assert sender.http.get(f"/tasks/{task}")["record"][section]["a" * 32]["state"] == "stored"


def test_a_failed_upload_says_so(sender: Sender) -> None:
    sender.record(artifact("data", b"x", state="failed", error="the disk was full"))
    assert sender.state("data") == "failed"


# ---- limits --------------------------------------------------------------------------------------


def test_a_blob_over_the_limit(tmp_path: Path) -> None:
    with started(tmp_path, limits=Limits(max_blob_bytes=10)) as server:
        sender = Sender(Http(server.url))
        sender.record(artifact("data", bytes(11)))
        assert sender.whole(bytes(10)).status == 204
        answer = sender.whole(bytes(11))
        assert answer.status == 413 and "limit of 10" in answer.json["error"]


def test_a_full_disk_is_a_matter_of_time(tmp_path: Path) -> None:
    with started(tmp_path, limits=Limits(min_free_share=0.999999)) as server:
        sender = Sender(Http(server.url))
        sender.record(artifact("data", b"data"))
        answer = sender.whole(b"data")
        assert answer.status == 507 and answer.headers["retry-after"] == "10"


def test_a_full_project(tmp_path: Path) -> None:
    limits = ProjectLimits(ProjectLimit(max_blob_bytes=100))
    config = ServerConfig(tmp_path, port=0, project_limits=limits)
    with BackgroundServer(config) as server:
        sender = Sender(Http(server.url))
        sender.record(project("vision/cars"), artifact("a", bytes(60)), artifact("b", bytes(50)))
        sender.record(project("other"), task=OTHER_TASK, writer=OTHER_WRITER)
        assert sender.whole(bytes(60)).status == 204
        answer = sender.whole(bytes(50))
        assert answer.status == 413 and "'vision' is full" in answer.json["error"]
        assert sender.whole(bytes(50), task=OTHER_TASK).status == 204
        # What is replaced counts no more.
        sender.record(artifact("a", b"", time=2))
        assert sender.whole(bytes(50)).status == 204


def test_the_configuration_file(tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    assert read_limits(path) == Limits()
    path.write_text("[limits]\nmax_blob_bytes = 7\n[blobs]\nmax_bytes = 5\nmin_free_share = 0.5\n")
    assert read_limits(path) == Limits(max_blob_bytes=5, min_free_share=0.5)
    assert read_project_limits(path).default == ProjectLimit(max_blob_bytes=7)
    for text in (
        "[blobs]\nmax = 5",
        "[blobs]\nmax_bytes = -5",
        "[blobs]\nmin_free_share = 1",
        "[blob]\na = 1",
        "blobs = 1",
    ):
        path.write_text(text)
        with pytest.raises(ConfigurationError):
            read_limits(path)


def test_a_part_is_8_mib_at_most(sender: Sender) -> None:
    data = bytes(8 * 1024 * 1024 + 1)
    sender.record(artifact("data", data))
    assert sender.whole(data).status == 413


# ---- who may -------------------------------------------------------------------------------------


def test_scopes_and_projects(tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path)
    texts = {
        name: tokens.create({scope}, projects=projects)[1]
        for name, scope, projects in (
            ("admin", Scope.ADMIN, None),
            ("send", Scope.INGEST, None),
            ("send vision", Scope.INGEST, ("vision",)),
            ("read vision", Scope.READ, ("vision",)),
            ("read other", Scope.READ, ("other",)),
        )
    }
    secret = b"secret of the other project"
    with BackgroundServer(config_of(tmp_path)) as server:
        by = {name: Sender(Http(server.url, {"Authorization": f"Bearer {text}"})) for name, text in texts.items()}
        by["send"].record(project("other"), artifact("secret", secret), task=OTHER_TASK, writer=OTHER_WRITER)
        by["send"].whole(secret, task=OTHER_TASK)
        by["send vision"].record(project("vision"), artifact("stolen", secret))
        # A sender reads nothing, a reader sends nothing, and neither sees another project's tasks.
        assert by["send"].get(secret, task=OTHER_TASK).status == 403
        assert by["read other"].get(secret, task=OTHER_TASK).body == secret
        assert by["read other"].whole(secret, task=OTHER_TASK).status == 403
        assert by["read vision"].get(secret, task=OTHER_TASK).status == 404
        assert by["send vision"].whole(secret, task=OTHER_TASK).status == 404
        # Who names a sha256 of another project must have the bytes to get them.
        assert by["send vision"].part(secret, 0, b"").headers["upload-complete"] == "0"
        assert by["read vision"].get(secret).status == 404
        assert by["send vision"].head(secret).headers["upload-complete"] == "0"
        assert by["send vision"].whole(secret).headers["upload-complete"] == "1"
        assert by["read vision"].get(secret).body == secret


# ---- tidying up ----------------------------------------------------------------------------------


def test_old_parts_go_at_the_start(tmp_path: Path) -> None:
    data = b"0123456789"
    with started(tmp_path) as server:
        sender = Sender(Http(server.url))
        sender.record(artifact("data", data), artifact("other", b"other"))
        sender.part(data, 0, data[:4])
        sender.part(b"other", 0, b"ot")
    old = next((tmp_path / "blobs" / "parts").glob(f"{TASK}-{sha256(data)}-*"))
    os.utime(old, (0, 0))
    with started(tmp_path) as server:
        sender = Sender(Http(server.url))
        # The sweep is under way at the start; the blobs' threads take one thing after the other.
        while sender.head(data).status != 404:
            continue
        assert sender.head(b"other").headers["upload-offset"] == "2"


def test_a_deleted_task_takes_its_blobs_with_it(sender: Sender, tmp_path: Path) -> None:
    shared, own = b"of both", b"of one"
    sender.record(artifact("shared", shared), artifact("own", own))
    sender.record(artifact("shared", shared), task=OTHER_TASK, writer=OTHER_WRITER)
    sender.whole(shared)
    sender.whole(own)
    sender.part(shared, 0, b"", task=OTHER_TASK)
    # when
    assert sender.http.request("POST", f"/api/v1/tasks/{TASK}/delete", b"{}").status == 200
    # then: the rows go in the background, and the last of them takes the files along
    while stored_files(tmp_path / "store") != [sha256(shared)]:
        continue
    assert sender.get(shared, task=OTHER_TASK).body == shared
    assert sender.whole(own).status == 410


def test_media_and_large_plots_are_named_by_their_events(sender: Sender, tmp_path: Path) -> None:
    image, figure = b"\x89PNG", b'{"data": []}'

    def medium(data: bytes, time: int = 1) -> Media:
        return Media(time, "images", "a", 0, f"blob:{sha256(data)}", "a.png", "image/png", len(data))

    sender.record(medium(image), Plot(1, "plots", "a", 0, "", sha256(figure)))
    assert {item["sha256"] for item in sender.http.get(f"/tasks/{TASK}/blobs")["wanted"]} == {
        sha256(image),
        sha256(figure),
    }
    sender.whole(image)
    sender.whole(figure)
    assert sender.http.get(f"/tasks/{TASK}/media")["media"][0]["state"] == "stored"
    assert sender.get(image, "?inline=1").headers["content-type"] == "image/png"
    assert sender.get(figure).body == figure
    # A later image of the same name and iteration takes its place.
    sender.record(medium(b"new", time=2))
    assert stored_files(tmp_path / "store") == [sha256(figure)]


def test_what_no_record_names_goes_after_a_week_and_what_nobody_holds_after_a_day(tmp_path: Path) -> None:
    now_ns = [START_NS]
    store = Store(tmp_path, clock=lambda: now_ns[0])
    try:
        store.write([content_of({}, [artifact("named", b"named")])])
        for data in (b"named", b"unnamed"):
            part = Part(TASK, sha256(data), len(data))
            store.blobs.files.append(part, 0, data)
            path = store.blobs.files.check(part)
            assert path is not None
            store.blobs.take(TASK, part.sha256, part.size_bytes, path)
        # A file without a row, as a crash between the two leaves it.
        stray = store.blobs.files.path(sha256(b"stray"))
        stray.parent.mkdir(exist_ok=True)
        stray.write_bytes(b"stray")
        day_s = 24 * 3600
        for path in (tmp_path / "blobs").glob("??/*"):
            os.utime(path, (START_NS / 1e9, START_NS / 1e9))
        assert store.blobs.sweep() == 0
        now_ns[0] += 2 * day_s * 10**9
        assert store.blobs.sweep() == 1 and not stray.exists()
        now_ns[0] += 6 * day_s * 10**9
        assert store.blobs.sweep() == 1
        assert stored_files(tmp_path) == [sha256(b"named")] and store.blobs.holds(TASK, sha256(b"named"))
    finally:
        store.close()


def test_a_part_s_sum_is_right_after_a_restart_and_a_half_write(tmp_path: Path) -> None:
    data = os.urandom(3000)
    part = Part(TASK, sha256(data), len(data))
    store = Store(tmp_path)
    store.blobs.files.append(part, 0, data[:1000])
    store.close()
    # What a full disk or a kill in the middle of a write leaves: bytes that no digest has seen.
    with (tmp_path / "blobs" / "parts" / part.name).open("ab") as file:
        file.write(data[1000:1500])
    store = Store(tmp_path)
    try:
        with pytest.raises(WrongOffset) as caught:
            store.blobs.files.append(part, 1000, data[1000:])
        assert caught.value.offset == 1500
        store.blobs.files.append(part, 1500, data[1500:])
        assert store.blobs.files.check(part) is not None
    finally:
        store.close()
