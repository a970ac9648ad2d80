"""Session zips from strangers: refused with a reason within a second, in bounded memory, and nothing is written."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
import subprocess
import sys
import textwrap
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from server_support import LOSS, TASK, frame_of, rows_of

from telemetry import wire
from telemetry.cli import main
from telemetry.errors import BlobError, JournalError
from telemetry.journal import SegmentDamage
from telemetry.sdk.handles.copies import local_copy, unpacked
from telemetry.sdk.reading.report_views import SessionReports
from telemetry.sdk.reading.view import SessionView
from telemetry.sessions import archive
from telemetry.sessions.sources import blobs_at, has_blob, open_blob, open_session
from telemetry.settings import Settings, default_cache_dir
from telemetry.storage.blobs import BLOBS, blob_uri
from telemetry.wire import MAGIC, Frame

SEGMENT = f"segments/{'00' * 16}-000001.frames"
SESSION = {"format": 1, "task_id": TASK, "project": "p", "name": "n", "type": "training", "created_unix_ns": 1}
MAX_RSS_BYTES = 256 * 1024 * 1024
PATIENCE_S = 5.0


def frames() -> bytes:
    return b"".join(frame_of({LOSS: rows_of([1.0])}, sequence=number).data for number in range(3))


def write_zip(path: Path, members: dict[str, bytes] | None = None, *, manifest: bool = True) -> Path:
    """Write a sound session zip with these members more."""
    files = {"session.json": json.dumps(SESSION).encode(), SEGMENT: frames(), **(members or {})}
    if manifest and "manifest.json" not in files:
        entries = {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in files.items()
        }
        files["manifest.json"] = json.dumps({"format": 1, "files": entries}).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in files.items():
            target.writestr(name, data)
    return path


def read_all(path: Path) -> list[Frame | SegmentDamage]:
    return list(open_session(path).read())


@pytest.mark.parametrize("manifest", [True, False])
def test_a_sound_zip_is_read(tmp_path: Path, manifest: bool) -> None:
    items = read_all(write_zip(tmp_path / "run.zip", {"blobs/ab": b"x", "notes.txt": b"hello"}, manifest=manifest))
    assert [item.sequence for item in items if isinstance(item, Frame)] == [0, 1, 2] and len(items) == 3


@pytest.mark.parametrize(
    "name",
    [
        "../escaped.frames",
        "segments/../../escaped.frames",
        "/etc/escaped.frames",
        "C:/escaped.frames",
        "segments\\..\\escaped.frames",
        "segments/a\nb.frames",
        "s" * 2000 + ".frames",
    ],
)
def test_a_member_that_escapes_is_refused(tmp_path: Path, name: str) -> None:
    path = write_zip(tmp_path / "run.zip", {name: frames()})
    with pytest.raises(JournalError, match=r"refused: the member .* is of a name"):
        open_session(path)
    assert [item.name for item in tmp_path.iterdir()] == ["run.zip"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_a_link_or_a_device_is_refused(tmp_path: Path, kind: int) -> None:
    path = write_zip(tmp_path / "run.zip")
    with zipfile.ZipFile(path, "a") as target:
        link = zipfile.ZipInfo("segments/link.frames")
        link.external_attr = (kind | 0o777) << 16
        target.writestr(link, "/etc/passwd")
    with pytest.raises(JournalError, match="a link or a device"):
        open_session(path)


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    # Two readers would see two different files.
    path = write_zip(tmp_path / "run.zip")
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as target:
        target.writestr(SEGMENT, b"other")
    with pytest.raises(JournalError, match="there twice"):
        open_session(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda files: files[SEGMENT].update(sha256="0" * 64), "sha256 differs"),
        (lambda files: files[SEGMENT].update(bytes=1), "says 1 bytes"),
        (lambda files: files.pop(SEGMENT), "does not name"),
        (lambda files: files.update({"segments/gone.frames": {"sha256": "", "bytes": 0}}), "is not there"),
        (lambda files: files[SEGMENT].pop("sha256"), "malformed"),
        (lambda files: files.update({SEGMENT: []}), "malformed"),
    ],
)
def test_a_manifest_that_lies_is_refused(
    tmp_path: Path, change: Callable[[dict[str, dict[str, object]]], object], said: str
) -> None:
    members = {"session.json": json.dumps(SESSION).encode(), SEGMENT: frames()}
    files: dict[str, dict[str, object]] = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in members.items()
    }
    change(files)
    path = write_zip(tmp_path / "run.zip", {"manifest.json": json.dumps({"format": 1, "files": files}).encode()})
    with pytest.raises(JournalError, match=said):
        read_all(path)


@pytest.mark.parametrize("name", ["session.json", "manifest.json"])
@pytest.mark.parametrize(
    "data", [b"", b"{", b"[" * 200_000, b"\xff\xfe", b"3", b"x" * (archive.MAX_DOCUMENT_BYTES + 1)]
)
def test_a_document_that_is_none_is_refused(tmp_path: Path, name: str, data: bytes) -> None:
    path = write_zip(tmp_path / "run.zip", {name: data}, manifest=False)
    with pytest.raises(JournalError, match=r"run\.zip"):
        read_all(path)


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 200_000, b"\xff\xfe", b"3", b"[" * 2_000_000])
def test_a_folders_document_that_is_none_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "session.json").write_bytes(data)
    with pytest.raises(JournalError, match=r"session"):
        open_session(tmp_path)


def test_a_large_segment_is_read_in_blocks_and_nothing_is_lost_between_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given frames, junk and half a frame, so that every kind of edge falls on a block's end
    good = [frame_of({LOSS: rows_of([float(n)])}, sequence=n).data for n in range(40)]
    data = b"".join(good[:20]) + b"junk" * 50 + good[20][:-5] + b"".join(good[21:]) + MAGIC + b"\x01"
    path = write_zip(tmp_path / "run.zip", {SEGMENT: data})
    whole = read_all(path)
    for block_bytes in (1, 7, 100, 1000):
        # when it is read in smaller blocks
        monkeypatch.setattr(archive, "_BLOCK_BYTES", block_bytes)
        monkeypatch.setattr(wire, "MAX_FRAME_BYTES", max(map(len, good)))
        items = read_all(path)
        # then the same frames come, and the damage covers the same bytes
        sequences = [item.sequence for item in items if isinstance(item, Frame)]
        assert sequences == [item.sequence for item in whole if isinstance(item, Frame)] == [*range(20), *range(21, 40)]
        assert _damaged(items) == _damaged(whole)


def _damaged(items: list[Frame | SegmentDamage]) -> set[int]:
    found = [item.damage for item in items if isinstance(item, SegmentDamage)]
    return {byte for damage in found for byte in range(damage.offset, damage.offset + damage.length)}


# ---- large ones, measured in a process of their own


def bomb(path: Path) -> Path:
    """A gigabyte of zeros in a megabyte."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as target:
        target.writestr("session.json", json.dumps(SESSION))
        with target.open(SEGMENT, "w", force_zip64=True) as member:
            for _ in range(256):
                member.write(bytes(4 * 1024 * 1024))
    return path


