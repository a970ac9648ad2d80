"""Storages: folders, and a real server of the S3 protocol that checks signatures."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from storage_support import S3, s3_server, write_profile

from telemetry.errors import BlobError, ConfigurationError
from telemetry.storage import check_target, is_storage, open_target, read_storage
from telemetry.storage.bucket import aws_profile
from telemetry.storage.target import FolderTarget, Target

pytestmark = pytest.mark.filterwarnings(
    # The test server's own: it is not ours to keep tidy.
    "ignore::ResourceWarning",
    "ignore::DeprecationWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with s3_server() as server:
        yield server


@pytest.fixture
def target(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Target:
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    return open_target(s3.uri + "/runs")


def read(uri: str) -> bytes:
    pieces: list[bytes] = []
    read_storage(uri, pieces.append)
    return b"".join(pieces)


# ---- S3 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 5, 20 * 1024 * 1024 + 3])
def test_what_goes_to_a_bucket_comes_back(target: Target, s3: S3, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "weights.pt").write_bytes(data)
    seen: list[int] = []
    uri = target.put(f"project/run/{size}.pt", tmp_path / "weights.pt", seen.append)
    assert uri == f"{s3.uri}/runs/project/run/{size}.pt" and is_storage(uri)
    assert read(uri) == data
    assert seen == sorted(seen) and (seen[-1] if seen else 0) == size
    assert f"runs/project/run/{size}.pt" in s3.names()


@pytest.mark.parametrize("name", ["a b.txt", "größe.bin", "50%.txt", "a+b#c?.txt", "100%25"])
def test_names_survive(target: Target, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(name.encode())
    assert read(target.put(f"dir ö/{name}", tmp_path / "file")) == name.encode()


def test_the_check_leaves_nothing(target: Target, s3: S3) -> None:
    before = s3.names()
    check_target(target)
    assert s3.names() == before


def test_a_wrong_secret_is_said_at_once(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment(secret="not the secret").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match="credentials are refused") as caught:
        check_target(open_target(s3.uri))
    said = str(caught.value)
    assert s3.uri in said and "SignatureDoesNotMatch" in said and "AWS_SECRET_ACCESS_KEY" in said
    assert "not the secret" not in said and "\n" not in said


def test_a_key_that_nobody_has(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment(key="AKIANOBODY").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match="InvalidAccessKeyId"):
        check_target(open_target(s3.uri))


def test_a_bucket_that_is_not_there(target: Target, s3: S3) -> None:
    with pytest.raises(ConfigurationError, match=r"there is no bucket 'nothing' \(NoSuchBucket\)"):
        check_target(open_target(f"s3://{s3.host}:{s3.port}/nothing/below"))


def test_nobody_at_home(target: Target) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(ConfigurationError, match="no answer from") as caught:
            check_target(open_target(f"s3://127.0.0.1:{unused.getsockname()[1]}/models"))
    assert "\n" not in str(caught.value)


def test_a_service_that_says_nothing_is_given_up(target: Target) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(ConfigurationError, match=r"did not answer within|no answer from"):
            check_target(open_target(f"s3://127.0.0.1:{silent.getsockname()[1]}/models"), timeout_s=0.3)


def test_keys_of_a_profile(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_profile(Path(os.environ["HOME"]), "lab", s3)
    monkeypatch.setenv("AWS_PROFILE", "lab")
    # The endpoint comes from the profile as well: a bucket without host and port.
    target = open_target("s3://models/profile")
    check_target(target)
    (tmp_path / "a").write_bytes(b"a")
    assert read(target.put("a", tmp_path / "a")) == b"a"
    assert "profile/a" in s3.names()


def test_a_vanished_source_and_an_object_that_is_not_there(target: Target, tmp_path: Path, s3: S3) -> None:
    with pytest.raises(BlobError, match="cannot be written"):
        target.put("gone", tmp_path / "gone")
    with pytest.raises(BlobError, match=r"cannot be read: NoSuchKey"):
        read(f"{s3.uri}/gone")


def test_an_upload_that_is_given_up_leaves_no_object(target: Target, s3: S3, tmp_path: Path) -> None:
    class GivenUp(Exception):
        pass

    def stop(done_bytes: int) -> None:
        if done_bytes > 12 * 1024 * 1024:
            raise GivenUp

    (tmp_path / "big").write_bytes(bytes(20 * 1024 * 1024))
    with pytest.raises(GivenUp):
        target.put("given up", tmp_path / "big", stop)
    assert "runs/given up" not in s3.names()


# ---- where credentials come from -----------------------------------------------------------------


def test_the_environment_is_stronger_than_the_files(tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(
        "[default]\naws_access_key_id=A\naws_secret_access_key=%a\naws_session_token=T\n[b]\naws_access_key_id=B\n"
    )
    (tmp_path / ".aws" / "config").write_text("[default]\nregion=r1\n[profile b]\nregion=r2\naws_secret_access_key=b\n")
    home = {"HOME": str(tmp_path)}
    found = aws_profile(home)
    assert (found.access_key_id, found.secret_access_key, found.session_token, found.region) == ("A", "%a", "T", "r1")
    found = aws_profile({**home, "AWS_PROFILE": "b", "AWS_DEFAULT_REGION": "r3"})
    assert (found.access_key_id, found.secret_access_key, found.region) == ("B", "b", "r3")
    found = aws_profile(
        {**home, "AWS_ACCESS_KEY_ID": "E", "AWS_SECRET_ACCESS_KEY": "e", "AWS_ENDPOINT_URL": "http://x"}
    )
    assert (found.access_key_id, found.secret_access_key, found.session_token) == ("E", "e", "")
    assert found.endpoint_url == "http://x"
    assert "'e'" not in repr(found)
    assert aws_profile({"HOME": str(tmp_path / "nobody")}).access_key_id == ""


def test_a_profile_that_is_not_there_and_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="'nobody', and there is no such profile"):
        aws_profile({"HOME": str(tmp_path), "AWS_PROFILE": "nobody"})
    (tmp_path / "c").write_text("secret without a section")
    with pytest.raises(ConfigurationError, match="cannot be read") as caught:
        aws_profile({"HOME": str(tmp_path), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "c")})
    assert "secret" not in str(caught.value)


# ---- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s3://", "names no bucket"),
        ("s3://minio:9000", "names no bucket: add /BUCKET"),
        ("s3://minio:port/bucket", "port"),
        ("azure://account.blob.core.windows.net", "names no container"),
        ("s3://key:secret@minio:9000/bucket", "holds a user name or password"),
        ("http://127.0.0.1:8008", "for the server itself give True"),
        ("ftp://host/folder", "of no kind that is known"),
        ("file://", "names no folder"),
    ],
)
def test_addresses_that_cannot_be_used(uri: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        open_target(uri)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket",
        "s3://bucket/folder/",
        "gs://bucket/folder",
        "azure://account.blob.core.windows.net/container/folder",
        "s3://[::1]:9000/bucket",
    ],
)
def test_the_page_s_addresses(uri: str) -> None:
    target = open_target(uri)
    assert target.uri == uri.rstrip("/") and target.is_remote


def test_google_and_azure_say_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # No network is asked: the credentials are missing or unreadable before that.
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "nothing.json"))
    with pytest.raises(ConfigurationError, match="GOOGLE_APPLICATION_CREDENTIALS"):
        check_target(open_target("gs://bucket/folder"))
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "this is no base64 !!!")
    with pytest.raises(ConfigurationError, match="AZURE_STORAGE_ACCOUNT_KEY"):
        check_target(open_target("azure://account.blob.core.windows.net/container"))


# ---- folders -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["{}", "file://{}", "{}/"])
def test_a_folder(tmp_path: Path, form: str) -> None:
    target = open_target(form.format(tmp_path / "share"))
    assert isinstance(target, FolderTarget) and not target.is_remote
    check_target(target)
    assert list((tmp_path / "share").iterdir()) == []
    (tmp_path / "a").write_bytes(b"abc")
    uri = target.put("p/n.1/a b.txt", tmp_path / "a")
    assert uri == (tmp_path / "share" / "p" / "n.1" / "a b.txt").as_uri()
    assert (tmp_path / "share" / "p" / "n.1" / "a b.txt").read_bytes() == b"abc"
    assert [item.name for item in (tmp_path / "share" / "p" / "n.1").iterdir()] == ["a b.txt"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ConfigurationError, match=r"the folder .*/file/below cannot be written"):
        check_target(open_target(tmp_path / "file" / "below"))


def test_a_folder_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A file server that is away holds the thread for ever.
    ended = threading.Event()
    target = open_target(tmp_path)
    monkeypatch.setattr(target, "check", lambda timeout_s: ended.wait())
    with pytest.raises(ConfigurationError, match="did not answer within"):
        check_target(target, timeout_s=0.05)
    ended.set()


def test_others_may_read_what_lies_in_a_shared_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    umask = os.umask(0o022)
    try:
        open_target(tmp_path / "share").put("a", tmp_path / "a")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "share" / "a").stat().st_mode) == 0o644


def test_without_the_extra_the_command_is_told() -> None:
    program = """
import sys
sys.modules["obstore"] = None
from telemetry.storage import check_target, open_target
from telemetry.errors import ConfigurationError
try:
    check_target(open_target("s3://bucket"))
except ConfigurationError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'telemetry-tasks[storage]'" in done.stdout
