"""Blobs on their way: session folders, zips, zips in parts, imports that stop and go on, and watched folders."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from server_support import Http, frame_of, started
from sessions_support import frames_of, session_of, task_id_of, write_folder
from telemetry.sinks.local_zip import zip_session
from watch_support import until, watching

from telemetry import Task
from telemetry.cli import main
from telemetry.events import RecordChange
from telemetry.sdk.bytes.deposit import Deposit
from telemetry.sdk.bytes.parcel import Parcel
from telemetry.server.app import BackgroundServer
from telemetry.server.config import ServerConfig
from telemetry.storage.blobs import BlobFolder
from telemetry.wire import Frame


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def naming(number: int, **blobs: bytes) -> Frame:
    """Return a frame of run `number` whose record names blobs."""
    changes = [
        RecordChange(3, "artifacts", name, {"uri": f"blob:{sha256(data)}", "size_bytes": len(data)})
        for name, data in blobs.items()
    ]
    return frame_of({}, changes, task_id=task_id_of(number), writer=number.to_bytes(16, "big"), sequence=2)


def write_session(path: Path, number: int, **blobs: bytes) -> Path:
    folder = write_folder(path, number, [*frames_of(number), naming(number, **blobs)])
    for data in blobs.values():
        BlobFolder(folder / "blobs").add_bytes(data)
    return folder


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with started(tmp_path / "server") as server:
        yield server.url


def stored(url: str, number: int, data: bytes) -> bytes | None:
    answer = Http(url).request("GET", f"/api/v1/tasks/{task_id_of(number)}/blobs/{sha256(data)}")
    return answer.body if answer.status == 200 else None


LARGE = os.urandom(3 * 1024 * 1024)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_session_brings_its_blobs(tmp_path: Path, url: str, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    # given
    path = write_session(tmp_path / "run", 1, small=b"small", large=LARGE, empty=b"")
    if kind == "zip":
        zip_session(path, tmp_path / "run.zip")
        path = tmp_path / "run.zip"
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo(f"blobs/{sha256(LARGE)}")
            assert member.compress_type == zipfile.ZIP_STORED
            files = json.loads(archive.read("manifest.json"))["files"]
            assert files[member.filename] == {"sha256": sha256(LARGE), "bytes": len(LARGE)}
    before = sorted((item, item.stat().st_mtime_ns) for item in tmp_path.rglob("run/**/*"))
    # when
    assert main(["import", str(path), "--url", url]) == 0
    # then
    assert [stored(url, 1, data) for data in (b"small", LARGE, b"")] == [b"small", LARGE, b""]
    assert "and 3 files are on the server" in capsys.readouterr().out
    assert "100 %" not in capsys.readouterr().err
    # and again: nothing changes, here or there
    assert main(["import", str(path), "--url", url]) == 0
    assert sorted((item, item.stat().st_mtime_ns) for item in tmp_path.rglob("run/**/*")) == before


def test_a_blob_that_is_missing_is_listed_and_the_rest_goes_in(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_session(tmp_path / "run", 1, here=b"here", gone=b"gone")
    BlobFolder(path / "blobs").remove(sha256(b"gone"))
    assert main(["import", str(path), "--url", url]) == 1
    said = capsys.readouterr().err
    assert (
        f"missing: artifact 'gone' (4 bytes, sha256 {sha256(b'gone')}): its bytes are in none of what was sent" in said
    )
    assert stored(url, 1, b"here") == b"here"
    # Found again, it is all that is sent.
    BlobFolder(path / "blobs").add_bytes(b"gone")
    assert main(["import", str(path), "--url", url]) == 0
    assert stored(url, 1, b"gone") == b"gone"


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_damaged_blob_is_listed_and_the_rest_goes_in(
    tmp_path: Path, url: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_session(tmp_path / "run", 1, good=b"good", bad=b"to be spoiled", other=b"other")
    if kind == "folder":
        (path / "blobs" / sha256(b"to be spoiled")).write_bytes(b"to be sp0iled")
    else:
        zip_session(path, tmp_path / "run.zip")
        path = tmp_path / "run.zip"
        path.write_bytes(path.read_bytes().replace(b"to be spoiled", b"to be sp0iled"))
    assert main(["import", str(path), "--url", url]) == 1
    said = capsys.readouterr().err
    assert "missing: artifact 'bad'" in said and ("damaged" in said or "cannot be read" in said)
    assert [stored(url, 1, data) for data in (b"good", b"other")] == [b"good", b"other"]


def test_an_import_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    # given a server that had a part of the blob when it ended
    data = os.urandom(20 * 1024 * 1024)
    path = write_session(tmp_path / "run", 1, data=data)
    with started(tmp_path / "server") as server:
        Http(server.url).post(*frames_of(1), naming(1, data=data))
        half = data[: 8 * 1024 * 1024]
        target = f"/api/v1/tasks/{task_id_of(1)}/blobs/{sha256(data)}?offset=0&size={len(data)}"
        assert Http(server.url).request("PATCH", target, half).status == 204
    with started(tmp_path / "server") as server:
        part = next((tmp_path / "server" / "blobs" / "parts").iterdir())
        inode = part.stat().st_ino
        assert main(["import", str(path), "--url", server.url]) == 0
        # It is the same file, longer.
        assert (tmp_path / "server" / "blobs" / sha256(data)[:2] / sha256(data)).stat().st_ino == inode
        assert stored(server.url, 1, data) == data


def test_a_blob_over_the_server_s_limit_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "server.toml").write_text("[blobs]\nmax_bytes = 5\n")
    path = write_session(tmp_path / "run", 1, small=b"small", large=b"larger")
    with BackgroundServer(ServerConfig.from_environment(tmp_path / "server", port=0)) as server:
        assert main(["import", str(path), "--url", server.url]) == 1
        assert "over this server's limit of 5" in capsys.readouterr().err
        assert stored(server.url, 1, b"small") == b"small"


def test_a_spool_gives_its_blobs_away(tmp_path: Path, url: str) -> None:
    # given what a killed run left, all of whose frames had been delivered
    folder = write_session(tmp_path / "state" / "spool" / task_id_of(1), 1, data=b"data")
    Http(url).post(*frames_of(1), naming(1, data=b"data"))
    for segment in (folder / "segments").iterdir():
        segment.unlink()
    (folder / "segments").rmdir()
    # when
    os.environ["TELEMETRY_DIR"] = str(tmp_path / "state")
    assert main(["sync", "--url", url]) == 0
    # then
    assert stored(url, 1, b"data") == b"data"
    assert not folder.exists()


def test_zips_in_parts_carry_each_blob_once(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a run that goes on for three parts, with a blob before each
    monkeypatch.setenv("TELEMETRY_QUIET", "1")
    task = Task.init(
        "p",
        "rolled",
        sinks=[f"zip:{tmp_path / 'run.zip'}?max_zip_bytes=20000"],
        auto_connect_streams=False,
        auto_resource_monitoring=False,
    )
    assert task._running is not None
    blobs = [os.urandom(1000) for _ in range(3)]
    for number, data in enumerate(blobs):
        entry = {"uri": f"blob:{sha256(data)}", "size_bytes": len(data)}
        upload = task._running.uploads.submit(
            Deposit(
                parcel=Parcel(filename="a.bin", source=data),
                tell=lambda fields, name=f"a{number}", entry=entry: task._record.change("artifacts", name, entry),  # type: ignore[misc]
            )
        )
        assert upload.wait(30)
        for iteration in range(number * 3000, number * 3000 + 3000):
            task.get_logger().report_scalar("t", "s", 1 / (1 + iteration), iteration)
        task.flush()
    task.close()
    # then
    found: dict[str, list[str]] = {}
    for path in sorted(tmp_path.glob("run*.zip")):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.startswith("blobs/"):
                    found.setdefault(name.removeprefix("blobs/"), []).append(path.name)
    assert {name: len(paths) for name, paths in found.items()} == {sha256(data): 1 for data in blobs}
    assert len({paths[0] for paths in found.values()}) > 1
    assert [item.name for item in tmp_path.iterdir() if item.is_dir() and item.name != "server"] == []
    # and in any order, each by itself, all of it arrives
    for path in sorted(tmp_path.glob("run*.zip"), reverse=True):
        main(["import", str(path), "--url", url])
    assert main(["import", str(tmp_path), "--url", url]) == 0
    for data in blobs:
        assert Http(url).request("GET", f"/api/v1/tasks/{task.id}/blobs/{sha256(data)}").body == data


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_watched_session_s_blobs_are_shown(tmp_path: Path, kind: str) -> None:
    with watching(tmp_path) as url:
        path = write_session(tmp_path / "made", 1, data=LARGE)
        if kind == "zip":
            zip_session(path, tmp_path / "made.zip")
            path = tmp_path / "made.zip"
        (tmp_path / "runs").mkdir(exist_ok=True)
        path.rename(tmp_path / "runs" / path.name)
        assert until(lambda: stored(url, 1, LARGE)) == LARGE
        if kind == "folder":
            # A blob that comes later, before the frame that names it.
            folder = tmp_path / "runs" / "made"
            BlobFolder(folder / "blobs").add_bytes(b"later")
            with next((folder / "segments").iterdir()).open("ab") as file:
                file.write(
                    frame_of(
                        {},
                        [RecordChange(4, "artifacts", "later", {"uri": f"blob:{sha256(b'later')}"})],
                        sequence=3,
                        task_id=task_id_of(1),
                        writer=(1).to_bytes(16, "big"),
                    ).data
                )
            assert until(lambda: stored(url, 1, b"later")) == b"later"


def test_a_blob_in_a_zip_must_be_stored_as_it_is(tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("session.json", json.dumps(session_of(1)))
        archive.writestr(f"blobs/{sha256(bytes(5_000_000))}", bytes(5_000_000))
    assert main(["import", str(path), "--url", url]) == 1
    assert "a blob that is not stored as it is" in capsys.readouterr().err


def test_a_blob_that_the_manifest_does_not_name_is_refused(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_session(tmp_path / "run", 1, data=b"data")
    zip_session(folder, tmp_path / "run.zip")
    with zipfile.ZipFile(tmp_path / "run.zip", "a") as archive:
        archive.writestr(f"blobs/{sha256(b'smuggled')}", b"smuggled")
    assert main(["import", str(tmp_path / "run.zip"), "--url", url]) == 1
    assert "its manifest does not name 'blobs/" in capsys.readouterr().err
