"""Blobs: bytes in, the same bytes out, under their sha256; and what happens when disk or source will not."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.errors import BlobError
from telemetry.storage.blobs import PIECE_BYTES, BlobFolder, blob_uri, is_sha256, sha256_of_uri


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def blobs(tmp_path: Path) -> BlobFolder:
    return BlobFolder(tmp_path / "session" / "blobs")


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, 3 * PIECE_BYTES + 5])
@pytest.mark.parametrize("way", ["file", "bytes", "stream"])
def test_what_goes_in_comes_out(blobs: BlobFolder, tmp_path: Path, size: int, way: str) -> None:
    # given
    data = os.urandom(size)
    source = tmp_path / "source.bin"
    source.write_bytes(data)
    seen: list[int] = []
    # when
    if way == "file":
        blob = blobs.add_file(source, seen.append)
    elif way == "bytes":
        blob = blobs.add_bytes(data)
    else:
        blob = blobs.add_stream(io.BytesIO(data))
    # then
    assert (blob.sha256, blob.size_bytes, blob.uri) == (sha256(data), size, f"blob:{sha256(data)}")
    with blobs.open(blob.sha256) as file:
        assert file.read() == data
    assert source.read_bytes() == data
    assert blobs.list() == [blob] and blobs.exists(blob.sha256) and blobs.size(blob.sha256) == size
    assert not seen or seen[-1] == size
    assert stat.S_IMODE(blobs.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(blobs.path(blob.sha256).stat().st_mode) == 0o600


def test_without_copies_in_the_kernel_it_is_the_same(
    blobs: BlobFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EXDEV, "another file system")

    data = os.urandom(2 * PIECE_BYTES + 1)
    (tmp_path / "a").write_bytes(data)
    monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    assert blobs.add_file(tmp_path / "a").sha256 == sha256(data)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_a_file_that_only_a_read_shows(blobs: BlobFolder) -> None:
    # The kernel copies nothing of a file in /proc, whose size is 0.
    assert blobs.add_file(Path("/proc/version")).size_bytes > 0


@given(data=st.binary(max_size=300))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    blobs = BlobFolder(tmp_path_factory.mktemp("blobs") / "blobs")
    blob = blobs.add_bytes(data)
    with blobs.open(blob.sha256) as file:
        assert hashlib.sha256(file.read()).hexdigest() == blob.sha256


def test_the_same_bytes_are_there_once(blobs: BlobFolder, tmp_path: Path) -> None:
    first = blobs.add_bytes(b"same")
    inode = blobs.path(first.sha256).stat().st_ino
    assert blobs.add_stream(io.BytesIO(b"same")) == first
    assert [entry.name for entry in blobs.folder.iterdir()] == [first.sha256]
    assert blobs.path(first.sha256).stat().st_ino == inode


def test_a_stump_is_replaced(blobs: BlobFolder) -> None:
    # As a power cut may leave it on a file system that renames before it writes.
    blob = blobs.add_bytes(b"whole")
    blobs.path(blob.sha256).write_bytes(b"wh")
    blobs.add_bytes(b"whole")
    with blobs.open(blob.sha256) as file:
        assert file.read() == b"whole"


def test_the_folder_goes_with_its_last_blob(blobs: BlobFolder) -> None:
    one, two = blobs.add_bytes(b"1"), blobs.add_bytes(b"2")
    blobs.remove(one.sha256)
    assert blobs.list() == [two]
    blobs.remove(two.sha256)
    blobs.remove(two.sha256)
    assert not blobs.folder.exists() and blobs.list() == []


def test_a_source_that_is_not_there(blobs: BlobFolder, tmp_path: Path) -> None:
    with pytest.raises(BlobError, match=r"gone\.bin cannot be read: it is not there"):
        blobs.add_file(tmp_path / "gone.bin")


def test_a_folder_or_a_pipe_is_no_source(blobs: BlobFolder, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for source in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(BlobError, match=r"is no file"):
            blobs.add_file(source)
    assert blobs.list() == []


def test_a_full_disk_leaves_nothing_half(blobs: BlobFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    source = tmp_path / "source"
    source.write_bytes(b"data")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(BlobError, match=r"no room in .*blobs for a copy of .*source .*it was|as it was"):
            blobs.add_file(source)
    assert list(blobs.folder.iterdir()) == [] and source.read_bytes() == b"data"


def test_a_stream_that_breaks_leaves_nothing_half(blobs: BlobFolder) -> None:
    class Broken(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise OSError(errno.EIO, "bad block")

    with pytest.raises(BlobError, match="to its end"):
        blobs.add_stream(Broken())  # type: ignore[arg-type]
    assert list(blobs.folder.iterdir()) == []


def test_uris() -> None:
    name = "a" * 64
    assert sha256_of_uri(blob_uri(name)) == name
    assert [sha256_of_uri(uri) for uri in ("blob:abc", "s3://a/b", name, "", f"blob:{name}0")] == [None] * 5
    assert not is_sha256("A" * 64) and not is_sha256(name + "\n")


FLAT = """
import resource, sys
from pathlib import Path
from telemetry.storage.blobs import BlobFolder
source, folder = map(Path, sys.argv[1:])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(BlobFolder(folder).add_file(source).sha256)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
def test_memory_stays_flat(tmp_path: Path) -> None:
    source = tmp_path / "big.bin"
    digest = hashlib.sha256()
    with source.open("wb") as file:
        for _ in range(64):
            piece = os.urandom(PIECE_BYTES)
            digest.update(piece)
            file.write(piece)
    done = subprocess.run(
        [sys.executable, "-c", FLAT, str(source), str(tmp_path / "blobs")], capture_output=True, text=True, check=True
    )
    found, grown_kib = done.stdout.split()
    assert found == digest.hexdigest()
    assert int(grown_kib) < 16 * 1024