def lying_bomb(path: Path) -> Path:
    """The same, but its directory says that it is small."""
    data = bytearray(bomb(path).read_bytes())
    at = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    data[at + 24 : at + 28] = struct.pack("<I", 1000)
    path.write_bytes(data)
    return path


def million_entries(path: Path) -> Path:
    """Entries of an empty file each; the directory alone has 46 MB and more."""
    one = struct.pack("<4s4B4HL2L5H2L", b"PK\x01\x02", 20, 3, 20, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    _write_directory(path, one * 1_000_000, 65_535)
    return path


def hidden_entries(path: Path) -> Path:
    """As many entries as the directory's limit holds, where its end says that there is one."""
    one = struct.pack("<4s4B4HL2L5H2L", b"PK\x01\x02", 20, 3, 20, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    _write_directory(path, one * (archive.MAX_DIRECTORY_BYTES // len(one) - 1), 1)
    return path


def _write_directory(path: Path, directory: bytes, entries: int) -> None:
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, entries, entries, len(directory), 0, 0)
    path.write_bytes(directory + end)


def claims_a_terabyte(path: Path) -> Path:
    path.write_bytes(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, 2**32 - 2, 0, 0))
    return path


def forged_frames(path: Path) -> Path:
    """Headers that each claim 16 MiB of what follows."""
    head = struct.pack("<8sBBHIIIQ16sI", MAGIC, 1, 0, 0, 16 * 1024 * 1024, 100, 1, 0, b"h" * 16, 0)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        target.writestr("session.json", json.dumps(SESSION))
        target.writestr(SEGMENT, head * 650_000)
    return path


MEASURE = """
    import sys, time
    from pathlib import Path
    from telemetry.errors import JournalError
    from telemetry.sessions.sources import is_foreign_zip, open_session
    begin = time.perf_counter()
    try:
        count = sum(1 for item in open_session(Path(sys.argv[1])).read())
        said = f"read {count}"
    except JournalError as error:
        said = f"refused: {error}"
    is_foreign_zip(Path(sys.argv[1]))
    # Not getrusage: its high-water mark begins with the parent's.
    peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(time.perf_counter() - begin, peak, said)
"""


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (bomb, "a bomb"),
        (lying_bomb, "a bomb|cannot be read|overlap|bad"),
        (million_entries, "its directory is over"),
        (hidden_entries, "more than 32768 members"),
        (claims_a_terabyte, "not a session zip"),
        (forged_frames, "too many damaged frames"),
    ],
)
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the high-water mark is read from /proc")
def test_what_would_fill_the_memory_is_refused_soon_and_small(
    tmp_path: Path, make: Callable[[Path], Path], said: str
) -> None:
    path = make(tmp_path / "run.zip")
    before = path.stat()
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEASURE), str(path)],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    took_s, peak_kib, answer = ended.stdout.strip().split(" ", 2)
    assert any(word in answer for word in said.split("|")), answer
    assert float(took_s) < PATIENCE_S, answer
    assert int(peak_kib) * 1024 <= MAX_RSS_BYTES, f"{int(peak_kib) >> 10} MiB"
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


@pytest.fixture
def refused(tmp_path: Path) -> Iterator[Path]:
    yield write_zip(tmp_path / "bad.zip", {"../x": b""})


def test_the_command_names_the_file_and_the_reason(refused: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin_s = time.monotonic()
    assert main(["import", str(refused), "--url", "http://127.0.0.1:1", "--timeout", "0.1"]) == 1
    said = capsys.readouterr().err
    assert str(refused) in said and "leads out of the zip" in said and "Traceback" not in said
    assert time.monotonic() - begin_s < 20 * PATIENCE_S
    assert os.listdir(refused.parent) == ["bad.zip"]  # noqa: PTH208 - names are what is compared


# ---- the blobs of a zip, on each of the ways to them

DATA = b"the bytes of an artifact" * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()
BLOB = f"{BLOBS}/{SHA256}"


def write_blob_zip(path: Path, *, promised_bytes: int = len(DATA), kind: int = 0, packed: bool = False) -> Path:
    """Write a session zip with one blob; what is given of it is not as it should be."""
    entry = {"sha256": SHA256, "bytes": promised_bytes}
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("session.json", json.dumps(SESSION))
        blob = zipfile.ZipInfo(BLOB)
        blob.external_attr = kind << 16
        target.writestr(blob, DATA, zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED)
        target.writestr("manifest.json", json.dumps({"format": 1, "files": {BLOB: entry}}))
    return path


def escaping_blob_zip(path: Path) -> Path:
    with zipfile.ZipFile(write_blob_zip(path), "a") as target:
        target.writestr(f"{BLOBS}/../../{SHA256}", DATA)
    return path


def cut_blob_zip(path: Path) -> Path:
    """Its directory and its manifest say that the blob has ten bytes."""
    data = bytearray(write_blob_zip(path, promised_bytes=10).read_bytes())
    at = data.index(BLOB.encode(), data.index(b"PK\x01\x02")) - 46
    data[at + 20 : at + 28] = struct.pack("<2I", 10, 10)
    path.write_bytes(data)
    return path


def read_by_session(path: Path) -> bytes:
    with open_blob(path, SHA256) as file:
        return file.read()


def read_by_copy(path: Path) -> bytes:
    core: Any = SimpleNamespace(view=SessionView(lambda: [path], TASK))
    entry = {"uri": blob_uri(SHA256), "sha256": SHA256, "filename": "data.bin"}
    return local_copy(core, entry, settings=Settings(), label="artifact 'data'").read_bytes()


def read_by_report(path: Path) -> bytes:
    reports = SessionReports(SessionView(lambda: [path], TASK))
    text = reports._text_of_blob(SHA256)
    if not text:
        raise JournalError("there is no such plot")
    assert SHA256 in [blob.sha256 for blob in blobs_at(path)]
    return text.encode()


READERS = [read_by_session, read_by_copy, read_by_report]


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return default_cache_dir()


@pytest.mark.parametrize("read", READERS)
def test_a_blob_of_a_sound_zip_is_read(tmp_path: Path, own_cache: Path, read: Callable[[Path], bytes]) -> None:
    assert read(write_blob_zip(tmp_path / "run.zip")) == DATA


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(escaping_blob_zip, id="escapes"),
        pytest.param(lambda path: write_blob_zip(path, packed=True), id="inflates"),
        pytest.param(lambda path: write_blob_zip(path, promised_bytes=10), id="is not what the manifest says"),
        pytest.param(cut_blob_zip, id="is not what the directory says"),
        pytest.param(lambda path: write_blob_zip(path, kind=stat.S_IFLNK | 0o777), id="links"),
        pytest.param(million_entries, id="a million entries"),
    ],
)
def test_a_blob_of_a_zip_that_lies_is_refused(
    tmp_path: Path, own_cache: Path, make: Callable[[Path], Path], read: Callable[[Path], bytes]
) -> None:
    path = make(tmp_path / "run.zip")
    with pytest.raises((JournalError, BlobError)):
        read(path)
    # Nothing is kept of it, here or elsewhere.
    assert not [item for item in tmp_path.rglob("*") if item.is_file() and item != path]


def test_a_blob_whose_name_leads_elsewhere_is_none(tmp_path: Path) -> None:
    (tmp_path / "run" / BLOBS).mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    with pytest.raises(JournalError, match="is not in"), open_blob(tmp_path / "run", "../../secret"):
        pass
    assert not has_blob(tmp_path / "run", str(tmp_path / "secret"))


# ---- the zip of an artifact, which is unpacked


@pytest.mark.parametrize("name", ["../escaped", "a/../../escaped", "/etc/escaped", "a\\..\\escaped"])
def test_an_artifact_that_escapes_is_not_unpacked(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as target:
        target.writestr(name, "x")
    with pytest.raises(BlobError, match="leads out of the folder"):
        unpacked(tmp_path / "data.zip")
    assert [item.name for item in tmp_path.iterdir()] == ["data.zip"]


def test_an_artifact_with_a_link_is_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as target:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        target.writestr(link, "/etc/passwd")
    with pytest.raises(BlobError, match="a link or a device"):
        unpacked(tmp_path / "data.zip")
    assert [item.name for item in tmp_path.iterdir()] == ["data.zip"]


def test_an_artifact_s_directory_has_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_ARTIFACT_MEMBERS", 1000)
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as target:
        for number in range(1001):
            target.writestr(str(number), "")
    with pytest.raises(BlobError, match="more than 1000 members"):
        unpacked(tmp_path / "data.zip")
    monkeypatch.setattr(archive, "MAX_ARTIFACT_DIRECTORY_BYTES", 10_000)
    with pytest.raises(BlobError, match="its directory is over"):
        unpacked(tmp_path / "data.zip")


def test_an_artifact_that_inflates_beyond_its_claim_is_not_unpacked(tmp_path: Path) -> None:
    path = lying_bomb(tmp_path / "data.zip")
    with pytest.raises(BlobError, match="cannot be unpacked"):
        unpacked(path)
    assert [item.name for item in tmp_path.iterdir()] == ["data.zip"]


def test_an_artifact_may_have_names_and_ratios_that_a_session_may_not(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "data.zip", "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("a:b/zeros\tof mine", bytes(4_000_000))
    folder = unpacked(tmp_path / "data.zip")
    assert (folder / "a:b" / "zeros\tof mine").stat().st_size == 4_000_000
